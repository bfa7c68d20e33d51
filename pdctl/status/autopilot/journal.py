"""An autopilot's decisions, their evidence and their results: a file in the state folder."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pdctl.engines.state import state_dir
from pdctl.status.autopilot.decision import Decision, Move
from pdctl.status.autopilot.split_advice import Split
from pdctl.status.records import WhatIf
from pdctl.status.what_if_file import what_if_of

FILE = "autopilot.jsonl"
_MAX_BYTES = 16 << 20  # of the end of the file that is read


@dataclass(frozen=True)
class Entry:
    """One decision. look: the what-if it rests on; None: there was none, `decision.why` says why.
    latest: that of the latest part of the window.

    move: what was done; None for a decision to wait, in a dry run, or if the change failed, which
    `problem` tells.
    """

    at_s: float
    layout: str
    decision: Decision
    look: WhatIf | None = None
    move: Move | None = None
    is_dry: bool = False
    problem: str = ""
    latest: WhatIf | None = None


def write_entry(name: str, entry: Entry) -> None:
    """Append a decision to the journal of a deployment."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    with os.fdopen(os.open(_path(name), flags, 0o600), "w", encoding="utf-8") as file:
        file.write(json.dumps(asdict(entry)) + "\n")


def read_entries(name: str, since_s: float = 0.0) -> tuple[Entry, ...]:
    """The decisions since `since_s` (Unix seconds), oldest first. Skips unreadable lines."""
    return tuple(one for one in _entries(_path(name)) if one.at_s >= since_s)


def moves_of(entries: Sequence[Entry]) -> tuple[Move, ...]:
    """The moves that were made."""
    return tuple(one.move for one in entries if one.move is not None)


def _path(name: str) -> Path:
    return state_dir(name) / FILE


def _entries(path: Path) -> Iterator[Entry]:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _MAX_BYTES))
            lines = file.read(_MAX_BYTES).splitlines()
    except OSError:
        return
    for line in lines:
        try:
            yield _entry(json.loads(line))
        except (ValueError, TypeError, KeyError, RecursionError):
            continue  # cut off while it was written, or by another version


def _entry(data: dict[str, object]) -> Entry:
    fields: dict[str, object] = {**data}
    fields["decision"] = _with_split(Decision, data["decision"], "to")
    fields["move"] = data["move"] and _with_split(Move, data["move"], "before", "after")
    fields["look"] = data["look"] and what_if_of(data["look"])
    fields["latest"] = (latest := data.get("latest")) and what_if_of(latest)
    return Entry(**fields)  # type: ignore[arg-type]


def _with_split(kind: type, data: object, *names: str) -> object:
    if not isinstance(data, dict):
        raise TypeError(data)
    splits = {one: Split(**data[one]) for one in names if data[one] is not None}
    return kind(**{**data, **splits})
