"""Timelines computed by hand, and what must not be lost."""

import math
from dataclasses import replace

import pytest

from pdctl.perf_model.records import Fleet
from pdctl.perf_model.simulator.replay import Quota
from pdctl.perf_model.simulator.simulate import simulate, simulate_within
from tests.perf_model.fleets import PLAIN, colocated, engine, ms, random_requests, requests, split

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


# a prefill engine without graphs launches for 5 ms, while its step of 11 ms runs already
EAGER = replace(PLAIN, prefill_graphs=False, eager_s=0.005)


@pytest.mark.parametrize(
    ("second_at", "transfer_s", "answered"),
    [
        # idle but for it: its KV takes 2 ms from 11 ms on
        (1.0, 0.001, 13.0),
        # the second comes while the first runs: launched from 11 to 16 ms, then the loop looks
        (0.007, 0.001, 16.0),
        # its KV takes longer than launching: the loop looks again with the second's result
        (0.007, 0.006, 22.0),
        # the second is there when the first is launched: its launch follows, 5 to 10 ms; the
        # first's result comes at 11, too early for its KV, and the second's at 22
        (0.003, 0.001, 22.0),
    ],
)
def test_a_prefill_engine_answers_when_its_loop_looks(
    second_at: float, transfer_s: float, answered: float
) -> None:
    model = engine("prefill", times=replace(EAGER, transfer_base_s=transfer_s))
    asked = requests((0.0, 1000, 1), (second_at, 1000, 1))
    outcome = simulate(split(model), asked)
    assert ms(outcome.ttft_s)[0] == answered


@pytest.mark.parametrize(
    ("transfer_s", "answered"),
    [
        # the first's step runs from 4 to 15 ms, and its KV has arrived at 17. The second's is
        # prepared from 15 to 19 ms; then the GPU runs it, and the host launches pieces until 22
        (0.001, 22.0),
        # its KV arrives at 22.5: the loop looks again with the second's result, at 30
        (0.0065, 30.0),
    ],
)
def test_with_graphs_the_loop_looks_when_it_has_launched_what_they_leave_out(
    transfer_s: float, answered: float
) -> None:
    times = replace(PLAIN, prefill_start_s=0.004, prefill_pieces_s=0.003)
    model = engine("prefill", times=replace(times, transfer_base_s=transfer_s))
    outcome = simulate(split(model), requests((0.0, 1000, 1), (0.009, 1000, 1)))
    assert ms(outcome.ttft_s)[0] == answered


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


@pytest.mark.parametrize("fleet", [colocated(), split()], ids=["colocated", "split"])
@pytest.mark.parametrize("slo", [(0.035, None), (None, 0.012), (0.045, 0.0124)])
def test_a_replay_is_given_up_only_where_more_requests_miss_than_may(
    fleet: Fleet, slo: tuple[float | None, float | None]
) -> None:
    asked = random_requests(200, seed=1, rate_rps=70, isl=800, osl=4)
    whole = simulate(fleet, asked)
    ttft_s, tpot_s = (limit or math.inf for limit in slo)
    times = list(zip(whole.ttft_s, whole.tpot_s, strict=True))[50:180]
    missed = sum((a or 0) > ttft_s or (b or 0) > tpot_s for a, b in times)
    assert 10 < missed < 130
    quota = Quota(*slo, first=50, last=180, most_missed=missed)
    assert simulate_within(fleet, asked, quota) == whole
    assert simulate_within(fleet, asked, replace(quota, most_missed=5)) is None
