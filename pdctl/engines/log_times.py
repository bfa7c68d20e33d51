"""Times of log lines, and lines of several logs in that order. Pure but for time zones."""

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone
from heapq import heappop, heappush, merge
from typing import Generic, TypeVar

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


class TimeOrder(Generic[Log]):
    """Orders the lines of several logs by time while they are being written.

    One look reads the logs one after another, so a line may be found one look after a later line
    of another log. Each line is therefore held until it is `hold_s` old. A line without a time
    stays with the line before it in its log.

    Ignores: the order within a second of lines whose stamps have no fraction.
    """

    def __init__(self, hold_s: float) -> None:
        self._hold_s = hold_s
        self._held: list[tuple[float, int, int, Log, str]] = []
        self._places: dict[Log, int] = {}
        self._last: dict[Log, float] = {}  # when the last line of each log was written
        self._num_added = 0

    def add(self, log: Log, line: str, read_at: float) -> None:
        """Take one line. read_at: Unix seconds; a stamp after it comes from a clock ahead."""
        before = self._last.get(log, float("-inf"))
        at = max(before, min(read_at, line_time(line) or before))
        self._last[log] = at
        place = self._places.setdefault(log, len(self._places))
        self._num_added += 1
        heappush(self._held, (at, place, self._num_added, log, line))

    def ready(self, now: float) -> Iterator[tuple[Log, str]]:
        """(log, line) of the lines that nothing can come before any more, by time."""
        while self._held and self._held[0][0] <= now - self._hold_s:
            *_, log, line = heappop(self._held)
            yield log, line


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
