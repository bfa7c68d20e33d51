"""The split that queues call for, from made-up minutes."""

from collections.abc import Iterator
from dataclasses import replace

from pdctl.status.autopilot.split_advice import Split, split_advice
from pdctl.status.records import Moment
from pdctl.workload.records import Slo

SLO = Slo(ttft_s=2.0, tpot_s=0.05)
NOW = Split(2, 4)
CALM = Moment(
    0.0,
    num_prefill=2,
    num_decode=4,
    waiting=0,
    inflight=0,
    prealloc=0,
    transfer=4,
    running=60,
    kv_usage=0.3,
    itl_s=0.03,
    busy_share=0.5,
)


def minute(moment: Moment, growth: float = 0.0, rate_rps: float = 4.0) -> Iterator[Moment]:
    """A minute of this moment, its prefill queue growing by `growth` requests a second."""
    for at_s in range(0, 65, 5):
        waiting = (moment.waiting or 0.0) + growth * at_s
        yield replace(moment, at_s=float(at_s), waiting=waiting, requests=rate_rps * at_s)


def advised(moment: Moment, growth: float = 0.0, slo: Slo = SLO) -> Split | None:
    found = split_advice(NOW, list(minute(moment, growth)), slo)
    return found.to if found else None


def test_calm_queues_call_for_nothing() -> None:
    assert advised(CALM) is None


def test_without_slos_nothing_is_called_for() -> None:
    assert advised(replace(CALM, itl_s=0.2), slo=Slo(None, None)) is None


def test_a_growing_prefill_queue_calls_for_the_engines_that_keep_up() -> None:
    assert advised(replace(CALM, busy_share=1.0), growth=0.5) == Split(3, 3)
    assert advised(replace(CALM, busy_share=1.0), growth=3.0) == Split(4, 2)  # half of decode


def test_a_long_time_per_token_calls_for_the_decode_engines_it_takes_at_least() -> None:
    five = Split(5, 2)
    slow = replace(CALM, num_prefill=5, num_decode=2, itl_s=0.08, busy_share=0.2)
    found = split_advice(five, list(minute(slow)), SLO)
    assert found is not None
    assert found.to == Split(3, 4)
    busy = replace(slow, busy_share=0.6)
    found = split_advice(five, list(minute(busy)), SLO)
    assert found is not None
    assert found.to == Split(4, 3)  # prefill can spare no more


def test_first_tokens_that_come_late_call_for_prefill_though_no_queue_is_long() -> None:
    late = replace(CALM, transfer=20, busy_share=0.95)  # 20 requests at 4 a second: 5 s
    assert advised(late) == Split(3, 3)
    assert advised(replace(late, busy_share=0.4)) is None  # prefill is not what takes the time
    assert advised(replace(late, itl_s=0.045)) is None  # decode has no engine to spare
