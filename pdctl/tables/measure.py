"""Screens of `measure`, `calibrate` and `rehearse`: who wins, and prediction beside measurement."""

from collections.abc import Callable, Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pdctl.measurement.arms import ArmComparison, ArmResult, ConfidenceInterval, Quantity
from pdctl.measurement.calibration.adaptive import CalibrationProgress
from pdctl.measurement.calibration.result import Calibration
from pdctl.measurement.compare import Compared, QueueCompared, Rehearsal
from pdctl.measurement.results import Forecast, LoadProgress
from pdctl.perf_model.fitting.identify import Disagreement
from pdctl.perf_model.fitting.profiles import WEIGHTS
from pdctl.perf_model.records import Measurement, Percentiles
from pdctl.units import (
    UNKNOWN,
    format_count,
    format_number_of,
    format_off,
    format_rate,
    format_seconds,
    format_share,
)
from pdctl.workload.records import Slo

# field of StepTimes -> label, and the number of units whose time is shown
COEFFICIENT_NAMES: dict[str, tuple[str, float]] = {
    "prefill_base_s": ("prefill, per step", 1),
    "prefill_token_s": ("prefill, 1,000 tokens", 1e3),
    "prefill_pair_s": ("prefill, attention over 8,000 tokens", 8000**2 / 2),
    "prefill_weight_s": ("prefill, reading the weights", 1),
    "prefill_cached_weight": ("prefill, cached pair relative to a new one", 1),
    "prefill_start_s": ("prefill, launch on the GPU", 1),
    "request_s": ("request, outside its steps", 1),
    "decode_base_s": ("decode, per step", 1),
    "decode_weight_s": ("decode, reading all experts", 1),
    "decode_request_s": ("decode, 100 requests", 1e2),
    "decode_context_s": ("decode, 100,000 tokens of context", 1e5),
    "decode_latency_s": ("decode, one request of 10,000 tokens", 1e4),
    "decode_compute_s": ("decode, matrix products for 100 requests", 1e2),
    "eager_s": ("step without CUDA graphs, at least", 1),
    "prefill_row_s": ("prefill, 1,000 rows", 1e3),
    "decode_split_s": ("decode, merging split sequences", 1),
    "transfer_base_s": ("KV transfer, per transfer", 1),
    "transfer_token_s": ("KV transfer, 1,000 tokens", 1e3),
}
SHOWN = ("ttft p50", "ttft p90", "tpot p50", "tpot p90", "output tokens", "attainment", "goodput")
LARGE_ERROR = 0.25  # show larger errors in yellow
WINNER_COLOURS = {"pd": "green", "colocated": "cyan", "too_close": "yellow", "neither": "red"}
_PROMPT = {
    "prefill": "prefill",
    "mixed": "prefill",
    "stall": "decodes delayed by a prefill of",
    "answer": "answer beside a decode, prompt of",
    "request": "request outside its steps,",
}


def calibration_view(found: Calibration) -> RenderableType:
    """Screen of `pdctl calibrate`."""
    parts: list[RenderableType] = [_headline(found), Text(), _coefficients(found)]
    if found.disagreements:
        parts += [Text(), Text("These steps contradict the fit:"), _points(found.disagreements)]
    parts += [Text(), *(Text(note, style="dim") for note in _calibration_notes(found))]
    return Group(*parts)


def _headline(found: Calibration) -> Text:
    profile = found.profile
    what = f"{profile.llm} · tp {profile.parallelism.tp} · {profile.gpu} · {profile.engine}"
    counted = f"{found.num_measurements} measurements in {format_seconds(found.elapsed_s)}"
    if found.file is None:
        text = Text(f"Not calibrated: {what}", style="bold red")
        text.append(f"\n{counted} contradict each other; no profile was written.", style="default")
        return text
    text = Text(f"Calibrated: {what}", style="bold green")
    text.append(f"\n{counted}; step times are accurate to ±{found.band * 100:.0f} %.")
    return text


def _coefficients(found: Calibration) -> Table:
    table = Table(box=None, padding=(0, 3, 0, 0), pad_edge=False, show_edge=False)
    for head, justify in (("", "left"), ("measured", "right"), ("vs. roofline", "right")):
        table.add_column(head, justify=justify)  # type: ignore[arg-type]
    for name, factor in found.profile.factors.items():
        label, unit = COEFFICIENT_NAMES.get(name, (name, 1))
        value = found.profile.coefficients[name] * unit
        shown = f"{value:.2f} ×" if name in WEIGHTS else format_seconds(value)
        table.add_row(label, shown, f"{factor:.2f} ×")
    return table


def _points(points: Sequence[Disagreement]) -> Table:
    table = Table(box=None, padding=(0, 3, 0, 0), pad_edge=False, show_header=False)
    for point in points[:10]:
        times = 1 / max(1e-3, 1 + point.residual)
        table.add_row(f"  {step_label(point.step)}", f"took {times:.2f} × the fitted time")
    return table


def _calibration_notes(found: Calibration) -> list[str]:
    notes = list(found.notes)
    if found.unidentified:
        kept = ", ".join(COEFFICIENT_NAMES.get(n, (n, 1))[0] for n in found.unidentified)
        notes.append(f"Kept at roofline values, as the measurements do not identify them: {kept}.")
    if found.given_up:
        some = "; ".join(step_label(m) for m in found.given_up[:3])
        notes.append(
            f"{format_number_of(len(found.given_up), 'step')} could not be measured: {some}."
        )
    if found.uncertainty is not None and not found.is_complete:
        notes.append(
            f"Time ran out with the least certain step known to ±{found.uncertainty * 100:.1f} %; "
            "a longer --budget improves it."
        )
    if found.request_s:
        notes.append(
            f"A small request spends {format_seconds(found.request_s)} outside its step "
            "(tokenizer, queues between processes)."
        )
    return notes


def where_lines(found: Calibration) -> list[str]:
    """The profile's file and the command that uses it, as lines that must not be wrapped."""
    if found.file is None:
        return []
    llm = found.profile.llm
    if found.is_simulated:
        return [
            f"pdctl plan {llm} --profile {found.file}",
            "plan does not use it by default, because the engines were simulated.",
        ]
    return [f"profile  {found.file}", f"next     pdctl plan {llm} uses it on this kind of GPU"]


def step_label(step: Measurement) -> str:
    """prefill 512 after 8,192 · decode 64 × 2,048."""
    if step.kind == "decode":
        return f"decode {step.batch} × {format_count(step.context // max(1, step.batch))}"
    if step.kind == "transfer":
        return f"KV transfer of {format_count(step.new_tokens)}"
    prompts = f"{step.batch} × " if step.batch > 1 and step.kind != "mixed" else ""
    after = f" after {format_count(step.cached_tokens)}" if step.cached_tokens else ""
    beside = f" beside {step.batch} decoding" if step.kind == "mixed" else ""
    return f"{_PROMPT[step.kind]} {prompts}{format_count(step.new_tokens)}{after}{beside}"


def calibration_progress(now: CalibrationProgress) -> str:
    """measuring decode 64 × 2,048 · 61 measured · ±1.2 % · 48 s of 240 s."""
    known = "" if now.uncertainty is None else f" · ±{now.uncertainty * 100:.1f} %"
    return (
        f"measuring {step_label(now.doing)} · {now.num_taken} measured{known} · "
        f"{now.elapsed_s:.0f} s of {now.budget_s:.0f} s"
    )


def rehearsal_view(rehearsal: Rehearsal) -> RenderableType:
    """Screen of `pdctl rehearse`: latencies, queues, and a closing sentence."""
    parts: list[RenderableType] = [Text(""), _figures(rehearsal.figures)]
    if rehearsal.queues:
        parts += [Text(""), _queues(rehearsal.queues)]
    return Group(*parts, Text(""), _closing(rehearsal))


def _figures(figures: tuple[Compared, ...]) -> Table:
    ranges = [_range(one) for one in figures]
    has_range = any(ranges)
    table = _table("", "predicted", *(("range",) if has_range else ()), "observed", "off")
    for one, shown_range in zip(figures, ranges, strict=True):
        if one.figure in SHOWN and one.measured is not None:
            off = one.error
            style = "yellow" if off is not None and abs(off) > LARGE_ERROR else ""
            shown = "" if off is None else format_off(off)
            table.add_row(
                _name(one.figure), _value(one, one.predicted),
                *((shown_range,) if has_range else ()),
                _value(one, one.measured), Text(shown, style=style),
            )  # fmt: skip
    return table


def _range(one: Compared) -> str:
    """1.9 to 3.1 s: how far the router's luck moves a prediction."""
    if one.predicted_range is None:
        return ""
    low, high = (_value(one, value) for value in one.predicted_range)
    return "" if low == high else f"{low} to {high}"


def _queues(queues: tuple[QueueCompared, ...]) -> Table:
    table = _table("requests, mean (peak)", "predicted", "observed")
    for queue in queues:
        table.add_row(
            f"  {queue.role} {queue.place}",
            f"{queue.predicted_mean:.1f} ({queue.predicted_peak})",
            f"{queue.observed_mean:.1f} ({queue.observed_peak})",
        )
    return table


def _table(*names: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for i, name in enumerate(names):
        table.add_column(f"  {name}" if i == 0 else name, justify="left" if i == 0 else "right")
    return table


def _name(figure: str) -> str:
    return "  " + figure.replace("ttft", "TTFT").replace("tpot", "TPOT")


def _value(one: Compared, value: float | None) -> str:
    if one.unit == "s":
        return format_seconds(value)
    if one.unit == "share":
        return format_share(value)
    return f"{format_rate(value) if one.unit == 'tokens/s' else format_count(value)} {one.unit}"


def _closing(rehearsal: Rehearsal) -> Padding:
    bad = rehearsal.num_failed + rehearsal.num_truncated
    failed = f"; {bad} failed" if bad else "; none failed"
    text = (
        f"{rehearsal.num_requests} requests through {rehearsal.layout} behind the real router"
        f"{failed}. Times are simulated time, played at {rehearsal.speed:.3g} × speed."
    )
    if any(map(_range, rehearsal.figures)):
        text += "\nThe range is due to the router: which engines it picks, and which of "
        text += "simultaneous requests it sees first."
    return Padding(Text(text), (0, 0, 0, 2))


def measure_view(arms: Sequence[ArmResult], comparison: ArmComparison, slo: Slo) -> RenderableType:
    """Screen of `pdctl measure`."""
    parts: list[RenderableType] = [
        Text(comparison.text, style=f"bold {WINNER_COLOURS.get(comparison.winner, 'default')}")
    ]
    measured = [arm for arm in arms if arm.num_requests]
    if measured:
        parts += [Text(), _side_by_side(measured, slo)]
    if any(arm.figures for arm in measured):
        parts += [Text(), Text("Prediction beside measurement"), _predictions(measured)]
    notes = [line for arm in arms for line in _notes(arm)]
    if notes:
        parts += [Text(), *(Text(line, style="yellow") for line in notes)]
    return Group(*parts)


def _side_by_side(arms: Sequence[ArmResult], slo: Slo) -> Table:
    table = _grid(["", *(_head(arm) for arm in arms), "SLO" if slo.is_given else ""])
    rows: list[tuple[str, Callable[[ArmResult], str], str]] = [
        ("TTFT p50", lambda a: _seconds(a.ttft_s, "p50"), ""),
        ("TTFT p90", lambda a: _seconds(a.ttft_s, "p90"), _slo(slo.ttft_s)),
        ("TTFT p99", lambda a: _seconds(a.ttft_s, "p99"), ""),
        ("TPOT p50", lambda a: _seconds(a.tpot_s, "p50"), ""),
        ("TPOT p90", lambda a: _seconds(a.tpot_s, "p90"), _slo(slo.tpot_s)),
        ("TPOT p99", lambda a: _seconds(a.tpot_s, "p99"), ""),
        ("last token", lambda a: _seconds(a.e2e_s, "p50"), ""),
        ("output tok/s", lambda a: format_rate(a.output_tokens_per_s), ""),
    ]
    if slo.is_given:
        rows += [
            ("meet the SLO", lambda a: _share(a.attainment), format_share(slo.attainment)),
            ("goodput /s", lambda a: _rate(a.goodput_rps), ""),
        ]
    if any(arm.capacity_rps for arm in arms):
        rows.append(("capacity /s", lambda a: format_rate(a.capacity_rps), ""))
    rows.append(("requests", lambda a: _counted(a), ""))
    for name, cell, wanted in rows:
        table.add_row(name, *(cell(arm) for arm in arms), wanted)
    return table


def _predictions(arms: Sequence[ArmResult]) -> Table:
    """Predicted and measured figures with the error, one column per arm."""
    table = _grid(["predicted → measured", *(_head(arm) for arm in arms)])
    for name in dict.fromkeys(f.figure for arm in arms for f in arm.figures):
        found = [next((f for f in arm.figures if f.figure == name), None) for arm in arms]
        table.add_row(_label(name), *(_compared(one) for one in found))
    return table


def _notes(arm: ArmResult) -> list[str]:
    notes = []
    if arm.problem:
        notes.append(f"{arm.layout}: {arm.problem}")
    if arm.errors:
        notes.append(
            f"{arm.layout}: {format_number_of(arm.num_failed, 'request')} failed: {arm.errors[0]}"
        )
    if arm.is_generator_late:
        notes.append(
            f"{arm.layout}: requests went out up to {format_seconds(arm.lateness_p99_s)} late "
            "(p99), because this machine is too slow for that rate. Lower --rate, or send from "
            "another machine."
        )
    return [*notes, *arm.drift]


def forecast_line(forecast: Forecast) -> str:
    """predicted (roofline): TTFT p50 310 ms p99 1.9 s · TPOT p50 14 ms p99 22 ms."""
    figures = _percentile_words(forecast.ttft_s, forecast.tpot_s)
    return f"predicted ({forecast.basis}): {' · '.join(figures) or 'no answer'}"


def load_progress(now: LoadProgress) -> str:
    """45 of 180 · TTFT p50 310 ms p99 1.9 s · TPOT p50 14 ms · 0 failed."""
    parts = [f"{now.num_done} of {now.num_requests}", *_percentile_words(now.ttft_s, now.tpot_s)]
    if now.num_failed:
        parts.append(f"{now.num_failed} failed")
    return " · ".join(parts)


def _percentile_words(ttft_s: Percentiles | None, tpot_s: Percentiles | None) -> list[str]:
    return [
        f"{name} p50 {format_seconds(found.p50)} p99 {format_seconds(found.p99)}"
        for name, found in (("TTFT", ttft_s), ("TPOT", tpot_s))
        if found is not None
    ]


def _grid(heads: Sequence[str]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_edge=False)
    for head in heads:
        table.add_column(head, overflow="fold")
    return table


def _head(arm: ArmResult) -> str:
    names = {"colocated": "colocated", "pd": "PD", "target": "target"}
    return f"{names[arm.name]} {arm.layout}"


def _seconds(found: Quantity | None, q: str) -> str:
    return UNKNOWN if found is None else _interval(getattr(found, q), format_seconds)


def _share(found: ConfidenceInterval | None) -> str:
    return UNKNOWN if found is None else _interval(found, format_share)


def _rate(found: ConfidenceInterval | None) -> str:
    return UNKNOWN if found is None else _interval(found, format_rate)


def _interval(found: ConfidenceInterval, shown: Callable[[float], str]) -> str:
    """124 (122–127) ms. Shows the unit once if all three numbers share it."""
    value, low, high = (shown(v).rpartition(" ") for v in (found.value, found.low, found.high))
    units = {part[2] if part[1] else "" for part in (value, low, high)}
    if len(units) > 1 or not value[1]:
        return f"{shown(found.value)} ({shown(found.low)}–{shown(found.high)})"
    return f"{value[0]} ({low[0]}–{high[0]}) {value[2]}"


def _counted(arm: ArmResult) -> str:
    parts = [f"{arm.num_requests}"]
    if arm.num_failed:
        parts.append(f"{arm.num_failed} failed")
    if arm.num_truncated:
        parts.append(f"{arm.num_truncated} truncated")
    return ", ".join(parts)


def _slo(seconds: float | None) -> str:
    return format_seconds(seconds) if seconds is not None else ""


def _label(figure: str) -> str:
    for name in ("ttft", "tpot"):
        figure = figure.replace(name, name.upper())
    return figure.replace("e2e", "last token")


def _compared(found: Compared | None) -> str:
    if found is None or found.predicted is None or found.measured is None:
        return UNKNOWN
    shown = format_seconds if found.unit == "s" else format_rate
    off = f"  {format_off(found.error)}" if found.error is not None else ""
    return f"{shown(found.predicted)} → {shown(found.measured)}{off}"
