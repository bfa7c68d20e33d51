"""Operations of a supervisor, from the events that it writes."""

from pdctl.engines.records import Event
from pdctl.engines.supervision.operations import Begin, End, Operations

START = (
    Event(1.0, "start", "router", "pid 1"),
    Event(1.1, "start", "prefill-0", "pid 2"),
    Event(2.0, "ready", "router", "after 1.0 s"),
    Event(2.1, "serving", "prefill-0", "listed by the router as healthy"),
    Event(2.5, "serving", "", "all serve after 1.5 s"),
)


def told(*events: Event) -> list[str]:
    """What begins and ends, in short."""
    operations = Operations()
    return [_short(mark) for event in events for mark in operations.take(event)]


def _short(mark: Begin | End) -> str:
    if isinstance(mark, Begin):
        return f"{mark.at_s:g} {mark.parent + ' / ' if mark.parent else ''}{mark.name}"
    return f"{mark.at_s:g} end {mark.key}{': ' + mark.problem if mark.problem else ''}"


def test_a_start_holds_the_starts_of_its_processes() -> None:
    assert told(*START) == [
        "1 start",
        "1 deployment / start router",
        "1.1 deployment / start prefill-0",
        "2 end router",
        "2.1 end prefill-0",
        "2.5 end deployment",
    ]


def test_a_role_switch_is_a_part_of_the_scale_that_asked_for_it() -> None:
    scale = (
        Event(10.0, "desired", "", "2P2D, 4 engines"),
        Event(10.0, "desired", "", "prefill-2 becomes decode-1 without a restart"),
        Event(10.1, "deregister", "prefill-2", "no longer wanted"),
        Event(12.0, "switched", "decode-1", "was prefill-2; it kept running"),
        Event(12.5, "serving", "decode-1", "listed by the router as healthy"),
        Event(12.6, "settled", "", "2P2D"),
    )
    assert told(*START, *scale)[6:] == [
        "10 scale",
        "10.1 deployment / stop prefill-2",
        "12 end prefill-2",
        "12 deployment / switch prefill-2 to decode-1",
        "12.5 end decode-1",
        "12.6 end deployment",
    ]


def test_an_engine_that_crashed_is_restarted_and_stands_alone() -> None:
    crash = (
        Event(5.0, "crash", "prefill-0", "exit code -9"),
        Event(6.0, "start", "prefill-0", "pid 3"),
        Event(7.0, "serving", "prefill-0", "listed by the router as healthy"),
    )
    assert told(*START, *crash)[6:] == ["6 restart prefill-0", "7 end prefill-0"]


def test_a_crash_while_it_starts_ends_the_start_with_its_reason() -> None:
    events = (*START[:2], Event(1.5, "crash", "prefill-0", "exit code 1"))
    assert told(*events)[-1] == "1.5 end prefill-0: exit code 1"


def test_what_is_open_at_the_end_ends_with_it() -> None:
    over = (
        Event(20.0, "stop", "", "SIGTERM"),
        Event(20.1, "deregister", "prefill-0", "stopping"),
        Event(21.0, "over", "", "all processes have ended"),
    )
    assert told(*START, *over)[6:] == [
        "20 stop",
        "20.1 deployment / stop prefill-0",
        "21 end prefill-0",
        "21 end deployment",
    ]
