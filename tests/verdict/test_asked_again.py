"""What a plan prints holds when it is asked again: capacities, flips, and what to type next."""

from dataclasses import replace
from pathlib import Path

import pytest

from pdctl.commands.options.plan_options import PlanOptions
from pdctl.commands.plan_run import question_of
from pdctl.verdict.flips import BEYOND
from pdctl.verdict.judge import slo_if_fast, slo_if_slow
from pdctl.verdict.records import Arm, Choice, Flip, Question, Verdict
from pdctl.verdict.verdict import decide
from tests.bench.bench_trace import write_trace
from tests.verdict.questions import ROWS, asked, at_rate, name

QUICK = (0, 11, 17)  # in the default run
NEAR = 0.15  # ends of intervals are searched roughly


def rows() -> list[object]:
    return [
        pytest.param(i, id=name(i), marks=() if i in QUICK else pytest.mark.e2e)
        for i in range(len(ROWS))
    ]


def answer(question: Question) -> Verdict:
    return decide(question, flips=False)


def capacities(verdict: Verdict) -> dict[str, tuple[str, float | None]]:
    return {name: (arm.layout, arm.capacity_rps) for name, arm in verdict.arms.items()}


@pytest.mark.slow
@pytest.mark.parametrize("row", rows())
def test_a_plan_asked_again_says_the_same(row: int) -> None:
    _ask_again(asked(row))


@pytest.mark.e2e
@pytest.mark.parametrize("levels", [("5s", "30ms"), ("10s", "")])
def test_a_plan_of_a_long_trace_asked_again_says_the_same(
    levels: tuple[str, str], tmp_path: Path
) -> None:
    ttft, tpot = levels
    options = PlanOptions(model="qwen3-32b", gpus="2x8xH200:rdma400", tp=2, no_input=True)
    trace = write_trace(tmp_path)
    _, question = question_of(replace(options, trace=trace, ttft=ttft, tpot=tpot))
    assert _ask_again(question).flips


def _ask_again(question: Question) -> Verdict:
    verdict = decide(question)
    assert 0 < len(verdict.arms) <= 2
    if question.slo.is_given:
        _check_capacities(question, verdict)
        _check_intervals(question, verdict)
    for flip in verdict.flips:
        _check_flip(question, verdict.verdict, flip)
    return verdict


def _check_capacities(question: Question, verdict: Verdict) -> None:
    """Met at 0.97 of an arm's capacity and missed at 1.10, and the same whatever rate is asked."""
    for arm_name, arm in verdict.arms.items():
        capacity = arm.capacity_rps
        assert capacity is not None
        rate = capacity or 0.5
        below = answer(at_rate(question, 0.97 * rate))
        above = answer(at_rate(question, 1.10 * rate))
        assert capacities(below) == capacities(above) == capacities(verdict)
        found = below.arms[arm_name].attainment, above.arms[arm_name].attainment
        assert None not in found
        share = question.slo.attainment
        if capacity:
            assert found[0] is not None
            assert found[0] >= share - 1e-9, (arm.layout, capacity, found)
        assert found[1] is not None
        assert found[1] < share, (arm.layout, capacity, found)
        assert below.arms[arm_name].meets == (capacity > 0)
        assert not above.arms[arm_name].meets


def _check_intervals(question: Question, verdict: Verdict) -> None:
    """With all times as long or as short as is likely, an arm carries the ends of its interval.

    A split may carry more there than the one that is shown, in another layout.
    """
    errors = verdict.provenance.errors
    slow = answer(replace(question, slo=slo_if_slow(question.slo, errors)))
    fast = answer(replace(question, slo=slo_if_fast(question.slo, errors)))
    for arm_name, arm in verdict.arms.items():
        told = arm.intervals["capacity_rps"]
        low = (slow.arms[arm_name].capacity_rps or 0.0) * errors.rate.low
        high = (fast.arms[arm_name].capacity_rps or 0.0) * errors.rate.high
        assert told.low <= (arm.capacity_rps or 0.0) <= told.high
        if shape(arm) == shape(slow.arms[arm_name]):
            assert told.low == pytest.approx(low, rel=NEAR), arm.layout
        if shape(arm) == shape(fast.arms[arm_name]):
            assert told.high == pytest.approx(high, rel=NEAR), arm.layout


def shape(arm: Arm) -> object:
    return arm.layout, arm.parallelism


def _check_flip(question: Question, base: Choice, flip: Flip) -> None:
    assert flip.from_ == base
    assert flip.to != base or not flip.is_met  # the answer there is that no layout meets the SLOs
    assert flip.at != flip.from_at
    assert flip.at == float(f"{flip.at:.3g}")
    up = flip.from_at is None or flip.at > flip.from_at
    beyond = flip.at * (BEYOND if up else 1 / BEYOND)
    values = [flip.at] if flip.what == "total" else [flip.at, beyond]
    answers = [answer(moved(question, flip.what, x)) for x in values]
    assert answers[0].is_met == flip.is_met, flip
    assert answers[0].verdict == flip.to, flip
    if flip.is_met:
        assert [told.verdict for told in answers] == [flip.to] * len(values), flip
    else:  # it says that nothing meets the SLOs; which arm comes nearest may change beyond
        assert not any(told.is_met for told in answers), flip


def moved(question: Question, what: str, value: float) -> Question:
    """The question with one value changed, as its flag would."""
    if what == "rate_rps":
        return at_rate(question, value)
    if what in ("tpot_s", "ttft_s"):
        return replace(question, slo=replace(question.slo, **{what: value}))
    if what == "total":
        return replace(question, total=int(value))
    isl = question.workload.isl
    assert isl is not None
    by = value / isl.mean
    scaled = replace(isl, mean=value, p50=isl.p50 * by, p90=isl.p90 * by, p99=isl.p99 * by)
    return replace(question, workload=replace(question.workload, isl=scaled))
