"""Follow a deployment that starts, and say how it ended."""

import time
from collections.abc import Iterator
from pathlib import Path

from pdctl.engines import log_tail, state
from pdctl.engines.doctor.explain import explain_failure
from pdctl.engines.launch import SupervisorProcess
from pdctl.engines.records import FleetState, ProcessState
from pdctl.engines.state import logs_dir
from pdctl.errors import EngineFailed, NotReady, PdctlError

LOOK_EVERY_S = 0.05
LOOK_AT_SERVING_EVERY_S = 0.5


def states(supervisor: SupervisorProcess) -> Iterator[FleetState | None]:
    """The latest state, again and again as long as the supervisor lives, and once after.

    None until it has written its first. Whoever iterates may stop at any time.
    """
    name = supervisor.launch.name
    while supervisor.is_alive():
        found = _own(state.read_state(name), supervisor)
        yield found
        is_calm = found is not None and found.phase == "serving"
        time.sleep(LOOK_AT_SERVING_EVERY_S if is_calm else LOOK_EVERY_S)
    yield _own(state.read_state(name), supervisor)


def _own(found: FleetState | None, supervisor: SupervisorProcess) -> FleetState | None:
    """The state, if this supervisor wrote it and not one before it."""
    if found is None or found.run_id != supervisor.launch.run_id:
        return None
    return found if found.updated_at >= supervisor.started_at else None


def failure(name: str, last: FleetState | None) -> PdctlError:
    """Why a deployment did not get ready, with the earliest telling line and the last twenty."""
    if last is None or last.failure is None:
        return _supervisor_died(name)
    culprit = next((p for p in last.processes if p.name == last.failed_process), None)
    if last.failure == "not_ready":
        return NotReady(
            f"{name} was not ready in time: {last.detail}; all was stopped.",
            hint="--timeout 4h to wait longer, or pdctl logs to see what it was doing",
            code="not_ready",
            details=_details(culprit),
        )
    if culprit is None:
        return EngineFailed(
            f"{last.detail}; all was stopped.", hint="pdctl logs", code="engine_failed"
        )
    return _engine_failed(culprit, last.detail)


def _engine_failed(culprit: ProcessState, why: str) -> EngineFailed:
    lines = _lines(culprit)
    told = log_tail.telling_line(lines)[:300]
    known = explain_failure(told) or explain_failure("\n".join(lines))
    meaning = f" {known.text}" if known else ""
    said = f" Its log says: {known.line if known else told}" if told else ""
    logs = f"pdctl logs {culprit.name} shows the whole log"
    return EngineFailed(
        f"{culprit.name} {why} before everything served; all was stopped.{meaning}{said}",
        hint=f"{known.fix}. {logs}" if known else logs,
        code="router_failed" if culprit.role == "router" else "engine_failed",
        details=_details(culprit),
    )


def _supervisor_died(name: str) -> EngineFailed:
    lines = log_tail.read_lines(logs_dir(name) / "supervisor.log")
    return EngineFailed(
        f"the supervisor of {name} ended without a word.",
        hint=f"pdctl down {name} makes sure that nothing is left",
        code="supervisor_died",
        details=log_tail.last_lines(lines),
    )


def _lines(process: ProcessState) -> tuple[str, ...]:
    return log_tail.last_start(log_tail.read_lines(Path(process.log)))


def _details(culprit: ProcessState | None) -> tuple[str, ...]:
    if culprit is None:
        return ()
    last = log_tail.last_lines(_lines(culprit))
    return (f"the end of {culprit.log}:", *(f"  {line}" for line in last))
