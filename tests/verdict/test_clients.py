"""Which number of clients changes the answer, asked again."""

from dataclasses import replace

import pytest

from pdctl.perf_model.records import Parallelism
from pdctl.verdict.clients import (
    ClientAsker,
    client_flip,
    most_clients,
    search_for_clients,
)
from pdctl.verdict.closed_form import demand_of
from pdctl.verdict.closed_loop import clients_of
from pdctl.verdict.layouts import engines_that_fit
from pdctl.verdict.records import Question, Verdict
from pdctl.verdict.search import one_by_one
from pdctl.verdict.sentences import write
from pdctl.verdict.verdict import decide
from pdctl.workload.records import Slo
from tests.verdict.examples import equal_lengths, question

TP1 = {role: Parallelism() for role in ("colocated", "prefill", "decode")}


def asked(clients: int, slo: Slo) -> Question:
    """A question about two GPUs, so that each answer takes a few short runs."""
    workload = equal_lengths(isl=2000, osl=100, concurrency=clients)
    about = question("llama-3.1-8b", "2xH200", slo=slo, parallelism=TP1)
    return replace(about, workload=workload)


def asker(about: Question) -> ClientAsker:
    engines, demand = engines_that_fit(about), demand_of(about.workload)
    assert demand is not None
    found = search_for_clients(
        about, engines, demand, clients_of(about.workload.concurrency) or 1,
        spread=one_by_one, progress=lambda _: None, queues=False,
    )  # fmt: skip
    return ClientAsker(about, engines, demand, found)


def answer(clients: float, slo: Slo) -> Verdict:
    return decide(asked(round(clients), slo), flips=False)


LOOSE, TIGHT = Slo(1.0, 0.015), Slo(0.3, 0.02)


def test_every_number_of_clients_that_is_told_has_the_other_answer_when_asked() -> None:
    told = decide(asked(40, LOOSE))
    assert told.flips
    for flip in told.flips:
        assert flip.what == "concurrency"
        assert (flip.at - 40) * (1 if flip.at > 40 else -1) > 0
        beyond = flip.at * 1.05 if flip.at > 40 else flip.at / 1.05
        assert flip.to != told.verdict
        assert answer(flip.at, LOOSE).verdict == answer(beyond, LOOSE).verdict == flip.to


def test_clients_beyond_which_no_layout_meets_the_slos_are_told_as_such() -> None:
    flips = [flip for flip in decide(asked(40, LOOSE)).flips if flip.at > 40]
    assert [flip.is_met for flip in flips] == [answer(f.at, LOOSE).is_met for f in flips]


def test_without_slos_no_number_of_clients_misses_them() -> None:
    told = decide(asked(12, Slo()))
    assert told.flips
    assert all(flip.is_met for flip in told.flips)


def test_too_many_clients_say_how_many_would_be_served_in_time() -> None:
    about = asked(200, TIGHT)
    told = write(about, decide(about))
    assert not told.is_met
    assert told.most_clients is not None
    assert told.most_clients < 200
    assert answer(told.most_clients, TIGHT).is_met
    assert not answer(told.most_clients * 1.3 + 1, TIGHT).is_met
    assert f"A layout meets them for up to about {told.most_clients} clients." in told.reason


def test_slos_that_not_even_one_client_is_served_within_give_no_number() -> None:
    assert most_clients(asker(asked(20, Slo(0.001)))) is None
    assert most_clients(asker(asked(20, Slo()))) is None


@pytest.mark.parametrize("direction", [1, -1])
def test_an_answer_that_holds_for_every_number_of_clients_has_no_flip(direction: int) -> None:
    generous = asker(asked(4, Slo(1000.0, 10.0)))
    assert client_flip(generous, "colocated", direction) is None


def test_of_splits_that_meet_the_slos_the_one_with_most_good_requests_per_second_is_shown() -> None:
    drawn = question("llama-3.1-8b", "4xH100", isl=2000, osl=300, slo=Slo(0.5, 0.02))
    about = replace(drawn, workload=replace(drawn.workload, concurrency=30.0, rate_rps=None))
    found = asker(about).found
    good = [arm.goodput_rps or 0.0 for arm in found.sweep if arm.meets]
    assert len(good) > 1
    assert found.arms["pd"].goodput_rps == max(good)
