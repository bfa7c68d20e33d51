"""An SLO as people type it."""

import pytest

from pdctl.errors import InvalidInput
from pdctl.workload.records import Slo
from pdctl.workload.slo import parse_slo


def test_a_bare_number_is_seconds_for_ttft_and_milliseconds_for_tpot() -> None:
    assert parse_slo("1", "30") == parse_slo("1000ms", "0.03s") == Slo(1.0, 0.03, 0.9)


def test_no_slo_is_not_given() -> None:
    assert not parse_slo(None, None).is_given


@pytest.mark.parametrize(
    ("ttft", "tpot", "attainment", "flag"),
    [
        ("-1s", None, 0.9, "--ttft"),
        ("soon", None, 0.9, "--ttft"),
        (None, "0", 0.9, "--tpot"),
        (None, None, 0.0, "--attainment"),
        (None, None, 1.5, "--attainment"),
        (None, None, float("nan"), "--attainment"),
    ],
)
def test_a_level_that_cannot_be_is_refused_by_its_flag(
    ttft: str | None, tpot: str | None, attainment: float, flag: str
) -> None:
    with pytest.raises(InvalidInput, match=flag):
        parse_slo(ttft, tpot, attainment)
