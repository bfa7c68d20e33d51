"""The event log of a deployment: one JSON object per line, for people and programs."""

import dataclasses
import json
import os
from collections.abc import Iterable
from pathlib import Path

from pdctl.engines.records import Event

FILE = "events.jsonl"


def append(directory: Path, events: Iterable[Event]) -> None:
    """Add lines; a full disk loses events, never the deployment."""
    lines = "".join(json.dumps(dataclasses.asdict(event)) + "\n" for event in events)
    if not lines:
        return
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    try:
        with os.fdopen(os.open(directory / FILE, flags, 0o600), "a", encoding="utf-8") as file:
            file.write(lines)
    except OSError:
        return


def read(directory: Path) -> tuple[Event, ...]:
    """All events; a torn line is left out."""
    try:
        lines = (directory / FILE).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return ()
    return tuple(event for line in lines if (event := parse(line)))


def parse(line: str) -> Event | None:
    """The event in a line; None if it is torn."""
    try:
        return Event(**json.loads(line))
    except (ValueError, TypeError, RecursionError):
        return None
