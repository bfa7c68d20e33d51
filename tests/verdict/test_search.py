import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import TypeVar

import pytest

from pdctl.inspection.cluster import parse_gpus
from pdctl.perf_model.records import Parallelism, Role
from pdctl.verdict.capacity import CapacitySearch
from pdctl.verdict.closed_form import demand_of
from pdctl.verdict.layouts import engines_that_fit
from pdctl.verdict.records import Question, Verdict
from pdctl.verdict.search import Contest, contest_of, find_capacities, gpus_needed, whole_choice
from pdctl.verdict.trials import Trials
from pdctl.verdict.verdict import decide
from pdctl.workload.records import Slo
from tests.verdict.examples import question

T = TypeVar("T")
R = TypeVar("R")
Sizes = Mapping[Role, Parallelism]
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("gpus", "slo", "rate"),
    [("5xH100", Slo(2.0, 0.02), 15.0), ("4xH100", Slo(1.0, 0.03, 1.0), 10.0)],
)
def test_no_engines_that_a_question_names_carry_more_than_those_it_leaves_open(
    gpus: str, slo: Slo, rate: float
) -> None:
    asked = question("qwen3-8b", gpus, isl=5000 if rate > 10 else 2000, rate=rate, slo=slo)
    mixed: Sizes = {"prefill": Parallelism(tp=1), "decode": Parallelism(tp=2)}
    alike: Sizes = {"prefill": Parallelism(tp=2), "decode": Parallelism(tp=2)}
    free = decide(asked, flips=False).arms["pd"].capacity_rps
    for sizes in (mixed, alike):
        named = decide(replace(asked, parallelism=sizes), flips=False).arms.get("pd")
        assert named is None or (free or 0) >= (named.capacity_rps or 0) / 1.03


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
@pytest.mark.parametrize("rate", [None, 1.0, 3.0, 5.0, 6.0, 8.0, 30.0])
def test_the_choice_is_the_same_however_far_capacities_were_searched_before(
    rate: float | None,
) -> None:
    fresh, searched = contest(asked()), contest(asked())
    find_capacities(searched)
    assert whole_choice(fresh, rate) == whole_choice(searched, rate)
    assert fresh.trials.num_runs < searched.trials.num_runs


@pytest.mark.slow
def test_many_small_prefill_engines_are_simulated_though_closed_forms_rank_them_low() -> None:
    slo = Slo(ttft_s=2.0, tpot_s=0.03)
    one = contest(question("qwen3-32b", "8xH100", isl=6000, osl=400, slo=slo))
    first = one.entrants["pd"][0]
    assert one.search("pd").finish() > 1.2 * CapacitySearch(one.trials, [first], slo).finish()
    assert one.best("pd").num_prefill > first.fleet.num_prefill


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


@pytest.mark.slow
def test_fewer_gpus_than_needed_miss_the_slos_and_as_many_meet_them() -> None:
    one = asked(rate=2.0)
    ours = contest(one)
    capacity = find_capacities(ours)["colocated"]
    needed = gpus_needed(ours, "colocated", 2.0, capacity)
    assert needed is not None
    assert needed < 16
    for gpus, meets in ((needed, True), (needed - 2, False)):
        fewer = question("qwen3-32b", "2x8xH200:rdma400", rate=2.0, parallelism=TP2, slo=SLO,
                         max_gpus=gpus)  # fmt: skip
        assert decide(fewer, flips=False).arms["colocated"].meets == meets


def test_a_rate_beyond_the_gpus_says_about_how_many_would_do() -> None:
    ours = contest(asked())
    needed = gpus_needed(ours, "colocated", 100.0, 10.0)
    assert needed == 160
    assert gpus_needed(ours, "colocated", 100.0, 0.0) is None


@pytest.mark.slow
def test_gpus_beyond_a_part_of_a_node_are_those_of_engines_that_fit_a_whole_one() -> None:
    one = question("qwen3-32b", "1xH100", isl=8000, osl=256, rate=3, slo=Slo(3.0, 0.04))
    told = decide(one, flips=False).arms["colocated"]
    assert not told.meets
    assert told.gpus_needed is not None
    assert told.gpus_needed <= 16
    gpus = f"{-(-told.gpus_needed // 8)}x8xH100:rdma400"
    assert decide(replace(one, cluster=parse_gpus(gpus)), flips=False).is_met
