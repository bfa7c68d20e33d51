"""Sentences and shell commands in lines for a terminal. Pure."""

import re
from textwrap import TextWrapper

_WORD = re.compile(r"""(?:[^\s'"]|'[^']*'|"[^"]*")+""")


def shell_lines(command: str, width: int, *, head: str = "") -> list[str]:
    """A command in lines of at most `width` columns that a shell reads as one.

    Backslashes join the lines, so that they can be copied together. No word is broken, not even
    one that is wider than the terminal. head: what stands before the first line.
    """
    lines, blank = [head], " " * (len(head) + 4)
    for word in _WORD.findall(command):
        is_first = lines[-1] in (head, blank)
        if not is_first and len(lines[-1]) + 1 + len(word) > width - 2:
            lines[-1] += " \\"
            lines.append(blank)
            is_first = True
        lines[-1] += word if is_first else f" {word}"
    return lines


def wrapped(text: str, width: int, *, indent: int = 0) -> str:
    """`text` with line ends between words. Further lines begin `indent` columns in."""
    wrapper = TextWrapper(width, break_long_words=False, break_on_hyphens=False)
    lines = []
    for line in text.split("\n"):
        own = len(line) - len(line.lstrip())
        wrapper.subsequent_indent = " " * (own + indent)
        lines += wrapper.wrap(line) or [""]
    return "\n".join(lines)
