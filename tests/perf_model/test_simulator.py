"""Timelines computed by hand, and what must not be lost."""

from dataclasses import replace

import pytest

from pdctl.perf_model.records import Fleet
from pdctl.perf_model.simulator import simulate
from tests.perf_model.fleets import PLAIN, colocated, engine, ms, requests, split

# 0.5 ms through the other processes, 3 ms until the GPU has a prefill step
BESIDE = replace(PLAIN, request_s=0.0005, prefill_start_s=0.003)


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


def test_an_idle_engine_hides_nothing_of_what_precedes_a_prefill_step() -> None:
    alone = requests((0.0, 1000, 4))
    outcome = simulate(colocated(engine(times=BESIDE)), alone)
    assert ms(outcome.ttft_s) == [0.5 + 3 + 11]
    assert outcome.tpot_s[0] == pytest.approx(0.010)
    model, receiver = engine("prefill", times=BESIDE), engine("decode", times=BESIDE)
    assert ms(simulate(split(model, receiver), alone).ttft_s) == [0.5 + 3 + 11 + 2]


def test_a_running_step_hides_the_start_of_a_prefill_step() -> None:
    # the first: prefill 3.5-14.5, decode to 24.5, 34.5, 44.5 ms; the second comes at 25.5 and is
    # decided when the step at 34.5 begins, and prefilled from its end on
    asked = requests((0.0, 1000, 10), (0.025, 1000, 1))
    outcome = simulate(colocated(engine(times=BESIDE)), asked)
    assert ms(outcome.ttft_s) == [14.5, 44.5 + 11 - 25]
    assert ms(outcome.e2e_s)[0] == 14.5 + 9 * 10 + 11


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
