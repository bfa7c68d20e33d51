"""Halves find each other by room, id or fit; clocks of their hosts are told apart."""

import random
from dataclasses import replace

import pytest

from pdctl.engines.request_times import RequestTimes
from pdctl.status.explain.explain import explain_requests, notes_on, requests_in
from pdctl.status.explain.join import Halves, clocks_of, joined
from pdctl.status.explain.parts import parts_of
from tests.status.explain.histories import START_S, Sent, logs, run

PREFILL = RequestTimes(
    *("prefill-0", "prefill", "p", 7, 4000, 1, START_S),
    bootstrap_s=0.01,
    queue_s=0.2,
    forward_s=0.5,
    sending_s=0.1,
)
DECODE = RequestTimes(
    *("decode-0", "decode", "d", 7, 4000, 11, START_S),
    bootstrap_s=0.005,
    allocation_s=0.005,
    transfer_s=0.7,
    queue_s=0.02,
    forward_s=1.0,
)


def test_halves_of_one_room_are_one_request() -> None:
    (one,) = joined([DECODE, PREFILL])
    assert (one.prefill, one.decode, one.is_guess) == (PREFILL, DECODE, False)


def test_lines_of_several_ranks_count_once() -> None:
    assert len(joined([DECODE, PREFILL, DECODE, PREFILL])) == 1


def test_halves_with_one_id_and_no_room_are_one_request() -> None:
    halves = [replace(half, room=None, rid="same") for half in (PREFILL, DECODE)]
    (one,) = joined(halves)
    assert one.is_whole
    assert not one.is_guess


def test_without_a_room_the_halves_that_fit_are_joined_and_called_a_guess() -> None:
    chance = random.Random(3)
    sent = [
        Sent(f"r{n}", START_S + n * 0.2, chance.randint(500, 5000), 20, n % 2, n % 2)
        for n in range(100)
    ]
    run(sent, chance)
    found = logs(sent, "0.5.23", 0.0)
    hidden = [replace(r, room=None) for log in found for r in log.records]
    pairs = joined(hidden)
    right = sum(
        one.prefill is not None
        and one.decode is not None
        and one.prefill.rid == f"p-{one.decode.rid}"
        for one in pairs
    )
    assert right >= 95
    assert any("log no bootstrap room" in note for note in notes_on((), pairs))


def test_halves_of_other_lengths_are_not_joined() -> None:
    halves = [replace(PREFILL, room=None), replace(DECODE, room=None, input_tokens=3999)]
    assert [one.is_whole for one in joined(halves)] == [False, False]


def test_a_half_alone_is_kept_with_the_parts_it_knows() -> None:
    (alone,) = explain_requests(joined([DECODE]), hosts={}, slowest=1).requests
    assert [part.name for part in alone.parts] == [
        *("bootstrap", "decode allocation", "prefill and transfer", "decode queue"),
    ]
    assert alone.ttft_s == pytest.approx(0.73)
    assert "No log of a prefill engine has it" in alone.missing
    (alone,) = explain_requests(joined([PREFILL]), hosts={}, slowest=1).requests
    assert alone.ttft_s is None
    assert "No log of a decode engine has it" in alone.missing


def test_a_colocated_request_has_a_queue_and_no_first_token() -> None:
    half = replace(DECODE, role="colocated", engine="colocated-0", room=None)
    (one,) = explain_requests(joined([half]), hosts={}, slowest=1).requests
    assert one.ttft_s is None
    assert one.cause.kind == "queue"


def test_the_parts_of_a_request_end_when_its_first_token_leaves_the_router() -> None:
    parts = {part.name: part.seconds for part in parts_of(Halves(PREFILL, DECODE))}
    assert parts == pytest.approx(
        {
            "bootstrap": 0.005,
            "decode allocation": 0.005,
            "prefill queue": 0.2,
            "prefill": 0.4,
            "KV transfer": 0.1,
            "decode queue": 0.02,
            "router": 0.0,
        },
        abs=1e-6,
    )


def test_the_router_holds_a_token_back_until_a_busy_prefill_engine_has_answered() -> None:
    late = replace(PREFILL, forward_s=0.9, sending_s=0.5)
    (one,) = explain_requests([Halves(late, DECODE)], hosts={}, slowest=1).requests
    assert one.ttft_s == pytest.approx(1.11, abs=1e-6)
    assert one.parts[-1].seconds == pytest.approx(0.38, abs=1e-6)
    assert one.total_s == pytest.approx(1.73, abs=1e-6)


def test_no_part_is_negative_whatever_the_clocks() -> None:
    chance = random.Random(1)
    for _ in range(500):
        prefill = replace(
            PREFILL, entry_s=START_S + chance.uniform(-2, 2), queue_s=chance.uniform(0, 2)
        )
        parts = parts_of(Halves(prefill, DECODE), chance.uniform(-3, 3))
        assert all(part.seconds >= 0 for part in parts)
        ends = [part.start_s + part.seconds for part in parts]
        assert ends == sorted(ends)


def test_engines_of_one_host_have_one_clock() -> None:
    late = replace(DECODE, entry_s=START_S + 30)
    (clock,) = clocks_of([Halves(PREFILL, late)], {"prefill-0": "a", "decode-0": "a"}).values()
    assert clock.ahead_s == 0


def test_halves_that_contradict_each_other_leave_the_clock_without_bounds() -> None:
    """A clock was set within the window."""
    pairs = [Halves(PREFILL, replace(DECODE, entry_s=START_S + late_s)) for late_s in (0, 0, 90)]
    (clock,) = clocks_of(pairs, {}).values()
    assert (clock.ahead_s, clock.low_s, clock.high_s) == (0, None, None)


def test_an_attempt_that_failed_counts_as_part_of_the_one_that_did_not() -> None:
    failed = replace(PREFILL, rid="d", room=6, entry_s=START_S - 3)
    (one,) = joined([failed, PREFILL, DECODE])
    assert one.earlier == (failed,)
    assert parts_of(one)[0].seconds == pytest.approx(3)


def test_a_link_that_is_always_slower_than_computing_is_slow() -> None:
    """The window has no undisturbed request to compare with."""
    pairs = [
        Halves(
            replace(PREFILL, room=n, queue_s=0.0, forward_s=2.4, sending_s=2.0),
            replace(DECODE, room=n, transfer_s=2.4),
        )
        for n in range(30)
    ]
    (one,) = explain_requests(pairs, hosts={}, slowest=1).requests
    assert one.cause.kind == "slow_link"


def test_a_window_holds_requests_of_engines_whose_clocks_are_hours_apart() -> None:
    chance = random.Random(5)
    sent = [
        Sent(f"r{n}", START_S + n, chance.randint(500, 5000), 20, n % 2, n % 2) for n in range(60)
    ]
    run(sent, chance)
    found = logs(sent, "0.5.23", 7400.0)
    pairs = requests_in(found, 20.0)
    assert 15 <= len(pairs) <= 25
    assert explain_requests(requests_in(found, None), hosts={}, slowest=1).span_s < 90


def test_without_rooms_clocks_seconds_apart_are_said_to_part_the_halves() -> None:
    chance = random.Random(6)
    sent = [
        Sent(f"r{n}", START_S + n, chance.randint(500, 5000), 20, n % 2, n % 2) for n in range(60)
    ]
    run(sent, chance)

    def notes(skew_s: float) -> str:
        found = logs(sent, "0.5.23", skew_s)
        hidden = [replace(r, room=None) for log in found for r in log.records]
        return " ".join(notes_on(found, joined(hidden)))

    assert "each half is shown as a request" in notes(3.7)
    assert "each half is shown as a request" not in notes(0.0)
