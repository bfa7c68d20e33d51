"""Screens of `calibrate` and `measure`."""

from dataclasses import replace
from pathlib import Path

from rich.console import Console, RenderableType

from pdctl.inspection.llm import read_llm
from pdctl.measurement.arms import ConfidenceInterval, Quantity, compare_arms
from pdctl.measurement.calibration.adaptive import CalibrationProgress
from pdctl.measurement.calibration.result import Calibration
from pdctl.measurement.compare import Compared
from pdctl.perf_model.fitting.fit import fit
from pdctl.perf_model.fitting.identify import Disagreement
from pdctl.perf_model.fitting.profiles import calibrated_profile
from pdctl.perf_model.records import Measurement, Parallelism
from pdctl.tables.measure import (
    calibration_progress,
    calibration_view,
    measure_view,
    step_label,
    where_lines,
)
from tests.measurement.test_arms import SLO, played, results
from tests.perf_model.measured import measured, plan, roofline, truth


def shown(view: RenderableType, width: int = 80) -> str:
    console = Console(width=width, no_color=True, force_terminal=False)
    with console.capture() as captured:
        console.print(view)
    return captured.get()


def calibration(**changes: object) -> Calibration:
    times = roofline("llama-3.1-8b")
    steps = measured(truth(times), plan())
    profile = calibrated_profile(
        steps,
        fit(steps, times),
        times,
        read_llm("llama-3.1-8b"),
        gpu="H200",
        parallelism=Parallelism(),
        engine="sglang 0.5.23",
        attention_backend="fa3",
        date="2026-11-23",
        command="pdctl calibrate",
    )
    found = Calibration(profile, Path("/p/h200.json"), 61, 48.2, 0.05, 0.006, True, (), ())
    return replace(found, **changes)  # type: ignore[arg-type]


def test_a_calibration_shows_its_results_accuracy_and_file() -> None:
    text = shown(calibration_view(calibration()))
    assert "Calibrated: llama-3.1-8b · tp 1 · H200 · sglang 0.5.23" in text
    assert "61 measurements in 48.2 s; step times are accurate to ±5 %." in text
    assert "prefill, 1,000 tokens" in text
    assert "0.80 ×" in text
    assert max(map(len, text.splitlines())) <= 80
    assert where_lines(calibration())[0] == "profile  /p/h200.json"


def test_a_calibration_that_contradicts_itself_names_the_steps_and_writes_nothing() -> None:
    step = Measurement("prefill", 0.0, new_tokens=512, cached_tokens=8192)
    found = calibration(file=None, disagreements=(Disagreement(step, -0.4),))
    text = shown(calibration_view(found))
    assert "no profile was written" in text
    assert "prefill 512 after 8,192" in text
    assert "took 1.67 × the fitted time" in text
    assert where_lines(found) == []


def test_unidentified_coefficients_and_unmeasured_steps_are_listed() -> None:
    step = Measurement("decode", 0.0, batch=64, context=64 * 2048)
    found = calibration(unidentified=("prefill_pair_s",), given_up=(step,), is_complete=False)
    text = " ".join(shown(calibration_view(found)).split())
    assert "do not identify them: prefill, attention over 8,000 tokens." in text
    assert "1 step could not be measured: decode 64 × 2,048." in text
    assert "a longer --budget improves it" in text


def test_steps_have_readable_labels() -> None:
    assert step_label(Measurement("prefill", 0.0, batch=4, new_tokens=256)) == "prefill 4 × 256"
    assert step_label(Measurement("transfer", 0.0, new_tokens=4096)) == "KV transfer of 4,096"
    assert (
        step_label(Measurement("mixed", 0.0, batch=8, new_tokens=512))
        == "prefill 512 beside 8 decoding"
    )
    now = CalibrationProgress(
        Measurement("decode", 0.0, batch=2, context=2048), 12, 0.013, 31.0, 240.0
    )
    assert (
        calibration_progress(now)
        == "measuring decode 2 × 1,024 · 12 measured · ±1.3 % · 31 s of 240 s"
    )


def test_a_measurement_shows_both_arms_the_winner_and_the_prediction() -> None:
    loads = [played("colocated", bad_every=3), played("pd")]
    arms = results(loads)
    figure = Compared("ttft p50", "s", 0.45, 0.5)
    arms = [replace(arm, figures=(figure,)) for arm in arms]
    text = shown(measure_view(arms, compare_arms(arms, loads, SLO), SLO), 100)
    assert text.startswith("PD 1P1D wins by ")
    assert "colocated 2C" in text
    assert "450 ms → 500 ms  -10 %" in text
    assert "meet the SLO" in text


def test_an_interval_has_its_unit_once() -> None:
    loads = [played("pd")]
    arm = results(loads)[1]
    one = ConfidenceInterval(0.124, 0.122, 0.127)
    arm = replace(arm, ttft_s=Quantity(one, one, ConfidenceInterval(0.9, 0.8, 1.2)))
    text = shown(measure_view([arm], compare_arms([arm], loads, SLO), SLO))
    assert "124 (122–127) ms" in text
    assert "900 ms (800 ms–1.2 s)" in text


def test_a_failed_arm_is_shown_with_its_reason_beside_the_other() -> None:
    loads = [played("pd")]
    colocated, pd = results(loads)
    colocated = replace(colocated, problem="colocated-0 ended (exit code -9)")
    text = shown(measure_view([colocated, pd], compare_arms([colocated, pd], loads, SLO), SLO))
    assert "Only 1P1D was measured" in text
    assert "2C: colocated-0 ended (exit code -9)" in text
