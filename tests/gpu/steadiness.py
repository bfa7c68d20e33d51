"""How steadily a host launches kernels, alone and beside processes that keep its cores busy.

    python3 -m tests.gpu.steadiness > steadiness.jsonl

Needs torch. One line per phase: microseconds per launch in windows of WINDOW_S (least, tenths and
most), and the share of the phase's CPU time that the hypervisor kept.
"""

import json
import multiprocessing
import os
import sys
import time
from statistics import quantiles

import torch  # type: ignore[import-not-found]

CALLS = 400  # a driver queues 1,024 launches before it makes the caller wait
WINDOW_S = 0.05
PHASE_S = 8.0
BUSY = (0, 1, 2, 4, 8, 12, 15, 24, 0)


def main() -> None:
    """Measure each phase and print it."""
    rows = torch.zeros(1024, device="cuda", dtype=torch.bfloat16)
    _windows(rows, 1.0)
    for busy in BUSY:
        others = [multiprocessing.get_context("spawn").Process(target=_spin) for _ in range(busy)]
        for one in others:
            one.start()
        time.sleep(3.0 if busy else 0.5)
        before = _cpu_times()
        found = sorted(_windows(rows, PHASE_S))
        after = _cpu_times()
        for one in others:
            one.kill()
            one.join()
        spent = [b - a for a, b in zip(before, after, strict=True)]
        tenths = [round(us, 2) for us in (found[0], *quantiles(found, n=10), found[-1])]
        told = {"busy": busy, "cores": os.cpu_count(), "launch_us": tenths,
                "stolen": round(spent[7] / max(1, sum(spent[:8])), 4)}  # fmt: skip
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()


def _windows(rows: "torch.Tensor", seconds: float) -> list[float]:
    """Microseconds per launch in each window."""
    found, until = [], time.perf_counter() + seconds
    while time.perf_counter() < until:
        num, spent, ends = 0, 0.0, time.perf_counter() + WINDOW_S
        while time.perf_counter() < ends:
            torch.cuda.synchronize()
            began = time.perf_counter()
            for _ in range(CALLS):
                rows.add_(1)
            spent += time.perf_counter() - began
            num += CALLS
        found.append(1e6 * spent / num)
    return found


def _spin() -> None:
    while True:
        pass


def _cpu_times() -> list[int]:
    """user, nice, system, idle, iowait, irq, softirq and steal ticks of all cores."""
    with open("/proc/stat") as stat:
        return [int(field) for field in stat.readline().split()[1:9]]


if __name__ == "__main__":
    main()
