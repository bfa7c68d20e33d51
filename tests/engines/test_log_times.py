"""Log lines in order of time."""

import time
from collections.abc import Iterator
from datetime import datetime, timezone

import pytest

from pdctl.engines.log_times import interleaved, line_time


@pytest.fixture
def _new_york(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("_new_york")
def test_engines_write_local_time_and_the_router_utc() -> None:
    at = datetime(2026, 11, 28, 18, 27, 23, tzinfo=timezone.utc).timestamp()
    assert line_time("[2026-11-28 13:27:23] Load weight begin") == at
    assert line_time("[2026-11-28 13:27:23 TP0] Load weight begin") == at
    assert line_time("# pdctl 2026-11-28 13:27:23 python -m sglang") == at
    assert line_time("2026-11-28 18:27:23  WARN smg::core: a router's line") == at
    assert line_time("2026-11-28T18:27:23.250000Z  INFO smg: finer") == at + 0.25


@pytest.mark.parametrize(
    "line", ["", "Traceback (most recent call last):", "[2026-13-40 99:00:00] no such time"]
)
def test_other_lines_have_no_time(line: str) -> None:
    assert line_time(line) is None


def test_lines_of_several_logs_come_by_time_and_keep_their_order_within_a_log() -> None:
    logs = {
        "decode-0": ["[2026-11-28 10:00:01] a", "  more of a", "[2026-11-28 10:00:05] c"],
        "prefill-0": ["no time yet", "[2026-11-28 10:00:03] b", "[2026-11-28 10:00:02] late"],
    }
    assert [line for _, line in interleaved(logs)] == [
        "no time yet",
        "[2026-11-28 10:00:01] a",
        "  more of a",
        "[2026-11-28 10:00:03] b",
        "[2026-11-28 10:00:02] late",
        "[2026-11-28 10:00:05] c",
    ]
