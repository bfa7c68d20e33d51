"""Start the supervisor of a deployment, or another one for engines that lost theirs."""

import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass, field, replace
from pathlib import Path

from pdctl.deployment.file import write_deployment
from pdctl.deployment.records import Deployment, ProcessSpec
from pdctl.engines import running, state
from pdctl.engines.records import Launch

NUM_RETIRED_PORTS = 40  # of the hundred in a band
_SHIM = Path(__file__).with_name("exec_shim.py")
_GUARD = Path(__file__).with_name("guard.py")


@dataclass(frozen=True)
class SupervisorProcess:
    """The supervisor that was started for a launch."""

    launch: Launch
    child: "subprocess.Popen[bytes]"  # the supervisor, or its guard
    started_at: float = field(default_factory=time.time)  # Unix seconds

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
        _write(wanted, deployment, directory)
        return SupervisorProcess(wanted, _start_supervisor(name, held, tied=not detached))
    finally:
        os.close(held)


def change(
    deployment: Deployment,
    specs: tuple[ProcessSpec, ...],
    *,
    leaving: tuple[ProcessSpec, ...] = (),
    changes: tuple[str, ...] = (),
    drain_s: float | None = None,
) -> Launch:
    """Have the supervisor of a running deployment go over to other processes.

    It starts what is new, drains and stops what is missing from `specs`, and leaves alone what is
    in both. Call inside `planning()`, with specs that `prepare(deployment, present=...)` gave.
    leaving: what runs and is not among them. changes: what happens and why, for the event log.
    Raises StateConflict if no supervisor runs.
    """
    name = deployment.name
    current = state.read_launch(name)
    if current is None or not state.is_supervised(name):
        raise running.not_running(name)
    wanted = replace(
        current,
        layout=deployment.layout,
        specs=specs,
        revision=current.revision + 1,
        changes=changes,
        leaving=leaving,
        drain_s=current.drain_s if drain_s is None else drain_s,
        retired_ports=_retired_ports(current, specs),
    )
    _write(wanted, deployment, state.state_dir(name))
    return wanted


def _retired_ports(current: Launch, specs: tuple[ProcessSpec, ...]) -> tuple[int, ...]:
    """Ports that decode engines may still hold for those of a prefill engine that has left."""
    kept = {spec.bootstrap_port for spec in specs}
    gone = [spec.bootstrap_port for spec in current.specs if spec.bootstrap_port]
    left = [p for p in (*current.retired_ports, *gone) if p is not None and p not in kept]
    return tuple(dict.fromkeys(left))[-NUM_RETIRED_PORTS:]


def _write(wanted: Launch, deployment: Deployment, directory: Path) -> None:
    """The choice for people first: the supervisor acts on launch.json."""
    desired = directory / "desired.yaml"
    write_deployment(deployment, desired)
    desired.chmod(0o600)
    state.write_launch(wanted)


def resume(name: str) -> SupervisorProcess | None:
    """A new supervisor for a detached deployment that lost its own; None if it has one."""
    wanted = state.read_launch(name)
    held = state.lock(name)
    if held is None:
        return None
    try:
        if wanted is None:
            raise running.not_running(name)
        return SupervisorProcess(wanted, _start_supervisor(name, held, tied=False))
    finally:
        os.close(held)


def _lock_free_name(name: str) -> int:
    running.refuse_running(name)
    held = state.lock(name)
    if held is None:  # another `up` was faster
        raise running.already_running(name)
    return held


def _clear_last_run(name: str, directory: Path) -> None:
    state.clear_state(name)
    (directory / "events.jsonl").unlink(missing_ok=True)
    shutil.rmtree(directory / "logs", ignore_errors=True)
    state.make_state_dir(name)


def _start_supervisor(name: str, lock_fd: int, *, tied: bool) -> "subprocess.Popen[bytes]":
    """In a session of its own, so that Ctrl-C reaches only the command.

    tied: the kernel ends it when this command dies. Otherwise a guard starts it again when
    something kills it.
    """
    argv = [sys.executable, "-m", "pdctl.engines.daemon", name, "--lock-fd", str(lock_fd)]
    wrapper = [str(_SHIM), str(os.getpid()), str(int(signal.SIGTERM))] if tied else [str(_GUARD)]
    log = state.logs_dir(name) / "supervisor.log"
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    written = os.open(log, flags, 0o600)
    try:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", *wrapper, *argv],
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
