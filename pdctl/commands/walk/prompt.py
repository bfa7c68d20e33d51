"""Questions on a terminal with line editing, history and Tab; each answer checked when given."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from glob import glob
from pathlib import Path

from pdctl.commands.progress import say
from pdctl.console import reason_line
from pdctl.errors import PdctlError

LIST = "?"  # the answer that lists what is possible
NONE_WORDS = ("-", "none")  # answers that remove a default
MOST_HISTORY = 200


@dataclass(frozen=True)
class Prompt:
    """One question. check: raises PdctlError for an answer that cannot be used.

    choices: what `?` lists and Tab completes. has_paths: Tab completes files too. help: a line
    above that list. is_optional: Enter without a default, `-` and `none` mean no answer.
    """

    key: str
    question: str
    check: Callable[[str], object]
    choices: Callable[[], Sequence[str]] = tuple
    help: str = ""
    has_paths: bool = False
    is_optional: bool = False


def ask_prompt(prompt: Prompt, default: str) -> str:
    """The first answer that `prompt.check` accepts, or "" where there is none.

    Raises EOFError at Ctrl-D and KeyboardInterrupt at Ctrl-C.
    """
    while True:
        answer = _answer(prompt, default)
        if answer == LIST:
            say(listing(prompt))
            continue
        if not answer:
            if prompt.is_optional:
                return ""
            say(f"  An answer is needed; {LIST} lists what is possible.")
            continue
        try:
            prompt.check(answer)
        except PdctlError as problem:
            say(reason_line(problem))
            continue
        return answer


def listing(prompt: Prompt) -> str:
    """The answer to `?`: the help, then the choices; `say` wraps both to the terminal."""
    choices = " ".join(prompt.choices())
    lines = (f"  {prompt.help}" if prompt.help else "", f"    {choices}" if choices else "")
    return "\n".join(filter(None, lines))


def _answer(prompt: Prompt, default: str) -> str:
    kept = f" [{default}]" if default else ""
    with _completing(prompt):
        text = _read_line(f"{prompt.question}{kept} ").strip()
    if prompt.is_optional and text.lower() in NONE_WORDS:
        return ""
    return text or default


def _read_line(text: str) -> str:
    """One line. input() edits lines only where stdin and stdout are both terminals."""
    if sys.stdin.isatty() and sys.stdout.isatty():
        return input(text)
    sys.stderr.write(text)
    sys.stderr.flush()
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line


@contextmanager
def _completing(prompt: Prompt) -> Iterator[None]:
    """Let Tab complete the choices and paths of this question."""
    try:
        import readline
    except ImportError:  # a Python without it: answers can still be typed
        yield
        return
    before = readline.get_completer(), readline.get_completer_delims()
    readline.set_completer_delims("")
    readline.set_completer(lambda text, n: _nth(completions(prompt, text), n))
    is_libedit = "libedit" in (readline.__doc__ or "")
    readline.parse_and_bind("bind ^I rl_complete" if is_libedit else "tab: complete")
    try:
        yield
    finally:
        readline.set_completer(before[0])
        readline.set_completer_delims(before[1])


def completions(prompt: Prompt, text: str) -> list[str]:
    """The completions of the text typed so far: matching choices, then files and folders."""
    found = [choice for choice in prompt.choices() if choice.startswith(text)]
    if prompt.has_paths:
        typed = os.path.expanduser(text)
        shown = [p + os.sep if os.path.isdir(p) else p for p in sorted(glob(f"{typed}*"))]
        found += [text + path[len(typed) :] for path in shown]
    return found


def _nth(items: Sequence[str], place: int) -> str | None:
    return items[place] if place < len(items) else None


@contextmanager
def history(file: Path) -> Iterator[None]:
    """Arrow keys bring back earlier answers, also those of earlier starts."""
    try:
        import readline
    except ImportError:
        yield
        return
    try:
        readline.read_history_file(file)
    except OSError:
        readline.clear_history()
    try:
        yield
    finally:
        readline.set_history_length(MOST_HISTORY)
        with suppress(OSError):  # a full disk: the history is a convenience
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            readline.write_history_file(file)
