"""Follow a running deployment until it is what was asked for."""

import time
from collections.abc import Iterator

from pdctl.engines import running, state
from pdctl.engines.records import FleetState, Launch
from pdctl.errors import EngineFailed, NotReady, StateConflict

LOOK_EVERY_S = 0.05
LOST_AFTER_S = 10.0  # the guard brings a killed supervisor back sooner


def settling(name: str, *, revision: int, timeout_s: float) -> Iterator[FleetState]:
    """States until everything wanted serves and nothing else is left; the last one says so.

    A later change counts as well: what it wants is waited for then.
    Raises NotReady when it takes too long, EngineFailed when an engine was given up, StateConflict
    when the deployment is stopped meanwhile. The change itself goes on in any case.
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


def _is_settled(wanted: Launch, found: FleetState, revision: int) -> bool:
    if found.revision < max(revision, wanted.revision) or found.phase != "serving":
        return False
    return {p.name for p in found.processes} == {spec.name for spec in wanted.specs}


def _refuse_stopped(name: str, wanted: Launch | None, found: FleetState | None) -> None:
    if wanted is None or (found and found.phase in ("stopping", "stopped", "failed")):
        raise StateConflict(
            f"deployment {name!r} was stopped meanwhile.", hint="pdctl ls", code="stopped"
        )


def _refuse_given_up(wanted: Launch, found: FleetState) -> None:
    names = {spec.name for spec in wanted.specs}
    failed = [p for p in found.processes if p.phase == "failed" and p.name in names]
    busy = [p for p in found.processes if p.phase not in ("serving", "failed")]
    if failed and not busy and found.revision >= wanted.revision:
        one = failed[0]
        raise EngineFailed(
            f"{one.name} does not serve: {one.detail}; the rest goes on.",
            hint=f"pdctl logs {one.name} tells why; pdctl doctor explains it",
            code="engine_failed",
        )


def _too_slow(found: FleetState | None, timeout_s: float) -> NotReady:
    detail = f": {found.detail}" if found and found.detail else ""
    return NotReady(
        f"not done after {timeout_s:.0f} s{detail}; it goes on without this command.",
        hint="pdctl status, pdctl logs --events, or a longer --timeout",
        code="not_ready",
    )
