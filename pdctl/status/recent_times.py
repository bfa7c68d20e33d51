"""Times to the first token of the latest requests, from the logs of engines on this machine."""

import time
from collections.abc import Iterator
from pathlib import Path

from pdctl.engines.log_times import line_time
from pdctl.engines.request_times import is_request_line, log_lines, request_log
from pdctl.errors import PdctlError
from pdctl.perf_model.metrics import quantile
from pdctl.status.request_window import ended_requests

WINDOW_S = 60.0
REFRESH_S = 10.0  # of the live screen: reading the lines of 100 requests a second takes 0.3 s
READ_BYTES = 1 << 20  # of each log
LEAST_REQUESTS = 20  # fewer say nothing of a p99


class RecentTimes:
    """The p50 and p99 of the last minute, read again after REFRESH_S.

    folder: of the logs. It may hold none of engines that run elsewhere. at_once: read them for the
    first answer too, which a screen does not wait for.
    """

    def __init__(self, folder: Path, *, at_once: bool) -> None:
        self._folder = folder
        self._read_s = float("-inf") if at_once else time.monotonic() - REFRESH_S + 1.0
        self._found: tuple[float, float] | None = None

    def ttft_s(self) -> tuple[float, float] | None:
        """(p50, p99) in seconds; None: too few requests have both halves in these logs."""
        if time.monotonic() - self._read_s >= REFRESH_S:
            self._read_s = time.monotonic()
            self._found = recent_ttft_s(self._folder, time.time())
        return self._found


def recent_ttft_s(folder: Path, now_s: float) -> tuple[float, float] | None:
    """The same of the minute before `now_s`, Unix seconds.

    Ignores: time in the router and in tokenizers, which no line holds.
    """
    try:
        logs = [
            request_log(_since(path, now_s - WINDOW_S), path.stem) for path in folder.glob("*.log")
        ]
    except PdctlError:  # a role switch renames logs
        return None
    here = {log.name: "" for log in logs}
    ended = ended_requests((half for log in logs for half in log.records), here)
    known = [one.ttft_s for one in ended if one.ttft_s is not None]
    p50, p99 = quantile(known, 0.5), quantile(known, 0.99)
    return None if len(known) < LEAST_REQUESTS or p50 is None or p99 is None else (p50, p99)


def _since(path: Path, since_s: float) -> Iterator[bytes]:
    """The lines of request times at the end of a log, the latest first."""
    lines = [line for line in log_lines(path, READ_BYTES) if is_request_line(line)]
    for line in reversed(lines):
        if (line_time(line.decode("utf-8", "replace")) or since_s) < since_s:
            return
        yield line
