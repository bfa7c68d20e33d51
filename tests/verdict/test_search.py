import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import TypeVar

import pytest

from pdctl.perf_model.records import Parallelism
from pdctl.verdict.closed_form import demand_of
from pdctl.verdict.layouts import engines_that_fit
from pdctl.verdict.records import Question, Verdict
from pdctl.verdict.search import Contest, contest_of, find_capacities
from pdctl.verdict.trials import Trials
from pdctl.verdict.verdict import decide
from pdctl.workload.records import Slo
from tests.verdict.examples import question

T = TypeVar("T")
R = TypeVar("R")
TP2 = {role: Parallelism(tp=2) for role in ("colocated", "prefill", "decode")}
SLO = Slo(ttft_s=2.0, tpot_s=0.03)


def asked(rate: float = 6.0, slo: Slo = SLO) -> Question:
    return question("qwen3-32b", "2x8xH200:rdma400", rate=rate, parallelism=TP2, slo=slo)


@cache
def found(rate: float = 6.0, slo: Slo = SLO) -> Verdict:
    return decide(asked(rate, slo), flips=False)


def contest(one: Question) -> Contest:
    demand = demand_of(one.workload)
    assert demand is not None
    return contest_of(one, one.slo, engines_that_fit(one), demand)


def test_both_arms_come_back_simulated_on_the_same_gpus() -> None:
    arms = found().arms
    assert arms["colocated"].num_gpus == arms["pd"].num_gpus == 16
    assert all(arm.ttft_s and arm.tpot_s and arm.capacity_rps for arm in arms.values())


def test_the_sweep_runs_from_few_to_many_prefill_engines_and_holds_the_best() -> None:
    verdict = found()
    layouts = [arm.layout for arm in verdict.sweep]
    assert layouts == sorted(layouts)
    assert verdict.arms["pd"].layout in layouts


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "slo"), [(6.0, SLO), (30.0, SLO), (5.0, Slo())])
def test_no_bar_is_longer_than_that_of_the_layout_that_won(rate: float, slo: Slo) -> None:
    verdict = found(rate, slo)
    best = verdict.arms["pd"]
    others = [arm for arm in verdict.sweep if arm.layout != best.layout]
    assert all(arm.capacity_rps is None for arm in others)
    assert all((arm.estimate_rps or 0) <= (best.capacity_rps or 0) for arm in others)


@pytest.mark.slow
def test_layouts_and_capacities_are_the_same_at_every_rate() -> None:
    seen = {
        tuple((arm.layout, arm.capacity_rps) for arm in found(rate).arms.values())
        for rate in (1.0, 6.0, 50.0)
    }
    assert len(seen) == 1


@pytest.mark.slow
def test_the_same_question_gets_the_same_answer() -> None:
    assert found() == found()


@pytest.mark.slow
def test_work_is_given_to_whoever_spreads_it() -> None:
    sizes: list[int] = []

    def elsewhere(work: Callable[[T], R], items: Sequence[T], *, cost_s: float) -> list[R]:
        sizes.append(len(items))
        assert cost_s >= 0
        done: list[R] = pickle.loads(pickle.dumps([work(item) for item in reversed(items)]))
        return done[::-1]

    ours = contest(asked())
    ours.trials = replace(ours.trials, few=Trials(ours.trials.sample))
    assert find_capacities(ours, elsewhere) == find_capacities(contest(asked()))
    assert sizes == [2]
    assert find_capacities(ours) == find_capacities(contest(asked()))
