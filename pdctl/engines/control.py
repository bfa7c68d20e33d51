"""What commands do to deployments: launch, wait, stop, find. Each call is one plain action."""

import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pdctl.deployment.records import Deployment, ProcessSpec
from pdctl.engines import state
from pdctl.engines.on_local import has_marker, is_same_process, marked, sweep
from pdctl.engines.records import FleetState, Launch
from pdctl.errors import EngineFailed, StateConflict

_SHIM = Path(__file__).with_name("exec_shim.py")


@dataclass(frozen=True)
class SupervisorProcess:
    """The supervisor that was started for a launch."""

    launch: Launch
    child: "subprocess.Popen[bytes]"

    def is_alive(self) -> bool:
        return self.child.poll() is None

    def ask_to_stop(self, *, now: bool = False) -> None:
        """Router out, requests finish, engines end; or kill everything at once."""
        if self.is_alive():
            self.child.send_signal(signal.SIGINT if now else signal.SIGTERM)


def launch(
    deployment: Deployment,
    specs: tuple[ProcessSpec, ...],
    *,
    detached: bool,
    ready_timeout_s: float,
) -> SupervisorProcess:
    """Start a supervisor for a deployment. Raises StateConflict if the name is running."""
    name = deployment.name
    directory = state.make_state_dir(name)
    held = _lock_free_name(name)
    try:
        _clear_last_run(name, directory)
        wanted = Launch(
            run_id=uuid.uuid4().hex,
            boot_id=state.boot_id(),
            name=name,
            layout=deployment.layout,
            model=deployment.model,
            endpoint=_reachable(specs[0]),
            detached=detached,
            cwd=os.getcwd(),
            launched_at=time.time(),
            ready_timeout_s=ready_timeout_s,
            specs=specs,
        )
        state.write_launch(wanted)
        return SupervisorProcess(wanted, _start_supervisor(name, held, tied=not detached))
    finally:
        os.close(held)


def resume(name: str) -> SupervisorProcess | None:
    """A new supervisor for a detached deployment that lost its own; None if it has one."""
    wanted = state.read_launch(name)
    held = state.lock(name)
    if held is None:
        return None
    try:
        if wanted is None:
            raise not_running(name)
        return SupervisorProcess(wanted, _start_supervisor(name, held, tied=False))
    finally:
        os.close(held)


def logs_dir(name: str) -> Path:
    """Where the processes of a deployment log."""
    return state.state_dir(name) / "logs"


def is_running(name: str) -> bool:
    """Whether a supervisor or any process of this deployment lives."""
    return state.is_supervised(name) or bool(leftovers(name))


def running_names() -> tuple[str, ...]:
    """The deployments of this user that run."""
    return tuple(name for name in state.list_names() if is_running(name))


def find(name: str | None) -> FleetState:
    """The state of the running deployment that is meant; the only one when no name is given.

    Raises StateConflict when it does not run, or several do.
    """
    chosen = name or _only_one()
    found = state.read_state(chosen)
    if found is None or not is_running(chosen):
        raise not_running(chosen)
    return found


def not_running(name: str) -> StateConflict:
    """The error for a name that does not run, with those that do."""
    names = running_names()
    hint = f"running: {', '.join(names)}" if names else "pdctl up starts one; pdctl ls lists them"
    return StateConflict(f"no deployment {name!r} is running.", hint=hint, code="not_running")


def stop(
    name: str, *, now: bool = False, tell: Callable[[FleetState], None] = lambda state: None
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
    state.clear_state(name)
    return killed


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


def _stop_supervisor(name: str, *, now: bool, tell: Callable[[FleetState], None]) -> None:
    """Ask it, and wait as long as it lives: it gives every process its own grace."""
    asked = False
    while state.is_supervised(name):
        found = state.read_state(name)
        if found is not None and not asked:  # none yet: it is just starting
            asked = _ask_supervisor(found, now=now)
        elif found is not None:
            tell(found)
        time.sleep(0.05)


def _ask_supervisor(found: FleetState, *, now: bool) -> bool:
    """Whether the state names the supervisor that lives, not one before it."""
    if not is_same_process(found.supervisor_pid, found.supervisor_started_at, ""):
        return False
    _signal(found.supervisor_pid, signal.SIGINT if now else signal.SIGTERM)
    return True


def _lock_free_name(name: str) -> int:
    held = state.lock(name)
    if held is None:
        raise already_running(name)
    if leftovers(name):
        os.close(held)
        raise StateConflict(
            f"deployment {name!r} lost its supervisor, its engines still run.",
            hint=f"pdctl down {name} stops them, pdctl up --resume --name {name} takes them over",
            code="already_running",
        )
    return held


def already_running(name: str) -> StateConflict:
    """The error for `up` on a running name."""
    hint = f"pdctl status {name} or pdctl down {name}; --name OTHER starts another beside it"
    return StateConflict(
        f"deployment {name!r} is already running.",
        hint=hint,
        code="already_running",
    )


def _clear_last_run(name: str, directory: Path) -> None:
    state.clear_state(name)
    (directory / "events.jsonl").unlink(missing_ok=True)
    shutil.rmtree(directory / "logs", ignore_errors=True)
    state.make_state_dir(name)


def _start_supervisor(name: str, lock_fd: int, *, tied: bool) -> "subprocess.Popen[bytes]":
    """In a session of its own, so that Ctrl-C reaches only the command.

    tied: the kernel ends it when this command dies.
    """
    argv = [sys.executable, "-m", "pdctl.engines.daemon", name, "--lock-fd", str(lock_fd)]
    death_signal = signal.SIGTERM if tied else 0
    shim = [sys.executable, "-I", "-S", str(_SHIM), str(os.getpid()), str(int(death_signal))]
    log = logs_dir(name) / "supervisor.log"
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    written = os.open(log, flags, 0o600)
    try:
        return subprocess.Popen(
            [*shim, *argv],
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=written,
            start_new_session=True,
            pass_fds=[lock_fd],
        )
    finally:
        os.close(written)


def _reachable(router: ProcessSpec) -> str:
    """The URL a program on this machine uses, also where the router listens on every address."""
    wildcards = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "": "127.0.0.1"}
    return f"http://{wildcards.get(router.host, router.host)}:{router.port}"


def _only_one() -> str:
    names = running_names()
    if len(names) == 1:
        return names[0]
    if not names:
        raise StateConflict(
            "no deployment is running.", hint="pdctl up starts one", code="not_running"
        )
    raise StateConflict(
        f"{len(names)} deployments are running: {', '.join(names)}.",
        hint="name the one you mean",
        code="ambiguous_name",
    )
