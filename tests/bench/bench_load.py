"""200 streams a second of 100 tokens from one process, against two simulated engines."""

import asyncio
import os
import random
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from urllib.request import urlopen

RATE_RPS, SECONDS, ISL, OSL, ENGINES = 200.0, 10.0, 200, 100, 2
LATENESS_LIMIT_MS, CLIENT_LIMIT_US, ENGINE_LIMIT_US = 10.0, 25.0, 30.0


def measure() -> list[tuple[str, float, float, str]]:
    """Rows of (what, measured, limit, unit)."""
    from pdctl.measurement.results import summary

    with ExitStack() as stack:
        engines = [stack.enter_context(_engine(port)) for port in _free_ports(ENGINES)]
        ready = [engine.cpu_s() for engine in engines]
        waited_s = -_waited_for_a_core_s()
        result = asyncio.run(_play([engine.url for engine in engines]))
        waited_s += _waited_for_a_core_s()
        used_s = sum(e.cpu_s() - before for e, before in zip(engines, ready, strict=True))
        peak_mib = max(engine.memory_mib() for engine in engines)
    sent = [one for part in result for one in part.sent]
    tokens = sum(len(one.token_s) for one in sent)
    cpu_s = max(part.cpu_s for part in result)  # the parts share one process
    lateness = [summary(part, warm_up=0.0, cool_down=0.0).lateness_s for part in result]
    worst_ms = max(1e3 * found.p99 for found in lateness if found is not None)
    whole = sum(one.is_whole for one in sent)
    return [
        ("start of an engine, CPU", max(ready), 0.5, "s"),
        (f"lateness p99 at {RATE_RPS:g} streams/s", worst_ms, LATENESS_LIMIT_MS, "ms"),
        ("load generator per token, CPU", cpu_s / tokens * 1e6, CLIENT_LIMIT_US, "µs"),
        ("engine per token, CPU", used_s / tokens * 1e6, ENGINE_LIMIT_US, "µs"),
        ("memory of an engine under this load", peak_mib, 60.0, "MiB"),
        # on a busy machine this, not the generator, is what makes it late
        ("load generator waiting for a core", waited_s, float("inf"), "s"),
        ("requests not answered whole", float(len(sent) - whole), 0.5, ""),
    ]


class _engine:  # noqa: N801
    """A simulated engine as a process."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        argv = [sys.executable, "-m", "pdctl.engines.sim", "--model-path", "llama-3.1-8b"]
        argv += ["--sim-gpus", "1xH200", "--port", str(port)]
        self.process = subprocess.Popen(argv, stderr=subprocess.DEVNULL)

    def __enter__(self) -> "_engine":
        for _ in range(1000):
            try:
                with urlopen(f"{self.url}/ready", timeout=1):
                    return self
            except OSError:
                time.sleep(0.01)
        raise RuntimeError(f"{self.url} did not get ready")

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def cpu_s(self) -> float:
        with open(f"/proc/{self.process.pid}/stat", encoding="utf-8") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory_mib(self) -> float:
        with open(f"/proc/{self.process.pid}/status", encoding="utf-8") as file:
            peak = next(line for line in file if line.startswith("VmHWM"))
        return int(peak.split()[1]) / 1024


def _waited_for_a_core_s() -> float:
    with open("/proc/self/schedstat", encoding="utf-8") as file:
        return int(file.read().split()[1]) / 1e9


async def _play(urls: list[str]):  # type: ignore[no-untyped-def]
    from pdctl.measurement.load import run_load
    from pdctl.workload.records import Requests

    def requests(seed: int) -> Requests:
        rng, now, times = random.Random(seed), 0.0, []
        while now < SECONDS:
            times.append(now)
            now += rng.expovariate(RATE_RPS / len(urls))
        return Requests(times, [ISL] * len(times), [OSL] * len(times))

    return await asyncio.gather(*(run_load(url, requests(n)) for n, url in enumerate(urls)))


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


if __name__ == "__main__":
    for what, measured, limit, unit in measure():
        print(f"{what:52} {measured:8.3f} {unit:4} (limit {limit:g})")  # noqa: T201
