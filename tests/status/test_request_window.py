"""The window of the latest requests, from halves of time stats."""

from dataclasses import replace

import pytest

from pdctl.engines.request_times import RequestTimes, request_log
from pdctl.status.request_window import Ended, at_speed, ended_requests, window_of


def ended(at_s: float, took_s: float = 1.0, isl: int = 100, osl: int = 11) -> Ended:
    return Ended(at_s, at_s + took_s, isl, osl, ttft_s=0.5, tpot_s=(took_s - 0.5) / (osl - 1))


def test_both_halves_of_a_split_request_make_one() -> None:
    prefill = RequestTimes("prefill-0", "prefill", "a", 7, 1000, 1, 100.0, cached_tokens=640)
    decode = RequestTimes(
        "decode-0", "decode", "b", 7, 1000, 21, 100.0, allocation_s=0.2, queue_s=0.3, forward_s=1.0
    )
    (one,) = ended_requests([prefill, decode], {})
    assert (one.isl, one.osl, one.cached) == (1000, 21, 640)
    assert one.ttft_s == pytest.approx(0.5)
    assert one.tpot_s == pytest.approx(0.05)
    assert one.ended_s == pytest.approx(101.5)


def test_a_colocated_engine_does_not_tell_when_the_first_token_came() -> None:
    line = (
        b"[2026-11-23 09:28:19] ReqTimeStats(rid=a, input_len=400, cached_input_len=0, "
        b"output_len=20, type=unified): queue_duration=5.00ms, forward_duration=900.00ms, "
        b"entry_time=1795426098.0\n"
    )
    (one,) = ended_requests(request_log([line], "colocated-0").records, {})
    assert (one.isl, one.osl, one.ttft_s, one.tpot_s) == (400, 20, None, None)


def test_the_window_has_a_lead_in_as_long_as_itself() -> None:
    window = window_of([ended(float(at)) for at in range(100)], since_s=90.0, now_s=99.5)
    assert window is not None
    assert len(window.requests) - window.first == 10
    assert window.first - window.held == 9  # those that arrived from 81 s on
    assert window.span_s == 9.5


def test_the_lead_in_does_not_begin_before_engines_changed() -> None:
    everything = [ended(float(at)) for at in range(100)]
    window = window_of(everything, since_s=90.0, now_s=99.5, steady_since_s=88.0)
    assert window is not None
    assert window.first - window.held <= 2


def test_what_was_left_of_a_running_request_stands_at_the_begin() -> None:
    long = Ended(0.0, 100.0, 5000, 1001, ttft_s=0.0, tpot_s=0.1)
    window = window_of([long, ended(95.0)], since_s=90.0, now_s=100.0)
    assert window is not None
    assert window.held == 1
    assert window.requests.arrival_s[0] == 0.0
    assert window.requests.isl[0] == 1  # its prompt is computed already
    assert window.requests.osl[0] == pytest.approx(201, abs=1)


def test_requests_that_have_not_ended_stand_where_arrivals_are_missing() -> None:
    first_half = [ended(90.0 + at / 10) for at in range(50)]
    window = window_of(first_half, since_s=90.0, now_s=100.0, unfinished=50, arrived=100)
    assert window is not None
    late = [at_s for at_s in window.requests.arrival_s if at_s >= 15.0]  # begins at 80 s
    assert len(window.requests) == 100
    assert len(late) >= 45
    assert window.ttft_s.count(None) == 50


def test_without_an_arrival_there_is_no_window() -> None:
    assert window_of([ended(10.0)], since_s=90.0, now_s=100.0) is None
    assert window_of([], since_s=90.0, now_s=100.0) is None


def test_cached_prompt_tokens_are_a_prefix_that_requests_share() -> None:
    cached = [Ended(90.0 + at, 95.0 + at, 640, 10, 320, 0.1, 0.01) for at in range(3)]
    window = window_of(cached, since_s=90.0, now_s=100.0)
    assert window is not None
    assert window.requests.blocks is not None
    first, second, third = window.requests.blocks
    assert first[:5] == second[:5] == third[:5]
    assert not set(first[5:]) & set(second[5:])
    assert len(first) == 10


def test_times_whose_parts_do_not_make_up_the_whole_are_not_believed() -> None:
    true = [ended(float(at_s), took_s=10.0) for at_s in range(20)]
    lies = [replace(one, tpot_s=0.4 * (one.tpot_s or 0.0)) for one in true]
    window = window_of([*true[:19], lies[19]], since_s=0.0, now_s=40.0)
    assert window is not None
    assert None not in window.ttft_s  # one line may be odd
    window = window_of([*true[:10], *lies[10:]], since_s=0.0, now_s=40.0)
    assert window is not None
    assert set(window.ttft_s) == {None}
    assert set(window.took_s) == {10.0}


def test_of_a_running_request_known_by_its_whole_time_a_share_is_left() -> None:
    lies = [replace(ended(float(at_s), took_s=20.0), ttft_s=0.0, tpot_s=0.1) for at_s in range(20)]
    window = window_of(lies, since_s=15.0, now_s=20.0)  # the lead-in begins at 10 s
    assert window is not None
    assert (window.requests.isl[0], window.requests.osl[0]) == (50, 6)
    assert window.took_s[0] is None


def test_requests_from_before_the_window_that_have_not_ended_are_the_queue_of_the_past() -> None:
    known = [ended(float(at_s)) for at_s in range(81, 120)]
    window = window_of(known, since_s=100.0, now_s=120.0, unfinished=30, arrived=20)
    assert window is not None
    assert window.held == 30


def test_engines_that_log_once_per_rank_end_a_request_once() -> None:
    decode = RequestTimes("decode-0", "decode", "b", 7, 1000, 21, 100.0, forward_s=1.0)
    assert len(ended_requests([decode, decode], {})) == 1


def test_a_window_of_fast_simulated_engines_is_replayed_in_their_own_time() -> None:
    window = window_of([ended(float(at)) for at in range(100)], since_s=90.0, now_s=100.0)
    assert window is not None
    own = at_speed(window, 4.0)
    assert own.span_s == 40.0
    assert own.ttft_s[-1] == 2.0
    assert own.requests.arrival_s[-1] == 4 * window.requests.arrival_s[-1]


def test_a_prompt_that_was_half_computed_at_the_begin_is_half_as_long() -> None:
    one = Ended(80.0, 100.0, 1000, 11, ttft_s=19.0, tpot_s=0.1, computing_s=(5.0, 15.0))
    window = window_of([one, ended(95.0)], since_s=90.0, now_s=100.0, steady_since_s=90.0)
    assert window is not None
    assert list(window.requests.isl) == [500, 100]


def test_a_first_token_counts_when_the_router_forwards_it() -> None:
    prefill = RequestTimes(
        "prefill-0", "prefill", "a", 7, 1000, 1, 100.0, forward_s=0.9, sending_s=0.55
    )
    decode = RequestTimes(
        "decode-0", "decode", "b", 7, 1000, 11, 100.0, transfer_s=0.4, forward_s=1.5
    )
    (one,) = ended_requests([prefill, decode], {"prefill-0": "here", "decode-0": "here"})
    assert one.ttft_s == pytest.approx(0.9)  # decode began at 0.4 s
    assert one.tpot_s == pytest.approx(0.1)  # its tokens came to 1.9 s
