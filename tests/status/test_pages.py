"""Load pages of real servers of two versions, and pages that are none."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pdctl.status.pages import (
    parse_engine_metrics,
    parse_get_load,
    parse_load,
    parse_loads,
    parse_router_metrics,
)
from pdctl.status.rates import bucket_quantile
from pdctl.status.records import CounterSample

# attribution: SGLang 0.5.23 on a CPU, a decode engine before and after some load
DECODE = {"num_running_reqs": 2, "num_waiting_reqs": 1, "num_used_tokens": 1991}
DECODE |= {"total_prefill_uncached_tokens": 0, "total_prefill_busy_us": 0}
BEFORE = {**DECODE, "decode_moments": [409.0, 1396.0, 1513711.0, 5128.0, 5137733.0, 1396.0]}
AFTER = {**DECODE, "decode_moments": [1279.0, 4371.0, 4250813.0, 16157.0, 14668687.0, 4371.0]}


def counters_page(*ranks: dict[str, object]) -> bytes:
    return json.dumps({"timestamp": "2026-11-23T09:28:43+00:00", "loads": ranks}).encode()


def test_two_pages_tell_mean_batch_and_step_time() -> None:
    before, after = parse_load(counters_page(BEFORE)), parse_load(counters_page(AFTER))
    assert before is not None
    assert after is not None
    assert before.running == 2
    assert before.waiting == 1
    assert before.counted is not None
    assert after.counted is not None
    counted = after.counted.since(before.counted)
    assert counted.steps == 870
    assert counted.batch == pytest.approx(2975 / 870)
    assert counted.step_s == pytest.approx(2.737102 / 870)


def test_attention_dp_ranks_step_together_and_share_the_batch() -> None:
    load = parse_load(counters_page(AFTER, AFTER))
    assert load is not None
    assert load.counted is not None
    assert load.counted.steps == 1279
    assert load.counted.batch == pytest.approx(2 * 4371 / 1279)
    assert load.counted.step_s == pytest.approx(4.250813 / 1279)


def test_an_engine_before_its_first_decode_step_has_counted_none() -> None:
    load = parse_load(counters_page({**DECODE, "decode_moments": None}))
    assert load is not None
    assert load.counted is not None
    assert load.counted.steps == 0
    assert load.counted.step_s == 0.0


def test_an_older_engine_counts_nothing() -> None:
    load = parse_load(counters_page({"num_running_reqs": 1, "num_waiting_reqs": 0}))
    assert load is not None
    assert load.counted is None


@pytest.mark.parametrize(
    "body", [b"", b"nonsense", b"[]", b"{}", b'{"loads": []}', b'{"loads": [1]}']
)
def test_another_page_is_no_load(body: bytes) -> None:
    assert parse_load(body) is None


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
    assert bucket_quantile(counters.ttft, 0.5) == pytest.approx(0.45)


def test_ranks_of_data_parallelism_add_up_and_those_of_tensor_parallelism_do_not() -> None:
    text = "\n".join(
        f'sglang:num_running_reqs{{tp_rank="{tp}",dp_rank="{dp}"}} {value}'
        for tp, dp, value in ((0, 0, 3), (0, 1, 4), (1, 0, 3), (1, 1, 4))
    )
    assert parse_engine_metrics(text, "decode", 0.0)[0].running == 7


def test_ranks_of_context_parallelism_show_the_same_requests_and_count_once() -> None:
    # sgl-project/sglang#31896: with cp 8 every rank is the first of its attention group and writes
    ranks = "\n".join(
        f'sglang:num_running_reqs{{tp_rank="{tp}",pp_rank="0",dp_rank="0"}} 5' for tp in range(8)
    )
    assert parse_engine_metrics(ranks, "prefill", 0.0)[1] == CounterSample()
    assert parse_engine_metrics(ranks, "decode", 0.0)[0].running == 5


def test_a_label_may_hold_braces_and_quotes() -> None:
    text = 'sglang:num_running_reqs{model_name="a}\\"b"} 3.0\n'
    assert parse_engine_metrics(text, "decode", 0.0)[0].running == 3


def test_values_that_are_no_numbers_are_unknown() -> None:
    text = "sglang:num_running_reqs NaN\nsglang:token_usage x\nsglang:num_queue_reqs 1e9999\n"
    sample, counters = parse_engine_metrics(text, "decode", 0.0)
    assert sample.running is None
    assert sample.kv_usage is None
    assert sample.waiting is None
    assert counters == CounterSample()


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


def loads_page(name: str) -> bytes:
    return (CAPTURES / name).read_bytes()


def two_ranks(**changes: Any) -> bytes:
    found = json.loads(loads_page("loads_decode_0.5.23.json"))
    rank = found["loads"][0] | changes
    return json.dumps(found | {"loads": [rank, rank]}).encode()


def test_a_prefill_engine_of_0_5_23_is_read() -> None:
    loads = parse_loads(loads_page("loads_prefill_0.5.23.json"), "prefill", 100.0)
    assert loads is not None
    sample, counters, age_s = loads
    assert (sample.waiting, sample.bootstrap, sample.inflight) == (0, 0, 0)
    assert (sample.prealloc, sample.transfer, sample.running) == (None, None, None)
    assert sample.transfer_gb_per_s == pytest.approx(0.004487, abs=1e-6)
    assert counters.prefill_tokens == 15954
    assert counters.prefill_busy_s == pytest.approx(0.52913)
    assert counters.decode_steps is None
    assert age_s == pytest.approx(0.0016, abs=1e-4)
    assert sample.at_s == pytest.approx(100.0 - age_s)


def test_a_decode_engine_of_0_5_23_is_read() -> None:
    loads = parse_loads(loads_page("loads_decode_0.5.23.json"), "decode", 100.0)
    assert loads is not None
    sample, counters, _ = loads
    assert (sample.prealloc, sample.transfer, sample.running, sample.kv_usage) == (0, 0, 0, 0.0)
    assert counters.decode_bt == pytest.approx(9.727168)
    assert counters.decode_g == 2820


def test_a_prefill_engine_of_0_5_15_is_read_and_taken_as_fresh() -> None:
    loads = parse_loads(loads_page("loads_prefill_0.5.15.json"), "prefill", 100.0)
    assert loads is not None
    sample, counters, age_s = loads
    assert (sample.bootstrap, sample.inflight, age_s) == (0, 0, 0.0)
    assert sample.transfer_gb_per_s == pytest.approx(101.2, abs=0.1)
    assert counters.prefill_tokens is None


def test_a_pair_of_0_5_15_with_more_than_it_bears_shows_where_requests_are() -> None:
    prefill = parse_loads(loads_page("loads_prefill_overload_0.5.15.json"), "prefill", 100.0)
    decode = parse_loads(loads_page("loads_decode_overload_0.5.15.json"), "decode", 100.0)
    assert prefill is not None
    assert decode is not None
    assert (prefill[0].waiting, prefill[0].bootstrap, prefill[0].inflight) == (53, 1, 2)
    assert (decode[0].prealloc, decode[0].transfer, decode[0].running) == (0, 61, 28)
    assert decode[0].kv_usage == pytest.approx(0.8387)


def test_a_colocated_engine_of_0_5_15_that_is_idle_makes_no_tokens() -> None:
    loads = parse_loads(loads_page("loads_colocated_0.5.15.json"), "colocated", 100.0)
    assert loads is not None
    sample, _, _ = loads
    assert json.loads(loads_page("loads_colocated_0.5.15.json"))["loads"][0]["gen_throughput"] > 100
    assert (sample.running, sample.tokens_per_s) == (0, 0.0)


def test_the_role_the_engine_states_wins() -> None:
    loads = parse_loads(loads_page("loads_prefill_0.5.23.json"), "decode", 100.0)
    assert loads is not None
    assert loads[0].role == "prefill"


def test_ranks_of_data_parallelism_add_up_and_share_their_kv_cache() -> None:
    loads = parse_loads(two_ranks(num_running_reqs=3, token_usage=0.4), "decode", 100.0)
    assert loads is not None
    assert loads[0].running == 6
    assert loads[0].kv_usage == pytest.approx(0.4)
    assert loads[1].decode_g == 2 * 2820


def test_the_age_is_that_of_the_oldest_rank_by_the_engines_own_clock() -> None:
    body = two_ranks(timestamp=1795426124.0)
    loads = parse_loads(body, "decode", 5.0)
    assert loads is not None
    assert loads[2] == pytest.approx(0.850215, abs=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"num_running_reqs": "3"},
        {"num_running_reqs": None},
        {"num_running_reqs": True},
        {"num_running_reqs": 10**400},
        {"num_running_reqs": float("nan")},
    ],
)
def test_a_count_that_is_none_is_unknown(change: dict[str, Any]) -> None:
    loads = parse_loads(two_ranks(**change), "decode", 100.0)
    assert loads is not None
    assert loads[0].running is None


@pytest.mark.parametrize("section", ["disaggregation", "queues", "decode_moments", "timestamp"])
@pytest.mark.parametrize("value", [None, 3, [], "x", {"mode": []}])
def test_a_section_of_another_shape_is_unknown(section: str, value: Any) -> None:
    assert parse_loads(two_ranks(**{section: value}), "decode", 100.0) is not None


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"3", b'{"loads": 3}', b'{"loads": []}', b'{"loads": [3]}', b"[" * 99999],
)
def test_another_page_is_not_taken_for_loads(body: bytes) -> None:
    assert parse_loads(body, "decode", 100.0) is None


@settings(deadline=None, max_examples=30)
@given(st.recursive(st.none() | st.integers() | st.text(), lambda x: st.lists(x)))
def test_any_json_is_read_without_an_error(value: object) -> None:
    parse_loads(json.dumps({"loads": [{"disaggregation": value}]}).encode(), "decode", 1.0)
    parse_get_load(json.dumps(value).encode(), "decode", 1.0)


def test_the_old_get_load_gives_running_and_waiting() -> None:
    sample = parse_get_load(b'[{"num_reqs": 7, "num_waiting_reqs": 3}]', "decode", 1.0)
    assert sample is not None
    assert (sample.running, sample.waiting) == (4, 3)
    captured = parse_get_load(loads_page("get_load_prefill_0.5.15.json"), "prefill", 1.0)
    assert captured is not None
    assert captured.waiting == 0


def test_numbers_nobody_can_have_counted_are_unknown_rather_than_infinite_sums() -> None:
    rank = {"num_reqs": 1e308, "num_waiting_reqs": 1e308, "num_running_reqs": 1e308}
    page = json.dumps({"loads": [rank, rank]}).encode()
    loads = parse_loads(page, "decode", 0.0)
    assert loads is not None
    assert loads[0].running is None
    found = parse_get_load(json.dumps([rank, rank]).encode(), "decode", 0.0)
    assert found is not None
    assert found.running is None


GAUGE = 'sglang:num_running_reqs{model_name="m",tp_rank="0"}'


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-Inf", "-5", "1e400", "0x10"])
def test_a_gauge_that_counts_nothing_is_unknown_and_never_negative(value: str) -> None:
    assert parse_engine_metrics(f"{GAUGE} {value}\n", "decode", 0.0)[0].running is None
    assert parse_engine_metrics(f"{GAUGE} 3\n{GAUGE} {value}\n", "decode", 0.0)[0].running is None


def test_a_series_that_a_page_repeats_counts_once() -> None:
    assert parse_engine_metrics(f"{GAUGE} 2\n{GAUGE} 3\n", "decode", 0.0)[0].running == 3


@pytest.mark.parametrize(
    "page",
    [f"{GAUGE}\t3\r\n", f"{GAUGE} 3 1760000000000\n", GAUGE.replace(":", "_") + " 3\n# EOF\n"],
)
def test_other_exporters_spellings_of_a_page_are_read(page: str) -> None:
    assert parse_engine_metrics(page, "decode", 0.0)[0].running == 3


def test_a_negative_count_of_a_load_page_is_unknown() -> None:
    body = b'{"loads": [{"num_running_reqs": -4, "queues": {"waiting": -3}}]}'
    found = parse_loads(body, "decode", 0.0)
    assert found is not None
    assert (found[0].running, found[0].waiting) == (None, None)


def test_an_older_router_says_its_requests_and_breakers_in_its_own_words() -> None:
    """Source: sgl-router 0.2, metrics.rs."""
    page = """sgl_router_requests_total{route="/generate"} 12
sgl_router_cb_state{worker="http://a:30000/"} 0
sgl_router_cb_state{worker="http://b:30000"} 2
"""
    breakers = {"http://a:30000": "closed", "http://b:30000": "half-open"}
    assert parse_router_metrics(page) == (12, breakers)


def test_a_usage_that_is_no_share_is_unknown() -> None:
    page = json.dumps({"loads": [{"token_usage": 85, "num_running_reqs": 1}]}).encode()
    loads = parse_loads(page, "decode", 0.0)
    assert loads
    assert loads[0].kv_usage is None
    sample, _ = parse_engine_metrics(
        "sglang:token_usage 85\nsglang:num_queue_reqs 1\n", "decode", 0.0
    )
    assert sample.kv_usage is None
