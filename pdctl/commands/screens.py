"""Keys pressed while a screen is live, without Enter."""

import contextlib
import os
import select
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from pdctl.engines.lifecycle.start import Prepared
    from pdctl.engines.records import DeploymentState


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


def starting(words: str = "") -> "Callable[[DeploymentState], None]":
    """To be told each state; shows them on stderr until it serves."""
    from pdctl.console import err

    screen: Screen = LiveScreen(words) if err().is_terminal else LineScreen()
    is_open = [True]

    def tell(state: "DeploymentState") -> None:
        if not is_open[0]:
            return
        screen.show(state)
        if state.phase in ("serving", "scaling", "degraded", "failed", "stopped"):
            is_open[0] = False
            screen.close()

    return tell


FRAME_S = 0.125
LIVE_PHASES = ("serving", "scaling", "degraded")


class Screen(Protocol):
    """Shows states as they come."""

    def show(self, state: "DeploymentState | None") -> None: ...
    def close(self) -> None: ...


class LineScreen:
    """One line per change of phase, on stderr."""

    def __init__(self, last: "DeploymentState | None" = None) -> None:
        self._last = last

    def show(self, state: "DeploymentState | None") -> None:
        from pdctl.console import printable
        from pdctl.tables.deployments import change_lines

        if state is None:
            return
        for line in change_lines(self._last, state):
            sys.stderr.write(f"{printable(line)}\n")
        sys.stderr.flush()
        self._last = state

    def close(self) -> None:
        return


class LiveScreen:
    """A table drawn over and over, on a terminal."""

    def __init__(self, words: str) -> None:
        from rich.live import Live

        from pdctl.console import err

        self._words = words
        self._live = Live(console=err(), auto_refresh=False, vertical_overflow="visible")
        self._live.start()
        self._drawn_at = 0.0
        self._last: DeploymentState | None = None

    def show(self, state: "DeploymentState | None") -> None:
        self._last = state
        if time.monotonic() - self._drawn_at >= FRAME_S:
            self._draw()

    def close(self) -> None:
        self._draw()
        self._live.stop()

    def _draw(self) -> None:
        from pdctl.tables.deployments import up_view

        self._drawn_at = time.monotonic()
        self._live.update(up_view(self._words, self._last, time.time()), refresh=True)


def _screen(words: str) -> Screen:
    from pdctl.console import err

    if err().is_terminal:
        return LiveScreen(words)
    sys.stderr.write(f"{words}\n")
    return LineScreen()


def headline(prepared: "Prepared") -> str:
    """llama-3.1-8b · 2P6D · 8 × H200 · SGLang 0.5.23 · NIXL over NVLink."""
    deployment = prepared.deployment
    if deployment.engine == "sim":
        gpus = f"simulated {deployment.gpus or f'{deployment.num_gpus}xH200'}"
    else:
        gpus = f"{deployment.num_gpus} × {prepared.gpu_name}" if prepared.gpu_name else "CPU"
    version = f"SGLang {prepared.version}" if prepared.version else ""
    parts = (deployment.model, deployment.layout, gpus, version, prepared.kv_path)
    return " · ".join(part for part in parts if part)


@contextmanager
def progress_line() -> Iterator[Callable[[str], None]]:
    """A line on stderr that each call overwrites; nothing where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return

    def show(text: str) -> None:
        sys.stderr.write(f"\r\x1b[2K{text} …")
        sys.stderr.flush()

    try:
        yield show
    finally:
        sys.stderr.write("\r\x1b[2K")
        sys.stderr.flush()
