"""A measurement as a screen: who wins, both arms side by side, prediction beside measurement."""

from collections.abc import Callable, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pdctl.measurement.arms import ArmResult, Quantity
from pdctl.measurement.bootstrap import Interval
from pdctl.measurement.compare import Compared
from pdctl.measurement.records import Forecast, LoadProgress
from pdctl.measurement.ruling import Ruling
from pdctl.perf_model.records import Percentiles
from pdctl.units import UNKNOWN, format_off, format_rate, format_seconds, format_share
from pdctl.workload.records import Slo

COLOURS = {"pd": "green", "colocated": "cyan", "too_close": "yellow", "neither": "red"}


def measure_view(arms: Sequence[ArmResult], ruling: Ruling, slo: Slo) -> RenderableType:
    """The screen of `pdctl measure`."""
    parts: list[RenderableType] = [
        Text(ruling.text, style=f"bold {COLOURS.get(ruling.winner, 'default')}")
    ]
    measured = [arm for arm in arms if arm.num_requests]
    if measured:
        parts += [Text(), _side_by_side(measured, slo)]
    if any(arm.figures for arm in measured):
        parts += [Text(), Text("Prediction and measurement"), _predictions(measured)]
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
    if any(arm.knee_rps for arm in arms):
        rows.append(("sustains /s", lambda a: format_rate(a.knee_rps), ""))
    rows.append(("requests", lambda a: _counted(a), ""))
    for name, cell, wanted in rows:
        table.add_row(name, *(cell(arm) for arm in arms), wanted)
    return table


def _predictions(arms: Sequence[ArmResult]) -> Table:
    """Predicted, measured and how far off, an arm a column."""
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
        notes.append(f"{arm.layout}: {arm.num_failed} requests failed: {arm.errors[0]}")
    if arm.is_generator_late:
        notes.append(
            f"{arm.layout}: requests went out up to {format_seconds(arm.lateness_p99_s)} late "
            "(p99): this machine cannot make that rate. A lower --rate, or another machine."
        )
    return [*notes, *arm.drift]


def forecast_line(forecast: Forecast) -> str:
    """predicted (roofline): TTFT p50 310 ms p99 1.9 s · TPOT p50 14 ms p99 22 ms."""
    figures = _percentile_words(forecast.ttft_s, forecast.tpot_s)
    return f"predicted ({forecast.basis}): {' · '.join(figures) or 'no answer'}"


def progress_line(now: LoadProgress) -> str:
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
        table.add_column(head, no_wrap=True)
    return table


def _head(arm: ArmResult) -> str:
    names = {"colocated": "colocated", "pd": "PD", "target": "target"}
    return f"{names[arm.name]} {arm.layout}"


def _seconds(found: Quantity | None, q: str) -> str:
    return UNKNOWN if found is None else _interval(getattr(found, q), format_seconds)


def _share(found: Interval | None) -> str:
    return UNKNOWN if found is None else _interval(found, format_share)


def _rate(found: Interval | None) -> str:
    return UNKNOWN if found is None else _interval(found, format_rate)


def _interval(found: Interval, shown: Callable[[float], str]) -> str:
    """124 (122–127) ms: the unit once, where it is one."""
    value, low, high = (shown(v).rpartition(" ") for v in (found.value, found.low, found.high))
    units = {part[2] if part[1] else "" for part in (value, low, high)}
    if len(units) > 1 or not value[1]:
        return f"{shown(found.value)} ({shown(found.low)}–{shown(found.high)})"
    return f"{value[0]} ({low[0]}–{high[0]}) {value[2]}"


def _counted(arm: ArmResult) -> str:
    words = [f"{arm.num_requests}"]
    if arm.num_failed:
        words.append(f"{arm.num_failed} failed")
    if arm.num_truncated:
        words.append(f"{arm.num_truncated} cut short")
    return ", ".join(words)


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
