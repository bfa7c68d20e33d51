"""What plan answers for clients in a closed loop."""

from dataclasses import replace

import pytest

from pdctl.perf_model.records import Fleet
from pdctl.perf_model.simulator.simulate import simulate_clients
from pdctl.verdict.closed_form import demand_of
from pdctl.verdict.closed_loop import (
    client_requests,
    judge_clients,
    load_text,
    steady_part,
    try_clients,
)
from pdctl.verdict.data import verdict_data
from pdctl.verdict.records import Question, Verdict
from pdctl.verdict.sentences import write
from pdctl.verdict.verdict import decide as facts_of
from pdctl.workload.arrivals import make_requests
from pdctl.workload.records import Slo
from tests.perf_model.fleets import random_requests
from tests.verdict.examples import arm, engine, equal_lengths, errors, question

ALONE = Fleet(colocated=engine(), num_colocated=1)
LENGTHS = equal_lengths(isl=1000, osl=11)


def asked(clients: float, *, slo: Slo | None = None, isl: float = 4000) -> Question:
    """A question about a bundled model and so many clients."""
    workload = equal_lengths(isl=isl, osl=300, concurrency=clients)
    return replace(question("qwen3-32b", "8xH200", slo=slo), workload=workload)


def decide(asked: Question) -> Verdict:
    """The verdict with its sentences."""
    return write(asked, facts_of(asked))


def answered(asked: Question) -> Verdict:
    """The same without flips, which have tests of their own."""
    return write(asked, facts_of(asked, flips=False))


def attainments(verdict: Verdict) -> list[float]:
    """By arm, the share of requests that met the SLOs."""
    return [arm.attainment or 0.0 for arm in verdict.arms.values()]


@pytest.mark.slow
def test_a_question_about_clients_has_a_throughput_per_arm_and_no_rate() -> None:
    question = asked(64)
    verdict = decide(question)
    assert verdict.clients == 64
    assert verdict.rate_rps is None
    rates = [arm.throughput_rps for arm in verdict.arms.values()]
    assert len(set(rates)) == 2
    assert all(arm.capacity_rps is None for arm in verdict.arms.values())
    told = verdict_data(question, verdict)
    assert told["load"] == "64 clients, closed loop, starting with a burst of 64"
    assert told["clients"] == 64


@pytest.mark.e2e  # 7 s
def test_more_clients_meet_the_slos_less_often_and_another_number_is_another_answer() -> None:
    found = [answered(asked(n, slo=Slo(20.0, 0.06))) for n in (8, 64, 500, 2000, 4000)]
    for fewer, more in zip(found, found[1:], strict=False):
        pairs = zip(attainments(fewer), attainments(more), strict=True)
        assert all(high >= low for high, low in pairs)
    assert attainments(found[0]) == [1.0, 1.0]
    assert max(attainments(found[-1])) < 0.9
    waits = [verdict.arms["colocated"].ttft_s for verdict in found]
    means = [wait.mean for wait in waits if wait is not None]
    assert len(means) == 5
    assert means == sorted(means)
    assert means[-1] > 1.5 * means[-2]


@pytest.mark.slow
def test_slos_that_no_layout_meets_for_these_clients_are_a_no() -> None:
    verdict = decide(asked(2000, slo=Slo(1.0, 0.03)))
    assert verdict.headline == "No layout meets these SLOs for 2,000 clients"
    assert verdict.unmet.startswith("For 90 % of the requests, 2C has TTFT ")
    assert verdict.confidence == "low"
    assert not decide(asked(8, slo=Slo(20.0, 0.06))).unmet


def test_clients_without_room_for_a_split_are_answered_too() -> None:
    workload = equal_lengths(isl=1000, osl=100, concurrency=4)
    verdict = decide(replace(question("llama-3.1-8b", "1xH200"), workload=workload))
    assert verdict.decided_by == "feasibility"
    assert verdict.clients == 4
    assert verdict.arms["colocated"].throughput_rps


@pytest.mark.slow
def test_a_trace_gives_clients_its_lengths_in_order_and_not_its_times() -> None:
    drawn = make_requests(equal_lengths(isl=500, osl=50), num=900, rate_rps=2.0, seed=0)
    isl = [100 + i for i in range(900)]
    workload = replace(LENGTHS, requests=replace(drawn, isl=isl), rate_rps=2.0, concurrency=32)
    about = replace(question(), workload=workload)
    demand = demand_of(workload)
    assert demand is not None
    sent = client_requests(about, demand, 32)
    assert list(sent.isl) == isl[:320]
    verdict = decide(about)
    assert verdict.clients == 32


@pytest.mark.parametrize(("clients", "num"), [(1, 200), (64, 640), (2000, 10_000), (4000, 12_000)])
def test_ten_requests_per_client_within_bounds(clients: int, num: int) -> None:
    about = asked(clients)
    demand = demand_of(about.workload)
    assert demand is not None
    assert len(client_requests(about, demand, clients)) == num


def test_the_steady_part_leaves_the_burst_out() -> None:
    requests = random_requests(400, seed=0, rate_rps=1.0)
    found = try_clients(ALONE, requests, Slo(ttft_s=1.0), 40, seed=0, queues=True)
    assert found.steady is not None
    assert found.steady.ttft_s is not None
    assert found.ttft_s is not None
    assert found.steady.ttft_s.p99 < found.ttft_s.p99
    assert found.steady.attainment is not None
    assert found.attainment is not None
    assert found.steady.attainment > found.attainment
    assert found.queues


def test_a_run_of_a_burst_alone_has_no_steady_part() -> None:
    requests = make_requests(LENGTHS, num=20, rate_rps=1.0, seed=0)
    assert try_clients(ALONE, requests, Slo(), 10, seed=0, queues=False).steady is None


def test_the_throughput_of_clients_in_step_is_theirs_over_one_round() -> None:
    requests = make_requests(LENGTHS, num=40, rate_rps=1.0, seed=0)
    outcome = simulate_clients(ALONE, requests, 4)
    steady = steady_part(outcome, 4, Slo())
    assert steady is not None
    assert steady.throughput_rps == pytest.approx(4 / (outcome.arrival_s[4]), rel=1e-3)


def test_colocated_suffices_where_it_meets_the_slos_whatever_the_error() -> None:
    slo = Slo(2.0, 0.08)
    arms = {"colocated": arm("8C", attainment=1.0), "pd": arm("4P4D", attainment=1.0)}
    assert judge_clients("pd", arms, slo, errors(0.2)).choice == "colocated"
    tight = judge_clients("mixed", arms, Slo(1.0, 0.031), errors(0.2))
    assert tight.choice == "too_close"


def test_the_arm_with_more_good_requests_wins_where_the_other_misses() -> None:
    arms = {
        "colocated": arm("8C", attainment=0.4, goodput_rps=2.0),
        "pd": arm("4P4D", attainment=0.95, goodput_rps=5.0),
    }
    assert judge_clients("mixed", arms, Slo(1.0, 0.03), errors(0.2)).choice == "pd"


def test_of_two_arms_that_miss_the_slos_the_nearer_one_is_named() -> None:
    arms = {
        "colocated": arm("8C", attainment=0.2, goodput_rps=0.0, capacity_rps=None),
        "pd": arm("4P4D", attainment=0.3, goodput_rps=0.0, capacity_rps=None),
    }
    ruling = judge_clients("mixed", arms, Slo(0.1, 0.01), errors(0.2))
    assert (ruling.choice, ruling.confidence) == ("pd", "low")


@pytest.mark.parametrize(
    ("clients", "text"),
    [
        (1, "1 client, closed loop, starting with a burst of 1"),
        (2000, "2,000 clients, closed loop, starting with a burst of 2,000"),
    ],
)
def test_the_load_is_told_in_words(clients: int, text: str) -> None:
    assert load_text(clients) == text
