"""Measure steps until all of a range are known well enough, or the time for it is up."""

import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from statistics import median

from pdctl.perf_model.fitting.design import DECODE_STEPS, Cost, choose, seeds
from pdctl.perf_model.fitting.fit import predicted_s
from pdctl.perf_model.fitting.identify import (
    LEAST_REPEATS,
    MAX_RESIDUAL,
    applied,
    fit_identified,
    spreads,
    typical,
)
from pdctl.perf_model.records import Fit, Measurement, StepTimes

TOLERANCE = 0.004  # standard deviation of the least certain step: 2 % is five of them
OVERHEAD_S = 0.02  # of one probe, steps apart: requests, answers, looking at counters
DEAREST_SHARE = 0.1  # of the budget, that one probe may cost
MAX_FAILURES = 3
AGAIN, AGAIN_SHARE = 4, 0.15  # rounds over steps off the fit, in this last share of the budget
MAX_REPEATS = 16  # more tell of one step what is not true of its neighbours
LEAST_TAKEN = 12

Measure = Callable[[Measurement, StepTimes], Awaitable[Measurement | None]]


@dataclass(frozen=True)
class Progress:
    """A calibration under way. uncertainty: of the least certain step; None: no fit yet."""

    doing: Measurement
    num_taken: int
    uncertainty: float | None
    elapsed_s: float
    budget_s: float


@dataclass(frozen=True)
class CalibrationRun:
    """What was measured. fit: None if it identifies nothing; unidentified: kept at roofline.

    given_up: steps of the range that could not be measured. is_complete: the tolerance was met.
    """

    measurements: tuple[Measurement, ...]
    fit: Fit | None
    unidentified: tuple[str, ...]
    uncertainty: float | None
    elapsed_s: float
    given_up: tuple[Measurement, ...]
    is_complete: bool
    is_interrupted: bool = False


async def take(
    measure: Measure,
    grid: Sequence[Measurement],
    roofline: StepTimes,
    *,
    budget_s: float,
    tolerance: float = TOLERANCE,
    known: Sequence[Measurement] = (),
    clock: Callable[[], float] = time.monotonic,
    tell: Callable[[Progress], None] = lambda progress: None,
) -> CalibrationRun:
    """Measure steps of `grid`, each chosen by what is least certain by then.

    measure: does one step, told how long steps are thought to take; None: it did not come off.
    known: measured earlier, fitted together with what is measured now.
    """
    run = _Run(grid, roofline, budget_s, tolerance, clock, tell)
    run.know(known)
    await _go_on(run, measure, run.first(), (1 - AGAIN_SHARE) * budget_s)
    for step in run.disputed():
        if run.has_time_for(step, budget_s):
            await run.measure(measure, step)
    await _go_on(run, measure, run.choose(), budget_s)
    return run.taken()


async def _go_on(
    run: "_Run", measure: Measure, steps: Sequence[Measurement], until_s: float
) -> None:
    """Measure these steps and then those that are least certain, as long as there is time."""
    while not run.is_done:
        affordable = False
        for step in steps:
            if run.has_time_for(step, until_s):
                await run.measure(measure, step)
                affordable = True
        if not affordable:
            return
        steps = run.choose()


class _Run:
    """A calibration under way."""

    def __init__(
        self,
        grid: Sequence[Measurement],
        roofline: StepTimes,
        budget_s: float,
        tolerance: float,
        clock: Callable[[], float],
        tell: Callable[[Progress], None],
    ) -> None:
        self._grid = list(grid)
        self._roofline = roofline
        self._budget_s, self._tolerance = budget_s, tolerance
        self._clock, self._tell = clock, tell
        self._start = clock()
        self._measured: list[Measurement] = []
        self._by_step: dict[Measurement, list[Measurement]] = defaultdict(list)
        self._failures: Counter[Measurement] = Counter()
        self._given_up: list[Measurement] = []
        self._fit: Fit | None = None
        self._unidentified: tuple[str, ...] = ()
        self._uncertainty: float | None = None
        self._is_done = False

    def know(self, known: Sequence[Measurement]) -> None:
        """Take in what was measured earlier."""
        self._measured.extend(known)

    @property
    def is_done(self) -> bool:
        """Nothing is left that would tell more."""
        return self._is_done or not self._grid

    def has_time_for(self, step: Measurement, until_s: float) -> bool:
        """Whether a probe ends by then; before the first one nobody knows how long they take."""
        if not self._measured:
            return self._elapsed_s() < until_s
        return self._elapsed_s() + cost_s(self.times, step) <= until_s

    @property
    def times(self) -> StepTimes:
        return applied(self._roofline, self._fit.factors) if self._fit else self._roofline

    def first(self) -> tuple[Measurement, ...]:
        """What a first fit needs, cheap steps before dear ones."""
        return seeds(sorted(self._affordable(), key=lambda m: cost_s(self.times, m)))

    async def measure(self, measure: Measure, step: Measurement) -> None:
        """One probe; a step that fails again and again is given up, with what it seemed to take.

        Prompts that are seldom taken together were not taken together either when it looked so.
        """
        if step not in self._grid:
            return
        self._tell(
            Progress(
                step, len(self._measured), self._uncertainty, self._elapsed_s(), self._budget_s
            )
        )
        found = await measure(step, self.times)
        if found is not None:
            self._measured.append(found)
            self._by_step[step].append(found)
            return
        self._failures[step] += 1
        if self._failures[step] >= max(MAX_FAILURES, len(self._by_step.get(step, ()))):
            self._grid.remove(step)
            self._given_up.append(step)
            doubtful = {id(m) for m in self._by_step.pop(step, ())}
            self._measured = [m for m in self._measured if id(m) not in doubtful]

    def choose(self) -> tuple[Measurement, ...]:
        """Fit what there is; the next steps, none when all are certain enough."""
        if not self._measured:
            return self.first()
        self._refit()
        times, affordable = self.times, self._affordable()
        cost: Cost = lambda m: cost_s(times, m)  # noqa: E731
        known = spreads(self._measured, times) if self._fit else {}
        choice = choose(
            affordable,
            self._measured,
            times,
            spreads=known,
            cost_s=cost,
            tolerance=self._tolerance,
            count=max(6, len(self._measured) // 5),
        )
        self._uncertainty = choice.uncertainty
        again = self._doubtful()
        self._is_done = not (choice.steps or again) and len(self._measured) >= LEAST_TAKEN
        return (*again, *choice.steps) or tuple(affordable[:LEAST_TAKEN])

    def _doubtful(self) -> tuple[Measurement, ...]:
        """Steps off the fit that were measured too seldom to tell a slip from a disagreement."""
        times = self.times
        return tuple(
            step
            for step, found in self._by_step.items()
            if len(found) < LEAST_REPEATS
            and max(abs(predicted_s(times, m) / m.seconds - 1) for m in found) > MAX_RESIDUAL
        )

    def disputed(self) -> tuple[Measurement, ...]:
        """Steps still off the fit, to be measured again later than before, in turns.

        What a machine did for some seconds (another clock, somebody else's work) passes; a step
        that a formula does not describe stays where it is.
        """
        if not self._measured:
            return ()
        self._refit()
        times = self.times
        off = [
            step
            for step, found in self._by_step.items()
            if abs(median(predicted_s(times, m) / m.seconds - 1 for m in found)) > MAX_RESIDUAL
        ]
        return tuple(off) * AGAIN

    def taken(self) -> CalibrationRun:
        """What it has come to."""
        if self._measured:
            self._fit, self._unidentified = fit_identified(self._measured, self._roofline)
        return CalibrationRun(
            measurements=tuple(self._measured),
            fit=self._fit,
            unidentified=self._unidentified,
            uncertainty=self._uncertainty,
            elapsed_s=self._elapsed_s(),
            given_up=tuple(self._given_up),
            is_complete=self._is_done,
        )

    def _refit(self) -> None:
        """From each step's typical time: quick, and near enough to choose by."""
        self._fit, self._unidentified = fit_identified(typical(self._measured), self._roofline)

    def _affordable(self) -> list[Measurement]:
        dearest_s = DEAREST_SHARE * self._budget_s
        cheap = [m for m in self._grid if cost_s(self.times, m) <= dearest_s] or self._grid
        return [m for m in cheap if len(self._by_step.get(m, ())) < MAX_REPEATS] or cheap

    def _elapsed_s(self) -> float:
        return self._clock() - self._start


def cost_s(times: StepTimes, step: Measurement) -> float:
    """How long does a probe of this step take?"""
    if step.kind == "decode":
        context = step.context // step.batch
        fill_s = step.batch * predicted_s(times, _prefill(context))
        return OVERHEAD_S + fill_s + 2 * DECODE_STEPS * predicted_s(times, step)
    if step.kind == "mixed":
        fill_s = step.batch * predicted_s(times, _prefill(step.context // step.batch))
        return OVERHEAD_S + fill_s + predicted_s(times, step)
    if step.kind == "transfer":
        return OVERHEAD_S + predicted_s(times, step) + predicted_s(times, _prefill(step.new_tokens))
    if step.kind in ("stall", "answer"):
        decodes_s = 2 * DECODE_STEPS * predicted_s(times, Measurement("decode", 0.0, context=64))
        return OVERHEAD_S + decodes_s / 4 + predicted_s(times, step)
    return OVERHEAD_S + predicted_s(times, step)  # a cached beginning is made once


def _prefill(tokens: int) -> Measurement:
    return Measurement("prefill", 0.0, new_tokens=tokens, counted=True)
