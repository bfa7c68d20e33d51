"""When a log line was written, and lines of several logs in that order. Pure but for time zones."""

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from heapq import merge
from typing import TypeVar

Log = TypeVar("Log")  # whatever the caller knows a log by

_STAMP = r"(\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d)(?:[.,](\d{1,6})\d*)?"
_LOCAL = re.compile(rf"(?:\[|# pdctl ){_STAMP}")
_UTC = re.compile(rf"{_STAMP}(?:Z|\+00:00)?\s+(?:TRACE|DEBUG|INFO|WARN|ERROR)\b")


def line_time(line: str) -> float | None:
    """Unix seconds at which a line was written; None where it does not say.

    Source: SGLang and pdctl write local time in brackets or after "# pdctl", sglang_router 0.3.2
    writes UTC without a zone (seen with TZ=America/New_York).
    """
    if match := _LOCAL.match(line):
        return _seconds(match, utc=False)
    if match := _UTC.match(line):
        return _seconds(match, utc=True)
    return None


def interleaved(logs: Mapping[Log, Sequence[str]]) -> Iterator[tuple[Log, str]]:
    """(log, line) of all logs by time. Lines of one log keep their order.

    A line without a time stays with the line before it in its log.
    """
    streams = [_timed(name, place, lines) for place, (name, lines) in enumerate(logs.items())]
    for _, _, name, line in merge(*streams, key=lambda one: one[:2]):
        yield name, line


def _timed(name: Log, place: int, lines: Sequence[str]) -> Iterator[tuple[float, int, Log, str]]:
    at = float("-inf")
    for line in lines:
        at = max(at, line_time(line) or at)
        yield at, place, name, line


def _seconds(match: "re.Match[str]", *, utc: bool) -> float | None:
    try:
        at = datetime.fromisoformat(match[1])
    except ValueError:  # month 13
        return None
    zoned = at.replace(tzinfo=timezone.utc) if utc else at.astimezone()
    return zoned.timestamp() + (float(f"0.{match[2]}") if match[2] else 0.0)
