"""Choose which step to measure next, until the fit is certain enough or the budget is spent."""

import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from statistics import median

from pdctl.perf_model.fitting.design import DECODE_STEPS, ProbeCost, choose_steps, seeds
from pdctl.perf_model.fitting.fit import predicted_s, with_factors
from pdctl.perf_model.fitting.identify import (
    LEAST_REPEATS,
    MAX_RESIDUAL,
    fit_identified,
    spreads,
    typical,
)
from pdctl.perf_model.records import Fit, Measurement, StepTimes

TARGET_UNCERTAINTY = 0.004  # standard deviation of the least certain step; 5 sigma is 2 %
OVERHEAD_S = 0.02  # per probe, without its steps: requests, answers, reading counters
DEAREST_SHARE = 0.1  # of the budget: the most that one probe may cost
MAX_FAILURES = 3
AGAIN, AGAIN_SHARE = 4, 0.15  # repeat steps off the fit 4 times, in the last 15 % of the budget
MAX_REPEATS = 16  # more repeats would overfit this step at the expense of its neighbours
LEAST_TAKEN = 12

Measure = Callable[[Measurement, StepTimes], Awaitable[Measurement | None]]


@dataclass(frozen=True)
class CalibrationProgress:
    """Progress of a calibration. uncertainty: of the least certain step; None: no fit yet."""

    doing: Measurement
    num_taken: int
    uncertainty: float | None
    elapsed_s: float
    budget_s: float


@dataclass(frozen=True)
class CalibrationRun:
    """Measurements and the fit to them. fit: None if the measurements identify no coefficient.

    unidentified: coefficients that keep their roofline value. given_up: steps that could not be
    measured. is_complete: the target uncertainty was reached.
    """

    measurements: tuple[Measurement, ...]
    fit: Fit | None
    unidentified: tuple[str, ...]
    uncertainty: float | None
    elapsed_s: float
    given_up: tuple[Measurement, ...]
    is_complete: bool
    is_interrupted: bool = False


async def measure_steps(
    measure: Measure,
    grid: Sequence[Measurement],
    roofline: StepTimes,
    *,
    budget_s: float,
    target: float = TARGET_UNCERTAINTY,
    known: Sequence[Measurement] = (),
    clock: Callable[[], float] = time.monotonic,
    tell: Callable[[CalibrationProgress], None] = lambda progress: None,
) -> CalibrationRun:
    """Measure steps of `grid`, choosing those next whose times are least certain.

    measure: measures one step, given the current estimate of step times; None: it failed.
    target: stop at this uncertainty of the least certain step.
    known: earlier measurements, fitted together with the new ones.
    """
    run = _Run(grid, roofline, budget_s, target, clock, tell)
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
    """Measure these steps, then the least certain ones, as long as there is time."""
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
    """State of a calibration in progress."""

    def __init__(
        self,
        grid: Sequence[Measurement],
        roofline: StepTimes,
        budget_s: float,
        target: float,
        clock: Callable[[], float],
        tell: Callable[[CalibrationProgress], None],
    ) -> None:
        self._grid = list(grid)
        self._roofline = roofline
        self._budget_s, self._target = budget_s, target
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
        """Add earlier measurements."""
        self._measured.extend(known)

    @property
    def is_done(self) -> bool:
        """True if further measurements would not improve the fit."""
        return self._is_done or not self._grid

    def has_time_for(self, step: Measurement, until_s: float) -> bool:
        """True if a probe of `step` would end in time. Unknown before the first measurement."""
        if not self._measured:
            return self._elapsed_s() < until_s
        return self._elapsed_s() + cost_s(self.times, step) <= until_s

    @property
    def times(self) -> StepTimes:
        return with_factors(self._roofline, self._fit.factors) if self._fit else self._roofline

    def first(self) -> tuple[Measurement, ...]:
        """Steps for a first fit, cheap ones first."""
        return seeds(sorted(self._affordable(), key=lambda m: cost_s(self.times, m)))

    async def measure(self, measure: Measure, step: Measurement) -> None:
        """Probe one step. Give a step up, with its measurements, if it keeps failing.

        A batch that rarely enters one step probably never did, so its measurements are wrong too.
        """
        if step not in self._grid:
            return
        self._tell(
            CalibrationProgress(
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
        """Refit and choose the next steps. None are left once all are certain enough."""
        if not self._measured:
            return self.first()
        self._refit()
        times, affordable = self.times, self._affordable()
        cost: ProbeCost = lambda m: cost_s(times, m)  # noqa: E731
        known = spreads(self._measured, times) if self._fit else {}
        choice = choose_steps(
            affordable,
            self._measured,
            times,
            spreads=known,
            cost_s=cost,
            tolerance=self._target,
            count=max(6, len(self._measured) // 5),
        )
        self._uncertainty = choice.uncertainty
        again = self._doubtful()
        self._is_done = not (choice.steps or again) and len(self._measured) >= LEAST_TAKEN
        return (*again, *choice.steps) or tuple(affordable[:LEAST_TAKEN])

    def _doubtful(self) -> tuple[Measurement, ...]:
        """Steps off the fit with too few repeats to tell an outlier from a disagreement."""
        times = self.times
        return tuple(
            step
            for step, found in self._by_step.items()
            if len(found) < LEAST_REPEATS
            and max(abs(predicted_s(times, m) / m.seconds - 1) for m in found) > MAX_RESIDUAL
        )

    def disputed(self) -> tuple[Measurement, ...]:
        """Steps off the fit, to be measured again later and in turns.

        A passing disturbance (another clock rate, another process) goes away; a step that the
        formula does not describe stays off.
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
        """The final fit and its measurements."""
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
        """Fit each step's typical time, which is fast and accurate enough for choosing."""
        self._fit, self._unidentified = fit_identified(typical(self._measured), self._roofline)

    def _affordable(self) -> list[Measurement]:
        dearest_s = DEAREST_SHARE * self._budget_s
        cheap = [m for m in self._grid if cost_s(self.times, m) <= dearest_s] or self._grid
        return [m for m in cheap if len(self._by_step.get(m, ())) < MAX_REPEATS] or cheap

    def _elapsed_s(self) -> float:
        return self._clock() - self._start


def cost_s(times: StepTimes, step: Measurement) -> float:
    """Estimated duration of a probe of this step."""
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
    return OVERHEAD_S + predicted_s(times, step)  # a cached prefix is prefilled only once


def _prefill(tokens: int) -> Measurement:
    return Measurement("prefill", 0.0, new_tokens=tokens, counted=True)
