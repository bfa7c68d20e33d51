"""The flags of SGLang and of its router: full names, and what a command line gives. Pure.

The tables beside this module say which release each was read from.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pdctl.errors import InvalidInput

Version = tuple[int, ...]

SGLANG_RELEASE: Version = (0, 5, 23)
ALIASES: Mapping[str, str] = {
    "--model": "--model-path",
    "--nccl-init-addr": "--dist-init-addr",
    "--tp": "--tp-size",
    "--tensor-parallel-size": "--tp-size",
    "--pp": "--pp-size",
    "--pipeline-parallel-size": "--pp-size",
    "--dp": "--dp-size",
    "--data-parallel-size": "--dp-size",
    "--attention-data-parallel-size": "--attn-dp-size",
    "--ep": "--ep-size",
    "--expert-parallel-size": "--ep-size",
}
# flag -> (first version without it, what replaces it)
REMOVED: Mapping[str, tuple[Version, str]] = {
    "--cuda-graph-max-bs": ((0, 5, 16), "--cuda-graph-max-bs-decode"),
    "--cuda-graph-bs": ((0, 5, 16), "--cuda-graph-bs-decode"),
    "--optimistic-prefill-retries": ((0, 5, 16), "--optimistic-prefill-attempts"),
    "--torchao-config": ((0, 5, 16), "--quantization"),
    "--enable-deepep-moe": ((0, 5, 10), "--moe-a2a-backend deepep"),
    "--disaggregation-decode-tp": ((0, 5, 10), "nothing: engines negotiate it"),
    "--disaggregation-decode-dp": ((0, 5, 10), "nothing: engines negotiate it"),
    "--disaggregation-prefill-pp": ((0, 5, 10), "nothing: engines negotiate it"),
    "--prefill-round-robin-balance": ((0, 5, 16), "nothing: it is the default"),
    "--pdlb-url": ((0, 5, 10), "nothing: pdctl registers engines with the router"),
}


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


def options(args: Sequence[str]) -> dict[str, str]:
    """Flag, in SGLang's main spelling -> its value as text, "" for none. The last one wins.

    A shortened flag is read as argparse reads it. A flag that may stand for several flags, or for
    none, stays as it is.

    Raises InvalidInput for a value without a flag before it, and for a flag that SGLang spells
    with hyphens.
    """
    return _options(args, _engine_name)


def router_options(args: Sequence[str]) -> dict[str, str]:
    """As `options`, of the router's flags."""
    return _options(args, router_table().full_name)


def _engine_name(spelled: str) -> str:
    if spelled in ALIASES or spelled in REMOVED:
        return ALIASES.get(spelled, spelled)
    full = engine_table().full_name(spelled)
    return ALIASES.get(full, full)


def _refuse_underscores(spelled: str) -> None:
    """Raise InvalidInput for a flag that SGLang or its router knows with hyphens alone."""
    hyphened = spelled.replace("_", "-")
    if any(table.meant_by(hyphened) for table in (engine_table(), router_table())):
        raise InvalidInput(f"SGLang knows {spelled} with hyphens alone.", hint=hyphened)


def _options(args: Sequence[str], main_name: Callable[[str], str]) -> dict[str, str]:
    found: dict[str, str] = {}
    name = ""
    for token in args:
        if token.startswith("--"):
            spelled, _, value = token.partition("=")
            name = main_name(spelled)
            if "_" in spelled and name == spelled:
                _refuse_underscores(spelled)
            found[name] = value
        elif not name:
            raise InvalidInput(
                f"The extra argument {token!r} has no flag before it.",
                hint="--prefill-args '--chunked-prefill-size 8192'",
            )
        else:
            found[name] = f"{found[name]} {token}".strip()
    return found
