"""Load pages of real servers of two versions, and pages that are none."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pdctl.status.loads import parse_get_load, parse_loads

CAPTURES = Path(__file__).parent.parent / "data" / "captures"


def page(name: str) -> bytes:
    return (CAPTURES / name).read_bytes()


def two_ranks(**changes: Any) -> bytes:
    found = json.loads(page("loads_decode_0.5.23.json"))
    rank = found["loads"][0] | changes
    return json.dumps(found | {"loads": [rank, rank]}).encode()


def test_a_prefill_engine_of_0_5_23_is_read() -> None:
    loads = parse_loads(page("loads_prefill_0.5.23.json"), "prefill", 100.0)
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
    loads = parse_loads(page("loads_decode_0.5.23.json"), "decode", 100.0)
    assert loads is not None
    sample, counters, _ = loads
    assert (sample.prealloc, sample.transfer, sample.running, sample.kv_usage) == (0, 0, 0, 0.0)
    assert counters.decode_bt == pytest.approx(9.727168)
    assert counters.decode_g == 2820


def test_a_prefill_engine_of_0_5_15_is_read_and_taken_as_fresh() -> None:
    loads = parse_loads(page("loads_prefill_0.5.15.json"), "prefill", 100.0)
    assert loads is not None
    sample, counters, age_s = loads
    assert (sample.bootstrap, sample.inflight, age_s) == (0, 0, 0.0)
    assert sample.transfer_gb_per_s == pytest.approx(101.2, abs=0.1)
    assert counters.prefill_tokens is None


def test_a_pair_of_0_5_15_with_more_than_it_bears_shows_where_requests_are() -> None:
    prefill = parse_loads(page("loads_prefill_overload_0.5.15.json"), "prefill", 100.0)
    decode = parse_loads(page("loads_decode_overload_0.5.15.json"), "decode", 100.0)
    assert prefill is not None
    assert decode is not None
    assert (prefill[0].waiting, prefill[0].bootstrap, prefill[0].inflight) == (53, 1, 2)
    assert (decode[0].prealloc, decode[0].transfer, decode[0].running) == (0, 61, 28)
    assert decode[0].kv_usage == pytest.approx(0.8387)


def test_a_colocated_engine_of_0_5_15_that_is_idle_makes_no_tokens() -> None:
    loads = parse_loads(page("loads_colocated_0.5.15.json"), "colocated", 100.0)
    assert loads is not None
    sample, _, _ = loads
    assert json.loads(page("loads_colocated_0.5.15.json"))["loads"][0]["gen_throughput"] > 100
    assert (sample.running, sample.tokens_per_s) == (0, 0.0)


def test_the_role_the_engine_states_wins() -> None:
    loads = parse_loads(page("loads_prefill_0.5.23.json"), "decode", 100.0)
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
    captured = parse_get_load(page("get_load_prefill_0.5.15.json"), "prefill", 1.0)
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
