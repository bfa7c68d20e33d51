"""A strict YAML reader: errors name the file, the line and, for an unknown key, the nearest one."""

import difflib
import math
import re
import shlex
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from pdctl.errors import InvalidInput, PdctlError
from pdctl.paths import near_path
from pdctl.units import MIB, parse_latency_s

if TYPE_CHECKING:
    from yaml.nodes import Node


MAX_FILE_BYTES = MIB
_TRUE, _FALSE, _NULL = ("true", "yes", "on"), ("false", "no", "off"), ("", "~", "null")


class Field:
    """One value in a YAML file, together with its path of keys.

    yaml is imported where it is used: it is slow, and most commands read no file.
    """

    def __init__(self, node: "Node", file: str, key: str = "") -> None:
        self._node = node
        self.file = file
        self.key = key

    def problem(self, what: str, *, hint: str = "") -> InvalidInput:
        """An error that names the file, the line and the key."""
        line = self._node.start_mark.line + 1
        subject = f"{self.key} " if self.key else ""
        return InvalidInput(f"{self.file} line {line}: {subject}{what}.", hint=hint)

    def mapping(self, known: Collection[str] | None = None) -> "dict[str, Field]":
        """Its keys and values. known: the keys it may have; None: any."""
        from yaml.nodes import MappingNode, ScalarNode

        if not isinstance(self._node, MappingNode):
            subject = "" if self.key else "the file "
            raise self.problem(
                f"{subject}must be a mapping of keys to values", hint=_keys_hint(known)
            )
        fields: dict[str, Field] = {}
        for key_node, value_node in self._node.value:
            key = key_node.value if isinstance(key_node, ScalarNode) else "?"
            field = Field(value_node, self.file, f"{self.key}.{key}" if self.key else key)
            at_key = Field(key_node, self.file)
            if key in fields:
                raise at_key.problem(f"{field.key} appears twice", hint="keep one of them")
            if known is not None and key not in known:
                raise at_key.problem(f"{field.key!r} is not a known key", hint=_nearest(key, known))
            fields[key] = field
        return fields

    def items(self) -> "list[Field]":
        """Its items, in order."""
        from yaml.nodes import SequenceNode

        if not isinstance(self._node, SequenceNode):
            raise self.problem("must be a list")
        return [
            Field(node, self.file, f"{self.key}[{i}]") for i, node in enumerate(self._node.value)
        ]

    def text(self) -> str:
        """Its text, as written in the file."""
        from yaml.nodes import ScalarNode

        if not isinstance(self._node, ScalarNode) or self.is_null:
            raise self.problem("must be a single value")
        return str(self._node.value)

    @property
    def is_null(self) -> bool:
        """True if there is no value."""
        node = self._node
        return bool(getattr(node, "style", "") is None and node.value in _NULL)

    def integer(self, *, at_least: int) -> int:
        """Its value as a whole number."""
        text = self.text()
        if not re.fullmatch(r"-?\d{1,9}", text) or int(text) < at_least:
            raise self.problem(f"must be a whole number of at least {at_least}, not {text!r}")
        return int(text)

    def number(self) -> float:
        """Its value as a finite number."""
        text = self.text()
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise self.problem(f"must be a finite number, not {text!r}")
        return value

    def boolean(self) -> bool:
        """Its value as true or false."""
        text = self.text().lower()
        if text not in (*_TRUE, *_FALSE):
            raise self.problem(f"must be true or false, not {text!r}")
        return text in _TRUE

    def seconds(self) -> float:
        """Its duration as a service level: 30ms, 2s."""
        try:
            return parse_latency_s(self.text(), flag=self.key)
        except PdctlError as problem:
            what = f"must be a duration, not {self.text()!r}"
            raise self.problem(what, hint=problem.hint) from problem

    def texts(self) -> dict[str, str]:
        """Its keys with their texts, such as environment variables."""
        return {key: field.text() for key, field in self.mapping().items()}

    def args(self) -> tuple[str, ...]:
        """Its flags: a shell-like line, a list, or {flag: value} with true for a bare flag."""
        from yaml.nodes import MappingNode, SequenceNode

        if isinstance(self._node, SequenceNode):
            return tuple(item.text() for item in self.items())
        if isinstance(self._node, MappingNode):
            return tuple(
                token for flag, field in self.mapping().items() for token in field.flag(flag)
            )
        if self.is_null:
            return ()
        try:
            return tuple(shlex.split(self.text()))
        except ValueError as problem:
            raise self.problem(f"cannot be split into flags: {problem}") from problem

    def flag(self, name: str) -> tuple[str, ...]:
        """Its value as a command-line flag: true gives the bare flag, false gives nothing."""
        flag = "--" + name.lstrip("-").replace("_", "-")
        if self.is_null or self.text().lower() in _TRUE:
            return (flag,)
        return () if self.text().lower() in _FALSE else (flag, self.text())


def read_yaml(path: Path, hint: str = "pdctl plan MODEL -o pd.yaml") -> Field:
    """The top-level value of a YAML file. hint: how to get one.

    Raises InvalidInput if it is unreadable, empty or not YAML.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as problem:
        raise InvalidInput(
            f"{path} cannot be read: {problem.strerror}.{near_path(path)}", hint=hint
        ) from problem
    if len(data) > MAX_FILE_BYTES:
        raise InvalidInput(f"{path} is larger than 1 MiB.", hint=hint)
    return parse_yaml(data, str(path), hint)


def parse_yaml(data: bytes, file: str, hint: str = "pdctl plan MODEL -o pd.yaml") -> Field:
    """The top-level value of YAML text. Raises InvalidInput if it is empty or not YAML."""
    import yaml

    try:
        node = yaml.compose(data.decode(), Loader=yaml.SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as problem:
        mark = getattr(problem, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        what = getattr(problem, "problem", None) or "unreadable"
        raise InvalidInput(f"{file}{line}: not YAML: {what}.", hint=hint) from problem
    if node is None:
        raise InvalidInput(f"{file} is empty.", hint=hint)
    return Field(node, file)


def _nearest(key: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(key.replace("-", "_").lower(), known, n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else _keys_hint(known)


def _keys_hint(known: Collection[str] | None) -> str:
    return f"known keys: {', '.join(known)}" if known else ""
