"""Progress stays in one line of the terminal."""

import pytest

from pdctl.commands.progress import one_line


@pytest.mark.parametrize("width", [1, 2, 10, 60, 80, 200])
def test_progress_never_fills_a_line_of_any_width(width: int) -> None:
    for text in ("short", "a long text about many requests " * 20):
        assert len(one_line(text, width)) <= max(2, width - 1)


def test_progress_drives_no_terminal() -> None:
    assert "\x1b" not in one_line("model \x1b[31m", 80)
