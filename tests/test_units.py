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


def test_a_bare_duration_counts_seconds_and_m_is_a_minute() -> None:
    assert units.parse_duration_s("40", flag="--window") == 40.0
    assert units.parse_duration_s("1m", flag="--window") == 60.0


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("8000", 8000.0),
        ("8k", 8000.0),
        ("30K", 30_000.0),
        ("1M", 1e6),
        ("1.5M", 1.5e6),
        ("12,000", 12_000.0),
        ("0.5k", 500.0),
    ],
)
def test_tokens_are_read_with_k_and_m(text: str, tokens: float) -> None:
    assert units.parse_tokens(text, flag="--isl") == tokens


@pytest.mark.parametrize(
    ("text", "rate_rps"),
    [
        ("12", 12.0),
        ("12/s", 12.0),
        ("12 req/s", 12.0),
        ("12rps", 12.0),
        ("300/min", 5.0),
        ("7200 requests/h", 2.0),
        ("1e-3", 0.001),
    ],
)
def test_rates_are_read_per_second_minute_and_hour(text: str, rate_rps: float) -> None:
    assert units.parse_rate_rps(text, flag="--rate") == pytest.approx(rate_rps)


@pytest.mark.parametrize(
    ("text", "share"), [("0.9", 0.9), ("90%", 0.9), ("90 %", 0.9), ("0", 0.0), ("1", 1.0)]
)
def test_shares_are_read_as_fractions_and_per_cent(text: str, share: float) -> None:
    assert units.parse_share(text, flag="--prefix-hit") == pytest.approx(share)


@pytest.mark.parametrize("text", ["", "x", "8kk", "8 GiB", "-5", "0", "inf", "nan", "5/week"])
def test_numbers_that_cannot_be_name_their_flag(text: str) -> None:
    for parse in (units.parse_tokens, units.parse_rate_rps):
        with pytest.raises(InvalidInput, match="--flag") as caught:
            parse(text, flag="--flag")
        assert caught.value.hint.startswith("--flag")


def test_a_share_given_in_per_cent_without_the_sign_is_hinted_with_it() -> None:
    with pytest.raises(InvalidInput) as caught:
        units.parse_share("95", flag="--attainment")
    assert caught.value.hint == "--attainment 95%"


@pytest.mark.parametrize("text", ["90", "1.5", "-0.1", "101%", "nan", "", "half"])
def test_a_share_beyond_its_range_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="--prefix-hit is a share"):
        units.parse_share(text, flag="--prefix-hit")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (12.34, "12.3 s"),
        (3599, "59 min 59 s"),
        (60, "1 min"),
        (7500, "2 h 5 min"),
        (273_600, "3 d 4 h"),
        (None, "unknown"),
    ],
)
def test_spans_have_two_parts(seconds: float | None, text: str) -> None:
    assert units.format_span(seconds) == text


@pytest.mark.parametrize("text", ["", "fast", "0s", "-1s", "1e999s", "nan", "3 parsecs", "1s2"])
def test_a_bad_duration_names_its_flag_and_a_way_out(text: str) -> None:
    with pytest.raises(InvalidInput, match="--ttft") as caught:
        units.parse_duration_s(text, flag="--ttft")
    assert caught.value.hint.startswith("--ttft")


@pytest.mark.parametrize("text", ["0", "-1", "0s", "-5ms", "nan"])
def test_the_way_out_of_a_bad_service_level_is_accepted(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        units.parse_latency_s(text, flag="--ttft")
    assert units.parse_latency_s(caught.value.hint.split()[1].rstrip(","), flag="--ttft")


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
    assert units.format_rate(0.5364) == "0.536"
    assert units.format_rate(0.001) == "0.001"
    assert units.format_rate(0.0) == "0"
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


def test_a_number_has_its_noun_in_the_right_form() -> None:
    said = [units.format_number_of(count, "request", "wait") for count in (0, 1, 12_031)]
    assert said == ["0 requests wait", "1 request waits", "12,031 requests wait"]
    assert units.format_number_of(1, "process", "are") == "1 process is"
    assert units.format_number_of(2, "process") == "2 processes"


def test_a_difference_of_shares_is_in_points() -> None:
    assert [units.format_points(d) for d in (0.49, 0.01, 0.004, -0.03)] == [
        *("49 points", "1 point", "0.4 points", "-3 points")
    ]
