"""Documentation pages: a small part of Markdown, for a terminal and as man pages. Pure."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

Kind = Literal["heading", "paragraph", "item", "code", "table"]
_ITEM = re.compile(r"(?:[-*]|\d+\.) +")
_INLINE = re.compile(r"`([^`]+)`|\*\*(.+?)\*\*|\[([^\]]+)\]\([^)]*\)")


@dataclass(frozen=True)
class Block:
    """One block of a page. lines: the text; of a table its rows, of code its lines.

    level: of a heading, 1 to 6. rows: cells of a table, the header first.
    """

    kind: Kind
    lines: tuple[str, ...] = ()
    level: int = 0
    rows: tuple[tuple[str, ...], ...] = ()

    @property
    def text(self) -> str:
        return " ".join(self.lines)


def blocks_of(page: str) -> tuple[Block, ...]:
    """The blocks of a page of Markdown. Ignores: nested lists, quotes, images, HTML."""
    return tuple(_blocks(page.splitlines()))


def title_of(page: str) -> str:
    """The first heading, or "" where there is none."""
    heading = next((block for block in blocks_of(page) if block.kind == "heading"), None)
    return without_markup(heading.text) if heading else ""


def page_view(page: str) -> RenderableType:
    """A page for a terminal of any width."""
    parts: list[RenderableType] = []
    before: Kind | None = None
    for block in blocks_of(page):
        if before is not None and not before == block.kind == "item":
            parts.append(Text())
        parts.append(_view(block))
        before = block.kind
    return Group(*parts)


def page_roff(page: str, *, name: str, section: int) -> str:
    """A page as the source of a man page."""
    title = [f'.TH "{_roff(name.upper())}" {section} "" pdctl', ".SH NAME"]
    title.append(f"{_roff(name)} \\- {_roff(title_of(page))}")
    body = [line for block in blocks_of(page) for line in _roff_block(block)]
    return "\n".join([*title, *body]) + "\n"


def without_markup(text: str) -> str:
    """Text without the marks of Markdown."""
    return _INLINE.sub(lambda match: match[1] or match[2] or match[3], text)


def _blocks(lines: Sequence[str]) -> Iterator[Block]:
    at = 0
    while at < len(lines):
        line = lines[at]
        if not line.strip():
            at += 1
            continue
        block, at = _block(lines, at)
        yield block


def _block(lines: Sequence[str], at: int) -> tuple[Block, int]:
    line = lines[at]
    if line.startswith("```"):
        end = next((i for i in range(at + 1, len(lines)) if lines[i].startswith("```")), len(lines))
        return Block("code", tuple(lines[at + 1 : end])), end + 1
    if line.startswith("#"):
        marks, _, text = line.partition(" ")
        return Block("heading", (text.strip(),), level=len(marks)), at + 1
    if line.startswith("|"):
        end = _while(lines, at, lambda one: one.startswith("|"))
        return Block("table", rows=_rows(lines[at:end])), end
    kind: Kind = "item" if _ITEM.match(line) else "paragraph"
    end = _while(lines, at + 1, _goes_on)
    return Block(kind, tuple(one.strip() for one in lines[at:end])), end


def _goes_on(line: str) -> bool:
    """True for a line that continues a paragraph or an item."""
    return bool(line.strip()) and not line.startswith(("#", "|", "```")) and not _ITEM.match(line)


def _while(lines: Sequence[str], at: int, holds: Callable[[str], bool]) -> int:
    """The first place from `at` on where `holds` is False."""
    while at < len(lines) and holds(lines[at]):
        at += 1
    return at


def _rows(lines: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    cells = [tuple(cell.strip() for cell in line.strip("| ").split("|")) for line in lines]
    return tuple(row for row in cells if not all(re.fullmatch(r":?-+:?", cell) for cell in row))


def _view(block: Block) -> RenderableType:
    if block.kind == "heading":
        return Text(without_markup(block.text), style="bold")
    if block.kind == "code":
        return Padding(Text("\n".join(block.lines), style="cyan"), (0, 0, 0, 4))
    if block.kind == "table":
        return _table(block.rows)
    return _inline(block.text)


def _table(rows: Sequence[Sequence[str]]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for name in rows[0]:
        table.add_column(_inline(name), overflow="fold")
    for row in rows[1:]:
        table.add_row(*(_inline(cell) for cell in row))
    return table


def _inline(text: str) -> Text:
    found, at = Text(), 0
    for match in _INLINE.finditer(text):
        found.append(text[at : match.start()])
        style = "cyan" if match[1] else "bold" if match[2] else ""
        found.append(match[1] or match[2] or match[3], style=style)
        at = match.end()
    found.append(text[at:])
    return found


def _roff_block(block: Block) -> list[str]:
    if block.kind == "heading":
        return [] if block.level == 1 else [f'.SH "{_roff(without_markup(block.text)).upper()}"']
    if block.kind == "code":
        return [".PP", ".RS 4", ".nf", *(_roff(line) for line in block.lines), ".fi", ".RE"]
    if block.kind == "table":
        return [line for row in block.rows[1:] for line in _roff_row(row)]
    if block.kind == "item":
        return [".IP \\(bu 2", _roff(without_markup(_ITEM.sub("", block.text, count=1)))]
    return [".PP", _roff(without_markup(block.text))]


def _roff_row(row: Sequence[str]) -> list[str]:
    rest = " \\(em ".join(_roff(without_markup(cell)) for cell in row[1:] if cell)
    return [".TP", f"\\fB{_roff(without_markup(row[0]))}\\fR", rest]


def _roff(text: str) -> str:
    """Text that troff prints as it is."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


def usage_roff(name: str, summary: str, usage: str) -> str:
    """A verb's --help as the source of a man page, its lines kept as they are."""
    title = f'.TH "{_roff(name.upper())}" 1 "" pdctl'
    shown = f"{_roff(name)} \\- {_roff(summary.rstrip('.'))}"
    lines = [title, ".SH NAME", shown, ".SH USAGE", ".nf", *map(_roff, usage.splitlines()), ".fi"]
    return "\n".join(lines) + "\n"
