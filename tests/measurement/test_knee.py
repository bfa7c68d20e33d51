"""The search for the rate an arm sustains."""

import pytest

from pdctl.measurement.knee import MAX_LOADS, knee_rps, next_rate


def search(true_knee: float, start: float) -> list[tuple[float, bool]]:
    tried: list[tuple[float, bool]] = []
    while (rate := next_rate(tried, start)) is not None:
        tried.append((rate, rate <= true_knee))
    return tried


@pytest.mark.parametrize("true_knee", [1.0, 2.9, 3.0, 5.5, 9.0])
def test_the_knee_is_bracketed_within_a_handful_of_loads(true_knee: float) -> None:
    tried = search(true_knee, 3.0)
    found = knee_rps(tried)
    assert len(tried) <= MAX_LOADS
    assert found is not None
    assert true_knee / 1.3 <= found <= true_knee


def test_it_begins_with_the_rate_asked_for() -> None:
    assert next_rate([], 3.0) == 3.0


def test_an_arm_that_never_holds_has_no_knee() -> None:
    tried = search(0.0, 3.0)
    assert len(tried) == MAX_LOADS
    assert knee_rps(tried) is None


def test_a_rate_that_broke_below_one_that_held_is_not_the_upper_end() -> None:
    assert next_rate([(2.0, False), (3.0, True)], 2.0) == pytest.approx(4.8)
