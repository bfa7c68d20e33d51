"""Tests for reading profiler traces."""

import gzip
import json
from pathlib import Path

from tests.gpu.kernels import steps_of, summary


def _event(name: str, begin: float, took: float, cat: str = "kernel") -> dict[str, object]:
    return {"name": name, "ts": begin, "dur": took, "cat": cat}


def test_kernels_are_counted_by_name_and_cut_into_steps(tmp_path: Path) -> None:
    trace = tmp_path / "1-DECODE.trace.json.gz"
    events = [
        _event("void embed<int>", 100.0, 2.0),
        _event("gemm", 103.0, 5.0),
        _event("python", 100.0, 50.0, cat="python_function"),
        _event("void embed<int>", 120.0, 2.0),
        _event("gemm", 123.0, 7.0),
        _event("gemm", 131.0, 9.0),
    ]
    with gzip.open(trace, "wt") as out:
        json.dump({"traceEvents": events}, out)

    found = summary(trace)

    assert found["kernels"] == [["gemm", 3, 21.0, 7.0], ["embed<int>", 2, 4.0, 2.0]]
    assert (found["busy_us"], found["span_us"]) == (25.0, 40.0)
    assert [len(step) for step in steps_of(found, "embed")] == [2, 3]
