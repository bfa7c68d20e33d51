"""Numeric options that accept units: 30K, 12/s, 90%."""

from typing import Any, Protocol

import typer


class Parser(Protocol):
    """Parse a number. Raises InvalidInput naming the flag."""

    def __call__(self, text: str, *, flag: str) -> float: ...


def number_option(flag: str, parse: Parser, text: str, *, default: float | None = None) -> Any:
    """A typer option whose value goes through `parse`. text: its help."""

    def read(given: str | float) -> float:
        return given if isinstance(given, float) else parse(str(given), flag=flag)

    return typer.Option(default, flag, help=text, parser=read, metavar="NUMBER")
