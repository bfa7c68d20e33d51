"""Processes on this machine: started in a session of their own, adopted again, stopped whole."""

import os
import select
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import psutil

from pdctl.deployment.records import ProcessSpec
from pdctl.deployment.resources import takes_gpus
from pdctl.engines.clients.api_key import api_key
from pdctl.engines.launchers.protocol import Running
from pdctl.engines.log_file import START_OF_LOG
from pdctl.engines.records import GpuUse
from pdctl.errors import EnvironmentProblem
from pdctl.hosts import LOOPBACK_NAMES
from pdctl.inspection.gpus import has_holder, is_empty, is_free, query_gpus, why_not_free
from pdctl.inspection.records import Gpu

GIVEN_BACK_S = 15.0  # a driver needs a second or two for 70 GiB of a killed process


def occupied_gpus(
    gpus: Sequence[int], is_enough: Callable[[Gpu], bool] = is_empty
) -> dict[int, GpuUse]:
    """Who has the memory of each of these GPUs; without NVML nobody is known to.

    Holders of little memory do not count by themselves: a peer's context may stay for good.
    """
    try:
        found = {gpu.index: gpu for gpu in query_gpus()}
    except EnvironmentProblem:
        found = {}
    return {index: _taken(found.get(index), is_enough) for index in gpus}


def _taken(gpu: Gpu | None, is_enough: Callable[[Gpu], bool]) -> GpuUse:
    if gpu is None or is_enough(gpu):
        return GpuUse()
    return GpuUse(why_not_free(gpu), is_named=has_holder(gpu))


def free_again(gpus: Sequence[int]) -> Mapping[int, GpuUse]:
    """As taken_gpus, but as strict as `up` is: not even a process without memory is there."""
    return occupied_gpus(gpus, is_free)


def wait_until_given_back(
    specs: Iterable[ProcessSpec],
    *,
    taken: Callable[[Sequence[int]], Mapping[int, GpuUse]] = free_again,
    wait_s: float = GIVEN_BACK_S,
) -> None:
    """Wait a while for the memory of engines that have ended, so that others can start there.

    Not longer where the driver hangs.
    """
    gpus = sorted({gpu for spec in specs if takes_gpus(spec) for gpu in spec.gpus})
    over = threading.Event()

    def look() -> None:
        while not over.is_set() and any(one.by for one in taken(gpus).values()):
            over.wait(0.2)

    if gpus:
        looking = threading.Thread(target=look, daemon=True)
        looking.start()
        looking.join(wait_s)
        over.set()


MARKER = "PDCTL_RUN"
_SHIM = Path(__file__).parents[1] / "exec_shim.py"
_WITH_KEY = Path(__file__).parents[1] / "with_key.py"
_TAKE_NO_KEY_FROM_ENVIRONMENT = ("sglang.launch_server", "sglang_router.launch_router")
# setproctitle would write over the environment that the marker is read from
_ENVIRONMENT = {"PYTHONUNBUFFERED": "1", "SPT_NOENV": "1"}


class LocalLauncher:
    """Starts and ends the processes of one run. Used from the main thread only.

    death_signal: what the kernel sends a process when this one dies; None: it lives on.
    """

    def __init__(self, run_id: str, *, cwd: str, death_signal: int | None) -> None:
        self._run_id = run_id
        self._cwd = cwd
        self._death_signal = death_signal or 0

    def start(self, spec: ProcessSpec) -> Running:
        """Start it; a program that cannot be run exits with 127 and says so in its log."""
        offset = _open_log(spec)
        shim = (sys.executable, "-I", "-S", str(_SHIM), str(os.getpid()), str(self._death_signal))
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        log = os.open(spec.log, flags, 0o600)
        try:
            child = subprocess.Popen(
                (*shim, *with_key(spec.argv, api_key())),
                cwd=self._cwd if Path(self._cwd).is_dir() else "/",
                env={**os.environ, **_environment(), **spec.env, MARKER: self._run_id},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        finally:
            os.close(log)
        return Running(child.pid, create_time(child.pid) or time.time(), offset, child)

    def adopt(self, pid: int, started_at: float) -> Running | None:
        """A process of this run that an earlier supervisor started; None if it is gone."""
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            return None
        if not is_same_process(pid, started_at, self._run_id):
            os.close(pidfd)
            return None
        return Running(pid, started_at, log_offset=0, pidfd=pidfd)

    def is_alive(self, running: Running) -> bool:
        """Whether it runs; what it left behind in its group is killed when it does not."""
        if running.child is None:
            return self._is_adopted_alive(running)
        if running.exit_code is not None:
            return False
        ended = os.waitid(os.P_PID, running.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is None:
            return True
        # not reaped yet, so the group's number cannot belong to anyone else
        _signal_group(running.pid, signal.SIGKILL)
        running.exit_code = running.child.wait()
        return False

    def _is_adopted_alive(self, running: Running) -> bool:
        if running.pidfd is None:
            return is_same_process(running.pid, running.started_at, self._run_id)
        ends = select.poll()
        ends.register(running.pidfd, select.POLLIN)
        return not ends.poll(0)

    def terminate(self, running: Running) -> None:
        """Ask it to finish. The leader alone: SIGTERM kills an engine's schedulers mid-request."""
        if self.is_alive(running):
            _signal(running.pid, signal.SIGTERM)
            _signal(running.pid, signal.SIGCONT)

    def kill(self, running: Running) -> None:
        """End it and its whole group at once."""
        if self.is_alive(running):
            _signal_group(running.pid, signal.SIGKILL)

    def kill_others(self, pids: set[int]) -> tuple[int, ...]:
        """Kill what this run started and is none of `pids`, nor started by them; whom it found."""
        found = tuple(pid for pid in marked(self._run_id) if not _belongs_to(pid, pids))
        for pid in found:
            _signal(pid, signal.SIGKILL)
        return found

    def sweep(self) -> tuple[int, ...]:
        """Kill every process that carries this run's marker; the numbers of those found."""
        return sweep(self._run_id)


def with_key(argv: tuple[str, ...], key: str | None) -> tuple[str, ...]:
    """A command that reads the API key from its environment, where there is one."""
    if key is None or argv[1:2] != ("-m",) or argv[2] not in _TAKE_NO_KEY_FROM_ENVIRONMENT:
        return argv
    return (argv[0], str(_WITH_KEY), *argv[2:])


def _environment() -> dict[str, str]:
    """What every process gets. A proxy for the world outside must not come between them."""
    exempt = [os.environ.get("no_proxy", ""), os.environ.get("NO_PROXY", ""), *LOOPBACK_NAMES]
    no_proxy = ",".join(dict.fromkeys(filter(None, exempt)))
    return {**_ENVIRONMENT, "no_proxy": no_proxy, "NO_PROXY": no_proxy}


def create_time(pid: int) -> float | None:
    """When a process started, Unix seconds; None if there is none."""
    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return None


def is_same_process(pid: int, started_at: float, run_id: str) -> bool:
    """Whether `pid` is still the process it was, not a later one of the same number.

    The marker decides where the clock was set meanwhile and the times differ.
    """
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return abs(process.create_time() - started_at) < 1.0 or has_marker(pid, run_id)
    except psutil.Error:
        return False


def has_marker(pid: int, run_id: str) -> bool:
    """Whether a process was started by the run, itself or by one of its processes."""
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False
    return bool(run_id) and f"{MARKER}={run_id}".encode() in environment.split(b"\0")


def marked(run_id: str) -> tuple[int, ...]:
    """The processes that carry the marker of a run, this one aside."""
    pids = (int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit())
    return tuple(pid for pid in pids if pid != os.getpid() and has_marker(pid, run_id))


def _belongs_to(pid: int, leaders: set[int]) -> bool:
    """Whether a process is one of `leaders`, in its group, or descends from it."""
    try:
        above = {parent.pid for parent in psutil.Process(pid).parents()}
        return bool(leaders & {pid, os.getpgid(pid), *above})
    except (psutil.Error, ProcessLookupError):
        return True  # gone meanwhile


def sweep(run_id: str, *, within_s: float = 5.0) -> tuple[int, ...]:
    """Kill everything a run left behind, and what that starts meanwhile."""
    killed: list[int] = []
    deadline = time.monotonic() + within_s
    while (found := marked(run_id)) and time.monotonic() < deadline:
        for pid in found:
            _signal(pid, signal.SIGKILL)
        killed.extend(pid for pid in found if pid not in killed)
        time.sleep(0.02)
    return tuple(killed)


def _open_log(spec: ProcessSpec) -> int:
    """Begin this start's part of the log; the byte where it begins."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    stamp = time.strftime("%Y-%m-%d %H:%M:%S")
    log = os.open(spec.log, flags, 0o600)
    try:
        offset = os.lseek(log, 0, os.SEEK_END)
        os.write(log, f"{START_OF_LOG}{stamp} {shlex.join(spec.argv)}\n".encode())
    except OSError:
        return 0  # a full disk; the engine may run without a log
    finally:
        os.close(log)
    return offset


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _signal_group(pid: int, number: int) -> None:
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        return
