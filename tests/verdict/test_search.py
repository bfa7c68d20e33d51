from collections.abc import Callable, Sequence
from typing import TypeVar

import pytest

from pdctl.perf_model.records import Parallelism
from pdctl.verdict.closed_form import demand_of
from pdctl.verdict.layouts import engines_that_fit
from pdctl.verdict.search import Findings, search
from pdctl.workload.records import Slo
from tests.verdict.examples import question

T = TypeVar("T")
R = TypeVar("R")
TP2 = {role: Parallelism(tp=2) for role in ("colocated", "prefill", "decode")}
SLO = Slo(ttft_s=2.0, tpot_s=0.03)


def found(rate: float = 6.0, **changes: object) -> Findings:
    asked = question("qwen3-32b", "2x8xH200:rdma400", rate=rate, parallelism=TP2, **changes)  # type: ignore[arg-type]
    demand = demand_of(asked.workload)
    assert demand is not None
    return search(asked, engines_that_fit(asked), demand, rate)


def test_both_arms_come_back_simulated_on_the_same_gpus() -> None:
    arms = found(slo=SLO).arms
    assert arms["colocated"].num_gpus == arms["pd"].num_gpus == 16
    assert all(arm.ttft_s and arm.tpot_s and arm.knee_rps for arm in arms.values())


def test_the_sweep_runs_from_few_to_many_prefill_engines_and_holds_the_best() -> None:
    findings = found(slo=SLO)
    layouts = [arm.layout for arm in findings.sweep]
    assert layouts == sorted(layouts)
    assert findings.arms["pd"].layout in layouts


@pytest.mark.parametrize("rate", [6.0, 12.0])
def test_the_chosen_split_has_the_highest_rate_of_the_sweep(rate: float) -> None:
    findings = found(rate, slo=SLO)
    best = findings.arms["pd"]
    assert best in findings.sweep
    assert best.knee_rps == max(arm.knee_rps or 0.0 for arm in findings.sweep)


def test_a_closed_form_favourite_that_misses_when_simulated_is_not_chosen() -> None:
    findings = found(20.0, slo=Slo(ttft_s=1.0, tpot_s=0.02))
    assert findings.arms["pd"].layout == "5P3D"
    other = next(arm for arm in findings.sweep if arm.layout == "6P2D")
    assert other.attainment is not None
    assert other.attainment < 0.9


def test_the_same_question_gets_the_same_answer() -> None:
    assert found(slo=SLO) == found(slo=SLO)


def test_work_is_given_to_whoever_spreads_it() -> None:
    asked = question("qwen3-32b", "2x8xH200:rdma400", rate=4.0, parallelism=TP2)
    demand = demand_of(asked.workload)
    assert demand is not None
    sizes: list[int] = []

    def backwards(work: Callable[[T], R], items: Sequence[T], *, cost_s: float) -> list[R]:
        sizes.append(len(items))
        assert cost_s >= 0
        return [work(item) for item in reversed(items)][::-1]

    engines = engines_that_fit(asked)
    ours = search(asked, engines, demand, 4.0, spread=backwards)
    assert ours == search(asked, engines, demand, 4.0)
    assert sizes[0] > 2
