"""Write or print a deployment for `pdctl up --output` and `--dry-run`, without starting it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import typer

from pdctl.commands.command_line.overwrite import check_output
from pdctl.commands.progress import say
from pdctl.console import print_json, printable
from pdctl.deployment.checks import cautions, check_llm
from pdctl.deployment.cluster_file import cluster_here, on_cluster
from pdctl.deployment.elsewhere import Elsewhere, expand_on_machine
from pdctl.deployment.exports.shell import shell
from pdctl.deployment.gpu_file import planned_kind
from pdctl.deployment.pd_yaml import write_deployment
from pdctl.deployment.records import HERE, Deployment, ProcessSpec
from pdctl.deployment.resources import index_ranges
from pdctl.engines.clients.api_key import VARIABLE, api_key
from pdctl.engines.launchers.registry import LOCAL, SLURM
from pdctl.engines.lifecycle.place import choose_place
from pdctl.engines.lifecycle.start import Prepared, prepare
from pdctl.engines.lifecycle.submit import job_script
from pdctl.errors import InvalidInput, PdctlError
from pdctl.inspection.cluster import parse_gpus
from pdctl.inspection.llm import read_llm

# codes of errors that say what this machine lacks, although another may have it
NOT_HERE = ("no_gpu", "no_sglang", "no_weights", "not_enough_gpus")


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
    if is_for_another_machine(deployment):
        _show_elsewhere(options, deployment)
        return
    deployment, options = placed(deployment, options, on)
    if options.launcher == SLURM:
        typer.echo(job_script(deployment, cluster_here(), ready_timeout_s=options.timeout_s))
        return
    try:
        prepared = prepare(deployment, launcher=options.launcher)
    except PdctlError as problem:
        raise _with_a_way_out(problem) from problem
    warn(prepared)
    if api_key() is not None:
        say(f"warning: {VARIABLE} is set. pdctl up passes on the key; a shell does not.")
    _print_commands(options, deployment, prepared.specs, _on_each_node(prepared.specs))


def _with_a_way_out(problem: PdctlError) -> PdctlError:
    if problem.code not in NOT_HERE:
        return problem
    way = "--dry-run --gpus 8xH200 to see the commands for another machine"
    hint = f"{problem.hint}, or {way}" if problem.hint else way
    return type(problem)(problem.message, hint=hint, code=problem.code)


def is_for_another_machine(deployment: Deployment) -> bool:
    """True if real engines are to be written for GPUs of a kind, as --gpus 8xH100 says."""
    return deployment.engine == "sglang" and any(c.isalpha() for c in deployment.gpus or "")


def on_another_machine(deployment: Deployment, gpus: str) -> Elsewhere:
    """The processes on a machine with these GPUs, and what they assume, for one that has them.

    Raises InvalidInput where SGLang could not cut or read the model so, or has too few GPUs.
    """
    described = planned_kind(gpus, deployment.planned)
    made = expand_on_machine(deployment, parse_gpus(gpus, described=described))
    try:
        llm = read_llm(deployment.model)
    except InvalidInput as problem:
        return replace(made, notes=(*made.notes, f"No sizes were checked: {problem.message}"))
    check_llm(deployment, llm)
    notes = made.notes
    if llm.path is None:
        notes += (
            f"SGLang does not know pdctl's name {deployment.model}: give a directory or an id.",
        )
    return replace(made, notes=notes)


def _show_elsewhere(options: UpOptions, deployment: Deployment) -> None:
    made = on_another_machine(deployment, deployment.gpus or "")
    for sentence in cautions(deployment):
        say(f"warning: {sentence}")
    _print_commands(options, deployment, made.specs, made.notes)


def _print_commands(
    options: UpOptions,
    deployment: Deployment,
    specs: Sequence[ProcessSpec],
    notes: Sequence[str] = (),
) -> None:
    for note in notes:
        say(f"note: {note}")
    if options.as_json:
        commands = [
            {
                "name": spec.name,
                "places": [{"node": node, "gpus": gpus} for node, gpus in spec.parts],
                "argv": spec.argv,
                "env": spec.env,
            }
            for spec in specs
        ]
        print_json("up", {"layout": deployment.layout, "processes": commands})
    else:
        typer.echo(printable(shell(specs, notes)))


def _on_each_node(specs: Sequence[ProcessSpec]) -> list[str]:
    """A sentence for each node, with what runs there; none where that is this machine."""
    on: dict[str, list[str]] = {}
    for spec in specs:
        for node, gpus in spec.parts:
            where = f" (GPU {index_ranges(gpus)})" if gpus else ""
            on.setdefault(node, []).append(f"{spec.name}{where}")
    return [f"{node} runs {', '.join(names)}." for node, names in on.items() if node != HERE]


def warn(prepared: Prepared) -> None:
    """Write the warnings about a deployment to stderr."""
    for sentence in prepared.warnings:
        say(f"warning: {sentence}")
