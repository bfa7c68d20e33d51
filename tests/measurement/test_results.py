import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdctl.errors import InvalidInput
from pdctl.measurement.results import gaps_s, read_results, summary, window, write_result
from pdctl.workload.records import Slo
from pdctl.workload.traces import read_trace
from tests.measurement.made import result, sent


def test_latency_counts_from_the_time_a_request_should_have_been_sent() -> None:
    one = sent(at_s=5.0, tokens=(2.0, 2.5), late_s=1.9)
    assert (one.ttft_s, one.lateness_s) == (2.0, 1.9000000000000004)
    assert summary(result(one)).is_generator_late


def test_the_first_and_last_requests_are_left_out() -> None:
    rows = [sent(n, at_s=float(n), tokens=(9.0 if n in (0, 10) else 1.0,)) for n in range(11)]
    found = summary(result(*rows), warm_up=0.05, cool_down=0.05)
    assert found.num_requests == 9
    assert found.ttft_s is not None
    assert found.ttft_s.p99 == 1.0
    assert math.isclose(found.requests_per_s, 1.0)


def test_failures_and_truncations_are_counted_and_are_never_good() -> None:
    rows = (
        sent(0),
        sent(1, tokens=(0.1,), osl=3),
        sent(2, tokens=(), osl=3, error="HTTP 503: busy"),
        sent(3, tokens=(), osl=3, error="HTTP 503: busy"),
    )
    found = summary(result(*rows), Slo(ttft_s=1.0))
    assert (found.num_failed, found.num_truncated) == (2, 1)
    assert found.errors == {"HTTP 503: busy": 2}
    assert found.attainment == 0.25


def test_a_slow_request_misses_its_service_level() -> None:
    rows = (sent(0, tokens=(0.1, 0.2)), sent(1, tokens=(0.1, 0.9)), sent(2, tokens=(0.6, 0.7)))
    assert summary(result(*rows), Slo(ttft_s=0.5, tpot_s=0.5)).attainment == 1 / 3


def test_without_slos_there_is_no_goodput() -> None:
    found = summary(result(sent()))
    assert (found.attainment, found.goodput_rps) == (None, None)


def test_an_empty_load_has_no_figures() -> None:
    found = summary(result())
    assert (found.num_requests, found.ttft_s, found.requests_per_s) == (0, None, 0.0)
    assert found.cached_share is None


def test_the_cached_share_is_of_prompt_tokens() -> None:
    assert summary(result(sent(0, cached=50), sent(1, cached=0))).cached_share == 0.25


def test_tokens_that_came_together_share_the_gap_before_them() -> None:
    assert gaps_s(sent(tokens=(1.0, 2.0, 2.0, 3.0))) == [0.5, 0.5, 1.0]
    assert gaps_s(sent(tokens=(1.0, 1.0, 2.0))) == [0.0, 1.0], "no gap before the first"


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30))
def test_gaps_add_up_to_the_time_between_first_and_last_token(steps: list[int]) -> None:
    times = tuple(float(sum(steps[: n + 1])) for n in range(len(steps)))
    found = gaps_s(sent(tokens=times))
    assert len(found) == len(times) - 1
    assert math.isclose(sum(found), times[-1] - times[0], abs_tol=1e-9)


def test_the_first_tenth_and_the_last_twentieth_do_not_count() -> None:
    assert window([10.0, 20.0, 30.0, 60.0, 110.0]) == pytest.approx((20.0, 105.0))


def test_two_bursts_without_requests_between_count_whole() -> None:
    assert window([0.0, 0.0, 10.0, 10.0]) == (0.0, 10.0)


def test_nothing_sent_has_no_window() -> None:
    assert window([]) == (0.0, 0.0)


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
def test_a_line_that_is_not_a_result_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "run.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(InvalidInput, match="line 1"):
        read_results(path)
