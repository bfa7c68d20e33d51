"""Fits of identified coefficients, and steps that contradict a fit."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import cycle

import pytest

from pdctl.perf_model.fitting.fit import fit, predicted_s, with_factors
from pdctl.perf_model.fitting.identify import (
    disagreements,
    fit_identified,
    spreads,
    typical,
)
from pdctl.perf_model.records import Measurement
from tests.perf_model.measured import TRUE_FACTORS, measured, plan, roofline, truth

TIMES = roofline("llama-3.1-8b")


def test_what_is_not_identified_keeps_its_roofline_and_is_named() -> None:
    steps = measured(truth(TIMES), [m for m in plan() if m.kind == "decode" and m.batch <= 2])
    found, unidentified = fit_identified(steps, TIMES)
    assert found is not None
    assert "decode_request_s" not in found.factors
    assert set(unidentified) <= {"decode_base_s", "decode_context_s"}


def test_a_full_set_is_fitted_like_by_fit() -> None:
    steps = measured(truth(TIMES), plan())
    found, unidentified = fit_identified(steps, TIMES)
    assert found is not None
    assert unidentified == ()
    for name in ("prefill_token_s", "decode_base_s", "transfer_token_s"):
        assert found.factors[name] == pytest.approx(TRUE_FACTORS[name], rel=0.01)


def test_one_measurement_identifies_nothing() -> None:
    found, unidentified = fit_identified([Measurement("prefill", 0.1, new_tokens=512)], TIMES)
    assert found is None
    assert "prefill_token_s" in unidentified


def test_repeats_are_averaged_over_steps_that_differ_by_a_few_tokens_of_context() -> None:
    steps = [
        Measurement("decode", 0.010, batch=4, context=4 * 1041),
        Measurement("decode", 0.012, batch=4, context=4 * 1043),
        Measurement("prefill", 0.1, new_tokens=512),
    ]
    found = {m.kind: m for m in typical(steps)}
    assert len(found) == 2
    assert found["decode"].seconds == pytest.approx(0.011)
    assert found["decode"].context == 4 * 1042


def test_few_points_are_not_taken_for_exact() -> None:
    steps = measured(TIMES, plan()[:4])
    assert spreads(steps, TIMES)["prefill"] > 0.02
    assert spreads(measured(TIMES, plan(40)), TIMES)["prefill"] < 0.01


def test_a_step_that_does_not_fit_is_named_with_its_residual() -> None:
    steps = measured(truth(TIMES), plan(repeats=3), noise=0.01)
    odd = next(m for m in steps if (m.batch, m.context) == (8, 8 * 256))
    changed = [replace(m, seconds=m.seconds * 2) if _is_same(m, odd) else m for m in steps]
    found = disagreements(changed, fit(changed, TIMES))
    assert [(d.step.batch, round(d.step.context, -3)) for d in found] == [(8, 2000)]
    assert found[0].residual == pytest.approx(-0.5, abs=0.1)


def test_a_slip_in_one_of_many_repeats_is_no_disagreement() -> None:
    steps = measured(truth(TIMES), plan(repeats=4), noise=0.01)
    slipped = [replace(m, seconds=m.seconds * 4) if i == 7 else m for i, m in enumerate(steps)]
    assert disagreements(slipped, fit(slipped, TIMES)) == ()


def test_good_measurements_have_no_disagreement() -> None:
    steps = measured(truth(TIMES), plan(repeats=4), noise=0.03)
    assert disagreements(steps, fit(steps, TIMES)) == ()


def test_when_everything_scatters_the_worst_five_are_named() -> None:
    steps = measured(truth(TIMES), plan(repeats=3), noise=0.4)
    steps = [replace(m, seconds=abs(m.seconds)) for m in steps]
    assert len(disagreements(steps, fit(steps, TIMES))) == 5


def test_one_misread_step_of_an_engine_at_work_does_not_refuse_the_rest() -> None:
    steps = measured(truth(TIMES), plan(repeats=3), noise=0.01)
    changed = [replace(m, seconds=m.seconds * 2) if i == 5 else m for i, m in enumerate(steps)]
    assert disagreements(changed, fit(changed, TIMES), are_probes=False) == ()


def _is_same(a: Measurement, b: Measurement) -> bool:
    return replace(a, seconds=0.0) == replace(b, seconds=0.0)


def check_fit(factors: Mapping[str, float], noise: float) -> None:
    """Check that a fit finds every step of a machine with these factors to 10 %."""
    true = with_factors(TIMES, factors)
    found, _ = fit_identified(measured(true, plan(repeats=3), noise=noise), TIMES)
    assert found is not None
    fitted = with_factors(TIMES, found.factors)
    for step in plan():
        assert predicted_s(fitted, step) == pytest.approx(predicted_s(true, step), rel=0.10)


def test_a_machine_forty_times_slower_than_its_roofline_is_fitted_all_the_same() -> None:
    check_fit({n: 40 * f for n, f in TRUE_FACTORS.items()}, noise=0.05)


@pytest.mark.parametrize("slope", [0.15, 1.0])
def test_a_base_that_is_slower_where_tokens_are_not_is_fitted_too(slope: float) -> None:
    slow = {"prefill_base_s": 30.0, "decode_base_s": 20.0}
    check_fit(dict.fromkeys(TRUE_FACTORS, slope) | slow, noise=0.03)


def test_a_step_whose_own_repeats_cover_the_fit_does_not_disagree() -> None:
    steps = measured(truth(TIMES), plan(repeats=8), noise=0.01)
    one = next(m for m in steps if m.kind == "prefill" and m.new_tokens == 512)
    factors = cycle([0.8, 1.2, 1.7, 2.4])
    scattered = [
        replace(m, seconds=m.seconds * next(factors)) if _is_same(m, one) else m for m in steps
    ]
    steady = [replace(m, seconds=m.seconds * 1.5) if _is_same(m, one) else m for m in steps]
    assert disagreements(scattered, fit(scattered, TIMES)) == ()
    assert [replace(one, seconds=0.0)] == [
        d.step for d in disagreements(steady, fit(steady, TIMES))
    ]
