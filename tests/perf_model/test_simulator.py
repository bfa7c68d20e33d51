"""Timelines computed by hand, and what must not be lost."""

import pytest

from pdctl.perf_model.records import Fleet
from pdctl.perf_model.simulator import simulate
from tests.perf_model.fleets import colocated, engine, ms, requests, split


def test_one_request_on_a_colocated_engine() -> None:
    outcome = simulate(colocated(), requests((0.0, 1000, 4)))
    assert ms(outcome.ttft_s) == [11.0]
    assert ms(outcome.e2e_s) == [41.0]
    assert outcome.tpot_s[0] == pytest.approx(0.010)


def test_one_request_through_prefill_transfer_and_decode() -> None:
    outcome = simulate(split(), requests((0.0, 1000, 4)))
    assert ms(outcome.ttft_s) == [13.0]  # 11 ms forward, 2 ms transfer
    assert ms(outcome.e2e_s) == [43.0]


def test_an_arrival_waits_for_the_running_step_and_the_one_already_queued() -> None:
    # steps of the first: prefill 0-11, decode 11-21, 21-31, 31-41 ms; at 22 ms the step that
    # starts at 31 is decided already, so the second is prefilled from 41 to 52 ms
    outcome = simulate(colocated(), requests((0.0, 1000, 10), (0.022, 1000, 1)))
    assert ms(outcome.ttft_s) == [11.0, 30.0]
    assert ms(outcome.e2e_s)[0] == 11 + 9 * 10 + 11


def test_only_the_last_chunk_of_a_transfer_is_exposed() -> None:
    # chunks of 8192 and 1808 tokens: 82.92 + 19.08 ms forward, then 1 + 1.808 ms
    outcome = simulate(split(), requests((0.0, 10_000, 2)))
    assert ms(outcome.ttft_s) == [pytest.approx(82.92 + 19.08 + 2.808)]


def test_a_prompt_beyond_the_kv_capacity_is_rejected_and_counted() -> None:
    fleet = Fleet(colocated=engine(kv=500), num_colocated=1)
    outcome = simulate(fleet, requests((0.0, 1000, 4), (0.0, 100, 4)))
    assert outcome.num_rejected == 1
    assert outcome.ttft_s[0] is None
    assert outcome.ttft_s[1] is not None


def test_a_fleet_without_engines_is_refused() -> None:
    with pytest.raises(ValueError, match="needs"):
        simulate(Fleet(), requests((0.0, 10, 1)))
