"""pdctl's own metrics: counting of SLOs across pages and restarts."""

import math

import pytest

from pdctl.status.exporter import SloCount
from pdctl.status.rates import num_above
from pdctl.status.records import Histogram


def histogram(*counts: float) -> Histogram:
    """Observations at or below 1 s, 2 s and any time."""
    return tuple(zip((1.0, 2.0, math.inf), counts, strict=True))


@pytest.mark.parametrize(
    ("limit_s", "above"),
    [(0.5, 9.0), (1.0, 8.0), (1.5, 6.0), (2.0, 4.0), (5.0, 0.0)],
)
def test_observations_above_a_limit_are_interpolated_inside_a_bucket(
    limit_s: float, above: float
) -> None:
    assert num_above(histogram(2, 6, 10), limit_s) == above


def test_only_what_came_after_the_first_page_counts() -> None:
    slo = SloCount(2.0)
    slo.add("http://d", histogram(10, 10, 20))
    assert (slo.observed, slo.budget_left) == (0.0, 1.0)
    slo.add("http://d", histogram(29, 29, 40))
    assert (slo.observed, slo.missed) == (20.0, 1.0)
    assert slo.budget_left == pytest.approx(0.5)


def test_a_restarted_engine_counts_from_its_start_and_nothing_is_lost() -> None:
    slo = SloCount(2.0)
    slo.add("http://d", histogram(10, 10, 10))
    slo.add("http://d", histogram(3, 3, 4))
    assert (slo.observed, slo.missed) == (4.0, 1.0)


def test_an_engine_without_a_histogram_counts_nothing() -> None:
    slo = SloCount(2.0)
    slo.add("http://d", None)
    assert slo.observed == 0.0
