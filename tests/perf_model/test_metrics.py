"""Percentiles, attainment and goodput."""

import pytest

from pdctl.perf_model.metrics import (
    attainment,
    goodput_rps,
    is_good,
    percentiles,
)
from pdctl.perf_model.records import Outcome
from pdctl.workload.records import Slo

OUTCOME = Outcome(
    ttft_s=[0.1, 0.5, None, 0.2],
    tpot_s=[0.01, 0.01, None, 0.05],
    e2e_s=[1.0, 1.0, None, 1.0],
    span_s=4.0,
    output_tokens=100,
    kv_usage_peak={},
    num_rejected=1,
    arrival_s=[0.0, 1.0, 1.5, 2.5],
)


def test_percentiles_interpolate_as_numpy_does() -> None:
    found = percentiles([1.0, 2.0, None, 3.0, 4.0])
    assert found is not None
    assert (found.mean, found.p50, found.p90, found.p99) == pytest.approx((2.5, 2.5, 3.7, 3.97))


def test_percentiles_of_nothing_known_are_unknown() -> None:
    assert percentiles([None, None]) is None
    assert percentiles([]) is None


@pytest.mark.parametrize(
    ("slo", "share"),
    [
        (Slo(), 0.75),
        (Slo(ttft_s=0.3), 0.5),
        (Slo(tpot_s=0.02), 0.5),
        (Slo(ttft_s=0.3, tpot_s=0.02), 0.25),
    ],
)
def test_a_request_is_good_when_it_meets_all_that_is_given(slo: Slo, share: float) -> None:
    assert attainment(OUTCOME, slo) == share
    assert goodput_rps(OUTCOME, slo) == share * 4 / 4.0


@pytest.mark.parametrize("tpot_s", [0.0, None])
def test_an_answer_of_one_token_meets_any_tpot(tpot_s: float | None) -> None:
    assert is_good(0.2, tpot_s, Slo(ttft_s=0.3, tpot_s=1e-9))
    assert not is_good(0.4, tpot_s, Slo(ttft_s=0.3, tpot_s=1e-9))
    assert not is_good(None, tpot_s, Slo(tpot_s=1.0))
