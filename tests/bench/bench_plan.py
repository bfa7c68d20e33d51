"""What `pdctl plan` costs, from the shell prompt to the verdict.

python -m tests.bench.bench_plan [MOONCAKE_TRACE], or, as wheels have it, compiled,
bash tests/compiled.sh python -m tests.bench.bench_plan [MOONCAKE_TRACE]
"""

import os
import resource
import sys
import tempfile
import time
from pathlib import Path

from pdctl.perf_model.simulator.simulate import find_prefixes, simulate
from tests.bench.bench_simulator import cpu_s, fleet, read_mooncake
from tests.bench.bench_trace import write_trace

ROUNDS = 3
SPLIT = ("deepseek-r1", "--gpus", "4x8xH200", "--isl", "8000", "--osl", "500", "--rate", "10")
EQUAL = ("--isl-cv", "0", "--osl-cv", "0")
SLOS = ("--ttft", "2s", "--tpot", "50ms")
ALONE = ("8C", "2P6D", "4P4D")
WIDE = ("deepseek-r1", "--gpus", "12x8xH100:rdma400", "--isl", "4000", "--osl", "400",
        "--rate", "40")  # fmt: skip
EXPERTS = ("deepseek-v3", "--gpus", "12x8xH100:rdma400", "--isl", "2000", "--osl", "1740")


def measure() -> list[tuple[str, float, float, str]]:
    """Rows of (what, measured, limit, unit); the best of a few rounds."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(sys.argv[1]) if len(sys.argv) > 1 else write_trace(Path(directory))
        trace = ("qwen3-32b", "--gpus", "2x8xH200:rdma400", "--tp", "2", "--trace", str(path))
        levels = ("--ttft", "5s", "--tpot", "30ms")
        return [
            ("rules only, CPU", _best("cpu", "deepseek-r1", "--gpus", "4x8xH200"), 0.3, "s"),
            (
                "constant lengths and a rate, CPU",
                _best("cpu", *SPLIT, *EQUAL),
                0.8,
                "s",
            ),
            (
                "constant lengths, SLOs and flips, CPU",
                _best("cpu", *SPLIT, *EQUAL, *SLOS),
                0.8,
                "s",
            ),
            ("drawn lengths, SLOs and flips, CPU", _best("cpu", *SPLIT, *SLOS), 2.0, "s"),
            (
                "DeepSeek-R1 on 96 H100, SLOs and flips, wall",
                _best("wall", *WIDE, "--ttft", "3s", "--tpot", "60ms"),
                4.0,
                "s",
            ),
            (
                "DeepSeek on 96 H100 with experts spread, wall",
                _best("wall", *EXPERTS, "--ttft", "5s", "--tpot", "100ms"),
                6.0,
                "s",
            ),
            ("12,031 requests, 8 engines, all splits, wall", _best("wall", *trace), 3.0, "s"),
            (
                "the same with SLOs: capacities, flips asked again, wall",
                _best("wall", *trace, *levels),
                3.0,
                "s",
            ),
            ("the same, CPU of all processes", _best("cpu", *trace, *levels), 4.0, "s"),
            ("the same, memory of the largest process", _best("mib", *trace, *levels), 300, "MiB"),
            *_alone(path),
        ]


def _alone(trace: Path) -> list[tuple[str, float, float, str]]:
    """Single layouts simulated, plain or, beside tests/compiled.sh, compiled."""
    asked = read_mooncake(trace)
    prefixes = find_prefixes(asked)

    def once(layout: str) -> float:
        return cpu_s(lambda: simulate(fleet(layout), asked, prefixes=prefixes), ROUNDS)

    return [(f"{layout} of it alone, CPU", once(layout), 0.2, "s") for layout in ALONE]


def _best(what: str, *arguments: str) -> float:
    return min(_once(arguments)[what] for _ in range(ROUNDS))


def _once(arguments: tuple[str, ...]) -> dict[str, float]:
    """CPU and wall seconds and peak memory of one command line, its children included."""
    started = time.perf_counter()
    pid = os.fork()
    if not pid:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        command = [sys.executable, "-m", "pdctl", "plan", *arguments, "--json"]
        os.execve(sys.executable, command, _environment())
    _, status, usage = os.wait4(pid, 0)
    if os.waitstatus_to_exitcode(status) not in (0, 3):
        raise RuntimeError(f"pdctl plan {' '.join(arguments)} failed")
    return {
        "wall": time.perf_counter() - started,
        "cpu": usage.ru_utime + usage.ru_stime,
        "mib": _mib(usage),
    }


def _environment() -> dict[str, str]:
    """A user's: modules stay compiled from one call to the next."""
    return {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}


def _mib(usage: resource.struct_rusage) -> float:
    return usage.ru_maxrss / 1024


if __name__ == "__main__":
    for what, measured, limit, unit in measure():
        print(f"{what:52} {measured:8.3f} {unit:4} (limit {limit:g})")  # noqa: T201
