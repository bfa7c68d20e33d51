"""Processes, GPUs, ports and files of this machine.

The only file that knows what a process number is, where /proc keeps its environment, and that the
engines of one machine talk over loopback.
"""

import os
import select
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pdctl.deployment import containers
from pdctl.deployment.records import HERE, Container, ProcessSpec
from pdctl.engines import log_file, state
from pdctl.engines.clients.api_key import api_key
from pdctl.engines.clients.protocol import Http
from pdctl.engines.exec_shim import tied
from pdctl.engines.launchers.command import command_of, with_key
from pdctl.engines.launchers.local_ports import Claims, LocalPorts
from pdctl.engines.launchers.protocol import Copied, Exit, Started
from pdctl.engines.records import GpuUse, Handle
from pdctl.errors import EnvironmentProblem
from pdctl.hosts import LOOPBACK, LOOPBACK_NAMES
from pdctl.inspection.gpus import (
    has_holder,
    is_empty,
    is_free,
    query_gpus,
    query_rdma_ports,
    visible_gpus,
    why_not_free,
)
from pdctl.inspection.model_contents import Contents, model_contents
from pdctl.inspection.records import Gpu, RdmaPort, SglangInstall

if TYPE_CHECKING:
    from pdctl.engines.launchers.model_copy import ModelCopy

MARKER = "PDCTL_RUN"
MAX_SMALL_FILE_BYTES = 1 << 20
# setproctitle would overwrite the environment that the marker is read from
_ENVIRONMENT = {"PYTHONUNBUFFERED": "1", "SPT_NOENV": "1"}
_label = "pid {}".format
_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW


@dataclass
class _Process:
    """A process that this launcher started or adopted.

    child: None when another supervisor started it; `pidfd` then tells when it ends.
    """

    pid: int
    started_at: float
    child: "subprocess.Popen[bytes] | None" = None
    pidfd: int | None = None
    exit: Exit | None = None


class LocalLauncher(LocalPorts):
    """One deployment on this machine.

    death_signal: the signal the kernel sends its processes when this one dies; None: they live on.
    """

    def __init__(self, run_id: str, *, cwd: str, death_signal: int | None) -> None:
        self._run_id = run_id
        self._cwd = cwd
        self._death_signal = death_signal or 0
        self._processes: dict[Handle, _Process] = {}
        self._copies: dict[Path, ModelCopy] = {}
        self._claims = Claims()

    # nodes

    def nodes(self) -> tuple[str, ...]:
        return (HERE,)

    def node_groups(self) -> tuple[tuple[str, ...], ...]:
        return ()

    def domains(self) -> Mapping[str, str]:
        return {}

    def is_over(self) -> bool:
        return False

    def address(self, node: str) -> str:
        return LOOPBACK

    def gpus(self, node: str) -> tuple[Gpu, ...]:
        """The GPUs that CUDA_VISIBLE_DEVICES leaves."""
        return visible_gpus(query_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES"))

    def gpu_use(
        self, node: str, gpus: Sequence[int], *, is_strict: bool = False
    ) -> Mapping[int, GpuUse]:
        """The users of these GPUs. Without NVML, all count as unused.

        Unless is_strict, a holder of little memory does not count: a peer's context may stay.
        """
        return gpu_use(gpus, is_free if is_strict else is_empty)

    def rdma_ports(self, node: str) -> tuple[RdmaPort, ...]:
        return query_rdma_ports()

    def sglang(self, node: str, python: str | None) -> SglangInstall:
        from pdctl.inspection.sglang import query_sglang  # `ls` and `status` start sooner without

        return query_sglang(python)

    def signal_supervisor(self, node: str, supervisor: Handle, number: int) -> bool:
        pid, started_at = _parse(supervisor)
        if not is_same_process(pid, started_at, ""):
            return False
        _signal(pid, number)
        return True

    def run(
        self,
        node: str,
        argv: Sequence[str],
        *,
        timeout_s: float,
        container: Container | None = None,
    ) -> str:
        argv = containers.run(container, argv) if container else argv
        what = Path(argv[0]).name
        try:
            done = subprocess.run(
                argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s
            )
        except (OSError, subprocess.TimeoutExpired) as problem:
            raise EnvironmentProblem(f"{what} did not run: {problem}.") from problem
        if done.returncode != 0:
            last = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
            raise EnvironmentProblem(f"{what} failed: {last}")
        return done.stdout

    def http(self, node: str) -> Http:
        from pdctl.engines.clients import http  # `ls` and `down` start sooner without

        return http

    # processes

    def prepare(self, specs: Sequence[ProcessSpec]) -> None:
        """Nothing: a process starts at once."""

    def start(self, spec: ProcessSpec) -> Started:
        """Start a process. A program that cannot run exits with 127 and a message in its log."""
        return self.start_command(command_of(spec, self._run_id), spec.env, spec.log)

    def start_command(self, argv: tuple[str, ...], env: Mapping[str, str], log: Path) -> Started:
        """Start a process that is known by its command alone. Its output is appended to a log."""
        offset = _open_log(log, argv)
        output = os.open(log, _APPEND, 0o600)
        try:
            child = subprocess.Popen(
                tied(with_key(argv, api_key()), self._death_signal),
                cwd=self._cwd if Path(self._cwd).is_dir() else "/",
                env={**os.environ, **_environment(), **env, MARKER: self._run_id},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        finally:
            os.close(output)
        return self._keep(_Process(child.pid, create_time(child.pid) or time.time(), child), offset)

    def adopt(self, handles: Sequence[Handle]) -> tuple[Started | None, ...]:
        """Take over processes that an earlier supervisor started; None for each that is gone."""
        return tuple(map(self._adopted, handles))

    def _adopted(self, handle: Handle) -> Started | None:
        pid, started_at = _parse(handle)
        try:
            pidfd = os.pidfd_open(pid)
        except (OSError, OverflowError):
            return None
        if not is_same_process(pid, started_at, self._run_id):
            os.close(pidfd)
            return None
        return self._keep(_Process(pid, started_at, pidfd=pidfd), 0)

    def _keep(self, process: _Process, log_offset: int) -> Started:
        handle = handle_of(process.pid, process.started_at)
        self._processes[handle] = process
        return Started(handle, _label(process.pid), process.started_at, log_offset)

    def poll(self, handle: Handle) -> Exit | None:
        """None while it runs. Once it has ended, kills the rest of its process group."""
        process = self._processes.get(handle)
        if process is None:
            is_alive = is_same_process(*_parse(handle), self._run_id)
            return None if is_alive else Exit()
        if process.exit is None:
            process.exit = _poll_child(process) if process.child else _poll_adopted(process)
        return process.exit

    def terminate(self, handle: Handle) -> None:
        """Send SIGTERM to the leader alone: it would kill an engine's schedulers mid-request."""
        if self.poll(handle) is None:
            pid, _ = _parse(handle)
            _signal(pid, signal.SIGTERM)
            _signal(pid, signal.SIGCONT)

    def kill(self, handle: Handle) -> None:
        if self.poll(handle) is None:
            _signal_group(_parse(handle)[0], signal.SIGKILL)

    def living(self, known: Collection[Handle]) -> tuple[str, ...]:
        return tuple(map(_label, self._living(known)))

    def _living(self, known: Collection[Handle]) -> tuple[int, ...]:
        parsed = (_parse(handle) for handle in known)
        alive = {pid for pid, at in parsed if is_same_process(pid, at, self._run_id)}
        return tuple(sorted(alive | set(marked(self._run_id))))

    def kill_others(self, keep: Collection[Handle], nodes: Collection[str]) -> tuple[str, ...]:
        pids = {_parse(handle)[0] for handle in keep}
        found = tuple(pid for pid in marked(self._run_id) if not _belongs_to(pid, pids))
        for pid in found:
            _signal(pid, signal.SIGKILL)
        return tuple(map(_label, found))

    def reap(self, known: Collection[Handle], *, grace_s: float) -> tuple[str, ...]:
        """Send SIGTERM, wait, send SIGKILL; the labels of those that had to be killed."""
        for pid in self._living(known):
            if _group(pid) == pid and has_marker(pid, self._run_id):
                _signal(pid, signal.SIGTERM)
        deadline = time.monotonic() + grace_s
        while self._living(known) and time.monotonic() < deadline:
            time.sleep(0.05)
        stubborn = self._living(known)
        for pid in stubborn:
            _signal(pid, signal.SIGKILL)
        return tuple(map(_label, sorted({*stubborn, *sweep(self._run_id)})))

    def sweep(self) -> tuple[str, ...]:
        return tuple(map(_label, sweep(self._run_id)))

    def variable(self, handle: Handle, name: str) -> str | None:
        return variables_of(_parse(handle)[0], self._run_id).get(name)

    # files

    def read_log(self, node: str, log: Path) -> tuple[str, ...]:
        return log_file.read_log_lines(log)

    def read_added(self, node: str, log: Path, offset: int) -> tuple[str, int]:
        return log_file.read_from(log, offset)

    def log_size(self, node: str, log: Path) -> int:
        try:
            return log.stat().st_size
        except OSError:
            return 0

    def last_start_at(self, node: str, log: Path) -> int:
        return log_file.last_start_at(log)

    def rotate_log(self, node: str, log: Path) -> bool:
        return log_file.rotate(log)

    def rename_log(self, node: str, log: Path, to: Path) -> None:
        log_file.hand_over(log, to)

    def model_contents(self, node: str, path: Path) -> Contents | None:
        return model_contents(path)

    def stage(self, node: str, source: Path, target: Path) -> Copied:
        from pdctl.engines.launchers.model_copy import ModelCopy  # `ls` starts sooner without

        copy = self._copies[target] = self._copies.get(target) or ModelCopy(source, target)
        return copy.progress()

    def read_file(self, node: str, path: Path) -> str | None:
        try:
            with path.open("rb") as file:
                return file.read(MAX_SMALL_FILE_BYTES).decode("utf-8", "replace")
        except OSError:
            return None

    def write_file(self, node: str, path: Path, text: str) -> None:
        state.write_private(path, text)


# handles


def handle_of(pid: int, started_at: float | None) -> Handle:
    """The handle of a process of this machine: its number and when it started, Unix seconds."""
    return Handle(f"{pid}@{started_at or 0.0!r}")


def pid_of(handle: str | None) -> int | None:
    """The process number in a handle of this launcher; None without a handle."""
    return _parse(Handle(handle))[0] if handle else None


def _parse(handle: Handle) -> tuple[int, float]:
    """Number and start; of an unreadable handle, a process that cannot exist."""
    pid, _, started_at = handle.partition("@")
    try:
        return int(pid), float(started_at)
    except ValueError:
        return -1, 0.0


# the life of a process


def _poll_child(process: _Process) -> Exit | None:
    assert process.child is not None
    ended = os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    if ended is None:
        return None
    # not reaped yet, so the group's number cannot belong to anyone else
    _signal_group(process.pid, signal.SIGKILL)
    return Exit(process.child.wait())


def _poll_adopted(process: _Process) -> Exit | None:
    assert process.pidfd is not None
    ends = select.poll()
    ends.register(process.pidfd, select.POLLIN)
    return Exit() if ends.poll(0) else None


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; none if there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def create_time(pid: int) -> float | None:
    """The start of a process in Unix seconds; None if there is no such process."""
    fields = _stat(pid)
    if len(fields) < 20:
        return None
    return _boot_time() + int(fields[19]) / os.sysconf("SC_CLK_TCK")


def _boot_time() -> float:
    lines = Path("/proc/stat").read_text(encoding="ascii", errors="replace").splitlines()
    return next((float(line.split()[1]) for line in lines if line.startswith("btime")), 0.0)


def is_same_process(pid: int, started_at: float, run_id: str) -> bool:
    """True if `pid` is still the process it was and not a later one of the same number.

    The marker decides where the clock was set meanwhile and the times differ.
    """
    created_at = create_time(pid)
    if created_at is None or _stat(pid)[:1] in ([], ["Z"]):
        return False
    return abs(created_at - started_at) < 1.0 or has_marker(pid, run_id)


def has_marker(pid: int, run_id: str) -> bool:
    """True if the deployment `run_id` started a process, directly or through its processes."""
    return bool(variables_of(pid, run_id))


def variables_of(pid: int, run_id: str) -> dict[str, str]:
    """The environment of a process that carries the marker of `run_id`; empty for any other."""
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return {}
    entries = environment.split(b"\0")
    if not run_id or f"{MARKER}={run_id}".encode() not in entries:
        return {}
    texts = (entry.decode("utf-8", "replace") for entry in entries if b"=" in entry)
    return dict(text.split("=", 1) for text in texts)


def program_of(pid: int) -> str:
    """The name of the program that a process runs; "" once it has ended."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def marked(run_id: str) -> tuple[int, ...]:
    """The processes that carry the marker of a deployment, this one aside."""
    pids = (int(p.name) for p in Path("/proc").iterdir() if p.name.isdigit())
    return tuple(pid for pid in pids if pid != os.getpid() and has_marker(pid, run_id))


def variable_here(run_id: str, name: str) -> str | None:
    """A variable from the environment of any process of a deployment on this machine."""
    return next((v for pid in marked(run_id) if (v := variables_of(pid, run_id).get(name))), None)


def _belongs_to(pid: int, leaders: set[int]) -> bool:
    """True if a process is one of `leaders`, in its group, or descends from it."""
    group = _group(pid)
    if group is None:
        return True  # it has ended meanwhile
    above = {pid, group}
    while (fields := _stat(pid)) and (pid := int(fields[1])) > 0:
        above.add(pid)
    return bool(leaders & above)


def sweep(run_id: str, *, within_s: float = 5.0) -> tuple[int, ...]:
    """Kill everything a deployment left behind, and what that starts meanwhile."""
    killed: list[int] = []
    deadline = time.monotonic() + within_s
    while (found := marked(run_id)) and time.monotonic() < deadline:
        for pid in found:
            _signal(pid, signal.SIGKILL)
        killed.extend(pid for pid in found if pid not in killed)
        time.sleep(0.02)
    return tuple(killed)


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


def _signal_group(pid: int, number: int) -> None:
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        return


# what a process gets


def _environment() -> dict[str, str]:
    """The variables of every process. Requests between them must not go through a proxy."""
    exempt = [os.environ.get("no_proxy", ""), os.environ.get("NO_PROXY", ""), *LOOPBACK_NAMES]
    no_proxy = ",".join(dict.fromkeys(filter(None, exempt)))
    return {**_ENVIRONMENT, "no_proxy": no_proxy, "NO_PROXY": no_proxy}


def _open_log(path: Path, argv: tuple[str, ...]) -> int:
    """Write the header of this start into the log; the byte where it begins."""
    stamp = time.strftime("%Y-%m-%d %H:%M:%S")
    log = os.open(path, _APPEND, 0o600)
    try:
        offset = os.lseek(log, 0, os.SEEK_END)
        os.write(log, f"{log_file.START_OF_LOG}{stamp} {shlex.join(argv)}\n".encode())
    except OSError:
        return 0  # a full disk; the engine may run without a log
    finally:
        os.close(log)
    return offset


# GPUs and ports


def gpu_use(gpus: Sequence[int], is_unused: Callable[[Gpu], bool] = is_empty) -> dict[int, GpuUse]:
    """The users of these GPUs. Without NVML, all count as unused."""
    try:
        found = {gpu.index: gpu for gpu in query_gpus()}
    except EnvironmentProblem:
        found = {}
    return {index: _use_of(found.get(index), is_unused) for index in gpus}


def _use_of(gpu: Gpu | None, is_unused: Callable[[Gpu], bool]) -> GpuUse:
    if gpu is None or is_unused(gpu):
        return GpuUse()
    return GpuUse(why_not_free(gpu), is_named=has_holder(gpu))
