"""Screen of `status`: a header, one table per role, advice. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.text import Text

from pdctl.inspection.records import GpuLoad
from pdctl.perf_model.records import Role
from pdctl.status.records import DeploymentStatus, EngineStatus, JobLimit
from pdctl.tables.advice_command import advice_command
from pdctl.tables.autopilot import what_if_lines
from pdctl.text_lines import shell_lines, wrapped
from pdctl.units import format_number_of, format_rate, format_seconds, format_share, format_span

NONE = "–"
_BARS = "▁▂▃▄▅▆▇█"
_GAP = 2
_TITLE_WIDTH = 14
_LEAST_COLUMNS = 2  # the engine and its state
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


def _gpu(form: Callable[[GpuLoad], str]) -> Callable[[EngineStatus], str]:
    return lambda row: NONE if row.gpu is None else form(row.gpu)


_GPU_COLUMNS = (
    ("GPU", lambda gpu: format_share(gpu.utilization)),
    ("power", lambda gpu: f"{gpu.power_w:,.0f} W"),
    ("GPU mem", lambda gpu: format_share(gpu.memory_used_bytes / gpu.memory_total_bytes)),
)


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
        *(Column(title, _gpu(form), priority=3) for title, form in _GPU_COLUMNS),
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


@dataclass(frozen=True)
class RoleTable:
    """The engines of one role as lines. total: None for a single engine."""

    heading: Text
    rows: tuple[tuple[EngineStatus, Text], ...]
    total: Text | None
    hidden: tuple[str, ...] = ()  # titles of columns without room

    def lines(self) -> list[Text]:
        """The whole table."""
        total = [] if self.total is None else [self.total]
        return [self.heading, *(line for _, line in self.rows), *total]


def status_view(status: DeploymentStatus, width: int) -> RenderableType:
    """The whole screen, at most `width` cells wide."""
    tables = role_tables(status, width)
    parts: list[RenderableType] = [*header(status, width), Text()]
    for table in tables:
        parts += [*table.lines(), Text()]
    return Group(*parts, *advice_lines(status, width), *hidden_columns(tables, width))


def hidden_columns(tables: Sequence[RoleTable], width: int) -> list[Text]:
    """A line that counts the columns that `width` has no room for, if there are any."""
    num = len({title for table in tables for title in table.hidden})
    if not num:
        return []
    text = f"  {format_number_of(num, 'more column')} in a wider terminal"
    return [cut(Text(text, style="dim"), width)]


def role_tables(status: DeploymentStatus, width: int) -> list[RoleTable]:
    """One table for each role that has engines."""
    roles: tuple[Role, ...] = ("prefill", "decode", "colocated")
    of_roles = ((role, [e for e in status.engines if e.target.role == role]) for role in roles)
    chosen = [_chosen(role, rows, status, width) for role, rows in of_roles if rows]
    widths = _shared_widths(chosen, width)
    return [_table(one, each, width) for one, each in zip(chosen, widths, strict=True)]


def engine_lines(one: EngineStatus, width: int) -> list[Text]:
    """One engine with everything that it reports, a line for each column of its role."""
    known = [(column.title, column.cell(one)) for column in COLUMNS[one.target.role]]
    return [
        cut(Text(f"  {title:{_TITLE_WIDTH}}{cell}", style="bold" if i == 0 else ""), width)
        for i, (title, cell) in enumerate(known)
        if cell not in ("", NONE)
    ]


def header(status: DeploymentStatus, width: int) -> list[Text]:
    """The deployment, its verdict and its latencies."""
    verdict = Text(status.verdict, style=_VERDICTS[status.verdict])
    speed = status.sim_speed
    head = Text("  ")
    simulated = "" if speed is None else f"simulated {speed:g}×" if speed != 1 else "simulated"
    head.append(" · ".join(filter(None, (status.model, status.layout, simulated))) + " · ")
    head.append_text(verdict)
    lines = [head]
    for fact in _facts(status):
        if lines[-1].cell_len + 3 + len(fact) <= width:
            lines[-1].append(f" · {fact}")
        else:
            lines.append(Text("  " + fact))
    if status.verdict_text:
        lines += _wrapped(status.verdict_text, width, style=_VERDICTS[status.verdict])
    return [cut(line, width) for line in lines]


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
        "" if status.job is None else _job_end(status.job, status.at_s),
    ]
    return [fact for fact in facts if fact]


def _job_end(job: JobLimit, now_s: float) -> str:
    if job.is_unlimited:
        return f"job {job.number} has no time limit"
    if job.ends_at_s is None:
        return f"job {job.number} ends at an unknown time"
    return f"job {job.number} ends in {format_span(max(0.0, job.ends_at_s - now_s))}"


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


@dataclass(frozen=True)
class _Chosen:
    """The engines of one role, and the columns that fit side by side with their cells."""

    rows: Sequence[EngineStatus]
    columns: Sequence[Column]
    cells: dict[str, list[str]]
    hidden: Sequence[str]

    def widths(self) -> list[int]:
        return [max(map(len, self.cells[column.title])) for column in self.columns]


def _chosen(
    role: Role, rows: Sequence[EngineStatus], status: DeploymentStatus, width: int
) -> _Chosen:
    spark = Column(
        "last minute", lambda one: sparkline(status.history.get(one.target.name, ())), None, 7
    )
    columns = [*COLUMNS[role], spark]
    cells = {column.title: _cells(column, rows) for column in columns}
    shown, hidden = _fitting(columns, cells, width)
    return _Chosen(rows, shown, cells, hidden)


def _shared_widths(tables: Sequence[_Chosen], width: int) -> list[list[int]]:
    """The widths of each table's columns, alike from the left for as long as `width` allows it."""
    widths = [table.widths() for table in tables]
    for i in range(max(map(len, widths), default=0)):
        having = [k for k, each in enumerate(widths) if i < len(each)]
        most = max(widths[k][i] for k in having)
        needed = (sum(widths[k]) - widths[k][i] + most + _GAP * len(widths[k]) for k in having)
        alike = {tables[k].columns[i].left for k in having}
        if len(alike) > 1 or max(needed) > width:
            break
        for k in having:
            widths[k][i] = most
    return widths


def _table(table: _Chosen, widths: Sequence[int], width: int) -> RoleTable:
    def line(index: int, style: Callable[[Column], str]) -> Text:
        cells = [(column, table.cells[column.title][index]) for column in table.columns]
        return cut(_line(cells, widths, style), width)

    rows = table.rows
    return RoleTable(
        heading=line(0, lambda _: "bold"),
        rows=tuple((row, line(i, _style_of(row))) for i, row in enumerate(rows, start=1)),
        total=line(-1, lambda _: "bold") if len(rows) > 1 else None,
        hidden=tuple(table.hidden),
    )


def _cells(column: Column, rows: Sequence[EngineStatus]) -> list[str]:
    total = column.total(rows) if column.total else ""
    return [column.title, *(column.cell(row) for row in rows), total]


def _fitting(
    columns: Sequence[Column], cells: dict[str, list[str]], width: int
) -> tuple[list[Column], list[str]]:
    """The columns that fit side by side, and the titles of those that do not.

    Drops the least important ones first, and of the most important ones the last: a number that
    is cut would be another number.
    """
    shown = [column for column in columns if _says_something(column, cells[column.title])]
    hidden: list[str] = []

    def needed() -> int:
        return sum(max(map(len, cells[c.title])) + _GAP for c in shown)

    while needed() > width and len(shown) > _LEAST_COLUMNS:
        least = max(column.priority for column in shown)
        order = shown if least else reversed(shown)
        dropped = next(column for column in order if column.priority == least)
        shown.remove(dropped)
        hidden.append(dropped.title)
    return shown, hidden


def _says_something(column: Column, cells: Sequence[str]) -> bool:
    return not column.priority or any(cell not in ("", NONE) for cell in cells[1:])


def _line(
    cells: Sequence[tuple[Column, str]], widths: Sequence[int], style: Callable[[Column], str]
) -> Text:
    line = Text()
    for (column, cell), width in zip(cells, widths, strict=True):
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


def advice_lines(status: DeploymentStatus, width: int) -> list[Text]:
    """The advice, the command that follows it, and notes."""
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
    look = [f"No what-if: {status.what_if_unknown}"] if status.what_if_unknown else []
    for line in what_if_lines(status.what_if, status.at_s) if status.what_if else look:
        lines += _wrapped(line, width, style="")
    for note in status.notes:
        lines += _wrapped(f"! {note}", width, style="yellow")
    return lines


def _wrapped(text: str, width: int, *, style: str) -> list[Text]:
    lines = wrapped(f"  {text}", width - 2, indent=2).split("\n")
    return [cut(Text(line, style=style), width) for line in lines]


def cut(line: Text, width: int) -> Text:
    """The line, ending in … where it is too wide."""
    line.truncate(width, overflow="ellipsis")
    line.no_wrap = True
    return line
