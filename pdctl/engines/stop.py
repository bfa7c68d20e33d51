"""Stop a deployment, whatever state it is in, and make sure that nothing of it is left."""

import os
import signal
import time
from collections.abc import Callable

from pdctl.engines import running, state
from pdctl.engines.gpu_memory import wait_until_given_back
from pdctl.engines.on_local import has_marker, is_same_process, marked, sweep
from pdctl.engines.records import FleetState
from pdctl.errors import EngineFailed

SILENT_S = 30.0  # a supervisor writes its state every 10 s


def stop(
    name: str, *, now: bool = False, tell: Callable[[FleetState], None] = lambda state: None
) -> tuple[int, ...]:
    """Stop a deployment, also one whose supervisor is dead; the processes killed by force.

    tell: called with each state seen meanwhile. Raises StateConflict when nothing runs, and
    EngineFailed when something is left.
    """
    wanted = state.read_launch(name)
    supervised = state.is_supervised(name)
    if not supervised and not running.leftovers(name):
        state.clear_state(name)
        raise running.not_running(name)
    if supervised:
        _stop_supervisor(name, now=now, tell=tell)
    killed = reap(name)
    if wanted is not None and (left := marked(wanted.run_id)):
        raise EngineFailed(
            f"still there after SIGKILL: {', '.join(map(str, left))}.",
            hint=f"kill -9 {' '.join(map(str, left))}",
        )
    if wanted is not None and not supervised:  # a supervisor has waited itself
        wait_until_given_back(wanted.specs)
    state.clear_state(name)
    return killed


def reap(name: str, *, grace_s: float = 10.0) -> tuple[int, ...]:
    """End what a dead supervisor left behind: SIGTERM, a grace, SIGKILL; those it had to kill."""
    wanted = state.read_launch(name)
    left = running.leftovers(name)
    if wanted is None or not left:
        return ()
    for pid in _leaders(left, wanted.run_id):
        _signal(pid, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while running.leftovers(name) and time.monotonic() < deadline:
        time.sleep(0.05)
    stubborn = running.leftovers(name)
    for pid in stubborn:
        _signal(pid, signal.SIGKILL)
    return tuple(sorted({*stubborn, *sweep(wanted.run_id)}))


def _leaders(pids: tuple[int, ...], run_id: str) -> tuple[int, ...]:
    """Those that lead their group: SIGTERM kills an engine's schedulers mid-request."""
    return tuple(pid for pid in pids if _group(pid) == pid and has_marker(pid, run_id))


def _group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _stop_supervisor(name: str, *, now: bool, tell: Callable[[FleetState], None]) -> None:
    """Ask it, and wait as long as it lives: it gives every process its own grace.

    One that shows no sign of life is killed; its guard may start another, which is asked then.
    """
    asked: int | None = None
    heard_at = time.monotonic()
    last: FleetState | None = None
    while state.is_supervised(name):
        found = state.read_state(name)
        if found is not None and found != last:
            last, heard_at = found, time.monotonic()
            tell(found)
        if found is not None and found.supervisor_pid != asked and _is_supervisor(found):
            asked = found.supervisor_pid
            _signal(asked, signal.SIGINT if now else signal.SIGTERM)
        if asked is not None and time.monotonic() - heard_at > SILENT_S:
            _signal(asked, signal.SIGKILL)
            heard_at = time.monotonic()
        time.sleep(0.05)


def _is_supervisor(found: FleetState) -> bool:
    """Whether the state names the supervisor that lives, not one before it."""
    return is_same_process(found.supervisor_pid, found.supervisor_started_at, "")
