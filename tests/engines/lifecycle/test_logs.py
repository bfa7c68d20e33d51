"""What `pdctl logs` reads."""

import threading
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from pdctl.engines import state
from pdctl.engines.lifecycle import logs
from pdctl.engines.log_file import hand_over
from pdctl.engines.records import Event
from pdctl.errors import InvalidInput, StateConflict


@pytest.fixture
def chat(home: Path) -> Path:
    """A deployment that has ended and left its logs."""
    directory = state.make_state_dir("chat")
    (directory / "logs" / "router.log").write_text("r1\nr2\n")
    (directory / "logs" / "decode-0.log").write_text("d1\nd2\nd3\n")
    return directory


def test_all_logs_come_with_the_name_of_their_process_in_front(chat: Path) -> None:
    assert logs.lines("chat", None, tail=2) == (
        "decode-0 | d2",
        "decode-0 | d3",
        "router   | r1",
        "router   | r2",
    )


def test_the_log_of_one_process_comes_as_it_is(chat: Path) -> None:
    assert logs.lines("chat", "decode-0", tail=2) == ("d2", "d3")
    assert logs.lines("chat", "decode-0", tail=0) == ()


def test_a_process_that_is_not_there_is_told_with_those_that_are(chat: Path) -> None:
    with pytest.raises(InvalidInput) as problem:
        logs.lines("chat", "decode-9", tail=2)
    assert problem.value.hint == "one of decode-0, router"


def test_logs_of_what_has_ended_are_found_without_a_name(chat: Path) -> None:
    assert logs.deployment_of_logs(None) == "chat"


def test_without_any_log_there_is_nothing_to_show(home: Path) -> None:
    with pytest.raises(StateConflict):
        logs.deployment_of_logs(None)
    with pytest.raises(StateConflict):
        logs.deployment_of_logs("chat")


def test_events_are_lines_for_people(chat: Path) -> None:
    at = time.mktime((2026, 11, 23, 17, 4, 5, 0, 0, -1)) + 0.25
    state.append(chat, [Event(at, "crash", "decode-0", "exit code -9")])
    (line,) = logs.event_lines("chat", tail=5)
    assert line == "17:04:05.250  crash          decode-0     exit code -9"


def test_new_lines_are_followed_when_they_are_whole(chat: Path) -> None:
    log = chat / "logs" / "router.log"
    new = chat / "logs" / "decode-1.log"

    def meanwhile() -> Iterator[None]:
        with log.open("a") as file:
            file.write("r3\nha")
        new.write_text("started\n")
        yield
        with log.open("a") as file:
            file.write("lf\n")
        yield

    turns = meanwhile()
    following = logs.follow_logs("chat", None, tail=1, wait=lambda: next(turns))
    assert [next(following) for _ in range(5)] == [
        "decode-0 | d3",
        "router   | r2",
        "router   | r3",
        "decode-1 | started",
        "router   | half",
    ]


def test_no_line_is_lost_or_shown_twice_between_the_last_lines_and_the_new_ones(
    chat: Path,
) -> None:
    log = chat / "logs" / "router.log"

    def write() -> None:
        with log.open("a") as file:
            file.write("new\n")

    following = logs.follow_logs("chat", "router", tail=2, wait=write)
    first = next(following)
    write()
    assert [first, *(next(following) for _ in range(3))] == ["r1", "r2", "new", "new"]


def test_a_log_renamed_by_a_role_switch_is_not_shown_again(chat: Path) -> None:
    log = chat / "logs" / "decode-0.log"

    def switch() -> None:
        hand_over(log, log.with_name("prefill-1.log"))
        with log.with_name("prefill-1.log").open("a") as file:
            file.write("serves as prefill\n")

    def switch_back() -> None:
        hand_over(log.with_name("prefill-1.log"), log)
        with log.open("a") as file:
            file.write("serves as decode\n")

    turns = (turn() for turn in (switch, switch_back))
    following = logs.follow_logs("chat", None, tail=1, wait=lambda: next(turns))
    assert [next(following) for _ in range(4)] == [
        "decode-0 | d3",
        "router   | r2",
        "prefill-1 | serves as prefill",
        "decode-0 | serves as decode",
    ]


@pytest.mark.slow
def test_concurrent_writers_are_followed_in_order_of_time(chat: Path) -> None:
    stop = threading.Event()

    def write(process: str) -> None:
        with (chat / "logs" / f"{process}.log").open("a", buffering=1) as file:
            while not stop.is_set():
                at = datetime.now()
                file.write(f"[{at:%Y-%m-%d %H:%M:%S}.{at.microsecond:06d}] {process}\n")
                stop.wait(0.001)

    writers = [threading.Thread(target=write, args=(f"decode-{i}",)) for i in range(4)]
    for writer in writers:
        writer.start()
    following = logs.follow_logs("chat", None, tail=0, wait=lambda: time.sleep(0.01))
    try:
        found = [next(following).split(" | ") for _ in range(1500)]
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    stamps = [line.partition("]")[0] for _, line in found]
    assert stamps == sorted(stamps)
    assert {process.strip() for process, _ in found} == {f"decode-{i}" for i in range(4)}


def test_events_are_followed(chat: Path) -> None:
    def write() -> None:
        state.append(chat, [Event(1.0, "ready", "decode-0", "after 2 s")])

    write()
    following = logs.follow_events("chat", tail=1, wait=write)
    assert [next(following).split()[1] for _ in range(3)] == ["ready"] * 3


def test_lines_of_all_processes_come_by_time(chat: Path) -> None:
    (chat / "logs" / "router.log").write_text("[2026-11-28 10:00:02] b\n")
    (chat / "logs" / "decode-0.log").write_text(
        "[2026-11-28 10:00:01] a\n[2026-11-28 10:00:03] c\n"
    )
    assert [line[-1] for line in logs.lines("chat", None, tail=9)] == ["a", "b", "c"]


def test_an_argument_names_a_deployment_or_a_process(chat: Path) -> None:
    assert logs.meant("chat", None, None) == ("chat", None)
    assert logs.meant("chat", None, "router") == ("chat", "router")
    assert logs.meant("decode-0", None, None) == ("chat", "decode-0")
    assert logs.meant("decode-0", "chat", None) == ("chat", "decode-0")
    assert logs.meant(None, None, None) == ("chat", None)
