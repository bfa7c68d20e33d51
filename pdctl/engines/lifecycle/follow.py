"""Follow a deployment that starts or changes, and explain a failure."""

import time
from collections.abc import Iterator
from pathlib import Path

from pdctl.engines import log_file, state
from pdctl.engines.explain_log import explain_end
from pdctl.engines.launchers.registry import launcher_named, launcher_of
from pdctl.engines.lifecycle import running
from pdctl.engines.lifecycle.supervisor_process import SupervisorProcess
from pdctl.engines.records import DeploymentState, Launch, ProcessState
from pdctl.engines.state import logs_dir
from pdctl.errors import EngineFailed, NotReady, PdctlError, StateConflict

LOOK_EVERY_S = 0.05
LOST_AFTER_S = 10.0  # the guard restarts a killed supervisor sooner


def settling(name: str, *, revision: int, timeout_s: float) -> Iterator[DeploymentState]:
    """Yield states until the target serves and nothing else runs.

    If the target changes again meanwhile, the new one is waited for. Raises NotReady after
    `timeout_s`, EngineFailed if an engine was given up, StateConflict if the deployment is stopped
    meanwhile. The supervisor carries on in every case.
    """
    deadline = time.monotonic() + timeout_s
    heard_at = time.monotonic()
    while True:
        wanted, found = state.read_launch(name), state.read_state(name)
        _refuse_stopped(name, wanted, found)
        if state.is_supervised(name):
            heard_at = time.monotonic()
        elif time.monotonic() - heard_at > LOST_AFTER_S:
            raise running.not_running(name)
        if wanted is not None and found is not None:
            yield found
            if _is_settled(wanted, found, revision):
                return
            _refuse_given_up(wanted, found)
        if time.monotonic() > deadline:
            raise _too_slow(found, timeout_s)
        time.sleep(LOOK_EVERY_S)


def _is_settled(wanted: Launch, found: DeploymentState, revision: int) -> bool:
    if found.revision < max(revision, wanted.revision) or found.phase != "serving":
        return False
    return {p.name for p in found.processes} == {spec.name for spec in wanted.specs}


def _refuse_stopped(name: str, wanted: Launch | None, found: DeploymentState | None) -> None:
    if wanted is None or (found and found.phase in ("stopping", "stopped", "failed")):
        raise StateConflict(
            f"Deployment {name!r} was stopped in the meantime.", hint="pdctl ls", code="stopped"
        )


def _refuse_given_up(wanted: Launch, found: DeploymentState) -> None:
    names = {spec.name for spec in wanted.specs}
    failed = [p for p in found.processes if p.phase == "failed" and p.name in names]
    busy = [p for p in found.processes if p.phase not in ("serving", "failed")]
    if failed and not busy and found.revision >= wanted.revision:
        one = failed[0]
        raise EngineFailed(
            f"{one.name} does not serve: {one.detail}. The other engines keep running.",
            hint=f"pdctl logs {one.name}, or pdctl doctor for an explanation",
            code="engine_failed",
        )


def _too_slow(found: DeploymentState | None, timeout_s: float) -> NotReady:
    detail = f": {found.detail}" if found and found.detail else ""
    return NotReady(
        f"not finished after {timeout_s:.0f} s{detail}; the change continues in the background.",
        hint="pdctl status, pdctl logs --events, or a longer --timeout",
        code="not_ready",
    )


LOOK_AT_SERVING_EVERY_S = 0.5


def follow_states(supervisor: SupervisorProcess) -> Iterator[DeploymentState | None]:
    """Yield the latest state repeatedly while the supervisor runs, and once afterwards.

    Yields None until it has written its first state. The caller may stop iterating at any time.
    """
    name = supervisor.launch.name
    while supervisor.is_alive():
        found = _own(state.read_state(name), supervisor)
        yield found
        is_calm = found is not None and found.phase == "serving"
        time.sleep(LOOK_AT_SERVING_EVERY_S if is_calm else LOOK_EVERY_S)
    yield _own(state.read_state(name), supervisor)


def _own(found: DeploymentState | None, supervisor: SupervisorProcess) -> DeploymentState | None:
    """The state if this supervisor wrote it; None if an earlier one did."""
    if found is None or found.run_id != supervisor.launch.run_id:
        return None
    return None if found.supervisor_pid == supervisor.replaces else found


def start_failure(name: str, last: DeploymentState | None) -> PdctlError:
    """The error for a deployment that did not become ready, with the end of the relevant log."""
    if last is None or last.failure is None:
        return _supervisor_died(name)
    culprit = next((p for p in last.processes if p.name == last.failed_process), None)
    if last.failure == "not_ready":
        return NotReady(
            f"{name} was not ready in time: {last.detail}. Everything was stopped.",
            hint="--timeout 4h to wait longer, or pdctl logs to see how far it got",
            code="not_ready",
            details=_details(culprit, name),
        )
    if culprit is None:
        return EngineFailed(
            f"{last.detail}. Everything was stopped.", hint="pdctl logs", code="engine_failed"
        )
    return _engine_failed(culprit, last.detail, name)


def _engine_failed(culprit: ProcessState, why: str, name: str) -> EngineFailed:
    lines = _lines(culprit, name)
    known = explain_end("\n".join(lines))
    told = known.line if known else log_file.telling_line(lines)[:300]
    meaning = f" {known.text}" if known else ""
    said = f" Its log says: {told}" if told else ""
    logs = f"pdctl logs {culprit.name} shows the whole log"
    return EngineFailed(
        f"{culprit.name} {why} during the start. Everything was stopped.{meaning}{said}",
        hint=f"{known.fix}. {logs}" if known else logs,
        code="router_failed" if culprit.role == "router" else "engine_failed",
        details=_details(culprit, name),
    )


def _supervisor_died(name: str) -> EngineFailed:
    lines = log_file.read_log_lines(logs_dir(name) / "supervisor.log")
    return EngineFailed(
        f"The supervisor of {name} exited without writing a reason.",
        hint=f"pdctl down {name} stops whatever is left",
        code="supervisor_died",
        details=log_file.last_lines(lines),
    )


def _lines(process: ProcessState, name: str) -> tuple[str, ...]:
    """The log of the last start of a process."""
    log, wanted = Path(process.log), state.read_launch(name)
    launcher = launcher_of(wanted) if wanted else launcher_named()
    return log_file.last_start(launcher.read_log(process.node, log))


def _details(culprit: ProcessState | None, name: str) -> tuple[str, ...]:
    if culprit is None:
        return ()
    last = log_file.last_lines(_lines(culprit, name))
    return (f"the end of {culprit.log}:", *(f"  {line}" for line in last))
