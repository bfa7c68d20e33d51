"""Numbers with units, both ways."""

import math

import pytest

from pdctl import units
from pdctl.errors import InvalidInput


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30ms", 0.03),
        ("1s", 1.0),
        ("1.5 s", 1.5),
        ("5min", 300.0),
        ("2h", 7200.0),
        ("250us", 25e-5),
    ],
)
def test_a_duration_is_read_in_the_unit_it_names(text: str, seconds: float) -> None:
    assert units.parse_duration_s(text, flag="--ttft") == pytest.approx(seconds)


def test_a_bare_duration_counts_in_the_flags_own_unit() -> None:
    assert units.parse_duration_s("40", flag="--tpot", bare_unit="ms") == pytest.approx(0.04)


@pytest.mark.parametrize("text", ["", "fast", "0s", "-1s", "1e999s", "nan", "3 parsecs", "1s2"])
def test_a_bad_duration_names_its_flag_and_a_way_out(text: str) -> None:
    with pytest.raises(InvalidInput, match="--ttft") as caught:
        units.parse_duration_s(text, flag="--ttft")
    assert caught.value.hint.startswith("--ttft")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0000004, "0 µs"),
        (0.00034, "340 µs"),
        (0.0234, "23.4 ms"),
        (0.31, "310 ms"),
        (0.9999, "1 s"),
        (1.2, "1.2 s"),
        (47.2, "47.2 s"),
        (7200, "120 min"),
        (0, "0 s"),
        (None, "unknown"),
        (math.inf, "unknown"),
        (math.nan, "unknown"),
    ],
)
def test_seconds_are_shown_in_the_unit_a_person_would_choose(
    seconds: float | None, text: str
) -> None:
    assert units.format_seconds(seconds) == text


def test_bytes_counts_rates_and_shares_read_as_on_the_screens() -> None:
    assert units.format_bytes(141 * units.GIB) == "141 GiB"
    assert units.format_bytes(512) == "512 B"
    assert units.format_count(12035) == "12,035"
    assert units.format_count(1_234_567) == "1.23M"
    assert units.format_count(2.61) == "2.61"
    assert units.format_rate(58_100) == "58.1k"
    assert units.format_rate(940.4) == "940"
    assert units.format_share(0.314) == "31 %"
    assert [units.format_off(off) for off in (0.044, -0.12, -0.001)] == ["+4 %", "-12 %", "0 %"]


@pytest.mark.parametrize(
    "show",
    [units.format_bytes, units.format_count, units.format_rate, units.format_share],
)
def test_the_unknown_is_never_shown_as_a_number(show: object) -> None:
    assert callable(show)
    assert show(None) == units.UNKNOWN
    assert show(math.inf) == units.UNKNOWN
