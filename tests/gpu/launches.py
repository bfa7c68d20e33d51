"""Time what a host takes to launch kernels, and what a small kernel takes in a CUDA graph.

    python3 -m tests.gpu.launches > launches.json

Needs torch and triton. Microseconds; each figure is the median of ROUNDS rounds of CALLS launches.
"""

import json
import sys
import time
from collections.abc import Callable
from statistics import median

import torch  # type: ignore[import-not-found]
import triton  # type: ignore[import-not-found]
from triton import language as tl

CALLS, ROUNDS = 400, 25  # a driver queues 1,024 launches before it makes the caller wait
NODES = 500


@triton.jit  # type: ignore[untyped-decorator]
def _add_one(rows, num, block: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.program_id(0) * block + tl.arange(0, block)
    tl.store(rows + at, tl.load(rows + at, at < num) + 1, at < num)


def main() -> None:
    """Measure and print."""
    rows = torch.zeros(1024, device="cuda", dtype=torch.bfloat16)
    weight = torch.randn(1024, 1024, device="cuda", dtype=torch.bfloat16)
    launches: dict[str, Callable[[], object]] = {
        "add": lambda: rows.add_(1),
        "triton": lambda: _add_one[(1,)](rows, 1024, block=1024),
        "product": lambda: torch.mv(weight, rows),
    }
    found = {f"{name} launch": _launch_us(launch) for name, launch in launches.items()}
    for name in ("add", "product"):
        found[f"{name} in a graph"] = _in_graph_us(launches[name])
    sys.stdout.write(json.dumps({name: round(us, 2) for name, us in found.items()}) + "\n")


def _launch_us(launch: Callable[[], object]) -> float:
    """The caller's time per launch."""
    rounds = []
    for _ in range(ROUNDS):
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(CALLS):
            launch()
        rounds.append(1e6 * (time.perf_counter() - began) / CALLS)
    return median(rounds)


def _in_graph_us(launch: Callable[[], object]) -> float:
    """The GPU's time per kernel of a chain of them."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(NODES):
            launch()
    rounds = []
    for _ in range(ROUNDS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        rounds.append(1e3 * float(begin.elapsed_time(end)) / NODES)
    return median(rounds)


if __name__ == "__main__":
    main()
