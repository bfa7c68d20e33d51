"""A whole calibration of an engine with a virtual clock."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from pdctl.measurement.calibration.adaptive import (
    MAX_FAILURES,
    TARGET_UNCERTAINTY,
    CalibrationProgress,
    CalibrationRun,
    cost_s,
    measure_steps,
)
from pdctl.perf_model.fitting.design import DECODE_STEPS, EngineLimits, decode_grid, prefill_grid
from pdctl.perf_model.fitting.fit import predicted_s, with_factors
from pdctl.perf_model.fitting.identify import disagreements
from pdctl.perf_model.records import Measurement, StepTimes
from tests.perf_model.measured import roofline, truth

LIMITS = EngineLimits(chunk=8192, max_running=256, kv_tokens=400_000, max_context=40_000)
GRID = prefill_grid(LIMITS) + decode_grid(LIMITS)


class Engine:
    """An engine whose steps vary at random, on a clock that only its steps advance."""

    def __init__(self, times: StepTimes, noise: float = 0.0, seed: int = 0) -> None:
        self.times = times
        self.now_s = 0.0
        self.broken: Callable[[Measurement], bool] = lambda step: False
        self.asked: list[Measurement] = []
        self._noise, self._dice = noise, random.Random(seed)

    async def measure(self, step: Measurement, times: StepTimes) -> Measurement | None:
        self.asked.append(step)
        self.now_s += cost_s(self.times, step)
        if self.broken(step):
            return None
        draws = DECODE_STEPS if step.kind == "decode" else 1
        share = sum(self._dice.gauss(1, self._noise) for _ in range(draws)) / draws
        return replace(step, seconds=predicted_s(self.times, step) * share)

    def calibrate(self, start: StepTimes, budget_s: float, **options: object) -> CalibrationRun:
        work = measure_steps(
            self.measure,
            GRID,
            start,
            budget_s=budget_s,
            clock=lambda: self.now_s,
            **options,  # type: ignore[arg-type]
        )
        return asyncio.run(work)


def worst(taken: CalibrationRun, start: StepTimes, true: StepTimes) -> float:
    """The largest error over sizes on the grid and between them."""
    assert taken.fit is not None
    fitted = with_factors(start, taken.fit.factors)
    between = [
        replace(m, new_tokens=round(m.new_tokens * 0.7), context=m.context * 3 // 4) for m in GRID
    ]
    return max(abs(predicted_s(fitted, m) / predicted_s(true, m) - 1) for m in (*GRID, *between))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "seed", "target"),
    [("llama-3.1-8b", 1, 0.006), ("qwen3-30b-a3b", 2, TARGET_UNCERTAINTY)],
)
def test_three_percent_of_noise_leaves_two_percent_of_error_anywhere(
    name: str, seed: int, target: float
) -> None:
    start = roofline(name)
    engine = Engine(truth(start), noise=0.03, seed=seed)
    taken = engine.calibrate(start, 240.0, target=target)
    assert worst(taken, start, engine.times) < 0.02
    assert taken.elapsed_s <= 240.0
    assert taken.uncertainty is not None
    assert taken.uncertainty < 0.006


@pytest.mark.slow
def test_a_calibration_stays_within_its_budget() -> None:
    start = roofline("llama-3.1-8b")
    engine = Engine(truth(start), noise=0.03)
    taken = engine.calibrate(start, 20.0)
    assert 17.0 < taken.elapsed_s <= 20.0
    assert not taken.is_complete
    assert taken.uncertainty is not None
    assert taken.uncertainty > 0.005


@pytest.mark.slow
@pytest.mark.parametrize("slower", [1.5, 2.0])
def test_a_machine_that_was_slow_for_a_while_does_not_cost_the_profile(slower: float) -> None:
    start = roofline("llama-3.1-8b")
    engine = Engine(truth(start), noise=0.01)
    normal = engine.measure

    steps: set[Measurement] = set()  # those measured in the slow seconds before the time is up

    async def slow_at_the_end(step: Measurement, times: StepTimes) -> Measurement | None:
        if engine.now_s > 8.0 and step not in engine.asked:
            steps.add(step)
        found = await normal(step, times)
        is_slow = step in steps and engine.now_s < 20.0
        return replace(found, seconds=slower * found.seconds) if found and is_slow else found

    engine.measure = slow_at_the_end  # type: ignore[method-assign]
    taken = engine.calibrate(start, 35.0)
    assert taken.fit is not None
    assert steps
    assert taken.elapsed_s <= 35.0
    assert not disagreements(taken.measurements, taken.fit)


def test_a_step_that_always_fails_is_given_up_and_the_others_are_measured() -> None:
    start = roofline("llama-3.1-8b")
    engine = Engine(truth(start))
    engine.broken = lambda step: step.batch >= 128
    taken = engine.calibrate(start, 90.0, target=0.01)
    assert taken.given_up
    assert all(step.batch >= 128 for step in taken.given_up)
    for step in taken.given_up:
        assert engine.asked.count(step) == MAX_FAILURES
    assert taken.fit is not None


@pytest.mark.slow
def test_measurements_of_a_step_that_mostly_fails_are_discarded() -> None:
    start = roofline("llama-3.1-8b")
    engine = Engine(truth(start))
    normal = engine.measure

    async def seldom_together(step: Measurement, times: StepTimes) -> Measurement | None:
        found = await normal(step, times)
        if found is None or step.kind != "prefill" or step.batch == 1:
            return found
        is_odd = engine.asked.count(step) % 2
        return replace(found, seconds=2.8 * found.seconds) if is_odd else None

    engine.measure = seldom_together  # type: ignore[method-assign]
    taken = engine.calibrate(start, 60.0)
    assert taken.given_up
    assert not {(m.kind, m.batch, m.new_tokens) for m in taken.measurements} & {
        (m.kind, m.batch, m.new_tokens) for m in taken.given_up
    }


def test_progress_names_the_step_and_its_uncertainty() -> None:
    start = roofline("llama-3.1-8b")
    told: list[CalibrationProgress] = []
    Engine(truth(start), noise=0.03).calibrate(start, 15.0, tell=told.append)
    assert told[0].uncertainty is None
    assert told[-1].uncertainty is not None
    assert [p.num_taken for p in told] == list(range(len(told)))


def test_an_engine_that_measures_nothing_identifies_nothing() -> None:
    start = roofline("llama-3.1-8b")
    engine = Engine(start)
    engine.broken = lambda step: True
    taken = engine.calibrate(start, 30.0)
    assert taken.fit is None
    assert taken.measurements == ()


@pytest.mark.slow
def test_earlier_measurements_are_fitted_too_and_not_repeated() -> None:
    start = roofline("llama-3.1-8b")
    engine = Engine(truth(start), noise=0.03)
    first = engine.calibrate(start, 15.0)
    again = engine.calibrate(start, 15.0, known=first.measurements)
    assert again.measurements[: len(first.measurements)] == first.measurements
    assert again.uncertainty is not None
    assert first.uncertainty is not None
    assert again.uncertainty < first.uncertainty


@pytest.mark.slow
def test_eager_steps_of_another_engine_identify_the_launch_floor() -> None:
    start = roofline("llama-3.1-8b")
    engine = Engine(replace(start, eager_s=0.03))
    graphs = engine.calibrate(start, 15.0)
    eager = [
        replace(m, eager=True, seconds=predicted_s(engine.times, replace(m, eager=True)))
        for m in GRID
        if m.kind == "prefill"
    ]
    both = engine.calibrate(start, 10.0, known=(*graphs.measurements, *eager))
    assert both.fit is not None
    fitted = with_factors(start, both.fit.factors)
    assert fitted.prefill_token_s == pytest.approx(start.prefill_token_s, rel=0.02)
    assert fitted.eager_s == pytest.approx(0.03, rel=0.02)
