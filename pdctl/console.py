"""Output: answers on stdout, everything else on stderr, and the --json envelope."""

import codecs
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, TextIO

from pdctl import __version__
from pdctl.errors import InvalidInput, PdctlError
from pdctl.text_lines import hint_lines, wrapped

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.segment import Segment


def out() -> "Console":
    """Console for answers."""
    return _console(stderr=False)


def err() -> "Console":
    """Console for progress, questions and errors."""
    return _console(stderr=True)


_LOOKALIKES = str.maketrans("·–…●◐◌✗▲↑↓→›×µ±█▉▊▋▌▍▎▏▇▆▅▄▃▂▁", "--.*o.x!^v>>xu~####||||#++==__")


def prepare_streams() -> None:
    """Make stdin, stdout and stderr usable: open, and with lookalikes where UTF-8 is lacking."""
    _open_closed_streams()
    codecs.register_error("lookalike", _lookalike)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and not stream.encoding.lower().startswith("utf"):
            stream.reconfigure(errors="lookalike")


def _open_closed_streams() -> None:
    names = [name for name in ("stdin", "stdout", "stderr") if getattr(sys, name) is None]
    while names and os.open(os.devnull, os.O_RDWR) <= 2:  # no other file may take their numbers
        pass
    for name in names:
        mode = "r" if name == "stdin" else "w"
        empty = os.open(os.devnull, os.O_RDWR)
        setattr(sys, name, os.fdopen(empty, mode, encoding="utf-8"))


def _lookalike(problem: UnicodeError) -> tuple[str, int]:
    if not isinstance(problem, UnicodeEncodeError):
        raise problem
    missing = problem.object[problem.start : problem.end].translate(_LOOKALIKES)
    return missing.encode("ascii", "replace").decode("ascii"), problem.end


def can_redraw(stream: TextIO) -> bool:
    """Is this a terminal on which lines can be replaced? Editors' shells have some that cannot."""
    return stream.isatty() and os.environ.get("TERM", "").lower() not in ("dumb", "unknown")


PIPED_WIDTH = 4000  # no line of an answer is longer; off a terminal nobody asked for columns
LEAST_WIDTH = 20


def _console(*, stderr: bool) -> "Console":
    stream = sys.stderr if stderr else sys.stdout
    columns = os.environ.get("COLUMNS", "")
    asked = int(columns) if columns.isdecimal() else 0  # 0 stands for an unknown width
    unasked = None if stream.isatty() else PIPED_WIDTH
    return _clean_console()(
        stderr=stderr,
        highlight=False,
        soft_wrap=False,
        markup=False,
        emoji=False,
        width=max(asked, LEAST_WIDTH) if asked else unasked,
        _environ={**os.environ, "COLUMNS": "", "LINES": ""},
    )


@cache
def _clean_console() -> "type[Console]":
    """A console that strips control characters, so that no text can drive the terminal.

    Off a terminal it also strips the blanks with which rich fills lines. Imports rich late: a
    command with --json does not need it.
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

        def on_broken_pipe(self) -> None:
            raise BrokenPipeError  # not rich's exit code 1: cli.main ends quietly

        def print(self, *objects: Any, **options: Any) -> None:
            if self.is_terminal:
                super().print(*objects, **options)
                return
            with self.capture() as captured:
                super().print(*objects, **options)
            lines = captured.get().split("\n")
            self.file.write("\n".join(line.rstrip() for line in lines))

    return CleanConsole


def show(
    command: str,
    data: object,
    *,
    as_json: bool,
    render: "Callable[[], RenderableType]",
    lines: "Callable[[], Iterable[str]] | None" = None,
) -> None:
    """Print one answer: the JSON envelope, or the screen that `render` returns.

    lines: what to print instead of the screen off a terminal, for other programs to read.
    """
    if as_json:
        print_json(command, data)
    elif lines is None or sys.stdout.isatty():
        out().print(render())
    else:
        print_lines(lines())


def print_lines(lines: "Iterable[str]") -> None:
    """Print lines to stdout as they are, without control characters."""
    sys.stdout.write("".join(f"{printable(line)}\n" for line in lines))
    sys.stdout.flush()


def print_json(command: str, data: object, *, status: str = "ok") -> None:
    """Print one JSON envelope as a line on stdout."""
    _write(envelope(command, status=status, data=data))


def print_failure(command: str, error: PdctlError, *, as_json: bool) -> None:
    """Print an error: a sentence and a hint on stderr, or a JSON envelope on stdout."""
    if as_json:
        problem = {"code": error.code, "message": error.message, "hint": error.hint}
        _write(envelope(command, status="error", data=None, error=problem))
        return
    said = f"error: {error.message}"
    if sys.stderr.isatty():
        said = wrapped(said, err().width, indent=7)
    lines = [said, *error.details]
    if error.hint:
        is_screen = sys.stderr.isatty()
        hint = hint_lines(error.hint, err().width, indent=7) if is_screen else error.hint
        lines.append(f"hint:  {hint}")
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


def command_width() -> int:
    """Columns that a command on stdout may take: those of the terminal, any number elsewhere."""
    return out().width if sys.stdout.isatty() else PIPED_WIDTH


def interactive(*, no_input: bool) -> bool:
    """True if pdctl may ask questions: on a terminal, without --no-input."""
    if no_input or os.environ.get("PDCTL_NO_INPUT"):
        return False
    return sys.stdin.isatty() and sys.stderr.isatty()


def ask(
    question: str,
    *,
    default: str,
    flag: str,
    no_input: bool,
    check: "Callable[[str], object] | None" = None,
) -> str:
    """Ask a question and return the answer. Raises InvalidInput naming `flag` if it cannot ask.

    check: raises PdctlError for an answer that cannot be used; the question then comes again with
    the reason.
    """
    if not interactive(no_input=no_input):
        raise InvalidInput(f"Cannot ask {question!r} without a terminal.", hint=f"add {flag}")
    suffix = f" [{default}]" if default else ""
    while True:
        sys.stderr.write(f"{question}{suffix} ")
        sys.stderr.flush()
        line = sys.stdin.readline()
        if not line:
            raise InvalidInput(f"No answer to {question!r}.", hint=f"add {flag}")
        answer = line.strip() or default
        try:
            if check is not None:
                check(answer)
        except PdctlError as problem:
            sys.stderr.write(printable(f"{wrapped(reason_line(problem), err().width)}\n"))
        else:
            return answer


def ask_yes(question: str, *, default: str, flag: str) -> bool:
    """Ask a question until it gets a yes or a no. Raises InvalidInput as ask does."""

    def is_yes(text: str) -> bool:
        if text.lower() not in ("y", "yes", "n", "no"):
            raise InvalidInput(f"{text!r} is neither y nor n.")
        return text.lower().startswith("y")

    question = f"{question} (y/n)"
    return is_yes(ask(question, default=default, flag=flag, no_input=False, check=is_yes))


def reason_line(problem: PdctlError) -> str:
    """Why an answer cannot be used, as one indented line before the question comes again."""
    return f"  {problem.message}{f' ({problem.hint})' if problem.hint else ''}"


def _write(document: Mapping[str, object]) -> None:
    sys.stdout.write(json.dumps(document, allow_nan=False, default=str) + "\n")
    sys.stdout.flush()
