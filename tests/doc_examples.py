"""Every pdctl command that README, docs/ and --help show as an example."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import typer

from pdctl.cli import app, verb_help
from pdctl.commands.command_line.verbs import VERBS

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
# what stands for a value in the text of a page
PLACEHOLDERS = {
    "MODEL": "qwen3-8b",
    "NAME": "chat",
    "URL": "http://127.0.0.1:30000",
    "FILE": "requests.jsonl",
    "DIRECTORY": "man",
    "VERB": "plan",
    "TOPIC": "exit-codes",
}
_BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"`(pdctl [a-z][^`\n]*)`")
_EXAMPLES = re.compile(r"Examples:\n(.*?)\n\n", re.DOTALL)
_SHELL_WORD = re.compile(r"\d?[|>&;]+.*")


def commands_of_docs() -> Iterator[tuple[str, str]]:
    """(page, line) of every pdctl command in a block of a page."""
    for path in PAGES:
        for kind, block in _BLOCK.findall(path.read_text(encoding="utf-8")):
            for line in map(str.strip, block.splitlines()):
                is_command = line.startswith("$ ") or kind in ("sh", "")
                text = line.removeprefix("$ ")
                start = text.find(".venv/bin/pdctl ") + len(".venv/bin/")
                text = text[start:] if "&& .venv/bin/pdctl " in text else text
                if is_command and text.startswith("pdctl "):
                    yield path.name, text


def commands_in_text() -> Iterator[tuple[str, str]]:
    """(page, line) of every complete pdctl command inside a sentence or a table of a page."""
    for path in PAGES:
        text = re.sub(_BLOCK, "", path.read_text(encoding="utf-8"))
        for line in dict.fromkeys(_INLINE.findall(text)):
            if _is_complete(line):
                yield path.name, line


def commands_of_help() -> Iterator[tuple[str, str]]:
    """(verb --help, line) of every example of a verb."""
    for verb in VERBS:
        found = _EXAMPLES.search(verb_help(verb) + "\n\n")
        assert found is not None, verb
        for line in found[1].splitlines():
            yield f"{verb} --help", line.strip()


def words_of(line: str) -> list[str]:
    """The words of the first command of a line, without pdctl and what is the shell's."""
    words = [PLACEHOLDERS.get(word, word) for word in shlex.split(line, comments=True)]
    ends = [place for place, word in enumerate(words) if _SHELL_WORD.fullmatch(word)]
    return words[1 : ends[0]] if ends else words[1:]


def _is_complete(line: str) -> bool:
    """True for a command that has every value it needs; else the text names a flag."""
    words = words_of(line)
    if words[0] not in VERBS or len(words) < 2 or {"...", "…"} & set(words):
        return False
    group = typer.main.get_command(app)
    context = group.make_context("pdctl", list(words), resilient_parsing=True)
    command = group.get_command(context, words[0])  # type: ignore[attr-defined]
    try:
        command.make_context(words[0], words[1:], parent=context)
    except Exception as problem:  # noqa: BLE001 - click's own kinds of usage errors
        return not hasattr(problem, "format_message")
    return True
