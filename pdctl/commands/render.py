"""`pdctl render`: a deployment for something else to run."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from pdctl.errors import EnvironmentProblem, InvalidInput

if TYPE_CHECKING:
    from pdctl.deployment.records import Deployment


TARGETS = ("miles", "shell", "slurm", "k8s")


def rendered(target: str, file: Path | None, form: str) -> str:
    """The text of a target. Raises InvalidInput for one that pdctl does not know."""
    from pdctl.deployment.exports.miles import miles
    from pdctl.deployment.exports.shell import shell

    if target not in TARGETS:
        raise InvalidInput(
            f"There is no target {target!r} to render for.",
            hint=f"pdctl render {'|'.join(TARGETS)}",
        )
    if form not in ("flag", "yaml"):
        raise InvalidInput(f"--as {form!r} is not a form Miles reads.", hint="--as flag or yaml")
    deployment = _deployment(file)
    if target == "shell":
        from pdctl.engines.lifecycle.start import prepare

        return shell(prepare(deployment).specs)
    if target in ("slurm", "k8s"):
        return _for_cluster(target, deployment)
    from pdctl.inspection.llm import bundled_names

    return miles(
        deployment,
        form="flag" if form == "flag" else "yaml",
        has_weights=deployment.model not in bundled_names(),
    )


def _for_cluster(target: str, deployment: "Deployment") -> str:
    import sys

    from pdctl.deployment.cluster_file import cluster_here
    from pdctl.deployment.elsewhere import expand_in_pods, expand_on_nodes
    from pdctl.deployment.exports import k8s, slurm

    cluster = cluster_here()
    if target == "k8s":
        return k8s.k8s(expand_in_pods(deployment, cluster, address=k8s.ADDRESS), cluster)
    planned = expand_on_nodes(
        deployment, cluster, address_of=slurm.address_of, python=sys.executable
    )
    return slurm.slurm(planned, cluster)


def note(target: str) -> str:
    """What a person should know beside the text, for stderr."""
    from pdctl.deployment.exports.miles import MILES_NOTE

    return f"note: {MILES_NOTE}\n" if target == "miles" else ""


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
        ...,
        help="miles (RL training), shell (a bash script), slurm (for sbatch), or k8s (manifests).",
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

    text = rendered(target, file, form)
    typer.echo(note(target), nl=False, err=True)
    if output is not None:
        write_text(output, text)
    if as_json:
        print_json("render", {"target": target, "text": text})
    elif output is None:
        typer.echo(text, nl=False)


render.__doc__ = f"{render.__doc__}\n\n{EXAMPLES}"
