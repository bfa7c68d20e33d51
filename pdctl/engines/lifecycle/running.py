"""Which deployments run on this machine, for this user."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace

from pdctl.engines import state
from pdctl.engines.launchers.local import (
    has_marker,
    is_same_process,
    marked,
    sweep,
    wait_until_given_back,
)
from pdctl.engines.records import DeploymentState
from pdctl.errors import EngineFailed, StateConflict


def is_running(name: str) -> bool:
    """Whether a supervisor or any process of this deployment lives."""
    return state.is_supervised(name) or bool(leftovers(name))


def names() -> tuple[str, ...]:
    """The deployments of this user that run."""
    return tuple(name for name in state.list_names() if is_running(name))


def find(name: str | None) -> DeploymentState:
    """The state of the running deployment that is meant; the only one when no name is given.

    Raises StateConflict when it does not run, or several do.
    """
    chosen = chosen_name(name)
    found = state.read_state(chosen)
    if found is None or not is_running(chosen):
        raise not_running(chosen)
    return found


def chosen_name(name: str | None) -> str:
    """The name that is meant. Raises StateConflict where none is given and not one runs."""
    return name if name is not None else _only_one()


def states() -> tuple[DeploymentState, ...]:
    """What runs; a deployment that cannot be read is left out."""
    found = (_readable(name) for name in names())
    return tuple(state for state in found if state is not None)


def _readable(name: str) -> DeploymentState | None:
    try:
        found = state.read_state(name)
    except StateConflict:
        return None
    if found is None or state.is_supervised(name):
        return found
    what_to_do = f"no supervisor; pdctl up --resume --name {name}"
    return replace(found, phase="degraded", detail=what_to_do)


def router_policy(url: str) -> str:
    """How the router at this address picks engines: as a deployment of ours says, or its default.

    Source: sglang_router/router_args.py 0.3.2, whose default is cache_aware.
    """
    wanted = [state.read_launch(found.name) for found in states() if found.endpoint == url]
    argv = wanted[0].specs[0].argv if wanted and wanted[0] else ()
    return argv[argv.index("--policy") + 1] if "--policy" in argv else "cache_aware"


def not_running(name: str) -> StateConflict:
    """The error for a name that does not run, with those that do."""
    found = names()
    hint = f"running: {', '.join(found)}" if found else "pdctl up starts one; pdctl ls lists them"
    return StateConflict(f"no deployment {name!r} is running.", hint=hint, code="not_running")


def leftovers(name: str) -> tuple[int, ...]:
    """The processes of a deployment that live, its supervisor aside."""
    wanted = state.read_launch(name)
    if wanted is None:
        return ()
    found = state.read_state(name)
    known = () if found is None or found.run_id != wanted.run_id else found.processes
    pids = {
        p.pid
        for p in known
        if p.pid and p.started_at and is_same_process(p.pid, p.started_at, wanted.run_id)
    }
    return tuple(sorted(pids | set(marked(wanted.run_id))))


def refuse_running(name: str) -> None:
    """Raises StateConflict if a deployment of this name runs, with what to do."""
    if state.is_supervised(name):
        raise already_running(name)
    if leftovers(name):
        raise StateConflict(
            f"deployment {name!r} lost its supervisor, its engines still run.",
            hint=f"pdctl down {name} stops them, pdctl up --resume --name {name} takes them over",
            code="already_running",
        )


def already_running(name: str) -> StateConflict:
    """The error for `up` on a running name."""
    hint = f"pdctl status {name} or pdctl down {name}; --name OTHER starts another beside it"
    return StateConflict(
        f"deployment {name!r} is already running.",
        hint=hint,
        code="already_running",
    )


def _only_one() -> str:
    found = names()
    if len(found) == 1:
        return found[0]
    if not found:
        raise StateConflict(
            "no deployment is running.", hint="pdctl up starts one", code="not_running"
        )
    raise StateConflict(
        f"{len(found)} deployments are running: {', '.join(found)}.",
        hint="name the one you mean",
        code="ambiguous_name",
    )


SILENT_S = 30.0  # a supervisor writes its state every 10 s


def stop(
    name: str, *, now: bool = False, tell: Callable[[DeploymentState], None] = lambda state: None
) -> tuple[int, ...]:
    """Stop a deployment, also one whose supervisor is dead; the processes killed by force.

    tell: called with each state seen meanwhile. Raises StateConflict when nothing runs, and
    EngineFailed when something is left.
    """
    wanted = state.read_launch(name)
    supervised = state.is_supervised(name)
    if not supervised and not leftovers(name):
        state.clear_state(name)
        raise not_running(name)
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
    left = leftovers(name)
    if wanted is None or not left:
        return ()
    for pid in _leaders(left, wanted.run_id):
        _signal(pid, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while leftovers(name) and time.monotonic() < deadline:
        time.sleep(0.05)
    stubborn = leftovers(name)
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


def _stop_supervisor(name: str, *, now: bool, tell: Callable[[DeploymentState], None]) -> None:
    """Ask it, and wait as long as it lives: it gives every process its own grace.

    One that shows no sign of life is killed; its guard may start another, which is asked then.
    """
    asked: int | None = None
    heard_at = time.monotonic()
    last: DeploymentState | None = None
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


def _is_supervisor(found: DeploymentState) -> bool:
    """Whether the state names the supervisor that lives, not one before it."""
    return is_same_process(found.supervisor_pid, found.supervisor_started_at, "")
