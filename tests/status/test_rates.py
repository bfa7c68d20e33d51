"""Rates between two scrapes, against numbers worked out by hand."""

import math
from dataclasses import replace

import pytest

from pdctl.status.rates import (
    bucket_quantile,
    first_bound,
    histogram_delta,
    is_reset,
    mean_itl_s,
    merge_histograms,
    with_rates,
    without_old_speed,
)
from pdctl.status.records import CounterSample, EngineSample

INF = math.inf


def test_a_quantile_lies_inside_its_bucket_in_proportion() -> None:
    histogram = ((0.1, 10.0), (0.2, 30.0), (INF, 40.0))
    assert bucket_quantile(histogram, 0.5) == pytest.approx(0.15)
    assert bucket_quantile(histogram, 0.25) == pytest.approx(0.1)


def test_a_quantile_in_the_first_bucket_is_known_only_to_lie_below_its_bound() -> None:
    histogram = ((0.1, 10.0), (0.2, 30.0), (INF, 40.0))
    assert bucket_quantile(histogram, 0.1) == first_bound(histogram) == 0.1


def test_a_quantile_beyond_the_last_bound_is_that_bound() -> None:
    assert bucket_quantile(((0.1, 10.0), (INF, 40.0)), 0.99) == 0.1


def test_no_observations_have_no_quantile() -> None:
    assert bucket_quantile(None, 0.5) is None
    assert bucket_quantile((), 0.5) is None
    assert bucket_quantile(((0.1, 0.0), (INF, 0.0)), 0.5) is None


def test_observations_in_between_are_the_difference_of_two_pages() -> None:
    before, after = ((0.1, 1.0), (INF, 2.0)), ((0.1, 4.0), (INF, 9.0))
    assert histogram_delta(before, after) == ((0.1, 3.0), (INF, 7.0))
    assert histogram_delta(after, before) is None
    assert histogram_delta(None, after) is None
    assert histogram_delta(((0.3, 1.0), (INF, 2.0)), after) is None


def test_histograms_of_engines_add_up() -> None:
    one, other = ((0.1, 1.0), (INF, 2.0)), ((0.5, 4.0), (INF, 9.0))
    assert merge_histograms([one, None, one, other]) == ((0.1, 2.0), (INF, 4.0))
    assert merge_histograms([None]) is None


def test_a_counter_that_fell_shows_a_restart() -> None:
    assert is_reset(CounterSample(requests=5), CounterSample(requests=4))
    assert is_reset(CounterSample(ttft=((INF, 5.0),)), CounterSample(ttft=((INF, 4.0),)))
    assert not is_reset(CounterSample(requests=5), CounterSample(requests=5))
    assert not is_reset(CounterSample(requests=5), CounterSample())


def test_itl_is_the_time_requests_waited_over_the_tokens_they_got() -> None:
    # 100 steps of 20 ms with 4 requests, then 50 steps of 40 ms with 8
    before = CounterSample(decode_bt=1.0, decode_g=10.0)
    after = CounterSample(decode_bt=1.0 + 100 * 4 * 0.02 + 50 * 8 * 0.04, decode_g=10.0 + 400 + 400)
    assert mean_itl_s(before, after) == pytest.approx(0.03)
    assert mean_itl_s(before, before) is None


def test_a_prefill_engine_computes_prompt_tokens_and_a_decode_engine_gives_output() -> None:
    before = CounterSample(prefill_tokens=100, prefill_busy_s=1.0, decode_g=0, decode_bt=0)
    after = CounterSample(prefill_tokens=5100, prefill_busy_s=2.5, decode_g=800, decode_bt=16)
    prefill = with_rates(EngineSample(0, "prefill"), before, after, 2.0)
    assert prefill.tokens_per_s == 2500
    assert prefill.busy_share == 0.75
    decode = with_rates(EngineSample(0, "decode", tokens_per_s=3.0), before, after, 2.0)
    assert decode.tokens_per_s == 400
    assert decode.itl_p50_s == pytest.approx(0.02)


def test_nothing_is_said_across_a_restart_or_in_no_time() -> None:
    sample = EngineSample(0, "prefill")
    before, after = CounterSample(prefill_tokens=100), CounterSample(prefill_tokens=50)
    assert with_rates(sample, before, after, 2.0) == sample
    assert with_rates(sample, after, before, 0.0) == sample


def test_an_engine_that_sends_no_kv_has_no_bandwidth() -> None:
    idle = EngineSample(0.0, "prefill", inflight=0, tokens_per_s=0.0, transfer_gb_per_s=75.0)
    assert without_old_speed(idle).transfer_gb_per_s is None
    for sends in (replace(idle, inflight=2), replace(idle, tokens_per_s=9.0)):
        assert without_old_speed(sends).transfer_gb_per_s == 75.0
