"""Run `pdctl render`: find the deployment and turn it into text for another program."""

from pathlib import Path

from pdctl.commands.deployment_options import FILE
from pdctl.deployment.exports import EXPORTS, FIXED, Export
from pdctl.deployment.pd_yaml import read_deployment
from pdctl.deployment.records import Deployment
from pdctl.engines.lifecycle.start import prepare
from pdctl.errors import EnvironmentProblem, InvalidInput
from pdctl.paths import last_plan_path


def rendered(target: str, form: str, file: Path | None) -> tuple[str, str]:
    """The text for a target, and a remark for the user or ""."""
    if target in FIXED:
        return FIXED[target](), ""
    export = _export_for(target, form)
    deployment = _deployment(file)
    specs = prepare(deployment).specs if export.needs_processes else ()
    return export.render(deployment, specs), export.note


def _export_for(target: str, form: str) -> Export:
    """The export of a target. Raises InvalidInput if there is none."""
    if form not in ("flag", "yaml"):
        raise InvalidInput(
            f"--as {form!r} is not a form that Miles reads.", hint="--as flag or yaml"
        )
    name = "miles-yaml" if (target, form) == ("miles", "yaml") else target
    if name not in EXPORTS:
        raise InvalidInput(
            f"pdctl cannot render for {target!r}.",
            hint=f"pdctl render {'|'.join((*EXPORTS, *FIXED))}",
        )
    return EXPORTS[name]


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
