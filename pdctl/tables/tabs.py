"""Screens as lines for other programs: tabs between the cells, nothing padded or wrapped. Pure."""

from collections.abc import Iterable, Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pdctl.doctor.records import Check
from pdctl.tables.deployments import in_shown_order

DOCTOR_HEADS = ("SUBJECT", "OUTCOME", "CHECK", "TEXT", "FIX", "SOURCE")


def tab_lines(view: RenderableType) -> Iterator[str]:
    """The lines of a screen of texts and tables. Raises TypeError for anything else."""
    if isinstance(view, Group):
        for part in view.renderables:
            yield from tab_lines(part)
    elif isinstance(view, Table):
        yield from _table_lines(view)
    elif isinstance(view, Text | str):
        yield from (str(view).split("\n"))
    else:
        raise TypeError(f"{type(view).__name__} has no lines")


def doctor_lines(checks: Sequence[Check]) -> Iterator[str]:
    """One line per check of `doctor`, below a line of names; in the order of its screen."""
    yield "\t".join(DOCTOR_HEADS)
    for check in in_shown_order(checks):
        yield _joined((check.subject, check.outcome, check.id, check.text, check.fix, check.source))


def _table_lines(table: Table) -> Iterator[str]:
    if table.show_header:
        yield _joined(str(column.header) for column in table.columns)
    for cells in zip(*(column.cells for column in table.columns), strict=True):
        yield _joined(str(cell) for cell in cells)


def _joined(cells: Iterable[str]) -> str:
    """Cells with one tab between them; a cell has none of its own, nor a line end."""
    return "\t".join(" ".join(cell.split()) for cell in cells)
