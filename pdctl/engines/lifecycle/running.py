"""Find, name, take over and stop the deployments that this user runs."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from urllib.parse import urlsplit

from pdctl.engines import state
from pdctl.engines.launchers.gpu_memory import wait_for_gpu_memory
from pdctl.engines.launchers.local_ports import opens
from pdctl.engines.launchers.registry import launcher_of
from pdctl.engines.lifecycle import meant, supervisor_process
from pdctl.engines.lifecycle.deployment_key import use_key_of
from pdctl.engines.lifecycle.supervisor_process import SupervisorProcess, start_supervisor
from pdctl.engines.records import DeploymentState, Handle, Launch
from pdctl.errors import EngineFailed, StateConflict


def is_running(name: str) -> bool:
    """True if the supervisor or any process of this deployment runs."""
    return state.is_supervised(name) or bool(leftovers(name))


def names() -> tuple[str, ...]:
    """The running deployments of this user."""
    return tuple(name for name in state.list_names() if is_running(name))


def find(name: str | None) -> DeploymentState:
    """The state of the named deployment, or of the only running one.

    Raises StateConflict if it does not run, or if no name is given and several run.
    """
    chosen = chosen_name(name)
    found = state.read_state(chosen)
    if found is None or not is_running(chosen):
        raise not_running(chosen)
    return found


def chosen_name(name: str | None) -> str:
    """`name`, or the name of the only running deployment. Raises StateConflict otherwise."""
    return name if name is not None else meant.meant_name(None, names())


def states() -> tuple[DeploymentState, ...]:
    """The states of the running deployments; unreadable ones are left out."""
    found = (_readable(name) for name in names())
    return tuple(state for state in found if state is not None)


def _readable(name: str) -> DeploymentState | None:
    try:
        found = state.read_state(name)
    except StateConflict as problem:
        return _of_launch(name, f"{problem.message} {problem.hint} stops it")
    if found is None or state.is_supervised(name):
        return found
    fix = f"no supervisor; pdctl up --resume --name {name} starts one"
    return replace(found, phase="degraded", detail=fix)


def _of_launch(name: str, detail: str) -> DeploymentState | None:
    """The state of a running deployment whose state.json is damaged, as far as it is known."""
    wanted = state.read_launch(name)
    if wanted is None:
        return None
    return DeploymentState(
        name=name,
        phase="degraded",
        detail=detail,
        boot_id=wanted.boot_id,
        host=wanted.host,
        supervisor_pid=0,
        supervisor_started_at=0.0,
        updated_at=wanted.launched_at,
        detached=wanted.detached,
        endpoint=wanted.endpoint,
        layout=wanted.layout,
        model=wanted.model,
        processes=(),
        run_id=wanted.run_id,
    )


def _state_if_readable(name: str) -> DeploymentState | None:
    """The state for those who stop a deployment, which its marker finds without one."""
    with suppress(StateConflict):
        return state.read_state(name)
    return None


def router_policy(url: str) -> str:
    """The policy of the router at this URL: as our deployment sets it, else the router's default.

    Source: sglang_router/router_args.py 0.3.2, whose default is cache_aware.
    """
    wanted = [state.read_launch(found.name) for found in states() if found.endpoint == url]
    argv = wanted[0].specs[0].argv if wanted and wanted[0] else ()
    return argv[argv.index("--policy") + 1] if "--policy" in argv else "cache_aware"


def not_running(name: str) -> StateConflict:
    """The error for a deployment that does not run, or not as far as a command needs it."""
    if state.is_supervised(name):
        return StateConflict(
            f"Deployment {name!r} has only just begun to start.", hint="repeat the command"
        )
    if leftovers(name):
        return lost_supervisor(name)
    return meant.no_such_deployment(name, names())


def leftovers(name: str) -> tuple[str, ...]:
    """Labels of the running processes of a deployment, without its supervisor."""
    wanted = state.read_launch(name)
    return _living(wanted) if wanted else ()


def _living(wanted: Launch) -> tuple[str, ...]:
    return launcher_of(wanted).living(_known(wanted))


def _known(wanted: Launch) -> tuple[Handle, ...]:
    """The handles in the state that the supervisor of this launch last wrote."""
    found = _state_if_readable(wanted.name)
    if found is None or found.run_id != wanted.run_id:
        return ()
    return tuple(process.handle for process in found.processes if process.handle)


def refuse_running(name: str) -> None:
    """Raise StateConflict if a deployment of this name runs."""
    if state.is_supervised(name):
        raise already_running(name)
    if leftovers(name):
        raise lost_supervisor(name, "already_running")


def lost_supervisor(name: str, code: str = "no_supervisor") -> StateConflict:
    """The error for a deployment whose engines run without a supervisor."""
    return StateConflict(
        f"Deployment {name!r} lost its supervisor, but its engines still run.",
        hint=f"pdctl up --resume --name {name} takes them over; pdctl down {name} stops them",
        code=code,
    )


def resume(name: str) -> SupervisorProcess:
    """Start a new supervisor for a detached deployment without one, with its API key.

    Raises StateConflict if it has one, or if nothing of it runs.
    """
    found = state.read_state(name)
    if found is None and leftovers(name) and not state.is_supervised(name):
        raise StateConflict(
            f"The engines of {name!r} run, but its state.json, which tells them apart, is gone.",
            hint=f"pdctl down {name}",
            code="bad_state",
        )
    if found is None or not (_answers(found) or is_running(name)):
        raise not_running(name)
    use_key_of(name)
    wanted, held = state.read_launch(name), state.lock(name)
    if held is None:
        raise already_running(name)
    try:
        if wanted is None:
            raise not_running(name)
        wanted = replace(wanted, boot_id=state.boot_id(), host=state.host_name())
        state.write_launch(wanted)
        child = start_supervisor(name, held, is_tied=False)
        return SupervisorProcess(wanted, child, replaces=found.supervisor_pid)
    finally:
        os.close(held)


def _answers(found: DeploymentState) -> bool:
    """True if a process accepts a connection, which shows sooner than its node tells what runs."""
    one_a_node = {process.node: urlsplit(process.url) for process in found.processes}
    doors = [(url.hostname or "", url.port or 0) for url in one_a_node.values()]
    return any(opens(door, within_s=CONNECT_S) for door in doors)


def already_running(name: str) -> StateConflict:
    """The error for `up` on a running name."""
    hint = f"pdctl status {name} or pdctl down {name}; --name OTHER starts another beside it"
    return StateConflict(
        f"Deployment {name!r} is already running.",
        hint=hint,
        code="already_running",
    )


CONNECT_S = 0.3
SILENT_S = 30.0  # a healthy supervisor writes its state every 10 s


def stop(
    name: str, *, now: bool = False, tell: Callable[[DeploymentState], None] = lambda state: None
) -> tuple[str, ...]:
    """Stop a deployment, with or without a supervisor; labels of the processes killed by force.

    tell: called with each new state meanwhile. Raises StateConflict if nothing runs, EngineFailed
    if a process survives.
    """
    wanted = state.read_launch(name)
    supervised = state.is_supervised(name)
    if not supervised and not leftovers(name):
        state.clear_ended(name, wanted.run_id if wanted else "")
        raise not_running(name)
    if supervised:
        wanted = _stop_supervisor(name, now=now, tell=tell)
    if wanted is None:
        state.clear_ended(name, "")
        return ()
    killed = reap(wanted)
    if left := _living(wanted):
        raise EngineFailed(
            f"still running after SIGKILL: {', '.join(left)}.", hint=f"pdctl down {name} --now"
        )
    if not supervised:  # a supervisor waits before it exits
        wait_for_gpu_memory(launcher_of(wanted), wanted.specs)
    state.clear_ended(name, wanted.run_id)
    return killed


def reap(wanted: Launch, *, grace_s: float = 10.0) -> tuple[str, ...]:
    """End what a dead supervisor left behind; the labels of the processes killed by force."""
    if not _living(wanted):
        return ()
    return launcher_of(wanted).reap(_known(wanted), grace_s=grace_s)


def _stop_supervisor(
    name: str, *, now: bool, tell: Callable[[DeploymentState], None]
) -> Launch | None:
    """Ask the supervisor to stop, and wait: it gives every process its own grace.

    Kills a silent supervisor. Its guard may start another one, which gets the same request.
    Returns what was stopped. Leaves a deployment of the same name alone that begins afterwards.
    """
    wanted: Launch | None = None
    asked: DeploymentState | None = None
    heard_at = time.monotonic()
    last: DeploymentState | None = None
    while state.is_supervised(name):
        current = state.read_launch(name) or wanted
        if asked and wanted and current and current.run_id != wanted.run_id:
            break
        wanted = current
        found = _state_if_readable(name)
        if found is not None and found != last:
            last, heard_at = found, time.monotonic()
            tell(found)
        if (
            found is not None
            and not _is_same(found, asked)
            and supervisor_process.is_current(found)
        ):
            asked = found
            supervisor_process.ask_to_stop(found, now=now)
        if asked is not None and time.monotonic() - heard_at > SILENT_S:
            if supervisor_process.is_current(asked):
                supervisor_process.kill(asked)
            heard_at = time.monotonic()
        time.sleep(0.05)
    return wanted


def _is_same(found: DeploymentState, asked: DeploymentState | None) -> bool:
    return asked is not None and found.supervisor_pid == asked.supervisor_pid
