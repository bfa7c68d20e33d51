"""Run `pdctl render`: find the deployment and turn it into text for another program."""

from pathlib import Path

from pdctl.commands.deployment_options import FILE
from pdctl.commands.progress import say
from pdctl.commands.up_preview import NOT_HERE, is_for_another_machine, on_another_machine
from pdctl.deployment.exports import EXPORTS, FIXED, Export
from pdctl.deployment.exports.shell import shell
from pdctl.deployment.pd_yaml import read_deployment
from pdctl.deployment.records import Deployment
from pdctl.engines.lifecycle.running import not_running
from pdctl.engines.lifecycle.start import prepare
from pdctl.engines.state import is_supervised, read_launch
from pdctl.errors import InvalidInput, PdctlError
from pdctl.paths import last_plan_path

# what --as may say for a target; the first form is the usual one
FORMS = {"miles": ("flag", "yaml", "external"), "k8s": ("deployments", "disaggregatedset", "rbg")}


def rendered(target: str, form: str, file: Path | None) -> tuple[str, str]:
    """The text for a target, and a remark for the user or ""."""
    if target in FIXED:
        return FIXED[target](), ""
    export = _export_for(target, form)
    return _text(export, _deployment(file)), export.note


def _export_for(target: str, form: str) -> Export:
    """The export of a target, in its usual form if none is given. Raises InvalidInput."""
    forms = FORMS.get(target, ())
    if form and form not in forms:
        raise InvalidInput(
            f"pdctl cannot render {target} as {form!r}.",
            hint=f"--as {', '.join(forms)}" if forms else f"pdctl render {target}",
        )
    name = f"{target}-{form}" if form in forms[1:] else target
    if name not in EXPORTS:
        raise InvalidInput(
            f"pdctl cannot render for {target!r}.",
            hint=f"one of {', '.join((*EXPORTS, *FIXED))}",
        )
    return EXPORTS[name]


def _text(export: Export, deployment: Deployment) -> str:
    if export.of_running:
        launch = read_launch(deployment.name)
        if launch is None or not is_supervised(deployment.name):
            raise not_running(deployment.name)
        return export.render(deployment, launch.specs)
    if not export.needs_processes:
        return export.render(deployment, ())
    if is_for_another_machine(deployment):
        return _elsewhere(deployment)
    try:
        return export.render(deployment, prepare(deployment, is_for_later=True).specs)
    except PdctlError as problem:
        if problem.code not in NOT_HERE:
            raise
        return _elsewhere(deployment)


def _elsewhere(deployment: Deployment) -> str:
    """The script for the planned GPUs, which this machine does not have; says what it assumes."""
    planned = deployment.planned
    own = deployment.gpus if is_for_another_machine(deployment) else None
    made = on_another_machine(
        deployment, own or (planned.gpus if planned else f"{deployment.num_gpus}xH200")
    )
    for note in made.notes:
        say(f"note: {note}")
    return shell(made.specs, made.notes)


def _deployment(file: Path | None) -> Deployment:
    files = [file] if file is not None else [p for p in (FILE, last_plan_path()) if p.is_file()]
    found = read_deployment(files[0]) if files else None
    if found is None:
        raise InvalidInput(
            "Nothing to render: there is neither ./pd.yaml nor an earlier plan.",
            hint="pdctl plan MODEL first, or -f pd.yaml",
            code="no_plan",
        )
    return found
