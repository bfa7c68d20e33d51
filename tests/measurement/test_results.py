import json
from pathlib import Path

import pytest

from pdctl.errors import InvalidInput
from pdctl.measurement.results import read_results, write_result
from pdctl.workload.traces import read_trace
from tests.measurement.made import result, sent

ROWS = (
    sent(0, at_s=0.0, cached=4),
    sent(1, at_s=0.5, tokens=(0.1,), osl=3),
    sent(2, at_s=1.0, tokens=(), osl=3, error="HTTP 500: no"),
)


def test_results_come_back_as_they_were_run_by_run(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    runs = [result(*ROWS), result()]
    for run in runs:
        write_result(path, run)
    assert read_results(path) == runs


def test_a_line_has_the_keys_and_units_of_sglangs_benchmark(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    write_result(path, result(*ROWS))
    found = json.loads(path.read_text())
    assert found["completed"] == 2
    assert found["total_output_tokens"] == 4
    assert found["median_ttft_ms"] == pytest.approx(100.0)
    assert found["itls"][0] == pytest.approx([0.1, 0.1])
    assert found["errors"] == ["", "", "HTTP 500: no"]


def test_pdctl_reads_it_as_a_trace(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    write_result(path, result(*(sent(n, at_s=n * 0.5) for n in range(3))))
    trace = read_trace(path)
    assert list(trace.requests.isl) == [100] * 3
    assert list(trace.requests.arrival_s) == [0.0, 0.5, 1.0]


@pytest.mark.parametrize("line", ["", "{", "[]", "{}", '{"pdctl": {"url": 3}}'])
def test_a_line_that_is_no_result_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "run.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(InvalidInput, match="line 1"):
        read_results(path)
