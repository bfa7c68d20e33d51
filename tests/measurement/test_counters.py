"""What an engine counts of its own steps, read from pages of real engines."""

import json

import pytest

from pdctl.measurement.counters import parse_load

# attribution: SGLang 0.5.23 on a CPU, a decode engine before and after some load
DECODE = {"num_running_reqs": 2, "num_waiting_reqs": 1, "num_used_tokens": 1991}
DECODE |= {"total_prefill_uncached_tokens": 0, "total_prefill_busy_us": 0}
BEFORE = {**DECODE, "decode_moments": [409.0, 1396.0, 1513711.0, 5128.0, 5137733.0, 1396.0]}
AFTER = {**DECODE, "decode_moments": [1279.0, 4371.0, 4250813.0, 16157.0, 14668687.0, 4371.0]}


def page(*ranks: dict[str, object]) -> bytes:
    return json.dumps({"timestamp": "2026-11-23T09:28:43+00:00", "loads": ranks}).encode()


def test_two_pages_tell_mean_batch_and_step_time() -> None:
    before, after = parse_load(page(BEFORE)), parse_load(page(AFTER))
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
    load = parse_load(page(AFTER, AFTER))
    assert load is not None
    assert load.counted is not None
    assert load.counted.steps == 1279
    assert load.counted.batch == pytest.approx(2 * 4371 / 1279)
    assert load.counted.step_s == pytest.approx(4.250813 / 1279)


def test_an_engine_before_its_first_decode_step_has_counted_none() -> None:
    load = parse_load(page({**DECODE, "decode_moments": None}))
    assert load is not None
    assert load.counted is not None
    assert load.counted.steps == 0
    assert load.counted.step_s == 0.0


def test_an_older_engine_counts_nothing() -> None:
    load = parse_load(page({"num_running_reqs": 1, "num_waiting_reqs": 0}))
    assert load is not None
    assert load.counted is None


@pytest.mark.parametrize(
    "body", [b"", b"nonsense", b"[]", b"{}", b'{"loads": []}', b'{"loads": [1]}']
)
def test_another_page_is_no_load(body: bytes) -> None:
    assert parse_load(body) is None
