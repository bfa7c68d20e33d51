"""Read a trend from the last minute of a deployment: which samples count, and how they move. Pure.

Source: docs/decisions/0011-advice-asks-for-evidence.md.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

from pdctl.status.rates import per_second, rises
from pdctl.status.records import Moment

WINDOW_S = 60.0
INTERVALS = 4  # of 15 s; a trend is three steps in a row between them
SETTLING_S = 15.0  # queues are misleading for this long after a change of engines
_SLACK_S = 4.0  # tolerance on the length of the window, for samples taken every 5 s
_LONGEST_GAP_S = 15.0
ALIVE = ("up", "starting")  # the health of an engine that is not lost

Value = Callable[[Moment], float | None]


@dataclass(frozen=True)
class Trend:
    """A quantity over the window: mean and lowest value of each interval. now: the latest value."""

    means: tuple[float, ...]
    lows: tuple[float, ...]
    now: float

    @property
    def last(self) -> float:
        return self.means[-1]

    def rises(self, least: float) -> bool:
        """True for three rises in a row, by `least` and a quarter overall, that still hold.

        A quantity that fell back to where it began in the last interval comes and goes.
        """
        steps = zip(self.means, self.means[1:], strict=False)
        rise = self.means[-1] - self.means[0]
        least = max(least, 0.25 * self.means[0])
        return all(b > a for a, b in steps) and rise >= least and self.lows[-1] > self.means[0]

    def stays_above(self, level: float) -> bool:
        """True at or above `level` in each of the last three intervals, and now.

        A quantity that fell below half the level in one of them comes and goes.
        """
        return min(*self.means[1:], self.now) >= level and min(self.lows[1:]) >= level / 2


def last_minute(history: Sequence[Moment]) -> Sequence[Moment]:
    """The moments to judge: the last minute since the last gap and the last change of engines."""
    steady = _since_last_change(history)
    window: list[Moment] = []
    for moment in reversed(steady):
        if moment.at_s <= steady[-1].at_s - WINDOW_S - _SLACK_S:
            break
        if window and window[-1].at_s - moment.at_s > _LONGEST_GAP_S:
            break
        window.append(moment)
    return window[::-1]


def is_whole(window: Sequence[Moment]) -> bool:
    """True if the window spans a minute."""
    return bool(window) and span_s(window) >= WINDOW_S - _SLACK_S


def span_s(window: Sequence[Moment]) -> float:
    """Seconds from the first moment to the last."""
    return window[-1].at_s - window[0].at_s if window else 0.0


def trend(window: Sequence[Moment], value: Value) -> Trend | None:
    """The trend of `value`; None unless every interval of the window has a value."""
    start, width = window[0].at_s, span_s(window) / INTERVALS
    bins: list[list[float]] = [[] for _ in range(INTERVALS)]
    for moment in window:
        found = value(moment)
        if found is not None:
            bins[min(INTERVALS - 1, int((moment.at_s - start) / width))].append(found)
    if not all(bins):
        return None
    return Trend(tuple(map(fmean, bins)), tuple(map(min, bins)), bins[-1][-1])


def arrivals(window: Sequence[Moment]) -> float | None:
    """Requests that arrived in the window; None if nothing counts them."""
    counted = _counted(window)
    return sum(num for num, _ in counted) if counted else None


def arrival_rate(window: Sequence[Moment]) -> float | None:
    """Requests that arrived per second; None if nothing counts them."""
    return per_second(_counted(window))


def _counted(window: Sequence[Moment]) -> list[tuple[float, float]]:
    """Arrivals and seconds between moments with one counter, the one that most of them have."""
    named = [(m.counted_by, m.at_s, m.requests) for m in window if m.requests is not None]
    if not named:
        return []
    usual = Counter(name for name, *_ in named).most_common(1)[0][0]
    return rises((at_s, total) for name, at_s, total in named if name == usual)


def has_changed(history: Sequence[Moment]) -> bool:
    """True if engines came, left or restarted so recently that it shortens the last minute."""
    recent = [m for m in history if m.at_s >= history[-1].at_s - WINDOW_S - SETTLING_S]
    return len(_since_last_change(recent)) < len(recent)


def lost_since(history: Sequence[Moment], name: str) -> Sequence[Moment]:
    """The latest moments in which an engine gave no fresh numbers."""
    start = len(history)
    while start and any(
        e.name == name and e.health not in ALIVE for e in history[start - 1].engines
    ):
        start -= 1
    return history[start:]


def _since_last_change(history: Sequence[Moment]) -> Sequence[Moment]:
    """The moments since engines last came, left or restarted, without the settling time."""
    start = 0
    for index in range(1, len(history)):
        if history[index].restarted or _counts(history[index]) != _counts(history[index - 1]):
            start = index
    if not start:
        return history
    settled_s = history[start].at_s + SETTLING_S
    return [one for one in history[start:] if one.at_s >= settled_s]


def _counts(moment: Moment) -> tuple[int, int, int]:
    return moment.num_prefill, moment.num_decode, moment.num_colocated
