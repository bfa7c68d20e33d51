"""Write the table of docs/accuracy.md: how true predictions are, the wrong ones first. Not a test.

python -m tests.accuracy.report POINTS.json [--models DIR] [--date YYYY-MM-DD]

POINTS.json as in public_points.py. The text around the table is kept.
"""

from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from statistics import median

from pdctl.perf_model.residuals import region_of
from tests.accuracy.public_points import (
    Errors,
    closed_loop,
    errors_of,
    given_points,
    points_parser,
    spread,
)

PAGE = Path(__file__).parents[2] / "docs" / "accuracy.md"
BEGIN, END = "<!-- table: python -m tests.accuracy.report -->", "<!-- end of table -->"
HEAD = (
    "| kind of model | GPU | format | mode | running per engine | points "
    "| TTFT | TPOT | request | peer's TTFT | peer's TPOT |"
)

Row = tuple[str, str, str, str, str]


def rows(found: Sequence[Errors]) -> Iterator[str]:
    """A line of Markdown per group, the largest median errors of TPOT and TTFT first."""
    yield HEAD
    yield "| --- " * 11 + "|"
    groups: dict[Row, list[Errors]] = {}
    for errors in found:
        groups.setdefault(_row(errors), []).append(errors)
    for row in sorted(groups, key=lambda row: -_badness(groups[row])):
        yield _line(" | ".join(row), groups[row])
    yield _line("**all** | | | |", found)
    both = [errors for errors in found if errors.peer_ttft is not None]
    if both:
        yield _line("**all that both tools do** | | | |", both)


def _row(errors: Errors) -> Row:
    many = "more than 8" if region_of(errors.running) == "many" else "at most 8"
    form = errors.group[2].rsplit(" ", 1)[1]
    return errors.kind, errors.group[1], form, "colocated", many


def _badness(found: Sequence[Errors]) -> float:
    return median(e.tpot for e in found) + median(e.ttft for e in found) / 2


def _line(name: str, found: Sequence[Errors]) -> str:
    ours = " | ".join(
        spread(errors)
        for errors in (
            [e.ttft for e in found],
            [e.tpot for e in found],
            [abs(e.signed_e2e) for e in found],
        )
    )
    peer_ttft = [e.peer_ttft for e in found if e.peer_ttft is not None]
    peer_tpot = [e.peer_tpot for e in found if e.peer_tpot is not None]
    return f"| {name} | {len(found)} | {ours} | {spread(peer_ttft)} | {spread(peer_tpot)} |"


def page(text: str, table: Sequence[str], day: str) -> str:
    """The page with its table replaced."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return "\n".join((before + BEGIN, "", f"Made on {day}.", "", *table, "", END + after))


def main(argv: Sequence[str] | None = None) -> None:
    """Write the page."""
    options = points_parser(__doc__)
    options.add_argument("--date", default=date.today().isoformat())
    given = options.parse_args(argv)
    points, models = given_points(given)
    found = errors_of(points, models, closed_loop, with_flags=True)
    PAGE.write_text(page(PAGE.read_text(), list(rows(found)), given.date))


if __name__ == "__main__":
    main()
