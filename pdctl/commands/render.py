"""`pdctl render`: a deployment for something else to run."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from pdctl.errors import EnvironmentProblem, InvalidInput

if TYPE_CHECKING:
    from pdctl.deployment.exports import Export
    from pdctl.deployment.records import Deployment


def export_for(target: str, form: str) -> "Export":
    """The export of a target. Raises InvalidInput if there is none."""
    from pdctl.deployment.exports import EXPORTS

    if form not in ("flag", "yaml"):
        raise InvalidInput(f"--as {form!r} is not a form Miles reads.", hint="--as flag or yaml")
    name = "miles-yaml" if (target, form) == ("miles", "yaml") else target
    if name not in EXPORTS:
        raise InvalidInput(
            f"pdctl cannot render for {target!r}.", hint=f"pdctl render {'|'.join(EXPORTS)}"
        )
    return EXPORTS[name]


def rendered(export: "Export", deployment: "Deployment") -> str:
    """The text of a deployment in this format."""
    if not export.needs_processes:
        return export.render(deployment, ())
    from pdctl.engines.lifecycle.start import prepare

    return export.render(deployment, prepare(deployment).specs)


def write_text(path: Path, text: str) -> None:
    """Write a rendering. Raises EnvironmentProblem where that fails."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as problem:
        raise EnvironmentProblem(
            f"{path} cannot be written: {problem.strerror}.", hint="-o FILE elsewhere"
        ) from problem


def _deployment(file: Path | None) -> "Deployment":
    from pdctl.commands.deployment_options import FILE
    from pdctl.deployment.pd_yaml import read_deployment
    from pdctl.paths import last_plan_path

    files = [file] if file is not None else [p for p in (FILE, last_plan_path()) if p.is_file()]
    found = read_deployment(files[0]) if files else None
    if found is None:
        raise InvalidInput(
            "There is no deployment to render: no ./pd.yaml and no last plan.",
            hint="pdctl plan MODEL first, or -f pd.yaml",
            code="no_plan",
        )
    return found


EXAMPLES = """\b
Examples:
  pdctl render miles -f pd.yaml --as yaml -o sglang_config.yaml
  pdctl render shell > start.sh
  pdctl render slurm -f pd.yaml > job.sbatch
  pdctl render k8s -f pd.yaml | kubectl apply -f -
"""


def render(
    target: str = typer.Argument(
        ..., help="miles, miles-yaml (RL training), shell (bash), slurm (sbatch) or k8s."
    ),
    file: Path | None = typer.Option(
        None, "-f", "--file", help="The deployment; ./pd.yaml, else the last plan, by default."
    ),
    form: str = typer.Option(
        "flag", "--as", help="For miles: flag (--prefill-num-servers) or yaml (sglang_config)."
    ),
    output: Path | None = typer.Option(
        None, "-o", "--output", help="Write there instead of stdout."
    ),
    as_json: bool = typer.Option(False, "--json", help="One JSON object on stdout."),
) -> None:
    """Print a deployment for a shell, Slurm, Kubernetes or Miles.

    Slurm and Kubernetes need facts about the cluster: ./cluster.yaml, else the user's own.
    """
    from pdctl.console import print_json

    export = export_for(target, form)
    text = rendered(export, _deployment(file))
    if export.note:
        typer.echo(f"note: {export.note}", err=True)
    if output is not None:
        write_text(output, text)
    if as_json:
        print_json("render", {"target": target, "text": text})
    elif output is None:
        typer.echo(text, nl=False)


render.__doc__ = f"{render.__doc__}\n\n{EXAMPLES}"
