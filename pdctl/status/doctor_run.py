"""Everything `pdctl doctor` looks at, in the order it is shown."""

from collections.abc import Iterator
from pathlib import Path

from pdctl.engines import log_tail, running, state
from pdctl.engines.doctor.explain import explain_failure
from pdctl.engines.doctor.machine import machine_checks
from pdctl.engines.doctor.records import Check
from pdctl.engines.key_of_run import use_key_of
from pdctl.status.doctor import deployment_checks
from pdctl.status.doctor_facts import look, look_through_router


def diagnose(
    name: str | None = None, *, router: str = "", python: str | None = None, quick: bool = False
) -> tuple[Check, ...]:
    """The checks of this machine, and those of the deployment meant, or of all that run.

    name: a deployment, running or one whose start failed. router: the URL of one that pdctl did
    not start; this machine, which may be another, is left out then.
    Raises StateConflict where nothing is known of `name`.
    """
    if router:
        return deployment_checks(look_through_router(router))
    asked = (name,) if name is not None else running.names()
    found = [check for one in asked for check in _deployment(one)]
    return (*machine_checks(python=python, quick=quick), *found)


def _deployment(name: str) -> Iterator[Check]:
    if not running.is_running(name):
        yield from _ended(name)
        return
    use_key_of(name)
    found = state.read_state(name)
    if found is not None:
        yield from deployment_checks(look(found))


def _ended(name: str) -> Iterator[Check]:
    """Why a deployment that does not run ended, from its logs."""
    logs = sorted(p for p in state.logs_dir(name).glob("*.log") if p.stem != "supervisor")
    if not logs:
        raise running.not_running(name)
    explained = False
    for log in logs:
        why = explain_failure(_last_start(log))
        if why is not None:
            explained = True
            text = f"{log.stem} failed: {why.text} Its log says: {why.line}"
            yield Check(f"start_{why.id}", "fail", text, why.fix, why.source, deployment=name)
    if not explained:
        text = f"{name} does not run, and its logs tell of no failure."
        yield Check("not_running", "unknown", text, f"pdctl up, pdctl logs --name {name}", "", name)


def _last_start(log: Path) -> str:
    return "\n".join(log_tail.last_start(log_tail.read_lines(log)))
