"""Progress messages on stderr: one line that is overwritten, or plain lines off a terminal."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pdctl.console import PIPED_WIDTH, can_redraw, printable
from pdctl.text_lines import shell_lines, wrapped


def say(text: str) -> None:
    """Write one line to stderr; on a terminal it is wrapped between words."""
    lines = wrapped(text, _width()) if sys.stderr.isatty() else text
    sys.stderr.write(printable(f"{lines}\n"))
    sys.stderr.flush()


def say_command(head: str, command: str) -> None:
    """Write a shell command to stderr, in lines that a shell reads as one."""
    width = _width() if sys.stderr.isatty() else PIPED_WIDTH
    sys.stderr.write(printable("\n".join([*shell_lines(command, width, head=head), ""])))
    sys.stderr.flush()


@contextmanager
def progress_line(*, every_s: float | None = None) -> Iterator[Callable[[str], None]]:
    """A function that shows a text on stderr and overwrites the text shown before.

    Off a terminal it writes a new line at most every `every_s` seconds; None: it writes nothing.
    """
    if not can_redraw(sys.stderr):
        yield _Throttled(every_s).show if every_s is not None else lambda _: None
        return

    def show(text: str) -> None:
        sys.stderr.write(f"\r\x1b[2K{one_line(text, _width())}")
        sys.stderr.flush()

    try:
        yield show
    finally:
        sys.stderr.write("\r\x1b[2K")
        sys.stderr.flush()


def one_line(text: str, width: int) -> str:
    """`text` and an ellipsis in fewer than `width` columns: a full line would wrap the cursor."""
    return f"{printable(text)[: max(0, width - 3)].rstrip()} …"


def _width() -> int:
    """Columns of the terminal that stderr writes to."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


class _Throttled:
    """Writes a line only if enough time has passed since the last one."""

    def __init__(self, every_s: float) -> None:
        self._every_s = every_s
        self._said_at: float | None = None

    def show(self, text: str) -> None:
        now = time.monotonic()
        if self._said_at is None or now - self._said_at >= self._every_s:
            self._said_at = now
            say(text)
