"""Keys pressed while a screen is live, without Enter."""

import contextlib
import os
import select
import sys
import time
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def keys() -> Iterator[Callable[[float], str]]:
    """A function that waits so many seconds for a key and returns it, or "".

    Where stdin is no terminal it only waits. The terminal's own settings come back at the end.
    """
    if not _can_read_keys():
        yield _sleep
        return
    import termios
    import tty

    stdin = sys.stdin.fileno()
    before = termios.tcgetattr(stdin)
    try:
        tty.setcbreak(stdin)
        yield lambda seconds: _wait(stdin, seconds)
    finally:
        termios.tcsetattr(stdin, termios.TCSADRAIN, before)


def _can_read_keys() -> bool:
    """On a terminal, in the foreground: a background process that reads it would be stopped."""
    try:
        return sys.stdin.isatty() and os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (OSError, ValueError):
        return False


def _sleep(seconds: float) -> str:
    time.sleep(seconds)
    return ""


def _wait(stdin: int, seconds: float) -> str:
    ready, _, _ = select.select([stdin], [], [], seconds)
    return os.read(stdin, 1).decode("ascii", "replace") if ready else ""
