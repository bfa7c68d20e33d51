"""Run `pdctl render`: find the deployment and turn it into text for another program."""

from pathlib import Path

from pdctl.commands.deployment_options import FILE
from pdctl.deployment.exports.miles import MILES_NOTE, miles
from pdctl.deployment.exports.shell import shell
from pdctl.deployment.pd_yaml import read_deployment
from pdctl.deployment.records import Deployment
from pdctl.engines.lifecycle.start import prepare
from pdctl.errors import EnvironmentProblem, InvalidInput
from pdctl.inspection.llm import bundled_names
from pdctl.paths import last_plan_path

TARGETS = ("miles", "shell")


def rendered(target: str, file: Path | None, form: str) -> str:
    """The deployment as text for `target`. Raises InvalidInput for an unknown target."""
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
        return shell(prepare(deployment).specs)
    return miles(
        deployment,
        form="flag" if form == "flag" else "yaml",
        has_weights=deployment.model not in bundled_names(),
    )


def note(target: str) -> str:
    """A note about the text, for stderr."""
    return f"note: {MILES_NOTE}\n" if target == "miles" else ""


def write_text(path: Path, text: str) -> None:
    """Write the text to a file. Raises EnvironmentProblem if it cannot."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as problem:
        raise EnvironmentProblem(
            f"Cannot write {path}: {problem.strerror}.", hint="-o FILE elsewhere"
        ) from problem


def _deployment(file: Path | None) -> Deployment:
    files = [file] if file is not None else [p for p in (FILE, last_plan_path()) if p.is_file()]
    found = read_deployment(files[0]) if files else None
    if found is None:
        raise InvalidInput(
            "Nothing to render: there is neither ./pd.yaml nor a last plan.",
            hint="pdctl plan MODEL first, or -f pd.yaml",
            code="no_plan",
        )
    return found
