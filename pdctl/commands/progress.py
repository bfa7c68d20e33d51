"""Progress messages on stderr: one line that is overwritten, or plain lines off a terminal."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pdctl.console import printable


def say(text: str) -> None:
    """Write one line to stderr."""
    sys.stderr.write(printable(f"{text}\n"))
    sys.stderr.flush()


@contextmanager
def progress_line(*, every_s: float | None = None) -> Iterator[Callable[[str], None]]:
    """A function that shows a text on stderr and overwrites the text shown before.

    Off a terminal it writes a new line at most every `every_s` seconds; None: it writes nothing.
    """
    if not sys.stderr.isatty():
        yield _Throttled(every_s).show if every_s is not None else lambda _: None
        return

    def show(text: str) -> None:
        sys.stderr.write(f"\r\x1b[2K{text} …")
        sys.stderr.flush()

    try:
        yield show
    finally:
        sys.stderr.write("\r\x1b[2K")
        sys.stderr.flush()


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
