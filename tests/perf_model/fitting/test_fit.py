"""Fits recover known coefficients, resist outliers, and refuse unidentified coefficients."""

from dataclasses import replace
from statistics import median

import pytest

from pdctl.errors import InvalidInput
from pdctl.perf_model.fitting.fit import fit, predicted_s
from pdctl.perf_model.fitting.least_squares import independence, nnls, solve
from pdctl.perf_model.records import Fit, Measurement, StepTimes
from tests.perf_model.measured import TRUE_FACTORS, measured, plan, roofline, truth


def fitted(times: StepTimes, found: Fit) -> StepTimes:
    return replace(times, **{k: getattr(times, k) * f for k, f in found.factors.items()})


def worst(times: StepTimes, reference: StepTimes, steps: list[Measurement]) -> float:
    return max(abs(predicted_s(times, m) / predicted_s(reference, m) - 1) for m in steps)


@pytest.mark.parametrize("name", ["llama-3.1-8b", "qwen3-30b-a3b"])
def test_exact_measurements_give_their_coefficients_back(name: str) -> None:
    start = roofline(name)
    found = fit(measured(truth(start), plan()), start)
    for coefficient, factor in found.factors.items():
        assert factor == pytest.approx(TRUE_FACTORS.get(coefficient, 1.0), rel=1e-3), coefficient
    assert found.left_out_error < 1e-4


@pytest.mark.parametrize("name", ["llama-3.1-8b", "qwen3-30b-a3b"])
@pytest.mark.parametrize("seed", [1, 2])
def test_three_percent_of_noise_leaves_two_percent_of_error_over_the_range(
    name: str, seed: int
) -> None:
    start = roofline(name)
    steps = measured(truth(start), plan(repeats=8), noise=0.03, seed=seed)
    found = fit(steps, start)
    assert worst(fitted(start, found), truth(start), plan()) < 0.02
    assert found.left_out_error == pytest.approx(0.02, rel=0.3)  # median of |N(0, 3 %)|


def test_a_tenth_of_wild_outliers_does_not_pull_the_fit() -> None:
    start = roofline("llama-3.1-8b")
    steps = measured(truth(start), plan(repeats=8), noise=0.01)
    wild = [replace(m, seconds=m.seconds * (4 if i % 10 == 3 else 1)) for i, m in enumerate(steps)]
    assert worst(fitted(start, fit(wild, start)), truth(start), plan()) < 0.05


def test_the_left_out_error_is_what_refitting_without_each_gives() -> None:
    start = roofline("llama-3.1-8b")
    steps = measured(truth(start), [m for m in plan() if m.kind == "prefill"], 0.03) * 1
    names = ("prefill_base_s", "prefill_token_s", "prefill_pair_s")
    errors = []
    for i, left_out in enumerate(steps):
        rest = fit(steps[:i] + steps[i + 1 :], start, coefficients=names)
        errors.append(abs(predicted_s(fitted(start, rest), left_out) / left_out.seconds - 1))
    found = fit(steps, start, coefficients=names)
    assert found.left_out_error == pytest.approx(median(errors), rel=0.5)


def test_residuals_are_signed_shares_in_the_order_given() -> None:
    start = roofline("llama-3.1-8b")
    steps = measured(truth(start), plan())
    off = [replace(steps[0], seconds=steps[0].seconds * 2), *steps[1:]]
    found = fit(off, start)
    assert found.residuals[0] == pytest.approx(-0.5, abs=0.05)
    assert len(found.residuals) == len(off)


@pytest.mark.parametrize(
    ("steps", "coefficient"),
    [
        ([Measurement("prefill", 0.02, new_tokens=n) for n in (64, 96, 128, 160)], "prefill_"),
        (
            [Measurement("prefill", 0.05, new_tokens=1024) for _ in range(9)],
            "prefill_",
        ),
        (
            [Measurement("decode", 0.006, batch=1, context=n) for n in (16, 32, 48, 64)],
            "decode_context_s",
        ),
        ([Measurement("transfer", 0.01, new_tokens=1000) for _ in range(5)], "transfer_"),
    ],
)
def test_measurements_that_do_not_tell_a_coefficient_are_refused_naming_it(
    steps: list[Measurement], coefficient: str
) -> None:
    with pytest.raises(InvalidInput, match=f"do not identify {coefficient}"):
        fit(steps, roofline("llama-3.1-8b"))


def test_fewer_measurements_than_coefficients_are_refused() -> None:
    steps = [Measurement("prefill", 0.05, new_tokens=n) for n in (256, 8192)]
    with pytest.raises(InvalidInput, match="2 measurements do not identify"):
        fit(steps, roofline("llama-3.1-8b"))


def test_a_coefficient_asked_for_by_name_is_refused_when_it_cannot_be_told() -> None:
    start = roofline("llama-3.1-8b")
    few = [m for m in plan() if m.kind == "decode" and m.batch <= 8]
    with pytest.raises(InvalidInput, match="do not identify decode_compute_s"):
        fit(
            measured(truth(start), few),
            start,
            coefficients=("decode_base_s", "decode_context_s", "decode_compute_s"),
        )


def test_no_measurements_and_impossible_times_are_refused() -> None:
    with pytest.raises(InvalidInput, match="no measurements"):
        fit([], roofline("llama-3.1-8b"))
    with pytest.raises(InvalidInput, match="nan s is not a time"):
        fit([Measurement("prefill", float("nan"), new_tokens=5)], roofline("llama-3.1-8b"))


def test_mixed_steps_are_fitted_with_the_others() -> None:
    start = roofline("llama-3.1-8b")
    mixed = [
        Measurement("mixed", 1.0, batch=b, new_tokens=n, context=b * 2048)
        for b in (8, 64)
        for n in (512, 4096)
    ]
    found = fit(measured(truth(start), plan() + mixed), start)
    assert max(map(abs, found.residuals)) < 1e-3


def test_nnls_finds_the_best_non_negative_answer() -> None:
    rows = [[1.0, 1.0], [1.0, 2.0], [1.0, 3.0]]
    assert nnls(rows, [3.0, 5.0, 7.0], [1.0] * 3) == pytest.approx([1.0, 2.0])
    # unbounded best is (4, -1); on the border it is the mean
    assert nnls(rows, [3.0, 2.0, 1.0], [1.0] * 3) == pytest.approx([2.0, 0.0])
    assert nnls(rows, [-1.0, -1.0, -1.0], [1.0] * 3) == [0.0, 0.0]


def test_independence_is_what_other_columns_cannot_imitate() -> None:
    rows = [[1.0, 2.0, 0.0, 0.0], [1.0, 2.0, 1.0, 0.0], [1.0, 2.0, 0.0, 0.0]]
    shares = independence(rows, [1.0] * 3)
    assert shares[0] == pytest.approx(0.0, abs=1e-6)
    assert shares[2] == pytest.approx(2 / 3, rel=1e-6)
    assert shares[3] == 0.0


def test_solve_pivots() -> None:
    assert solve([[0.0, 1.0], [2.0, 0.0]], [3.0, 8.0]) == [4.0, 3.0]


def test_the_gap_a_prefill_tears_tells_what_an_idle_engine_adds_to_it() -> None:
    start = roofline("llama-3.1-8b")
    true = replace(truth(start), prefill_start_s=2 * start.prefill_start_s)
    alone = [m for m in plan() if m.kind == "prefill"]
    gaps = [replace(m, kind="stall") for m in alone if not m.cached_tokens]
    found = fit(measured(true, alone + gaps), start)
    assert found.factors["prefill_start_s"] == pytest.approx(2.0, rel=1e-3)
    assert "prefill_start_s" not in fit(measured(true, alone), start).factors


def test_what_the_engine_counted_has_no_way_in_and_out() -> None:
    times = roofline("llama-3.1-8b")
    asked = Measurement("prefill", 1.0, new_tokens=512)
    gap = predicted_s(times, asked) - predicted_s(times, replace(asked, counted=True))
    assert gap == pytest.approx(times.request_s)


def test_what_a_request_takes_beside_its_step_is_taken_as_measured() -> None:
    start = roofline("llama-3.1-8b")
    true = replace(truth(start), request_s=3 * start.request_s)
    alone = [m for m in plan() if m.kind == "prefill"]
    found = fit(measured(true, [*alone, Measurement("request", 1.0)]), start)
    assert found.factors["request_s"] == pytest.approx(3.0, rel=1e-3)
