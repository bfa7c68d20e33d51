"""Pages of the documentation, for a terminal and as man pages."""

from io import StringIO

from rich.console import Console

from pdctl.tables.pages import blocks_of, page_roff, page_view, title_of, usage_roff, without_markup

PAGE = """# A `title`

One paragraph with **bold** words,
on two lines and a [link](other.md).

- first item
  goes on
- second item

```sh
pdctl ls  # -x
```

| code | meaning |
|---|---|
| 0 | well |
| 1 | `bug` |
"""


def _shown(width: int) -> str:
    console = Console(file=StringIO(), width=width, color_system=None)
    console.print(page_view(PAGE))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return str(text)


def test_a_page_is_a_list_of_blocks() -> None:
    kinds = [block.kind for block in blocks_of(PAGE)]
    assert kinds == ["heading", "paragraph", "item", "item", "code", "table"]
    assert blocks_of(PAGE)[-1].rows == (("code", "meaning"), ("0", "well"), ("1", "`bug`"))
    assert title_of(PAGE) == "A title"


def test_marks_of_markdown_are_not_shown() -> None:
    assert without_markup("`a` and **b** of [c](d.md)") == "a and b of c"
    shown = _shown(80)
    assert "`" not in shown
    assert "**" not in shown
    assert "A title" in shown


def test_a_page_fits_any_width() -> None:
    for width in (30, 60, 80, 200):
        assert all(len(line.rstrip()) <= width for line in _shown(width).splitlines())


def test_a_man_page_escapes_what_troff_reads() -> None:
    roff = page_roff(PAGE + "\n.dot at the start of a line\n", name="pdctl-x", section=7)
    assert roff.startswith('.TH "PDCTL\\-X" 7')
    assert "pdctl ls  # \\-x" in roff
    assert "\n\\&.dot" in roff
    assert ".TP\n\\fB1\\fR\nbug" in roff


def test_the_usage_of_a_verb_keeps_its_lines() -> None:
    roff = usage_roff("pdctl-ls", "List.", "Usage: pdctl ls\n\n  --json  One object")
    assert ".nf\nUsage: pdctl ls\n\n  \\-\\-json  One object\n.fi" in roff
