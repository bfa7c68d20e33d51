"""A config.json that nobody vouches for: read it, and take typed values out of it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pdctl.errors import InvalidInput

MAX_BYTES = 16 * 1024 * 1024
LARGEST = 10_000_000  # of any size in a model's shape


class Fields:
    """The keys of one JSON object, with errors that name the file and the key."""

    def __init__(self, values: Mapping[str, Any], file: str) -> None:
        self.values = values
        self.file = file

    def count(self, *keys: str, least: int = 1, most: int = LARGEST) -> int:
        """The whole number under the first of `keys` that is there; an error if none is."""
        found = self.maybe_count(*keys, least=least, most=most)
        if found is None:
            raise self.wrong(keys[0], "is missing")
        return found

    def maybe_count(self, *keys: str, least: int = 1, most: int = LARGEST) -> int | None:
        """The whole number under the first of `keys` that is there, else None."""
        for key in keys:
            value = self.values.get(key)
            if value is None:
                continue
            if isinstance(value, float) and value.is_integer():
                value = int(value)
            if isinstance(value, bool) or not isinstance(value, int):
                raise self.wrong(key, f"must be a whole number, not {shown(value)}")
            if not least <= value <= most:
                raise self.wrong(key, f"must be {least} to {most}, not {shown(value)}")
            return value
        return None

    def text(self, key: str) -> str | None:
        value = self.values.get(key)
        return value if isinstance(value, str) and value else None

    def texts(self, *keys: str) -> tuple[str, ...]:
        """The strings of the first of `keys` that holds a list or an object of them."""
        for key in keys:
            value = self.values.get(key)
            if isinstance(value, list | dict) and value:
                return tuple(v for v in value if isinstance(v, str))
        return ()

    def flag(self, key: str) -> bool | None:
        value = self.values.get(key)
        return value if isinstance(value, bool) else None

    def part(self, *keys: str) -> "Fields | None":
        """The object under the first of `keys` that holds one."""
        for key in keys:
            value = self.values.get(key)
            if isinstance(value, dict):
                return Fields(value, self.file)
        return None

    def wrong(self, key: str, problem: str) -> InvalidInput:
        return InvalidInput(
            f"{self.file}: key {key!r} {problem}.",
            hint="pdctl plan with a bundled name, for example qwen3-32b, or repair the file",
            code="bad_config_json",
        )


def shown(value: object) -> str:
    """A value short enough for an error; a huge integer is not even converted."""
    if isinstance(value, int) and value.bit_length() > 128:
        return "a number of more than 38 digits"
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def read_fields(path: Path) -> Fields:
    """The object in a JSON file. InvalidInput if it cannot be read, is cut off or no object."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ValueError("it is larger than 16 MiB")
        values = json.loads(content)
    except OSError as problem:
        raise _unreadable(path, problem.strerror or str(problem)) from None
    except (ValueError, RecursionError) as problem:
        raise _unreadable(path, _json_problem(problem)) from None
    if not isinstance(values, dict):
        raise _unreadable(path, f"it holds {shown(values)} instead of an object")
    return Fields(values, str(path))


def _json_problem(problem: Exception) -> str:
    if isinstance(problem, json.JSONDecodeError):
        at = f"line {problem.lineno} column {problem.colno}"
        cut = problem.doc.rstrip()[problem.pos :].strip() == "" or "Unterminated" in problem.msg
        return f"it is cut off at {at}" if cut else f"it is not JSON at {at}: {problem.msg}"
    if isinstance(problem, UnicodeDecodeError):
        return "it is not UTF-8 text"
    if isinstance(problem, RecursionError):
        return "it is nested too deeply"
    return str(problem)[:80]


def _unreadable(path: Path, why: str) -> InvalidInput:
    return InvalidInput(
        f"{path} cannot be used: {why}.",
        hint="copy config.json again, or pdctl plan with a bundled name such as qwen3-32b",
        code="bad_config_json",
    )
