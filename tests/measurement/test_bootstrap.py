"""Intervals by resampling: they cover, they shrink with more data, they know what follows what."""

import random
from collections.abc import Sequence
from statistics import mean

from pdctl.measurement.bootstrap import Interval, difference, interval


def mean_of(values: Sequence[float]):  # type: ignore[no-untyped-def]
    return len(values), lambda indices: mean(values[i] for i in indices)


def normal(num: int, seed: int, centre: float = 0.0) -> list[float]:
    dice = random.Random(seed)
    return [dice.gauss(centre, 1) for _ in range(num)]


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    found = [interval(*mean_of(normal(100, seed))) for seed in range(60)]
    covered = sum(one is not None and one.low <= 0 <= one.high for one in found)
    assert 49 <= covered <= 60


def test_more_observations_make_the_interval_narrower() -> None:
    few, many = interval(*mean_of(normal(40, 1))), interval(*mean_of(normal(1600, 1)))
    assert few is not None
    assert many is not None
    assert many.high - many.low < (few.high - few.low) / 3


def test_observations_that_follow_one_another_tell_less_than_independent_ones() -> None:
    alone = normal(400, 3)
    smooth = [mean(alone[max(0, i - 12) : i + 1]) for i in range(400)]
    shuffled = smooth[:]
    random.Random(0).shuffle(shuffled)
    ordered, mixed = interval(*mean_of(smooth)), interval(*mean_of(shuffled))
    assert ordered is not None
    assert mixed is not None
    assert ordered.high - ordered.low > 1.8 * (mixed.high - mixed.low)


def test_a_difference_that_is_there_is_found_and_one_that_is_not_is_not() -> None:
    there = difference(mean_of(normal(200, 1, 1.0)), mean_of(normal(200, 2)))
    not_there = difference(mean_of(normal(200, 1)), mean_of(normal(200, 2)))
    assert there is not None
    assert there.low > 0
    assert not_there is not None
    assert not_there.low < 0 < not_there.high


def test_the_same_seed_gives_the_same_interval() -> None:
    assert interval(*mean_of(normal(50, 1)), seed=4) == interval(*mean_of(normal(50, 1)), seed=4)


def test_nothing_observed_has_no_interval_and_one_value_only_itself() -> None:
    assert interval(0, lambda indices: 1.0) is None
    assert interval(1, lambda indices: 2.5) == Interval(2.5, 2.5, 2.5)
    assert interval(5, lambda indices: None) is None
