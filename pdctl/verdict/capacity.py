"""The highest rate at which layouts meet the service levels, found by simulating them.

Rates are rungs of one fixed ladder, 2.5 % apart, so that questions that differ in their service
levels only are answered by the same runs. A search narrows down the rung step by step, always by
the same steps, so that it finds the same whatever was asked before; whoever only needs to know
whether a rate is reached stops it earlier.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pdctl.perf_model.records import Fleet
from pdctl.verdict.trials import Trials
from pdctl.workload.records import Slo

STEP = 1.025  # between rungs
LEAP = 4  # rungs: the first steps up and down, 10 %
FEW_LEAP = 2  # the same where a part of the requests has shown where to begin
NEAR = 0.9  # of the best rate: what fails there by a part of the requests is not tried on all
BELOW, ABOVE = 0.97, 1.10  # times a capacity: there the SLOs are met, and missed
COARSE = 2  # rungs: near enough where only keeping up is asked for, or where to begin
FEW_ENOUGH = 4000  # requests: in larger samples luck evens out
MOST_CONFIRMATIONS = 6
LIGHT = 0.02  # of what a layout can do at all: where it fails there it fails anywhere
LIGHTEST_RPS, HIGHEST_RPS = 1e-6, 1e7


def rung_rps(rung: int) -> float:
    """The rate of a rung, in the three digits that are printed."""
    return float(f"{STEP**rung:.3g}")


def rung_below(limit_rps: float) -> int:
    """The highest rung that is not above a limit."""
    bounded = min(max(limit_rps, LIGHTEST_RPS), HIGHEST_RPS)
    rung = math.floor(math.log(bounded) / math.log(STEP)) + 1
    while rung_rps(rung) > bounded:
        rung -= 1
    return rung


def rung_above(limit_rps: float) -> int:
    """The lowest rung that is not below a limit."""
    rung = rung_below(limit_rps)
    return rung + (rung_rps(rung) < limit_rps)


@dataclass(frozen=True)
class Candidate:
    """A layout, and in closed form its capacity within the SLOs and without any."""

    fleet: Fleet
    guess_rps: float
    free_rps: float


class CapacitySearch:
    """The capacity of the best of some layouts, as exactly as anybody asks for.

    candidates: the most promising first. It is searched alone; then each of the others has to
    hold at the rung where it fails, or cannot win. is_rough: only to see where to begin.
    """

    def __init__(
        self,
        trials: Trials,
        candidates: Sequence[Candidate],
        slo: Slo,
        *,
        is_rough: bool = False,
    ) -> None:
        self.trials, self.slo = trials, slo
        self._is_coarse = is_rough or not slo.is_given
        self.alive = list(candidates)
        self.best: Fleet | None = None
        self._low: int | None = None  # it holds there
        self._high: int | None = None  # it does not hold there
        free = max((c.free_rps for c in candidates), default=0.0)
        # without service levels a layout that serves at all keeps up at some rate, however low
        self._light = rung_below(free * LIGHT if slo.is_given else LIGHTEST_RPS)
        guess = max((c.guess_rps for c in candidates), default=0.0)
        self._next, self._leap = rung_below(guess or free / 2), LEAP
        self._confirmations = 0
        self.is_done = not candidates
        self.is_hopeless = not candidates
        self._rough_rps: float | None = None

    @property
    def rough_rps(self) -> float:
        """The capacity by a part of the requests, where there is one; else by all of them."""
        if self.trials.few is None:
            return self.finish()
        if self._rough_rps is None:
            self._rough_rps = self._look_around(self.trials.few)
        return self._rough_rps

    def _look_around(self, few: Trials) -> float:
        """Begin where the capacity lies by a part of the requests, with the layouts near to it."""
        rough = CapacitySearch(few, self.alive, self.slo, is_rough=True)
        if rough.finish() > 0:
            near = rung_rps(rung_below(rough.rate_rps * NEAR))
            best = [c for c in self.alive if c.fleet == rough.best]
            others = [c for c in self.alive if c.fleet != rough.best]
            self.alive = best + [c for c in others if few.meets(c.fleet, near, self.slo)]
            self._next, self._leap = rung_below(rough.rate_rps), FEW_LEAP
        return rough.rate_rps

    @property
    def rate_rps(self) -> float:
        """The highest rate known to hold so far; 0: none."""
        return rung_rps(self._low) if self._low is not None and not self.is_hopeless else 0.0

    def finish(self) -> float:
        """The capacity: requests per second, 0 where even a light load misses the SLOs."""
        while not self.is_done:
            self._step()
        return self.rate_rps

    def bounds(self) -> tuple[float, float]:
        """The bounds of the capacity; equal once it is known."""
        if self.is_done:
            return self.rate_rps, self.rate_rps
        is_open = self._high is None or len(self.alive) > 1
        return self.rate_rps, math.inf if is_open else rung_rps((self._high or 0) - 1)

    def narrow(self) -> None:
        """One more step."""
        self._step()

    def _step(self) -> None:
        few = self.trials.few
        if few is not None and self._rough_rps is None:
            self._rough_rps = self._look_around(few)
        rung, first = self._next, self.alive[0]
        if self._holds(first, rung):
            self._low, self.best = rung, first.fleet
        else:
            self._high = rung
        self._aim()

    def _aim(self) -> None:
        """Choose the rung to try next: away from the guess in growing leaps, then the middle."""
        low, high = self._low, self._high
        if low is not None and high is not None:
            self._next = (low + high) // 2
            if self._is_coarse:
                if high - low <= COARSE:
                    self._challenge(high)
            elif high - low <= 1:
                self._confirm(low, high)
        elif low is not None:
            self._next = low + self._leap
            self._leap *= 2
            self.is_done = rung_rps(low) >= HIGHEST_RPS
        elif high is not None and high > self._light:
            self._next = max(high - self._leap, self._light)
            self._leap *= 2
        else:
            self.is_hopeless = True
            self._challenge(self._light)

    def _challenge(self, rung: int) -> None:
        """Go on with the next layout that holds where the first one fails; else be done."""
        others = self.alive[1:]
        while others and not self._holds(others[0], rung):
            others = others[1:]
        self.alive = others or self.alive[:1]
        self.is_done = not others
        if others:
            self.best, self.is_hopeless = others[0].fleet, False
            self._low, self._high, self._leap = rung, None, 1
            self._next, self._confirmations = rung + 1, 0

    def _confirm(self, low: int, high: int) -> None:
        """Look a little below and above, and go on from there where they disagree.

        Attainment falls with the rate but for the luck of who meets whom, which matters most in
        short or bursty samples.
        """
        assert self.best is not None
        capacity = rung_rps(low)
        self._confirmations += 1
        if self._confirmations > MOST_CONFIRMATIONS:
            self._challenge(high)
        elif not self.trials.meets(self.best, BELOW * capacity, self.slo):
            self._low, self._high, self._leap = None, low, 1
            self._next = max(rung_below(BELOW * capacity), self._light)
        elif self._is_lucky and self.trials.meets(self.best, ABOVE * capacity, self.slo):
            self._high, self._leap = None, 1
            self._next = rung_below(ABOVE * capacity) + 1
        else:
            self._challenge(high)

    @property
    def _is_lucky(self) -> bool:
        """True if the sample is so small that luck may let a rung fail and a higher one hold."""
        return self.trials.sample.num_different <= FEW_ENOUGH

    def _holds(self, candidate: Candidate, rung: int) -> bool:
        return self.trials.meets(candidate.fleet, rung_rps(rung), self.slo)
