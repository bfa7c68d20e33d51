"""A FleetStatus as a person reads it: header, one table per role, one line of advice. Pure."""

from collections.abc import Callable, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from pdctl.perf_model.records import Role
from pdctl.status.records import EngineStatus, FleetStatus
from pdctl.tables.status_columns import COLUMNS, NONE, STATES, Column, sparkline
from pdctl.units import format_rate, format_seconds

_VERDICTS = {
    "serving": "green",
    "starting": "yellow",
    "scaling": "yellow",
    "degraded": "yellow",
    "down": "red",
}
_GAP = 2


def status_view(status: FleetStatus, width: int) -> RenderableType:
    """The whole screen, at most `width` cells wide."""
    parts: list[RenderableType] = [*_header(status, width), Text()]
    for role in ("prefill", "decode", "colocated"):
        rows = [one for one in status.engines if one.target.role == role]
        if rows:
            parts += [*_table(role, rows, status, width), Text()]
    return Group(*parts, *_advice(status, width))


# --- header ---


def _header(status: FleetStatus, width: int) -> list[Text]:
    verdict = Text(status.verdict, style=_VERDICTS[status.verdict])
    head = Text("  ")
    head.append(" · ".join(filter(None, (status.model, status.layout))) + " · ")
    head.append_text(verdict)
    lines = [head]
    for fact in _facts(status):
        if lines[-1].cell_len + 3 + len(fact) <= width:
            lines[-1].append(f" · {fact}")
        else:
            lines.append(Text("  " + fact))
    if status.verdict_text:
        lines += _wrapped(status.verdict_text, width, style=_VERDICTS[status.verdict])
    return [_cut(line, width) for line in lines]


def _facts(status: FleetStatus) -> list[str]:
    ages = [one.age_s for one in status.engines if one.age_s is not None and one.health == "up"]
    facts = [
        "" if status.requests_per_s is None else f"{format_rate(status.requests_per_s)} req/s",
        _latency("TTFT", status.ttft_p50_s, status.ttft_p99_s, status.ttft_slo_s),
        _latency("ITL", status.itl_p50_s, status.itl_p99_s, status.tpot_slo_s),
        f"sample {max(ages):.1f} s old" if ages else "",
    ]
    return [fact for fact in facts if fact]


def _latency(name: str, p50_s: float | None, p99_s: float | None, slo_s: float | None) -> str:
    if p50_s is None:
        return ""
    text = f"{name} p50 {format_seconds(p50_s)}"
    if p99_s is not None:
        text += f" p99 {format_seconds(p99_s)}"
    return text + (f" (SLO {format_seconds(slo_s)})" if slo_s is not None else "")


# --- tables ---


def _table(role: Role, rows: Sequence[EngineStatus], status: FleetStatus, width: int) -> list[Text]:
    spark = Column(
        "last minute", lambda one: sparkline(status.history.get(one.target.name, ())), None, 7
    )
    columns = [*COLUMNS[role], spark]
    cells = {column.title: _cells(column, rows) for column in columns}
    shown = _fitting(columns, cells, width)
    widths = {column.title: max(map(len, cells[column.title])) for column in shown}
    lines = [_line([(c, c.title) for c in shown], widths, lambda _: "bold")]
    for index, row in enumerate(rows, start=1):
        line = _line([(c, cells[c.title][index]) for c in shown], widths, _style_of(row))
        lines.append(line)
    if len(rows) > 1:
        lines.append(_line([(c, cells[c.title][-1]) for c in shown], widths, lambda _: "bold"))
    return [_cut(line, width) for line in lines]


def _cells(column: Column, rows: Sequence[EngineStatus]) -> list[str]:
    total = column.total(rows) if column.total else ""
    return [column.title, *(column.cell(row) for row in rows), total]


def _fitting(columns: Sequence[Column], cells: dict[str, list[str]], width: int) -> list[Column]:
    """The columns that fit side by side, less important ones dropped first."""
    shown = [column for column in columns if _says_something(column, cells[column.title])]

    def needed() -> int:
        return sum(max(map(len, cells[c.title])) + _GAP for c in shown)

    while needed() > width and any(column.priority for column in shown):
        shown.remove(max(shown, key=lambda column: column.priority))
    return shown


def _says_something(column: Column, cells: Sequence[str]) -> bool:
    return not column.priority or any(cell not in ("", NONE) for cell in cells[1:])


def _line(
    cells: Sequence[tuple[Column, str]], widths: dict[str, int], style: Callable[[Column], str]
) -> Text:
    line = Text()
    for column, cell in cells:
        width = widths[column.title]
        line.append(" " * _GAP)
        line.append(cell.ljust(width) if column.left else cell.rjust(width), style=style(column))
    line.rstrip()
    return line


def _style_of(row: EngineStatus) -> Callable[[Column], str]:
    colour = STATES[row.health][1]

    def style(column: Column) -> str:
        if column.title == "state":
            return colour
        if column.title == "breaker" and row.breaker not in (None, "closed"):
            return "red"
        return "" if row.health == "up" else "dim"

    return style


# --- advice ---


def _advice(status: FleetStatus, width: int) -> list[Text]:
    advice = status.advice
    acts = advice.kind not in ("steady", "not_enough_evidence")
    said = advice.text
    if advice.evidence:
        said = f"{said.rstrip('.')}: {advice.evidence}."
    mark = "▲ " if acts else ""
    lines = _wrapped(mark + said, width, style="yellow" if acts else "dim")
    if advice.command:
        lines += [_cut(Text(f"    {advice.command}", style="bold"), width)]
    for note in status.notes:
        lines += _wrapped(f"! {note}", width, style="yellow")
    return lines


def _wrapped(text: str, width: int, *, style: str) -> list[Text]:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width - 4:
            lines.append("")
        lines[-1] += (" " if lines[-1] else "") + word
    return [
        _cut(Text(("  " if i == 0 else "    ") + line, style=style), width)
        for i, line in enumerate(lines)
    ]


def _cut(line: Text, width: int) -> Text:
    line.truncate(width, overflow="ellipsis")
    line.no_wrap = True
    return line
