"""Clients that send their next request when their last answer ends."""

from dataclasses import replace

import pytest

from pdctl.perf_model.metrics import percentiles
from pdctl.perf_model.records import Fleet, Outcome
from pdctl.perf_model.simulator.routing import Policy
from pdctl.perf_model.simulator.simulate import simulate, simulate_clients
from pdctl.workload.records import Requests
from tests.perf_model.fleets import (
    RICH,
    colocated,
    engine,
    equal_outcomes,
    ms,
    random_requests,
    requests,
    split,
)

TOGETHER = colocated(engine(times=RICH), num=3)
APART = split(engine("prefill", times=RICH), engine("decode", times=RICH), 2, 3)
SHORT_OF_KV = split(
    engine("prefill", times=RICH, kv=30_000), engine("decode", times=RICH, kv=20_000), 2, 2
)
FLEETS = [
    pytest.param(TOGETHER, id="3C"),
    pytest.param(APART, id="2P3D"),
    pytest.param(SHORT_OF_KV, id="2P2D, little KV"),
    pytest.param(colocated(engine(times=RICH, kv=30_000), num=2), id="2C, little KV"),
    pytest.param(colocated(engine(times=RICH, mixed=True), num=2), id="2C, mixed chunks"),
]
POLICIES: list[Policy] = ["random", "round_robin", "power_of_two", "cache_aware"]


def ends_s(outcome: Outcome) -> list[float]:
    """When each answer ended; a refused request ends as it is sent."""
    pairs = zip(outcome.arrival_s, outcome.e2e_s, strict=True)
    return [sent + (stay or 0.0) for sent, stay in pairs]


def most_in_flight(outcome: Outcome) -> int:
    """The most requests at any time; an answer that ends as another request is sent is over."""
    changes = [(at_s + 1e-9, 1) for at_s in outcome.arrival_s]
    changes += [(at_s, -1) for at_s in ends_s(outcome)]
    most = now = 0
    for _, change in sorted(changes):
        now += change
        most = max(most, now)
    return most


def test_two_clients_with_equal_requests_keep_step() -> None:
    # both prompts in one step of 1 + 20 ms, then ten decode steps of 10 ms
    outcome = simulate_clients(colocated(), requests(*[(0, 1000, 11)] * 6), 2)
    assert ms(list(outcome.arrival_s)) == [0, 0, 121, 121, 242, 242]
    assert ms(outcome.ttft_s) == [21] * 6
    assert ms(outcome.tpot_s) == [10] * 6
    assert outcome.span_s == pytest.approx(0.363)


def test_a_prompt_whose_client_takes_longer_to_send_it_misses_the_step_of_the_other() -> None:
    # the first prompt alone takes 11 ms; the second comes at 5 ms, while a decode step of 10 ms is
    # launched for the first, and is computed from 21 to 32 ms
    pauses = (0.0, 0.005) * 3
    outcome = simulate_clients(colocated(), requests(*[(0, 1000, 11)] * 6), 2, pauses_s=pauses)
    assert ms(list(outcome.arrival_s[:2])) == [0, 5]
    assert ms(outcome.ttft_s[:2]) == [11, 27]
    assert list(outcome.arrival_s) == sorted(outcome.arrival_s)


def test_a_client_that_is_done_first_sends_while_the_other_decodes() -> None:
    # sent at 121, when a step of the other starts: prefill from 131 to 142, ten steps beside it
    rows = ((0, 1000, 11), (0, 1000, 21), (0, 1000, 11))
    outcome = simulate_clients(colocated(), requests(*rows), 2)
    assert ms(list(outcome.arrival_s)) == [0, 0, 121]
    assert ms(outcome.ttft_s) == [21, 21, 21]
    assert ms(outcome.e2e_s) == [121, 232, 121]


def test_two_clients_of_a_split() -> None:
    # prefill 21 ms, KV of the first at 23 and of the second at 25, which joins a decode step later;
    # then prefill 11 ms and KV 2 ms each, and a wait for the step that runs
    outcome = simulate_clients(split(), requests(*[(0, 1000, 11)] * 4), 2)
    assert ms(list(outcome.arrival_s)) == [0, 0, 123, 143]
    assert ms(outcome.ttft_s) == [23, 33, 20, 20]
    assert ms(outcome.e2e_s) == [123, 143, 120, 130]


def test_a_client_whose_request_is_too_long_sends_the_next_at_once() -> None:
    rows = ((0, 300_000, 5), (0, 1000, 11), (0, 300_000, 5), (0, 1000, 11))
    outcome = simulate_clients(colocated(), requests(*rows), 1)
    assert outcome.ttft_s[0] is None
    assert ms(list(outcome.arrival_s)) == [0, 0, 111, 111]
    assert outcome.num_rejected == 2


@pytest.mark.parametrize("fleet", FLEETS)
def test_one_client_waits_for_the_sum_of_its_answers(fleet: Fleet) -> None:
    outcome = simulate_clients(fleet, random_requests(40, seed=1, rate_rps=1.0), 1)
    stays = [stay for stay in outcome.e2e_s if stay is not None]
    assert outcome.span_s == pytest.approx(sum(stays))
    starts = [0.0, *ends_s(outcome)[:-1]]
    assert list(outcome.arrival_s) == pytest.approx(starts)


@pytest.mark.parametrize("fleet", FLEETS)
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("clients", [2, 7, 40])
def test_every_send_follows_an_answer(fleet: Fleet, policy: Policy, clients: int) -> None:
    asked = random_requests(150, seed=clients, rate_rps=1.0, osl=20)
    outcome = simulate_clients(replace(fleet, policy=policy), asked, clients, seed=3)
    assert list(outcome.arrival_s[:clients]) == [0.0] * clients
    ended = sorted(ends_s(outcome))[: len(asked) - clients]
    assert list(outcome.arrival_s[clients:]) == pytest.approx(ended)
    assert most_in_flight(outcome) == clients


@pytest.mark.parametrize("fleet", FLEETS)
@pytest.mark.parametrize("osl", [2, 80])
def test_a_replay_of_the_times_at_which_clients_sent_is_the_same_run(
    fleet: Fleet, osl: int
) -> None:
    asked = random_requests(200, seed=5, rate_rps=1.0, osl=osl)
    closed = simulate_clients(fleet, asked, 12)
    again = Requests(list(closed.arrival_s), asked.isl, asked.osl)
    equal_outcomes(closed, simulate(fleet, again))


@pytest.mark.parametrize("fleet", FLEETS)
def test_decode_steps_planned_one_by_one_change_nothing(fleet: Fleet) -> None:
    asked = random_requests(100, seed=2, rate_rps=1.0)
    whole = simulate_clients(fleet, asked, 9)
    equal_outcomes(whole, simulate_clients(fleet, asked, 9, max_decode_steps_per_event=1))


@pytest.mark.parametrize("fleet", [TOGETHER, APART])
def test_littles_law_holds_once_the_burst_is_over(fleet: Fleet) -> None:
    clients, num = 16, 1600
    outcome = simulate_clients(fleet, random_requests(num, seed=4, rate_rps=1.0), clients)
    steady = percentiles(outcome.e2e_s[clients:-clients])
    assert steady is not None
    busy_s = outcome.arrival_s[-1] - outcome.arrival_s[clients]
    throughput = (num - 1 - clients) / busy_s
    assert throughput * steady.mean == pytest.approx(clients, rel=0.02)


@pytest.mark.parametrize("policy", ["random", "power_of_two"])
def test_the_same_seed_gives_the_same_run_and_another_seed_another(policy: Policy) -> None:
    fleet, asked = replace(TOGETHER, policy=policy), random_requests(120, seed=0, rate_rps=1.0)
    first, again, other = (simulate_clients(fleet, asked, 8, seed=s) for s in (1, 1, 2))
    assert first == again
    assert first != other


def test_more_clients_than_requests_are_a_burst_of_all_requests() -> None:
    asked = random_requests(10, seed=0, rate_rps=1.0)
    outcome = simulate_clients(TOGETHER, asked, 50)
    at_once = simulate(TOGETHER, Requests([0.0] * 10, asked.isl, asked.osl))
    assert outcome == replace(at_once, arrival_s=outcome.arrival_s)


def test_queues_are_sampled_to_the_end_of_the_run() -> None:
    asked = random_requests(60, seed=0, rate_rps=1.0)
    outcome = simulate_clients(APART, asked, 6, sample_every_s=0.1)
    assert outcome.queues[-1].at_s >= outcome.span_s - 0.2
    assert max(queue.running for queue in outcome.queues) <= 6


def test_a_closed_loop_needs_a_client() -> None:
    with pytest.raises(ValueError, match="at least one client, not 0"):
        simulate_clients(TOGETHER, random_requests(3, seed=0, rate_rps=1.0), 0)
