"""The supervisor's own process, which always runs on the machine of the command that starts it."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from pdctl.engines import state
from pdctl.engines.exec_shim import tied
from pdctl.engines.launchers.local import handle_of, is_same_process
from pdctl.engines.launchers.registry import launcher_of
from pdctl.engines.records import DeploymentState, Launch
from pdctl.errors import EnvironmentProblem

MODULE = "pdctl.engines.daemon"
_GUARD = Path(__file__).parents[1] / "guard.py"


@dataclass(frozen=True)
class SupervisorProcess:
    """The supervisor that was started for a launch. replaces: the one that had it before."""

    launch: Launch
    child: "subprocess.Popen[bytes]"  # the supervisor or its guard
    replaces: int | None = None

    def is_alive(self) -> bool:
        return self.child.poll() is None

    def ask_to_stop(self, *, now: bool = False) -> None:
        """Stop after running requests have finished; now: kill everything immediately."""
        if self.is_alive():
            self.child.send_signal(signal.SIGINT if now else signal.SIGTERM)


def start_supervisor(name: str, lock_fd: int, *, is_tied: bool) -> "subprocess.Popen[bytes]":
    """Start a supervisor in its own session, so that Ctrl-C reaches only the command.

    is_tied: the kernel ends it when this command dies. Otherwise a guard restarts it when it is
    killed.
    """
    argv = [sys.executable, "-m", MODULE, name, "--lock-fd", str(lock_fd)]
    guarded = [sys.executable, "-I", "-S", str(_GUARD), *argv]
    log = state.logs_dir(name) / "supervisor.log"
    try:
        written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600)
    except OSError as problem:
        raise state.unwritable(log, problem) from problem
    try:
        return subprocess.Popen(
            tied(argv, signal.SIGTERM) if is_tied else guarded,
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=written,
            start_new_session=True,
            pass_fds=[lock_fd],
        )
    except OSError as problem:
        raise EnvironmentProblem(
            f"The supervisor of {name} cannot be started: {problem.strerror}.",
            hint="ulimit -a shows the limits on processes and memory",
        ) from problem
    finally:
        os.close(written)


def is_current(found: DeploymentState) -> bool:
    """True if the supervisor that the state names is alive, and not an earlier one.

    Ignores: supervisors on other machines, for which the lock has to do.
    """
    pid, started_at = found.supervisor_pid, found.supervisor_started_at
    return not is_here(found) or is_same_process(pid, started_at, "") or _runs(pid, found.name)


def _runs(pid: int, name: str) -> bool:
    """True if a process is a supervisor of this name. Decides where the clock was set meanwhile."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return command[1:4] == [b"-m", MODULE.encode(), name.encode()]


def ask_to_stop(found: DeploymentState, *, now: bool) -> None:
    """Ask the supervisor that a state names to stop its deployment."""
    _send(found, signal.SIGINT if now else signal.SIGTERM)


def kill(found: DeploymentState) -> None:
    """Kill the supervisor that a state names; its guard may start another one."""
    _send(found, signal.SIGKILL)


def is_here(found: DeploymentState) -> bool:
    """True if the supervisor that wrote this state runs on this machine."""
    return found.host in ("", state.host_name())


def _send(found: DeploymentState, number: int) -> None:
    wanted = state.read_launch(found.name)
    if not is_here(found) and wanted is not None:
        supervisor = handle_of(found.supervisor_pid, found.supervisor_started_at)
        launcher_of(wanted).signal_supervisor(found.host, supervisor, number)
        return
    try:
        os.kill(found.supervisor_pid, number)
    except ProcessLookupError:
        return
