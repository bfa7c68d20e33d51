"""Keys pressed on a terminal while a screen shows."""

import os
import select
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def keys() -> Iterator[Callable[[float], str]]:
    """A function that waits for a key for so many seconds and returns it, or "".

    A key without a character has a name: enter, escape, up, down. If stdin is not a terminal it
    only waits. Restores the terminal's settings at the end.
    """
    if not _can_read_keys():
        yield _sleep
        return
    import termios  # not on Windows
    import tty

    stdin = sys.stdin.fileno()
    before = termios.tcgetattr(stdin)
    try:
        tty.setcbreak(stdin)
        yield lambda seconds: _wait(stdin, seconds)
    finally:
        termios.tcsetattr(stdin, termios.TCSADRAIN, before)


def _can_read_keys() -> bool:
    """True on a terminal, in the foreground: reading it stops a background process."""
    try:
        return sys.stdin.isatty() and os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (OSError, ValueError):
        return False


def _sleep(seconds: float) -> str:
    time.sleep(seconds)
    return ""


_NAMED = {b"\n": "enter", b"\r": "enter", b"\x1b": "escape", b"\x1b[A": "up", b"\x1b[B": "down"}
_NAMED |= {b"\x1bOA": "up", b"\x1bOB": "down"}  # arrows of a terminal in application mode
_ARROW_S = 0.02  # by then the rest of an arrow's bytes has arrived


def _wait(stdin: int, seconds: float) -> str:
    if not _has_input(stdin, seconds):
        return ""
    key = os.read(stdin, 1)
    if key == b"\x1b" and _has_input(stdin, _ARROW_S):
        key += os.read(stdin, 2)
    return _NAMED.get(key) or key.decode("ascii", "replace")


def _has_input(stdin: int, seconds: float) -> bool:
    return bool(select.select([stdin], [], [], seconds)[0])
