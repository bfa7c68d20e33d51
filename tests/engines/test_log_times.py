"""Log lines in order of time."""

import time
from collections.abc import Iterator
from datetime import datetime, timezone

import pytest

from pdctl.engines.log_times import TimeOrder, interleaved, line_time


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


def _at(second: int) -> float:
    return datetime(2026, 11, 28, 10, 0, second).astimezone().timestamp()


def test_a_line_is_held_until_no_earlier_one_can_be_found() -> None:
    order = TimeOrder[str](hold_s=2.0)
    order.add("decode-0", "[2026-11-28 10:00:03] second", _at(3))
    assert list(order.ready(_at(4))) == []
    order.add("router", "[2026-11-28 10:00:02] first", _at(4))
    order.add("router", "  more of first", _at(4))
    assert [line for _, line in order.ready(_at(5))] == [
        "[2026-11-28 10:00:02] first",
        "  more of first",
        "[2026-11-28 10:00:03] second",
    ]


def test_a_host_whose_clock_is_ahead_holds_nothing_back() -> None:
    order = TimeOrder[str](hold_s=2.0)
    order.add("far", "[2026-11-28 10:50:00] ahead", _at(1))
    assert [log for log, _ in order.ready(_at(3))] == ["far"]


def test_lines_without_a_time_come_at_once() -> None:
    order = TimeOrder[str](hold_s=2.0)
    order.add("decode-0", "no time", _at(1))
    assert list(order.ready(_at(1))) == [("decode-0", "no time")]
