"""What `pdctl render` prints."""

from pathlib import Path
from typing import TYPE_CHECKING

from pdctl.errors import EnvironmentProblem, InvalidInput

if TYPE_CHECKING:
    from pdctl.deployment.records import Deployment

TARGETS = ("miles", "shell")


def rendered(target: str, file: Path | None, form: str) -> str:
    """The text of a target. Raises InvalidInput for one that pdctl does not know."""
    from pdctl.deployment.exports import miles, shell

    if target not in TARGETS:
        raise InvalidInput(
            f"There is no target {target!r} to render for.", hint="pdctl render miles|shell"
        )
    if form not in ("flag", "yaml"):
        raise InvalidInput(f"--as {form!r} is not a form Miles reads.", hint="--as flag or yaml")
    deployment = _deployment(file)
    if target == "shell":
        from pdctl.engines.prepare import prepare

        return shell(prepare(deployment).specs)
    from pdctl.inspection.llm import bundled_names

    return miles(
        deployment,
        form="flag" if form == "flag" else "yaml",
        has_weights=deployment.model not in bundled_names(),
    )


def note(target: str) -> str:
    """What a person should know beside the text, for stderr."""
    from pdctl.deployment.exports import MILES_NOTE

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
    from pdctl.commands.chosen import FILE, last_plan_path
    from pdctl.deployment.file import read_deployment

    files = [file] if file is not None else [p for p in (FILE, last_plan_path()) if p.is_file()]
    found = read_deployment(files[0]) if files else None
    if found is None:
        raise InvalidInput(
            "There is no deployment to render: no ./pd.yaml and no last plan.",
            hint="pdctl plan MODEL first, or -f pd.yaml",
            code="no_plan",
        )
    return found
