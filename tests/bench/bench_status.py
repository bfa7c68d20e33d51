"""CPU and memory of `pdctl status`: one shot on 8 engines, and live at 1 Hz on 8 and on 64."""

import contextlib
import fcntl
import os
import pty
import resource
import select
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator
from pathlib import Path

from pdctl.engines import state
from pdctl.engines.records import DeploymentState, Handle, ProcessState
from tests.status.servers import Pages, pages_server

CAPTURES = Path(__file__).parent.parent / "data" / "captures"
METRICS_BYTES = 65_000  # of a real page; the captured ones are shortened
LIVE_S = 20.0
PDCTL = (sys.executable, "-m", "pdctl", "status", "bench")


def measure() -> list[tuple[str, float, float, str]]:
    """Rows of (what, measured, limit, unit)."""
    with _fleet(2, 6):
        once_s = min(_once_cpu_s() for _ in range(5))
        share, peak_mib, _ = _live()
    with _fleet(16, 48):
        share_of_64, peak_of_64_mib, first_s = _live()
    return [
        ("status --once on 8 engines, CPU", once_s, 0.25, "s"),
        ("live status at 1 Hz on 8 engines, of a core", share * 100, 5, "%"),
        ("live status on 8 engines, memory", peak_mib, 60, "MiB"),
        ("live status at 1 Hz on 64 engines, of a core", share_of_64 * 100, 10, "%"),
        ("live status on 64 engines, memory", peak_of_64_mib, 80, "MiB"),
        ("live status on 64 engines, first frame", first_s, 0.5, "s"),
    ]


@contextlib.contextmanager
def _fleet(num_prefill: int, num_decode: int) -> Iterator[None]:
    """A deployment "bench" whose engines are pages, served by threads of this process."""
    with tempfile.TemporaryDirectory() as home, contextlib.ExitStack() as servers:
        os.environ["PDCTL_STATE_HOME"] = home
        _write_fleet(servers, {"prefill": num_prefill, "decode": num_decode})
        lock = state.lock("bench")
        yield
        os.close(lock or 0)


def _write_fleet(servers: contextlib.ExitStack, numbers: dict[str, int]) -> None:
    router = servers.enter_context(
        pages_server({"/readiness": (200, b"{}"), "/metrics": _page("router_metrics_0.3.2.txt")})
    )
    processes = [ProcessState("router", "router", router, "serving", Handle("1@0"), 0.0)]
    for role, number in numbers.items():
        for index in range(number):
            url = servers.enter_context(pages_server(_engine_pages(role)))
            name = f"{role}-{index}"
            processes.append(ProcessState(name, role, url, "serving", Handle("1@0"), 0.0))  # type: ignore[arg-type]
    state.make_state_dir("bench")
    state.write_state(
        DeploymentState(
            name="bench",
            phase="serving",
            detail="",
            boot_id=state.boot_id(),
            supervisor_pid=os.getpid(),
            supervisor_started_at=0.0,
            updated_at=0.0,
            detached=True,
            endpoint=router,
            layout=f"{numbers['prefill']}P{numbers['decode']}D",
            model="tiny",
            processes=tuple(processes),
        )
    )


def _engine_pages(role: str) -> Pages:
    status, metrics = _page(f"metrics_{role}_0.5.23.txt")
    filler = b'sglang:other_seconds_bucket{engine_type="decode",le="0.1",tp_rank="0"} 1.0\n'
    padding = filler * ((METRICS_BYTES - len(metrics)) // len(filler))
    loads = _page(f"loads_{role}_0.5.23.json")
    return {"/v1/loads": loads, "/metrics": (status, metrics + padding)}


def _page(name: str) -> tuple[int, bytes]:
    return 200, (CAPTURES / name).read_bytes()


def _once_cpu_s() -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([*PDCTL, "--once"], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _live() -> tuple[float, float, float]:
    """Share of a core once it runs, resident memory in MiB, seconds until the first frame."""
    with _on_terminal() as (pid, screen):
        started = time.monotonic()
        os.read(screen, 1)
        first_s = time.monotonic() - started
        _drain(screen, 3.0)
        before, began = _cpu_s(pid), time.monotonic()
        _drain(screen, LIVE_S)
        share = (_cpu_s(pid) - before) / (time.monotonic() - began)
        peak = _peak_mib(pid)
        os.write(screen, b"q")
        _drain(screen, 1.0)
    return share, peak, first_s


@contextlib.contextmanager
def _on_terminal() -> Iterator[tuple[int, int]]:
    pid, screen = pty.fork()
    if pid == 0:
        os.environ["TERM"] = "xterm-256color"
        os.execv(PDCTL[0], PDCTL)
    fcntl.ioctl(screen, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    try:
        yield pid, screen
    finally:
        os.close(screen)
        os.waitpid(pid, 0)


def _drain(screen: int, seconds: float) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        ready, _, _ = select.select([screen], [], [], left)
        if ready:
            try:
                os.read(screen, 1 << 16)
            except OSError:  # it has ended
                return


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _peak_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    for what, measured, limit, unit in measure():
        print(f"{what:52} {measured:8.3f} {unit:4} (limit {limit:g})")  # noqa: T201
