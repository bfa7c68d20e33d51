"""Sentences and shell commands in lines for a terminal. Pure."""

import re
from collections.abc import Iterator
from textwrap import TextWrapper

# between a number and its unit, where no line ends
_UNIT = re.compile(
    r"(?<=\d) (?=(?:%|[mµn]?s|min|h|W|[KMGT]i?B(?:/s)?|(?:req|tok|tokens|requests)/s)(?!\w))"
)
_KEPT = "\u00a0"  # a blank at which no line ends
_CLAUSE = re.compile(r"(?<=;) |(?<=,) (?=or |--|pdctl )|(?<=\?) ")
_HINT_WORD = re.compile(r"""(?<!\S)(?:'[^']*'|"[^"]*")\S*|\S+""")  # an apostrophe does not quote
_WORD = r"""(?:[^\s'"]|'[^']*'|"[^"]*")+"""
_PART = re.compile(rf"(--[\w-]+) (?!-)({_WORD})|({_WORD})")  # a flag and its value, or a word


def shell_lines(command: str, width: int, *, head: str = "") -> list[str]:
    """A command in lines of at most `width` columns that a shell reads as one.

    Backslashes join the lines, so that they can be copied together. No word is broken, not even
    one that is wider than the terminal, and a flag keeps its value where both fit in a line. head:
    what stands before the first line.
    """
    lines, blank = [head], " " * (len(head) + 4)
    for word in _parts(command, width - 2 - len(blank)):
        is_first = lines[-1] in (head, blank)
        if not is_first and len(lines[-1]) + 1 + len(word) > width - 2:
            lines[-1] += " \\"
            lines.append(blank)
            is_first = True
        lines[-1] += word if is_first else f" {word}"
    return lines


def _parts(command: str, room: int) -> Iterator[str]:
    """The words of a command, a flag with its value where both fit into `room` columns."""
    for flag, value, word in _PART.findall(command):
        pair = f"{flag} {value}" if flag else word
        yield from (pair,) if not flag or len(pair) <= room else (flag, value)


def hint_lines(hint: str, width: int, *, indent: int) -> str:
    """A hint in lines that end between its commands or clauses, or else between words.

    Inside a clause that is wider than the terminal, an argument in quotes stays whole.
    """
    lines = [""]
    for part in _CLAUSE.split(hint):
        if lines[-1] and indent + len(f"{lines[-1]} {part}") > width:
            lines.append("")
        for word in [part] if indent + len(part) <= width else _HINT_WORD.findall(part):
            if lines[-1] and indent + len(f"{lines[-1]} {word}") > width:
                lines.append("")
            lines[-1] += f" {word}" if lines[-1] else word
    return ("\n" + " " * indent).join(lines)


def wrapped(text: str, width: int, *, indent: int = 0) -> str:
    """`text` with line ends between words. Further lines begin `indent` columns in.

    A number keeps its unit.
    """
    wrapper = TextWrapper(width, break_long_words=False, break_on_hyphens=False)
    lines = []
    for line in text.split("\n"):
        own = len(line) - len(line.lstrip())
        wrapper.subsequent_indent = " " * (own + indent)
        lines += wrapper.wrap(_UNIT.sub(_KEPT, line)) or [""]
    return "\n".join(lines).replace(_KEPT, " ")
