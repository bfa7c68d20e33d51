"""The flags of SGLang and of its router, and the full name of a shortened one. Pure.

The tables beside this module say which release each was read from.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

SGLANG_RELEASE = (0, 5, 23)


@dataclass(frozen=True)
class FlagTable:
    """spellings: every name -> the main one. choices: main name -> the values it takes."""

    spellings: Mapping[str, str]
    choices: Mapping[str, tuple[str, ...]]

    def meant_by(self, spelled: str) -> tuple[str, ...]:
        """The main names that `spelled` may stand for, as argparse reads it; () for an unknown one.

        Source: argparse's `allow_abbrev`: a whole name wins over the names that begin with it.
        """
        if spelled in self.spellings:
            return (self.spellings[spelled],)
        begun = {full for name, full in self.spellings.items() if name.startswith(spelled)}
        return tuple(sorted(begun))

    def full_name(self, spelled: str) -> str:
        """The main name of a flag; as it is spelled where it is unknown or stands for several."""
        meant = self.meant_by(spelled)
        return meant[0] if len(meant) == 1 else spelled


@cache
def engine_table() -> FlagTable:
    """SGLang's flags."""
    return _read("sglang_flags.txt")


@cache
def router_table() -> FlagTable:
    """sglang-router's flags."""
    return _read("router_flags.txt")


def _read(file: str) -> FlagTable:
    text = Path(__file__).with_name(file).read_text(encoding="utf-8")
    spellings: dict[str, str] = {}
    choices: dict[str, tuple[str, ...]] = {}
    for line in text.splitlines():
        if line.startswith("--"):
            names, _, values = line.partition(" ")
            main = names.split("|")[0]
            spellings.update(dict.fromkeys(names.split("|"), main))
            if values:
                choices[main] = tuple(values.split(","))
    return FlagTable(spellings, choices)
