"""The doctor's findings as a screen: what is wrong first, with its fix; then what is well."""

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pdctl.engines.doctor.records import Check, Outcome

MARKS: dict[Outcome, tuple[str, str]] = {
    "fail": ("✗", "red"),
    "warn": ("▲", "yellow"),
    "unknown": ("?", "dim"),
    "pass": ("●", "green"),
}


def doctor_view(checks: Sequence[Check]) -> RenderableType:
    """This machine, then each deployment; troubles before what is well."""
    parts: list[RenderableType] = []
    for name in dict.fromkeys(check.deployment for check in checks):
        of_this = [check for check in checks if check.deployment == name]
        parts += [Text(name or "this machine", style="bold"), _rows(of_this), Text()]
    return Group(*parts, Text(summary(checks)))


def summary(checks: Iterable[Check]) -> str:
    """2 fail, 1 warns, 24 are well."""
    outcomes = [check.outcome for check in checks]
    words = {"fail": "fail", "warn": "warn", "unknown": "unknown", "pass": "well"}
    counted = ((outcomes.count(outcome), words[outcome]) for outcome in MARKS)
    return ", ".join(f"{num} {word}" for num, word in counted if num) or "nothing was checked"


def _rows(checks: Sequence[Check]) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    order = list(MARKS)
    for check in sorted(checks, key=lambda check: order.index(check.outcome)):
        mark, colour = MARKS[check.outcome]
        is_well = check.outcome == "pass"
        table.add_row(
            Text(f"  {mark}", style=colour),
            Text(_clean(check.text), style="dim" if is_well else ""),
        )
        if check.fix and not is_well:
            table.add_row("", Text(f"fix  {_clean(_fix(check))}", style="cyan"))
    return table


def _fix(check: Check) -> str:
    return f"{check.fix}   ({check.source})" if check.source else check.fix


def _clean(text: str) -> str:
    return "".join(c for c in text if c.isprintable())
