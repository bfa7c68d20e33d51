"""Lengths, burstiness and prefix reuse against figures worked out by hand or published."""

import math
from pathlib import Path

import pytest

from pdctl.errors import InvalidInput
from pdctl.workload.arrivals import make_requests
from pdctl.workload.describe import (
    burstiness,
    describe_lengths,
    drawn_line,
    parse_slo,
    prefix_reuse,
    read_line,
    workload_data,
    workload_from_lengths,
    workload_from_trace,
)
from pdctl.workload.records import Requests, Slo, Trace
from pdctl.workload.traces import read_trace


def test_levels_are_read_in_their_units() -> None:
    assert parse_slo("1s", "30ms") == parse_slo("1000 ms", "0.03s") == Slo(1.0, 0.03, 0.9)


@pytest.mark.parametrize(
    ("text", "first", "second"),
    [("30", "30ms", "30s"), ("0.5", "0.5ms", "0.5s"), ("1m", "1ms", "1min")],
)
def test_a_level_with_two_readings_is_refused_with_both(text: str, first: str, second: str) -> None:
    for arguments in ((text, None), (None, text)):
        with pytest.raises(InvalidInput, match=f"could mean {first} or {second}"):
            parse_slo(*arguments)


def test_no_slo_is_not_given() -> None:
    assert not parse_slo(None, None).is_given


@pytest.mark.parametrize(
    ("ttft", "tpot", "attainment", "flag"),
    [
        ("-1s", None, 0.9, "--ttft"),
        ("soon", None, 0.9, "--ttft"),
        (None, "0", 0.9, "--tpot"),
        (None, None, 0.0, "--attainment"),
        (None, None, 1.5, "--attainment"),
        (None, None, float("nan"), "--attainment"),
    ],
)
def test_a_level_that_cannot_be_is_refused_by_its_flag(
    ttft: str | None, tpot: str | None, attainment: float, flag: str
) -> None:
    with pytest.raises(InvalidInput, match=flag):
        parse_slo(ttft, tpot, attainment)


DATA = Path(__file__).parent.parent / "data" / "traces"


def test_lengths_have_their_mean_percentiles_and_spread() -> None:
    lengths = describe_lengths([100, 2000, 4096, 1024])
    assert lengths.mean == 1805
    assert lengths.p50 == 1512
    assert lengths.share_under_1k == 0.25
    assert lengths.share_from_4k == 0.25
    assert lengths.cv == pytest.approx(
        math.sqrt(sum((x - 1805) ** 2 for x in (100, 2000, 4096, 1024)) / 4) / 1805
    )


def test_one_request_is_a_distribution_too() -> None:
    lengths = describe_lengths([7])
    assert (lengths.mean, lengths.p50, lengths.p99, lengths.cv) == (7, 7, 7, 0)


def test_equal_minutes_have_no_dispersion_and_one_busy_minute_shows() -> None:
    even = [minute * 60.0 + i for minute in range(6) for i in range(10)] + [360.0]
    result = burstiness(even)
    assert result is not None
    assert (result.dispersion, result.peak_over_mean) == (0, 1)
    busy = sorted([*even, *(125.0 + i / 100 for i in range(60))])
    result = burstiness(busy)
    assert result is not None
    assert result.peak_over_mean == pytest.approx(70 / 20)
    assert result.dispersion == pytest.approx(((70 - 20) ** 2 + 5 * 10**2) / 6 / 20)


@pytest.mark.parametrize("arrivals", [[], [0.0], [0.0, 299.0]])
def test_burstiness_is_unknown_below_five_minutes(arrivals: list[float]) -> None:
    assert burstiness(arrivals) is None


def test_one_mistaken_time_does_not_make_billions_of_minutes() -> None:
    result = burstiness([0.0, 1.0, 1e15])
    assert result is not None
    assert result.dispersion == pytest.approx(2.0)  # two requests in one of very many minutes


def test_reuse_counts_leading_blocks_that_came_before_and_a_partial_last_block() -> None:
    requests = Requests(
        arrival_s=[0, 1, 2, 3],
        isl=[1000, 1000, 600, 1500],
        osl=[1, 1, 1, 1],
        blocks=[(1, 2), (1, 3), (1, 2), (9, 2, 4)],
        block_tokens=512,
    )
    # nothing; block 1; both blocks, 600 tokens; block 2 does not lead
    assert prefix_reuse(requests) == pytest.approx((512 + 600) / 4100)


def test_reuse_is_unknown_without_block_ids() -> None:
    assert prefix_reuse(Requests([0], [5], [5])) is None


def test_the_first_minute_of_mooncake_is_described() -> None:
    workload = workload_from_trace(
        read_trace(DATA / "mooncake_conversation_head.jsonl"), "mooncake"
    )
    assert workload.rate_rps == pytest.approx(59 / 15)
    assert workload.isl is not None
    assert workload.prefix_hit is not None
    assert 0 < workload.prefix_hit < 0.5
    assert workload.burstiness is None
    assert workload.origin == "mooncake"


def test_a_given_rate_replaces_that_of_the_trace() -> None:
    trace = read_trace(DATA / "azure2023_code_head.csv")
    workload = workload_from_trace(trace, "azure", rate_rps=2.0)
    assert workload.rate_rps == pytest.approx(2.0)
    assert workload.requests is not None
    assert workload.requests.isl == trace.requests.isl


def test_lengths_without_arrivals_have_no_rate_until_one_is_given() -> None:
    trace = Trace(Requests([0.0] * 50, [9] * 50, [3] * 50), (), 0, has_arrivals=False)
    assert workload_from_trace(trace, "f").rate_rps is None
    given = workload_from_trace(trace, "f", rate_rps=5.0)
    assert given.rate_rps == 5.0  # as asked, however the arrivals were drawn
    assert given.burstiness is None


def test_requests_all_at_one_instant_have_no_rate() -> None:
    trace = Trace(Requests([0.0] * 5, [9] * 5, [3] * 5), (), 0, has_arrivals=True)
    assert workload_from_trace(trace, "f").rate_rps is None


def test_flags_make_a_workload_of_constant_lengths_and_unknown_stays_unknown() -> None:
    workload = workload_from_lengths(isl=8000, osl=500, rate_rps=10, isl_cv=0, osl_cv=0)
    assert workload.isl is not None
    assert (workload.isl.mean, workload.isl.p99, workload.isl.cv) == (8000, 8000, 0)
    assert (workload.isl.share_from_4k, workload.isl.share_under_1k) == (1, 0)
    assert workload.concurrency is None
    assert workload.prefix_hit is None
    assert workload_from_lengths(isl=None, osl=None).isl is None


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, -math.inf, math.nan])
@pytest.mark.parametrize(
    ("name", "flag"),
    [("isl", "--isl"), ("osl", "--osl"), ("rate_rps", "--rate"), ("concurrency", "--concurrency")],
)
def test_a_length_or_rate_that_cannot_be_is_refused_by_its_flag(
    name: str, flag: str, value: float
) -> None:
    arguments: dict[str, float | None] = {"isl": 8.0, "osl": 8.0, name: value}
    with pytest.raises(InvalidInput, match=flag):
        workload_from_lengths(**arguments)


@pytest.mark.parametrize("value", [-0.1, 1.1, math.inf, math.nan])
def test_a_share_of_prefix_hits_is_from_0_to_1(value: float) -> None:
    with pytest.raises(InvalidInput, match="--prefix-hit"):
        workload_from_lengths(isl=1, osl=1, prefix_hit=value)


def test_less_than_one_token_is_refused() -> None:
    with pytest.raises(InvalidInput, match="at least 1 token"):
        workload_from_lengths(isl=0.5, osl=1)


@pytest.mark.parametrize("cv", [0.3, 0.73, 1.31, 2.15])
def test_drawn_lengths_have_the_spread_that_was_told(cv: float) -> None:
    workload = workload_from_lengths(isl=8000, osl=2000, isl_cv=cv, osl_cv=0)
    assert workload.isl is not None
    drawn = describe_lengths(make_requests(workload, num=40_000, rate_rps=1, seed=1).isl)
    told = workload.isl
    assert (told.mean, told.cv) == (8000, cv)
    assert drawn.mean == pytest.approx(told.mean, rel=0.06)
    assert drawn.p50 == pytest.approx(told.p50, rel=0.05)
    assert drawn.p90 == pytest.approx(told.p90, rel=0.05)
    assert drawn.share_from_4k == pytest.approx(told.share_from_4k, abs=0.02)
    assert drawn.share_under_1k == pytest.approx(told.share_under_1k, abs=0.02)


def test_single_tokens_have_no_spread() -> None:
    workload = workload_from_lengths(isl=1, osl=1, isl_cv=1, osl_cv=1)
    requests = make_requests(workload, num=50, rate_rps=1, seed=0)
    assert set(requests.isl) == set(requests.osl) == {1}


@pytest.mark.parametrize("cv", [-0.1, 11, math.inf, math.nan])
def test_a_spread_that_cannot_be_is_refused_by_its_flag(cv: float) -> None:
    with pytest.raises(InvalidInput, match="--osl-cv"):
        workload_from_lengths(isl=8, osl=8, osl_cv=cv)


def test_lengths_spread_as_those_of_conversations_unless_a_spread_is_given() -> None:
    workload = workload_from_lengths(isl=4000, osl=300)
    assert workload.isl is not None
    assert workload.osl is not None
    assert (workload.isl.cv, workload.osl.cv) == (1.31, 0.73)


@pytest.mark.parametrize(("isl", "cv"), [(1000, 1.31), (30_000, 0.88), (130_000, 0.01)])
def test_the_usual_spread_leaves_no_more_than_a_hundredth_beyond_the_context(
    isl: float, cv: float
) -> None:
    found = workload_from_lengths(isl=isl, osl=300, max_context=131_072).isl
    assert found is not None
    assert found.cv == pytest.approx(cv, abs=0.02)
    assert found.p99 <= 131_072
    given = workload_from_lengths(isl=isl, osl=300, isl_cv=2, max_context=131_072).isl
    assert given is not None
    assert given.cv == 2


def test_the_way_lengths_are_drawn_is_said() -> None:
    line = drawn_line(workload_from_lengths(isl=8000, osl=1, isl_cv=1.3))
    assert line is not None
    assert "prompts 8,000 tokens on average (CV 1.3), outputs 1 token each" in line
    assert "--isl-cv 0" in line
    equal = drawn_line(workload_from_lengths(isl=8000, osl=9, isl_cv=0, osl_cv=0))
    assert equal is not None
    assert equal.endswith("outputs 9 tokens each.")
    assert drawn_line(workload_from_lengths(isl=8000, osl=None)) is None


def test_a_spread_narrowed_to_the_context_is_said_with_the_usual_one() -> None:
    narrowed = workload_from_lengths(isl=30_000, osl=300, max_context=131_072)
    line = drawn_line(narrowed)
    assert line is not None
    said = "They spread less than usual (CV 1.31 and 0.73), to fit the model's context of 131,072"
    assert said in line
    assert workload_data(narrowed)["narrowed_to"] == 131_072
    for isl, cv in ((1000, None), (30_000, 0.5)):
        other = workload_from_lengths(isl=isl, osl=300, isl_cv=cv, max_context=131_072)
        assert "less than usual" not in (drawn_line(other) or "")
        assert workload_data(other)["narrowed_to"] is None


def test_the_line_on_a_trace_has_its_size_span_unit_and_columns() -> None:
    trace = read_trace(DATA / "mooncake_conversation_head.jsonl")
    workload = workload_from_trace(trace, "mooncake")
    assert workload.trace is not None
    assert read_line(workload.trace) == (
        "Read 60 requests over 15 s "
        "(timestamp in ms, input_length, output_length, hash_ids in blocks of 512)"
    )
    data = workload_data(workload)
    assert data["text"] == read_line(workload.trace)
    assert data["trace"]["time_unit"] == "ms"  # type: ignore[index]
    assert "requests" not in data


def test_another_rate_leaves_the_span_of_the_file() -> None:
    trace = read_trace(DATA / "mooncake_conversation_head.jsonl")
    workload = workload_from_trace(trace, "mooncake", rate_rps=100.0)
    assert workload.trace is not None
    assert workload.trace.span_s == 15.0
