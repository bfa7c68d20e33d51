"""How sure is a figure of a few hundred requests? Resampling, pure: randomness comes as a seed."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

RESAMPLES = 400
LEVEL = 0.95

Statistic = Callable[[Sequence[int]], float | None]


@dataclass(frozen=True)
class Interval:
    """A figure and where it lies with 95 % confidence."""

    value: float
    low: float
    high: float

    def __sub__(self, other: "Interval") -> float:
        return self.value - other.value


def interval(num: int, statistic: Statistic, *, seed: int = 0) -> Interval | None:
    """The interval of a statistic over `num` observations in time order.

    statistic: of a list of indices, repeats allowed. None: it has no value.
    Source: circular block bootstrap (Politis and Romano, 1992): requests that follow one another
    share queues, so blocks of sqrt(num) are drawn, not single ones.
    """
    value = statistic(range(num)) if num else None
    if value is None:
        return None
    drawn = [v for v in resampled(num, statistic, seed=seed) if v is not None]
    if not drawn:
        return Interval(value, value, value)
    drawn.sort()
    return Interval(value, _quantile(drawn, (1 - LEVEL) / 2), _quantile(drawn, (1 + LEVEL) / 2))


def difference(
    first: tuple[int, Statistic], second: tuple[int, Statistic], *, seed: int = 0
) -> Interval | None:
    """The interval of first − second, two statistics of independent observations."""
    values = [statistic(range(num)) if num else None for num, statistic in (first, second)]
    if values[0] is None or values[1] is None:
        return None
    pairs = zip(resampled(*first, seed=seed), resampled(*second, seed=seed + 1), strict=True)
    drawn = sorted(a - b for a, b in pairs if a is not None and b is not None)
    value = values[0] - values[1]
    if not drawn:
        return Interval(value, value, value)
    return Interval(value, _quantile(drawn, (1 - LEVEL) / 2), _quantile(drawn, (1 + LEVEL) / 2))


def resampled(num: int, statistic: Statistic, *, seed: int = 0) -> list[float | None]:
    """The statistic of RESAMPLES resamplings of `num` observations."""
    dice = random.Random(seed)
    length = max(1, round(num**0.5))
    blocks = -(-num // length)
    found = []
    for _ in range(RESAMPLES):
        starts = [dice.randrange(num) for _ in range(blocks)]
        indices = [(start + k) % num for start in starts for k in range(length)]
        found.append(statistic(indices[:num]))
    return found


def _quantile(ordered: Sequence[float], share: float) -> float:
    at = share * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)
