"""A rehearsal as tables: predicted beside observed."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pdctl.measurement.compare import Compared
from pdctl.measurement.rehearsal import QueueCompared, Rehearsal
from pdctl.units import format_count, format_off, format_rate, format_seconds, format_share

SHOWN = ("ttft p50", "ttft p90", "tpot p50", "tpot p90", "output tokens", "attainment", "goodput")
CLOSE = 0.25  # beyond it an error is shown in yellow


def rehearsal_view(rehearsal: Rehearsal) -> RenderableType:
    """The latencies, then the queues, then one sentence."""
    parts: list[RenderableType] = [Text(""), _figures(rehearsal.figures)]
    if rehearsal.queues:
        parts += [Text(""), _queues(rehearsal.queues)]
    return Group(*parts, Text(""), _closing(rehearsal))


def _figures(figures: tuple[Compared, ...]) -> Table:
    table = _table("", "predicted", "observed", "off")
    for one in figures:
        if one.figure in SHOWN and one.measured is not None:
            off = one.error
            style = "yellow" if off is not None and abs(off) > CLOSE else ""
            shown = "" if off is None else format_off(off)
            table.add_row(
                _name(one.figure), _value(one, one.predicted), _value(one, one.measured),
                Text(shown, style=style),
            )  # fmt: skip
    return table


def _queues(queues: tuple[QueueCompared, ...]) -> Table:
    table = _table("requests, mean (peak)", "predicted", "observed")
    for queue in queues:
        table.add_row(
            f"{queue.role} {queue.place}",
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


def _closing(rehearsal: Rehearsal) -> Text:
    bad = rehearsal.num_failed + rehearsal.num_truncated
    failed = f", {bad} of them failed" if bad else ", none failed"
    return Text(
        f"  {rehearsal.num_requests} requests through {rehearsal.layout} behind the real router"
        f"{failed}; times are the model's, played {rehearsal.speed:g} × as fast."
    )
