"""CPU to read a trace as long as Mooncake's: 12,031 requests, 288,500 block ids."""

import json
import random
import resource
import sys
import tempfile
import time
from pathlib import Path

NUM_REQUESTS = 12_031
LIMIT_S = 0.3


def measure() -> list[tuple[str, float, float, str]]:
    """Rows of (what, measured, limit, unit)."""
    from pdctl.workload.traces import read_trace

    with tempfile.TemporaryDirectory() as directory:
        path = Path(sys.argv[1]) if len(sys.argv) > 1 else write_trace(Path(directory))
        before = time.process_time()
        trace = read_trace(path)
        cpu_s = time.process_time() - before
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return [
        (f"read a trace of {len(trace.requests):,} requests, CPU", cpu_s, LIMIT_S, "s"),
        ("memory of the process afterwards", peak_mib, 100, "MiB"),
    ]


def write_trace(directory: Path) -> Path:
    """A trace of the size and shape of Mooncake's conversations, drawn with a seed."""
    random.seed(0)
    path, fresh = directory / "trace.jsonl", 0
    with path.open("w", encoding="utf-8") as file:
        for i in range(NUM_REQUESTS):
            blocks = min(240, max(1, round(random.lognormvariate(2.7, 1.0))))
            row = {"timestamp": i // 10 * 3000, "input_length": blocks * 512 - 9}
            ids = [0, *range(fresh, fresh + blocks - 1)]
            fresh += blocks
            file.write(json.dumps(row | {"output_length": 343, "hash_ids": ids}) + "\n")
    return path


if __name__ == "__main__":
    for what, measured, limit, unit in measure():
        print(f"{what:52} {measured:8.3f} {unit:4} (limit {limit:g})")  # noqa: T201
