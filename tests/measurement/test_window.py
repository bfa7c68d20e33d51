"""Which requests of a load count."""

import pytest

from pdctl.measurement.window import window


def test_the_first_tenth_and_the_last_twentieth_do_not_count() -> None:
    assert window([10.0, 20.0, 30.0, 60.0, 110.0]) == pytest.approx((20.0, 105.0))


def test_two_bursts_with_nobody_between_them_count_whole() -> None:
    assert window([0.0, 0.0, 10.0, 10.0]) == (0.0, 10.0)


def test_nothing_sent_has_no_window() -> None:
    assert window([]) == (0.0, 0.0)
