"""Read the GPU kernels from a trace of SGLang's /start_profile.

python -m tests.gpu.kernels TRACE.json.gz...
"""

import gzip
import json
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

LONGEST = 6000  # kernels in `sequence`


def summary(path: Path) -> dict[str, Any]:
    """Kernels of a trace, by name and in start order.

    kernels: [name, count, total µs, median µs]. sequence: [index of the name, start, duration], µs.
    """
    with gzip.open(path, "rt") as trace:
        events = json.load(trace)["traceEvents"]
    work = [e for e in events if e.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")]
    work.sort(key=lambda event: event["ts"])
    times: dict[str, list[float]] = defaultdict(list)
    for event in work:
        times[_short(event["name"])].append(event["dur"])
    names = sorted(times, key=lambda name: -sum(times[name]))
    index = {name: n for n, name in enumerate(names)}
    first = work[0]["ts"] if work else 0.0
    return {
        "trace": path.name,
        "kernels": [[n, len(times[n]), round(sum(times[n]), 1), median(times[n])] for n in names],
        "busy_us": round(sum(event["dur"] for event in work), 1),
        "span_us": round(work[-1]["ts"] + work[-1]["dur"] - first, 1) if work else 0.0,
        "sequence": [
            [index[_short(e["name"])], round(e["ts"] - first, 1), round(e["dur"], 1)]
            for e in work[:LONGEST]
        ],
    }


def _short(name: str) -> str:
    """The start of a kernel's name, which identifies it; template arguments are long."""
    return name.removeprefix("void ")[:110]


def steps_of(found: Mapping[str, Any], marker: str) -> list[list[Any]]:
    """Cut `sequence` before each kernel whose name contains `marker`."""
    marks = {n for n, row in enumerate(found["kernels"]) if marker in row[0]}
    steps: list[list[Any]] = []
    for event in found["sequence"]:
        if event[0] in marks or not steps:
            steps.append([])
        steps[-1].append(event)
    return steps


def main() -> None:
    """Print the kernels of each trace."""
    for path in sys.argv[1:]:
        found = summary(Path(path))
        sys.stdout.write(f"{found['trace']}: busy {found['busy_us']} of {found['span_us']} µs\n")
        for name, count, total, each in found["kernels"]:
            sys.stdout.write(f"{count:6d} {total:10.1f} {each:8.1f}  {name}\n")


if __name__ == "__main__":
    main()
