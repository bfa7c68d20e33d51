"""Metrics pages of real servers, and pages that are none."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pdctl.status.prometheus import parse_engine_metrics, parse_router_metrics
from pdctl.status.rates import quantile
from pdctl.status.records import Counters

CAPTURES = Path(__file__).parent.parent / "data" / "captures"


def page(name: str) -> str:
    return (CAPTURES / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(("version", "tokens"), [("0.5.15", 18506), ("0.5.23", 22257)])
def test_a_prefill_engine_counts_the_prompt_tokens_it_computed(version: str, tokens: int) -> None:
    sample, counters = parse_engine_metrics(page(f"metrics_prefill_{version}.txt"), "prefill", 9.0)
    assert counters.prefill_tokens == tokens
    assert [sample.waiting, sample.bootstrap, sample.at_s] == [0, 0, 9.0]
    assert sample.prealloc is None
    assert sample.running is None


def test_a_prefill_engine_says_what_is_in_flight() -> None:
    sample, _ = parse_engine_metrics(page("metrics_prefill_0.5.15.txt"), "prefill", 9.0)
    assert sample.inflight == 1
    assert sample.kv_usage == 0.01


def test_a_decode_engine_says_its_queues_rate_and_time_to_first_token() -> None:
    sample, counters = parse_engine_metrics(page("metrics_decode_0.5.15.txt"), "decode", 9.0)
    assert [sample.running, sample.prealloc, sample.transfer] == [1, 0, 0]
    assert sample.tokens_per_s == pytest.approx(68.007, abs=1e-3)
    assert [counters.requests, counters.decode_tokens] == [5, 136]
    assert counters.ttft is not None
    assert list(counters.ttft[-1]) == [float("inf"), 5.0]
    assert quantile(counters.ttft, 0.5) == pytest.approx(0.45)


def test_ranks_of_data_parallelism_add_up_and_those_of_tensor_parallelism_do_not() -> None:
    text = "\n".join(
        f'sglang:num_running_reqs{{tp_rank="{tp}",dp_rank="{dp}"}} {value}'
        for tp, dp, value in ((0, 0, 3), (0, 1, 4), (1, 0, 3), (1, 1, 4))
    )
    assert parse_engine_metrics(text, "decode", 0.0)[0].running == 7


def test_a_label_may_hold_braces_and_quotes() -> None:
    text = 'sglang:num_running_reqs{model_name="a}\\"b"} 3.0\n'
    assert parse_engine_metrics(text, "decode", 0.0)[0].running == 3


def test_values_that_are_no_numbers_are_unknown() -> None:
    text = "sglang:num_running_reqs NaN\nsglang:token_usage x\nsglang:num_queue_reqs 1e9999\n"
    sample, counters = parse_engine_metrics(text, "decode", 0.0)
    assert sample.running is None
    assert sample.kv_usage is None
    assert sample.waiting is None
    assert counters == Counters()


def test_the_router_says_its_requests_and_breakers() -> None:
    requests, breakers = parse_router_metrics(page("router_metrics_0.3.2.txt"))
    assert requests == 48
    assert breakers == {"http://127.0.0.1:31001": "closed", "http://127.0.0.1:31002": "closed"}


def test_an_open_breaker_is_seen_and_a_removed_engine_is_not() -> None:
    text = (
        'smg_worker_cb_state{worker="http://a:1/"} 1\nsmg_worker_cb_state{worker="http://b:1"} 2\n'
        'smg_worker_cb_state{worker="http://c:1"} -1\n'
    )
    assert parse_router_metrics(text)[1] == {"http://a:1": "open", "http://b:1": "half-open"}


@settings(deadline=None)
@given(st.text())
def test_any_text_is_read_without_an_error(text: str) -> None:
    parse_engine_metrics("sglang:num_running_reqs" + text, "decode", 0.0)
    parse_router_metrics("smg_worker_cb_state" + text)


def test_numbers_nobody_can_have_counted_are_left_out() -> None:
    page = 'sglang:num_running_reqs{a="1"} 1e308\nsglang:num_running_reqs{a="2"} 1e308\n'
    sample, _ = parse_engine_metrics(page, "decode", 0.0)
    assert sample.running is None
    assert parse_router_metrics("smg_router_requests_total 1e308\n" * 2)[0] is None
