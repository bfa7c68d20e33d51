"""A deployment of many simulated engines on a Slurm of three hosts: what grows with their number.

`python -m tests.bench.bench_many [NUM...]`; 25, 50, 100 and 200 engines by default. Needs root, and
50 MB of memory for each engine.
"""

import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import psutil

from tests.bench.bench_cluster import There, cpu_ms, pdctl_on, took_s

IDLE_S = 20.0
FILE = """\
schema: 1
name: many
model: qwen3-8b
engine: sim
sim_speed: 20
prefill: {{engines: {prefill}}}
decode: {{engines: {decode}}}
"""


def measure(there: There, num: int) -> None:
    """Start `num` engines, look at the supervisor while they are idle, stop them."""
    file = there.cwd / "many.yaml"
    file.write_text(FILE.format(prefill=num // 4, decode=num - num // 4))
    up_s = took_s(lambda: there.done("up", "-f", str(file), "--on", "slurm", "-d"))
    (supervisor,) = (
        p
        for p in there.processes("-m pdctl.engines.daemon")
        if "guard.py" not in " ".join(p.cmdline())
    )
    start_cpu_s = _cpu_s(supervisor)
    time.sleep(3)
    before, began = _cpu_s(supervisor), time.monotonic()
    time.sleep(IDLE_S)
    idle = (_cpu_s(supervisor) - before) / (time.monotonic() - began)
    look_ms = cpu_ms(lambda: there.done("status", "many", "--once"))
    row = {
        "engines": num,
        "up to serving, s": round(up_s, 1),
        "supervisor's start to serving, s": round(there.state("many")["ready_after_s"], 1),
        "supervisor CPU until then, s": round(start_cpu_s, 1),
        "supervisor idle, % of a core": round(idle * 100, 1),
        "supervisor memory, MiB": round(supervisor.memory_info().rss / 2**20),
        "threads": supervisor.num_threads(),
        "status --once, ms CPU": round(look_ms),
        "state.json, KiB": (there.home / "many" / "state.json").stat().st_size >> 10,
    }
    print(row, flush=True)  # noqa: T201
    print(f"down after {took_s(lambda: there.done('down', 'many')):.1f} s")  # noqa: T201


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def main(*numbers: str) -> None:
    """Measure each number of engines in turn."""
    with (
        tempfile.TemporaryDirectory() as directory,
        pdctl_on("slurm", Path(directory)) as there,
    ):
        there = replace(there, patience_s=600.0)
        for num in map(int, numbers or ("25", "50", "100", "200")):
            measure(there, num)


if __name__ == "__main__":
    main(*sys.argv[1:])
