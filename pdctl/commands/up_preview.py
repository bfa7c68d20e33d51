"""Write or print a deployment for `pdctl up --output` and `--dry-run`, without starting it."""

from dataclasses import dataclass, replace
from pathlib import Path

import typer

from pdctl.commands.command_line.overwrite import check_output
from pdctl.commands.progress import say
from pdctl.console import print_json, printable
from pdctl.deployment.cluster_file import cluster_here, on_cluster
from pdctl.deployment.exports.shell import shell
from pdctl.deployment.pd_yaml import write_deployment
from pdctl.deployment.records import Deployment
from pdctl.engines.clients.api_key import VARIABLE, api_key
from pdctl.engines.launchers.registry import LOCAL, SLURM
from pdctl.engines.lifecycle.place import choose_place
from pdctl.engines.lifecycle.start import Prepared, prepare
from pdctl.engines.lifecycle.submit import job_script


@dataclass(frozen=True)
class UpOptions:
    """Options of `up` that do not describe the deployment."""

    is_detached: bool = False
    as_json: bool = False
    timeout_s: float = 7200.0
    no_input: bool = False
    launcher: str = LOCAL


def placed(deployment: Deployment, options: UpOptions, on: str) -> tuple[Deployment, UpOptions]:
    """The deployment as it runs there, and the options with its launcher.

    on: the option --on. The launcher "slurm" alone means that a job has to be submitted.
    """
    launcher = choose_place(on, deployment)
    if launcher == LOCAL:
        return deployment, options
    return on_cluster(deployment, cluster_here()), replace(options, launcher=launcher)


def write_file(
    options: UpOptions, deployment: Deployment, output: Path, *, force: bool = False
) -> None:
    """Write the deployment to a pd.yaml and start nothing. Raises as check_output."""
    check_output(output, force=force, no_input=options.no_input or options.as_json)
    write_deployment(deployment, output)
    if options.as_json:
        print_json("up", {"file": str(output)})
    else:
        typer.echo(f"wrote {output}; pdctl up -f {output} starts it")


def show_commands(options: UpOptions, deployment: Deployment, on: str) -> None:
    """Print the commands that `up` would run, ready for a shell, and start nothing.

    Outside a Slurm job that means the job's script.
    """
    deployment, options = placed(deployment, options, on)
    if options.launcher == SLURM:
        typer.echo(job_script(deployment, cluster_here(), ready_timeout_s=options.timeout_s))
        return
    prepared = prepare(deployment, launcher=options.launcher)
    warn(prepared)
    if api_key() is not None:
        say(f"warning: {VARIABLE} is set. pdctl up passes on the key; a shell does not.")
    if options.as_json:
        commands = [{"name": s.name, "argv": s.argv, "env": s.env} for s in prepared.specs]
        print_json("up", {"layout": deployment.layout, "processes": commands})
    else:
        typer.echo(printable(shell(prepared.specs)))


def warn(prepared: Prepared) -> None:
    """Write the warnings about a deployment to stderr."""
    for sentence in prepared.warnings:
        say(f"warning: {sentence}")
