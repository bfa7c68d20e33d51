"""Output: answers on stdout, everything else on stderr, and the --json envelope."""

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING

from pdctl import __version__
from pdctl.errors import InvalidInput, PdctlError

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment


def out() -> "Console":
    """Console for answers."""
    return _console(stderr=False)


def err() -> "Console":
    """Console for progress, questions and errors."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> "Console":
    return _clean_console()(
        stderr=stderr, highlight=False, soft_wrap=False, markup=False, emoji=False
    )


@cache
def _clean_console() -> "type[Console]":
    """A console that strips control characters, so that no text can drive the terminal.

    Imports rich late: a command with --json does not need it.
    """
    from rich.console import Console
    from rich.segment import Segment

    class CleanConsole(Console):
        def render(
            self, renderable: "RenderableType", options: "ConsoleOptions | None" = None
        ) -> "Iterable[Segment]":
            for segment in super().render(renderable, options):
                text = segment.text
                if segment.control or text.isprintable() or text == "\n":
                    yield segment
                else:
                    yield Segment(printable(text), segment.style)

    return CleanConsole


def show(
    command: str, data: object, *, as_json: bool, render: "Callable[[], RenderableType]"
) -> None:
    """Print one answer: the JSON envelope, or the screen that `render` returns."""
    if as_json:
        print_json(command, data)
    else:
        out().print(render())


def print_json(command: str, data: object, *, status: str = "ok") -> None:
    """Print one JSON envelope as a line on stdout."""
    _write(envelope(command, status=status, data=data))


def print_failure(command: str, error: PdctlError, *, as_json: bool) -> None:
    """Print an error: a sentence and a hint on stderr, or a JSON envelope on stdout."""
    if as_json:
        problem = {"code": error.code, "message": error.message, "hint": error.hint}
        _write(envelope(command, status="error", data=None, error=problem))
        return
    lines = [f"error: {error.message}", *error.details]
    if error.hint:
        lines.append(f"hint:  {error.hint}")
    sys.stderr.write(printable("\n".join(lines)) + "\n")


def envelope(
    command: str, *, status: str, data: object, error: Mapping[str, str] | None = None
) -> dict[str, object]:
    """The JSON object that every verb prints with --json, even on failure."""
    return {
        "pdctl_version": __version__,
        "command": command,
        "status": status,
        "data": data,
        "error": error,
    }


def printable(text: str) -> str:
    """`text` without control characters, so that a log line cannot drive the terminal."""
    return "".join(c for c in text if c in "\n\t" or (c.isprintable() and c != "\x1b"))


def interactive(*, no_input: bool) -> bool:
    """True if pdctl may ask questions: on a terminal, without --no-input."""
    if no_input or os.environ.get("PDCTL_NO_INPUT"):
        return False
    return sys.stdin.isatty() and sys.stderr.isatty()


def ask(question: str, *, default: str, flag: str, no_input: bool) -> str:
    """Ask a question and return the answer. Raises InvalidInput naming `flag` if it cannot ask."""
    if not interactive(no_input=no_input):
        raise InvalidInput(f"Cannot ask {question!r} without a terminal.", hint=f"add {flag}")
    suffix = f" [{default}]" if default else ""
    sys.stderr.write(f"{question}{suffix} ")
    sys.stderr.flush()
    answer = sys.stdin.readline()
    if not answer:
        raise InvalidInput(f"No answer to {question!r}.", hint=f"add {flag}")
    return answer.strip() or default


def _write(document: Mapping[str, object]) -> None:
    sys.stdout.write(json.dumps(document, allow_nan=False, default=str) + "\n")
    sys.stdout.flush()
