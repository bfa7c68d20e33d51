"""The live screen of `status`: fits a terminal of any height, and follows keys. Pure.

Header, subtotals and advice always show. Where the engines do not all fit, the worst of each role
come first, and one line stands for the rest.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.text import Text

from pdctl.status.records import DeploymentStatus, EngineStatus
from pdctl.status.snapshot import is_well, queue_length
from pdctl.tables.status import (
    RoleTable,
    advice_lines,
    cut,
    engine_lines,
    header,
    hidden_columns,
    role_tables,
)

ORDERS = ("worst first", "longest queue first", "by name")
_SEVERITY = {"failed": 0, "unreachable": 1, "stale": 2, "starting": 3, "up": 4}
_KEYS = (
    ("↑ ↓ or k j", "choose an engine; the list scrolls with it"),
    ("Enter", "the chosen engine and the end of its log; Esc goes back"),
    ("s", f"sort: {', '.join(ORDERS)}"),
    ("p", "pause: keep this sample on the screen"),
    ("?", "these keys"),
    ("q", "quit; the deployment goes on"),
)


@dataclass(frozen=True)
class View:
    """View chosen by keys. order: "" sorts by name where all engines fit, else worst first.

    chosen: the engine under the cursor; "" until a key chose one.
    """

    order: str = ""
    chosen: str = ""
    is_paused: bool = False
    shows_keys: bool = False
    shows_engine: bool = False


@dataclass(frozen=True)
class Frame:
    """One screen. view: as it was drawn. names: the engines from top to bottom."""

    lines: RenderableType
    view: View
    names: tuple[str, ...]


def pressed(frame: Frame, key: str) -> View:
    """The view after a key was pressed on this screen."""
    view, names = frame.view, frame.names
    if key == "p":
        return replace(view, is_paused=not view.is_paused)
    if key == "?":
        return replace(view, shows_keys=not view.shows_keys)
    if key == "escape":
        return replace(view, shows_keys=False, shows_engine=False)
    if key == "s":
        return replace(view, order=ORDERS[(ORDERS.index(view.order) + 1) % len(ORDERS)])
    if key == "enter" and names:
        return replace(view, chosen=_moved(view.chosen, names, 0), shows_engine=True)
    if key in ("up", "k", "down", "j") and names:
        step = 1 if key in ("down", "j") else -1
        return replace(view, chosen=_moved(view.chosen, names, step))
    return view


def _moved(chosen: str, names: Sequence[str], step: int) -> str:
    at = names.index(chosen) + step if chosen in names else 0
    return names[min(len(names) - 1, max(0, at))]


def live_frame(
    status: DeploymentStatus, view: View, width: int, height: int, log: Sequence[str] = ()
) -> Frame:
    """The screen in at most `height` lines. log: the end of the chosen engine's log."""
    tables = role_tables(status, width)
    head = header(status, width)
    advice, more = advice_lines(status, width), hidden_columns(tables, width)
    room = height - 1 - len(head) - len(advice) - sum(_num_fixed(table) for table in tables)
    fits = room >= len(status.engines)
    if room >= len(status.engines) + len(more):  # engines come before what is only in wider ones
        advice += more
    seen = replace(view, order=view.order or ORDERS[-1 if fits else 0])
    tables = [_sorted(table, seen.order) for table in tables]
    names = tuple(row.target.name for table in tables for row, _ in table.rows)
    chosen = next((one for one in status.engines if one.target.name == view.chosen), None)
    if view.shows_keys:
        blocks = [head, [Text(f"  {key:12} {meaning}") for key, meaning in _KEYS]]
    elif view.shows_engine and chosen is not None:
        about = engine_lines(chosen, width)
        blocks = [head, about, _end_of(log, height - 4 - len(head) - len(about))]
    else:
        lists = _lists(tables, view.chosen, len(status.engines) if fits else room)
        blocks = [head, *lists, advice]
    lines = _stacked(blocks, height - 1)
    return Frame(Group(*(cut(line, width) for line in (*lines, _footer(seen, width)))), seen, names)


def _num_fixed(table: RoleTable) -> int:
    return 1 if table.total is None else 2


def _sorted(table: RoleTable, order: str) -> RoleTable:
    if order == "worst first":
        return replace(table, rows=tuple(sorted(table.rows, key=lambda row: _badness(row[0]))))
    if order == "longest queue first":
        return replace(table, rows=tuple(sorted(table.rows, key=lambda row: _shortness(row[0]))))
    return table


def _badness(one: EngineStatus) -> tuple[bool, int, float]:
    return is_well(one), _SEVERITY[one.health], _shortness(one)


def _shortness(one: EngineStatus) -> float:
    return -(queue_length(one.sample) or 0.0)


def _lists(tables: Sequence[RoleTable], chosen: str, room: int) -> list[list[Text]]:
    """Every table with as many engines as its part of `room` holds."""
    folded = sum(len(table.rows) for table in tables) > room
    shares = _shares(tables, room - len(tables) if folded else room)
    return [_list(table, chosen, num) for table, num in zip(tables, shares, strict=True)]


def _shares(tables: Sequence[RoleTable], room: int) -> list[int]:
    """The number of engines shown in each table: those in trouble first, then in turn."""
    shares = [0] * len(tables)
    troubled = [sum(not is_well(row) for row, _ in table.rows) for table in tables]
    for wanted in (troubled, [len(table.rows) for table in tables]):
        for _ in range(max(wanted, default=0)):
            for i, num in enumerate(wanted):
                shares[i] += shares[i] < num and sum(shares) < room
    return shares


def _list(table: RoleTable, chosen: str, num: int) -> list[Text]:
    names = [row.target.name for row, _ in table.rows]
    at = names.index(chosen) if chosen in names else 0
    first = max(0, at - num + 1)
    rows = table.rows[first : first + num]
    hidden = [row for row, _ in (*table.rows[:first], *table.rows[first + num :])]
    lines = [table.heading]
    lines += [_marked(line) if row.target.name == chosen else line for row, line in rows]
    if hidden:
        lines.append(_folded(hidden, anything=bool(rows)))
    return lines if table.total is None else [*lines, table.total]


def _marked(line: Text) -> Text:
    """The line under the cursor."""
    return Text("› ", style="bold") + line[2:]


def _folded(hidden: Sequence[EngineStatus], *, anything: bool) -> Text:
    """The line that stands for engines without a row of their own."""
    troubled = sum(not is_well(one) for one in hidden)
    more = f"  {len(hidden)}{' more' if anything else ''}, "
    if troubled:
        return Text(f"{more}{troubled} of them in trouble", style="yellow")
    return Text(f"{more}all well", style="dim")


def _end_of(log: Sequence[str], num: int) -> list[Text]:
    return [Text("  " + line, style="dim") for line in log[-max(1, num) :]]


def _stacked(blocks: Sequence[list[Text]], height: int) -> list[Text]:
    """The blocks below each other, with blank lines between them where there is room.

    Too long, the last block loses its end: it is the one that explains.
    """
    gap = [Text()] if sum(map(len, blocks)) + len(blocks) <= height else []
    return [line for block in blocks for line in (*block, *gap)][:height]


def _footer(view: View, width: int) -> Text:
    """The keys, in as many words as there is room for."""
    foot = Text("  ")
    if view.is_paused:
        foot.append("paused · ", style="yellow")
    if view.shows_engine or view.shows_keys:
        texts = ["Esc back · p pause · q quit"]
    else:
        texts = [
            f"↑↓ scroll · s sort ({view.order}) · Enter engine and its log · p pause · ? · q quit",
            f"↑↓ scroll · s sort ({view.order}) · Enter log · p · ? · q quit",
            "↑↓ · s sort · Enter log · p pause · ? · q quit",
        ]
    fitting = (text for text in texts if cell_len(foot.plain + text) <= width)
    return foot.append(next(fitting, texts[-1]), style="dim")
