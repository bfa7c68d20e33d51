"""Screen of `status`: a header, one table per role, advice. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.text import Text

from pdctl.perf_model.records import Role
from pdctl.status.records import DeploymentStatus, EngineStatus
from pdctl.status.snapshot import is_well
from pdctl.tables.advice_command import advice_command
from pdctl.text_lines import shell_lines
from pdctl.units import format_rate, format_seconds, format_share

NONE = "–"
ROLES_SHOWN: tuple[Role, ...] = ("prefill", "decode", "colocated")
_BARS = "▁▂▃▄▅▆▇█"
_GAP = 2
_VERDICTS = {
    "serving": "green",
    "starting": "yellow",
    "scaling": "yellow",
    "degraded": "yellow",
    "down": "red",
}
STATES = {
    "up": ("● up", "green"),
    "starting": ("◐ starting", "yellow"),
    "stale": ("◌ stale", "dim"),
    "unreachable": ("✗ no answer", "red"),
    "failed": ("✗ failed", "red"),
}


@dataclass(frozen=True)
class Column:
    """One column of a role's table. priority: 0 always stays; higher ones are dropped first."""

    title: str
    cell: Callable[[EngineStatus], str]
    total: Callable[[Sequence[EngineStatus]], str] | None = None
    priority: int = 0
    left: bool = False


def _count(name: str) -> Callable[[EngineStatus], str]:
    return lambda row: _number(_of(row, name), "{:,.0f}".format)


def _counts(name: str) -> Callable[[Sequence[EngineStatus]], str]:
    return lambda rows: _number(_sum(rows, name), "{:,.0f}".format)


def _of(row: EngineStatus, name: str) -> float | None:
    value = getattr(row.sample, name) if row.sample else None
    return None if value is None else float(value)


def _number(value: float | None, form: Callable[[float], str]) -> str:
    return NONE if value is None else form(value)


def _fresh(rows: Sequence[EngineStatus], name: str) -> list[float]:
    """Values of the engines that answer now; stale values do not belong in a total."""
    values = (_of(row, name) for row in rows if row.health == "up")
    return [value for value in values if value is not None]


def _sum(rows: Sequence[EngineStatus], name: str) -> float | None:
    known = _fresh(rows, name)
    return sum(known) if known else None


def _mean(rows: Sequence[EngineStatus], name: str) -> float | None:
    known = _fresh(rows, name)
    return sum(known) / len(known) if known else None


def _share(title: str, name: str, priority: int = 0) -> Column:
    return Column(
        title,
        lambda row: _number(_of(row, name), format_share),
        lambda rows: _number(_mean(rows, name), format_share),
        priority,
    )


def _tokens(priority: int) -> Column:
    return Column(
        "tok/s",
        lambda row: _number(_of(row, "tokens_per_s"), format_rate),
        lambda rows: _number(_sum(rows, "tokens_per_s"), format_rate),
        priority,
    )


def _queue(title: str, name: str, priority: int = 0) -> Column:
    return Column(title, _count(name), _counts(name), priority)


def _median(title: str, name: str, priority: int) -> Column:
    """A median latency. name: "ttft" or "itl"."""
    value, bound = f"{name}_p50_s", f"{name}_bound_s"
    return Column(
        title,
        lambda row: _seconds(_of(row, value), _of(row, bound)),
        lambda rows: _seconds(_mean(rows, value), _mean(rows, bound)),
        priority,
    )


def _seconds(value: float | None, bound: float | None) -> str:
    """bound: a latency equal to it is known only to lie below."""
    if value is None:
        return NONE
    is_below = bound is not None and value == bound
    return f"< {format_seconds(value)}" if is_below else format_seconds(value)


def _speed(value: float | None) -> str:
    return NONE if value is None else f"{value:.1f} GB/s" if value >= 0.05 else "<0.1 GB/s"


def _age(row: EngineStatus) -> str:
    return NONE if row.age_s is None else f"{row.age_s:.1f} s"


def _address(row: EngineStatus) -> str:
    return row.target.url.split("://", 1)[-1]


def _state(row: EngineStatus) -> str:
    return STATES[row.health][0]


def _note(row: EngineStatus) -> str:
    return row.problem if len(row.problem) <= 40 else row.problem[:39] + "…"


def _columns(role: Role, *middle: Column) -> tuple[Column, ...]:
    return (
        Column(role.upper(), lambda row: row.target.name, lambda rows: str(len(rows)), left=True),
        Column("state", _state, left=True),
        *middle,
        Column("breaker", lambda row: row.breaker or NONE, priority=8),
        Column("age", _age, priority=6),
        Column("address", _address, priority=9, left=True),
        Column("note", _note, priority=2, left=True),
    )


_STATES = _share("state use", "state_usage", 1)  # of hybrid models alone

COLUMNS: dict[Role, tuple[Column, ...]] = {
    "prefill": _columns(
        "prefill",
        _queue("bootstrap", "bootstrap"),
        _queue("waiting", "waiting"),
        _queue("inflight", "inflight"),
        _tokens(1),
        Column(
            "KV out",
            lambda row: _speed(_of(row, "transfer_gb_per_s")),
            lambda rows: _speed(_mean(rows, "transfer_gb_per_s")),
            4,
        ),
        _queue("fails", "transfer_failures", 5),
        _share("KV use", "kv_usage", 3),
        _STATES,
    ),
    "decode": _columns(
        "decode",
        _queue("prealloc", "prealloc"),
        _queue("transfer", "transfer"),
        _queue("waiting", "waiting", 5),
        _queue("running", "running"),
        _share("KV use", "kv_usage"),
        _STATES,
        _tokens(1),
        _median("ITL", "itl", 1),
        _median("TTFT", "ttft", 4),
        _queue("retracted", "retracted", 9),
        _queue("fails", "transfer_failures", 8),
    ),
    "colocated": _columns(
        "colocated",
        _queue("waiting", "waiting"),
        _queue("running", "running"),
        _share("KV use", "kv_usage"),
        _STATES,
        _tokens(1),
        _median("TTFT", "ttft", 3),
        _median("ITL", "itl", 1),
    ),
}


def sparkline(values: Sequence[float]) -> str:
    """A queue's history as ten bars. Empty if the queue was always empty."""
    if len(values) < 3 or max(values) <= 0:
        return ""
    num = min(10, len(values))
    edges = [i * len(values) // num for i in range(num + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in zip(edges, edges[1:], strict=False)]
    top = max(means)
    return "".join(_BARS[min(7, int(mean / top * 7.999))] for mean in means)


def status_view(
    status: DeploymentStatus,
    width: int,
    height: int | None = None,
    *,
    first: int = 0,
    keys: str = "",
) -> RenderableType:
    """The whole screen, at most `width` cells wide and `height` lines high.

    Where the engines take too many lines, each role shows its worst ones from the `first` on, and
    folds the others into one line. keys: a last line that names the keys of a live screen.
    """
    lines = _lines(status, width, None, first, keys)
    most = max(len(_rows(status, role)) for role in ROLES_SHOWN) if status.engines else 0
    while height is not None and len(lines) > height and most > 1:
        excess = len(lines) - height
        most = max(1, most - -(-excess // len(ROLES_SHOWN)))
        lines = _lines(status, width, most, first, keys)
    return Group(*lines)


def _lines(
    status: DeploymentStatus, width: int, most: int | None, first: int, keys: str
) -> list[Text]:
    """The lines of the screen with at most `most` engines of each role."""
    lines = [*_header(status, width), Text()]
    hidden: dict[str, None] = {}
    for role in ROLES_SHOWN:
        if rows := _rows(status, role):
            window = None if most is None or len(rows) <= most else (first, most)
            lines += [*_table(role, rows, status, width, window, hidden), Text()]
    lines += _advice(status, width)
    if hidden:
        more = f"{len(hidden)} more column{'s' if len(hidden) > 1 else ''} in a wider terminal"
        lines.append(_cut(Text(f"  {more}", style="dim"), width))
    return [*lines, _cut(Text(f"  {keys}", style="dim"), width)] if keys else lines


def _rows(status: DeploymentStatus, role: Role) -> list[EngineStatus]:
    return [one for one in status.engines if one.target.role == role]


def _header(status: DeploymentStatus, width: int) -> list[Text]:
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


def _facts(status: DeploymentStatus) -> list[str]:
    ages = [one.age_s for one in status.engines if one.age_s is not None and one.health == "up"]
    facts = [
        "" if status.requests_per_s is None else f"{format_rate(status.requests_per_s)} req/s",
        _latency(
            "TTFT",
            status.ttft_p50_s,
            status.ttft_p99_s,
            status.ttft_bound_s,
            status.ttft_slo_s,
        ),
        _latency("ITL", status.itl_p50_s, status.itl_p99_s, status.itl_bound_s, status.tpot_slo_s),
        f"sample {max(ages):.1f} s old" if ages else "",
    ]
    return [fact for fact in facts if fact]


def _latency(
    name: str,
    p50_s: float | None,
    p99_s: float | None,
    bound_s: float | None,
    slo_s: float | None,
) -> str:
    if p50_s is None:
        return ""
    text = f"{name} p50 {_seconds(p50_s, bound_s)}"
    if p99_s is not None:
        text += f" p99 {_seconds(p99_s, bound_s)}"
    return text + (f" (SLO {format_seconds(slo_s)})" if slo_s is not None else "")


def _table(
    role: Role,
    rows: Sequence[EngineStatus],
    status: DeploymentStatus,
    width: int,
    window: tuple[int, int] | None,
    hidden: dict[str, None],
) -> list[Text]:
    """The lines of a role's table.

    window: (first, number) of the engines to show, the worst first; None: all, in their order.
    hidden: takes the titles of the columns that `width` has no room for.
    """
    rows = rows if window is None else sorted(rows, key=_wellness)
    spark = Column(
        "last minute", lambda one: sparkline(status.history.get(one.target.name, ())), None, 7
    )
    columns = [*COLUMNS[role], spark]
    cells = {column.title: _cells(column, rows) for column in columns}
    shown = _fitting(columns, cells, width, hidden)
    widths = {column.title: max(map(len, cells[column.title])) for column in shown}
    lines = [_line([(c, c.title) for c in shown], widths, lambda _: "bold")]
    start, end = _range(window, len(rows))
    for index, row in enumerate(rows[start:end], start=start + 1):
        line = _line([(c, cells[c.title][index]) for c in shown], widths, _style_of(row))
        lines.append(line)
    if window is not None:
        lines.append(_folded([*rows[:start], *rows[end:]]))
    if len(rows) > 1:
        lines.append(_line([(c, cells[c.title][-1]) for c in shown], widths, lambda _: "bold"))
    return [_cut(line, width) for line in lines]


def _range(window: tuple[int, int] | None, num: int) -> tuple[int, int]:
    """The engines to show, from one place to before another; a full window at the end."""
    if window is None:
        return 0, num
    start = max(0, min(window[0], num - window[1]))
    return start, start + window[1]


def _wellness(row: EngineStatus) -> tuple[bool, float]:
    """Sorts the worst engines first: those with a fault, then the longest queues."""
    queues = ("bootstrap", "prealloc", "transfer", "waiting", "inflight", "running")
    return is_well(row), -sum(_of(row, name) or 0.0 for name in queues)


def _folded(rows: Sequence[EngineStatus]) -> Text:
    unwell = sum(not is_well(row) for row in rows)
    text = f"{unwell} of them not well" if unwell else "all well"
    return Text(f"  {len(rows)} more, {text}", style="yellow" if unwell else "dim")


def _cells(column: Column, rows: Sequence[EngineStatus]) -> list[str]:
    total = column.total(rows) if column.total else ""
    return [column.title, *(column.cell(row) for row in rows), total]


def _fitting(
    columns: Sequence[Column], cells: dict[str, list[str]], width: int, hidden: dict[str, None]
) -> list[Column]:
    """The columns that fit side by side. Drops the least important ones first, into `hidden`."""
    shown = [column for column in columns if _says_something(column, cells[column.title])]

    def needed() -> int:
        return sum(max(map(len, cells[c.title])) + _GAP for c in shown)

    while needed() > width and any(column.priority for column in shown):
        dropped = max(shown, key=lambda column: column.priority)
        shown.remove(dropped)
        hidden[dropped.title] = None
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


def _advice(status: DeploymentStatus, width: int) -> list[Text]:
    advice = status.advice
    acts = advice.cause not in ("healthy", "not_enough_evidence")
    text = advice.what
    if advice.why:
        text = f"{text.rstrip('.')}: {advice.why}."
    mark = "▲ " if acts else ""
    lines = _wrapped(mark + text, width, style="yellow" if acts else "dim")
    command = advice_command(status)
    if command:
        lines += [Text(line, style="bold") for line in shell_lines(command, width, head="    ")]
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
