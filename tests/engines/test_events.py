"""The event log."""

from pathlib import Path

from pdctl.engines import events
from pdctl.engines.records import Event

ONE = Event(1.5, "start", "router", "pid 1")
TWO = Event(2.5, "crash", "decode-0", "exit code -9")


def test_events_are_read_back_in_order_without_torn_lines(tmp_path: Path) -> None:
    events.append(tmp_path, [ONE])
    with (tmp_path / events.FILE).open("a") as file:
        file.write('{"at": 3, "event"\n')
    events.append(tmp_path, [TWO])
    assert events.read(tmp_path) == (ONE, TWO)


def test_no_log_has_no_events(tmp_path: Path) -> None:
    assert events.read(tmp_path) == ()


def test_where_nothing_can_be_written_events_are_lost_and_nothing_else(tmp_path: Path) -> None:
    events.append(tmp_path / "missing", [ONE])
    assert not (tmp_path / "missing").exists()
