"""`pdctl render`: print a deployment for another program to run."""

from pathlib import Path

import typer

from pdctl.console import print_json


def render(
    target: str = typer.Argument(
        ...,
        help="miles, miles-yaml (RL training), shell (bash), slurm (sbatch), k8s; "
        "for monitoring: prometheus, prometheus-rules, grafana.",
    ),
    file: Path | None = typer.Option(
        None, "-f", "--file", help="Deployment file. Default: ./pd.yaml, else the last plan."
    ),
    form: str = typer.Option(
        "",
        "--as",
        help="For miles: flag (--prefill-num-servers), yaml (sglang_config) or external (addresses "
        "of the running deployment). For k8s: deployments, disaggregatedset or rbg "
        "(RoleBasedGroup). Default: the first of these.",
    ),
    output: Path | None = typer.Option(
        None, "-o", "--output", help="Write to this file instead of stdout."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object on stdout."),
) -> None:
    """Print a deployment for a shell, Slurm, Kubernetes, Miles, Prometheus or Grafana.

    Slurm and Kubernetes need facts about the cluster, from ./cluster.yaml or else the user's own.

    \b
    Examples:
      pdctl render miles -f pd.yaml --as yaml -o sglang_config.yaml
      pdctl render shell > start.sh
      pdctl render slurm -f pd.yaml > job.sbatch
      pdctl render k8s -f pd.yaml | kubectl apply -f -
      pdctl render prometheus-rules -o pdctl-rules.yml
    """

    from pdctl.commands import render_run
    from pdctl.commands.command_line.overwrite import write_output

    text, note = render_run.rendered(target, form, file)
    if note:
        typer.echo(f"note: {note}", err=True)
    if output is not None:
        write_output(output, text, flag="-o")
    if as_json:
        print_json("render", {"target": target, "text": text})
    elif output is None:
        typer.echo(text, nl=False)
