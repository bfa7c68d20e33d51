"""Facts about this machine. Reads only; starts nothing but `python -c` to try an import."""

import json
import os
import resource
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psutil

from pdctl.engines import state
from pdctl.engines.launchers.local import marked
from pdctl.engines.launchers.local_ports import can_bind
from pdctl.engines.lifecycle import running
from pdctl.errors import EnvironmentProblem, InvalidInput
from pdctl.inspection.gpus import query_gpus, visible_gpus
from pdctl.inspection.records import Gpu, SglangInstall
from pdctl.inspection.sglang import query_sglang

SHM = Path("/dev/shm")
PORT_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
PEER_MEMORY = Path("/sys/module/nvidia_peermem")
CGROUP = Path("/sys/fs/cgroup")
IMPORT_TIMEOUT_S = 60.0
_SERVERS = ("sglang.launch_server", "sglang serve")
_TRY = (
    "import importlib, json, sys\n"
    "try:\n    importlib.import_module(sys.argv[1]); why = None\n"
    "except BaseException as p:\n    why = f'{type(p).__name__}: {p}'[:300]\n"
    "sys.stdout.write('\\n' + json.dumps(why) + '\\n')\n"
)
_PLUGINS = (
    "import json, sys\nfrom nixl._api import nixl_agent, nixl_agent_config\n"
    "agent = nixl_agent('pdctl', nixl_agent_config(backends=[]))\n"
    "sys.stdout.write('\\n' + json.dumps(list(agent.get_plugin_list())) + '\\n')\n"
)


@dataclass(frozen=True)
class Stray:
    """A process of an SGLang server. is_orphan: its server is gone. is_ours: pdctl runs it."""

    pid: int
    title: str
    is_orphan: bool = False
    is_ours: bool = False


def limit(kind: int) -> int | None:
    """This process's hard limit, which its children inherit. None: unlimited."""
    _, hard = resource.getrlimit(kind)
    return None if hard == resource.RLIM_INFINITY else hard


def soft_limit(kind: int) -> int | None:
    """This process's current limit. None: unlimited."""
    soft, _ = resource.getrlimit(kind)
    return None if soft == resource.RLIM_INFINITY else soft


def file_system_bytes(path: Path) -> tuple[int | None, int | None]:
    """Total and free bytes of the file system at a path, or at its nearest existing parent."""
    for folder in (path, *path.parents):
        try:
            found = os.statvfs(folder)
        except OSError:
            continue
        return found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize
    return None, None


def is_writable(path: Path) -> bool:
    """True if pdctl can create files under a path, which may not exist yet."""
    nearest = next((folder for folder in (path, *path.parents) if folder.exists()), None)
    return nearest is not None and os.access(nearest, os.W_OK | os.X_OK)


def local_port_range() -> tuple[int | None, int | None]:
    """First and last port that the kernel uses for outgoing connections."""
    try:
        first, last = PORT_RANGE.read_text(encoding="ascii").split()
        return int(first), int(last)
    except (OSError, ValueError):
        return None, None


def has_address(host: str) -> bool:
    """True if this machine has the address."""
    try:
        family = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family[0], socket.SOCK_STREAM) as probe:
            probe.bind((host, 0))
    except (OSError, UnicodeError):
        return False
    return True


def free_memory() -> int | None:
    """Bytes of host memory that an engine could still use, within the container's limit."""
    try:
        available = int(psutil.virtual_memory().available)
    except (OSError, psutil.Error):
        return None
    try:
        most = (CGROUP / "memory.max").read_text(encoding="ascii").strip()
        used = int((CGROUP / "memory.current").read_text(encoding="ascii"))
        return available if most == "max" else min(available, max(0, int(most) - used))
    except (OSError, ValueError):
        return available


def usable_gpus() -> tuple[tuple[Gpu, ...] | None, str]:
    """The GPUs that CUDA_VISIBLE_DEVICES allows, or None and the reason."""
    try:
        return visible_gpus(query_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES")), ""
    except EnvironmentProblem as problem:
        return None, problem.message


def install(python: str | None) -> tuple[SglangInstall | None, str]:
    """The SGLang of a Python interpreter, or None and the reason."""
    try:
        return query_sglang(python), ""
    except (EnvironmentProblem, InvalidInput) as problem:
        return None, problem.message


def import_problem(python: str, module: str) -> str | None:
    """Why a Python interpreter cannot import a module. None if it can."""
    answer, problem = _last_line_of(python, _TRY, module)
    return problem if answer is Ellipsis else None if answer is None else str(answer)


def nixl_plugin_names(python: str) -> tuple[str, ...] | None:
    """The plugins that NIXL finds. None if NIXL does not run."""
    answer, _ = _last_line_of(python, _PLUGINS)
    return tuple(map(str, answer)) if isinstance(answer, list) else None


def _last_line_of(python: str, code: str, *arguments: str) -> tuple[object, str]:
    """The JSON that a snippet prints last, or Ellipsis and the reason."""
    try:
        done = subprocess.run(
            [python, "-c", code, *arguments],
            capture_output=True,
            cwd="/",
            stdin=subprocess.DEVNULL,
            timeout=IMPORT_TIMEOUT_S,
            check=False,
        )
        lines = done.stdout.decode("utf-8", "replace").strip().splitlines()
        if done.returncode < 0:
            return ..., f"signal {-done.returncode}"
        return json.loads(lines[-1]), ""
    except subprocess.TimeoutExpired:
        return ..., f"no answer in {IMPORT_TIMEOUT_S:.0f} s"
    except (OSError, ValueError, IndexError) as problem:
        return ..., str(problem)


def strays() -> tuple[Stray, ...]:
    """Processes of SGLang servers on this machine, whoever started them."""
    ours = _ours()
    found = []
    for process in psutil.process_iter(["pid", "ppid", "cmdline"]):
        title = _title(process.info["cmdline"] or [])
        if title and title != "sglang::router":  # the router uses no GPU
            pid = process.info["pid"]
            lost = title.startswith("sglang::")
            is_orphan = lost and not has_server(process.info["ppid"])
            found.append(Stray(pid, title, is_orphan=is_orphan, is_ours=pid in ours))
    return tuple(found)


def _ours() -> frozenset[int]:
    launches = (state.read_launch(name) for name in running.names())
    return frozenset(pid for launch in launches if launch for pid in marked(launch.run_id))


def _title(cmdline: list[str]) -> str:
    line = " ".join(cmdline)
    if line.startswith("sglang::"):
        return line.split(" ", 1)[0].rstrip("\0")
    return next((name for name in _SERVERS if name in line and "python" in line.lower()), "")


def has_server(ppid: int) -> bool:
    """True if the process `ppid` is Python or SGLang: the server, or a helper of it."""
    if ppid <= 1:
        return False
    try:
        parent = psutil.Process(ppid)
        # check the executable too, because a process can change its command line
        line = " ".join([parent.exe(), *parent.cmdline()]).lower()
    except psutil.Error:
        return False
    return "sglang" in line or "python" in line


def load_snapshots() -> tuple[int, int]:
    """Number of SGLang's load snapshots in /dev/shm, and their bytes."""
    sizes = []
    for file in SHM.glob("sglang_loads_*"):
        try:
            sizes.append(file.stat().st_size)
        except OSError:
            continue
    return len(sizes), sum(sizes)


def taken_ports(ports: tuple[int, ...]) -> dict[int, str]:
    """The owners of `ports` in use, except those that belong to a deployment of pdctl."""
    busy = [port for port in ports if not can_bind(port, shares=True)]
    if not busy:
        return {}
    ours = _ours()
    found = {}
    for port in busy:
        pid = _listener(port)
        if pid not in ours:
            found[port] = "unknown process" if pid is None else f"pid {pid} {_name(pid)}"
    return found


def _listener(port: int) -> int | None:
    try:
        sockets = psutil.net_connections("tcp")
    except (psutil.Error, OSError):
        return None
    listening = (s for s in sockets if s.status == psutil.CONN_LISTEN)
    return next((s.pid for s in listening if tuple(s.laddr)[1:2] == (port,)), None)


def _name(pid: int) -> str:
    try:
        return psutil.Process(pid).name()
    except psutil.Error:
        return "?"
