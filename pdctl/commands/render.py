"""`pdctl render`: print a deployment for another program to run."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from pdctl.errors import EnvironmentProblem, InvalidInput

if TYPE_CHECKING:
    from pdctl.deployment.records import Deployment


TARGETS = ("miles", "shell")


def rendered(target: str, file: Path | None, form: str) -> str:
    """The deployment as text for `target`. Raises InvalidInput for an unknown target."""
    from pdctl.deployment.exports.miles import miles
    from pdctl.deployment.exports.shell import shell

    if target not in TARGETS:
        raise InvalidInput(
            f"{target!r} is not a target of render.", hint="pdctl render miles|shell"
        )
    if form not in ("flag", "yaml"):
        raise InvalidInput(
            f"--as {form!r} is not a form that Miles reads.", hint="--as flag or yaml"
        )
    deployment = _deployment(file)
    if target == "shell":
        from pdctl.engines.lifecycle.start import prepare

        return shell(prepare(deployment).specs)
    from pdctl.inspection.llm import bundled_names

    return miles(
        deployment,
        form="flag" if form == "flag" else "yaml",
        has_weights=deployment.model not in bundled_names(),
    )


def note(target: str) -> str:
    """A note about the text, for stderr."""
    from pdctl.deployment.exports.miles import MILES_NOTE

    return f"note: {MILES_NOTE}\n" if target == "miles" else ""


def write_text(path: Path, text: str) -> None:
    """Write the text to a file. Raises EnvironmentProblem if it cannot."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as problem:
        raise EnvironmentProblem(
            f"Cannot write {path}: {problem.strerror}.", hint="-o FILE elsewhere"
        ) from problem


def _deployment(file: Path | None) -> "Deployment":
    from pdctl.commands.deployment_options import FILE
    from pdctl.deployment.pd_yaml import read_deployment
    from pdctl.paths import last_plan_path

    files = [file] if file is not None else [p for p in (FILE, last_plan_path()) if p.is_file()]
    found = read_deployment(files[0]) if files else None
    if found is None:
        raise InvalidInput(
            "Nothing to render: there is neither ./pd.yaml nor a last plan.",
            hint="pdctl plan MODEL first, or -f pd.yaml",
            code="no_plan",
        )
    return found


def render(
    target: str = typer.Argument(..., help="miles (RL training) or shell (a bash script)."),
    file: Path | None = typer.Option(
        None, "-f", "--file", help="Deployment file. Default: ./pd.yaml, else the last plan."
    ),
    form: str = typer.Option(
        "flag", "--as", help="For miles: flag (--prefill-num-servers) or yaml (sglang_config)."
    ),
    output: Path | None = typer.Option(
        None, "-o", "--output", help="Write to this file instead of stdout."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object on stdout."),
) -> None:
    """Print a deployment as a shell script or as a Miles configuration.

    \b
    Examples:
      pdctl render miles -f pd.yaml --as yaml -o sglang_config.yaml
      pdctl render shell > start.sh
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
