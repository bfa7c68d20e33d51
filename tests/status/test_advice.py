"""The user's table, and the evidence asked for before it speaks."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from pdctl.deployment.records import Counts
from pdctl.status.advice import advise
from pdctl.status.records import EngineMoment, Moment
from pdctl.status.trends import arrival_rate, arrivals

CALM = Moment(
    at_s=0.0,
    num_prefill=2,
    num_decode=6,
    waiting=0,
    bootstrap=0,
    inflight=0,
    prealloc=0,
    transfer=0,
    decode_waiting=0,
    running=60,
    kv_usage=0.29,
    itl_s=0.014,
    busy_share=0.5,
    requests=0,
)


def history(
    seconds: int = 61, step: int = 1, rate: float = 2.0, **values: Callable[[float], Any]
) -> list[Moment]:
    """Moments `step` seconds apart, with values as functions of time."""
    return [
        replace(
            CALM, at_s=float(t), requests=rate * t, **{name: f(t) for name, f in values.items()}
        )
        for t in range(0, seconds, step)
    ]


def test_a_prefill_queue_that_grows_asks_for_more_prefill() -> None:
    advice = advise(history(waiting=lambda t: t))
    assert advice.cause == "prefill_bound"
    assert advice.change == Counts(prefill=3)
    assert advice.why == ("60 waiting and growing for 60 s, 30 s of prefill; decode KV at 29 %")


def test_a_prefill_queue_that_stays_deep_asks_for_more_prefill() -> None:
    advice = advise(history(waiting=lambda t: 40))
    assert advice.cause == "prefill_bound"
    assert "40 waiting for 60 s" in advice.why


def test_one_look_at_a_deep_queue_says_what_it_sees_and_gives_no_advice() -> None:
    moments = [replace(one, num_prefill=1) for one in history(1, waiting=lambda t: 55)]
    advice = advise(moments)
    assert advice.cause == "not_enough_evidence"
    assert "0 of 60 s watched; 55 requests wait for prefill now." in advice.what
    assert advice.change is None


def test_one_look_at_a_calm_fleet_says_only_that_it_was_short() -> None:
    assert advise(history(1)).what == "Not enough evidence for advice: 0 of 60 s watched."


def test_the_last_decode_engine_is_not_taken() -> None:
    moments = [replace(one, num_decode=1) for one in history(waiting=lambda t: t)]
    assert advise(moments).change == Counts(prefill=3, decode=1)


def test_decode_latency_that_creeps_up_asks_for_less_prefill() -> None:
    moments = history(itl_s=lambda t: 0.014 + t * 1e-4, busy_share=lambda t: 0.3)
    advice = advise(moments)
    assert advice.cause == "decode_bound"
    assert advice.change == Counts(prefill=1)
    assert "ITL up from" in advice.why


def test_prefill_is_not_lowered_where_the_rest_could_not_take_its_load() -> None:
    advice = advise(history(itl_s=lambda t: 0.014 + t * 1e-4, busy_share=lambda t: 0.5))
    assert advice.cause == "decode_bound"
    assert advice.change == Counts(prefill=2, decode=7)


def test_prefill_is_not_lowered_where_nobody_knows_how_busy_it_is() -> None:
    advice = advise(history(itl_s=lambda t: 0.014 + t * 1e-4, busy_share=lambda t: None))
    assert advice.change == Counts(prefill=2, decode=7)


def test_the_only_prefill_engine_is_not_taken() -> None:
    moments = history(itl_s=lambda t: 0.014 + t * 1e-4, busy_share=lambda t: 0.1)
    moments = [replace(one, num_prefill=1) for one in moments]
    advice = advise(moments)
    assert advice.cause == "decode_bound"
    assert advice.change == Counts(prefill=1, decode=7)


def test_latency_is_held_against_the_slo_where_there_is_one() -> None:
    creeping = history(itl_s=lambda t: 0.014 + t * 1e-4)
    assert advise(creeping, tpot_slo_s=0.030).cause == "healthy"
    high = history(itl_s=lambda t: 0.035)
    advice = advise(high, tpot_slo_s=0.030)
    assert advice.why.startswith("ITL 35 ms over the SLO of 30 ms")
    assert advise(high).cause == "healthy"


def test_requests_held_back_by_a_full_kv_cache_are_decodes_matter() -> None:
    moments = history(prealloc=lambda t: t, kv_usage=lambda t: 0.95, busy_share=lambda t: 0.2)
    advice = advise(moments)
    assert advice.cause == "decode_bound"
    assert "KV at 95 %" in advice.why


def test_both_sides_at_their_limit_ask_for_more_of_both() -> None:
    moments = history(waiting=lambda t: t, itl_s=lambda t: 0.014 + t * 1e-4)
    advice = advise(moments)
    assert advice.cause == "overloaded"
    assert advice.change == Counts(prefill=3, decode=7)
    assert "revisit the ratio" in advice.what


def test_kv_that_piles_up_in_flight_is_the_networks_matter() -> None:
    advice = advise(history(inflight=lambda t: t, waiting=lambda t: t))
    assert advice.cause == "network_bound"
    assert advice.why.startswith("inflight 60 waiting and growing")


def test_in_flight_requests_that_finished_transfers_cannot_explain_are_stuck() -> None:
    slow = history(inflight=lambda t: t, transfer_latency_s=lambda t: 20.0)
    assert advise(slow).cause == "network_bound"
    stuck = history(inflight=lambda t: t, transfer_latency_s=lambda t: 0.04)
    assert advise(stuck).cause == "stuck_transfers"
    assert advise(stuck).why == "inflight 60, but transfers that finish take 40 ms"


def test_kv_that_still_hangs_after_a_minute_without_requests_is_stuck() -> None:
    advice = advise(history(rate=0.0, transfer=lambda t: 3, inflight=lambda t: 3))
    assert advice.cause == "stuck_transfers"
    assert advice.why == "inflight 3, transfer 3 and nothing arrived for 60 s"


def test_a_long_prompt_that_is_still_computed_is_not_stuck() -> None:
    computed = history(rate=0.0, transfer=lambda t: 1, busy_share=lambda t: 1.0)
    assert advise(computed).cause == "not_enough_evidence"
    idle = history(rate=0.0, transfer=lambda t: 1, busy_share=lambda t: 0.0)
    assert advise(idle).cause == "stuck_transfers"


def test_an_engine_that_stays_silent_is_named_before_a_minute_is_over() -> None:
    silent = (
        EngineMoment("decode-0", "decode", "up"),
        EngineMoment("decode-1", "decode", "unreachable"),
    )
    advice = advise([replace(one, engines=silent) for one in history(12)])
    assert (advice.cause, advice.engine) == ("sick_engine", "decode-1")
    assert advice.why == "it has not answered for 11 s"
    assert advise([replace(one, engines=silent) for one in history(5)]).cause != "sick_engine"


def test_an_engine_slower_than_the_others_is_sick_but_a_busier_one_is_not() -> None:
    def moments(itl_s: float, running: float) -> list[Moment]:
        engines = (
            EngineMoment("decode-0", "decode", "up", itl_s=itl_s, running=running),
            EngineMoment("decode-1", "decode", "up", itl_s=0.014, running=10.0),
        )
        return [replace(one, engines=engines) for one in history()]

    advice = advise(moments(0.042, 30.0))
    assert (advice.cause, advice.engine) == ("sick_engine", "decode-0")
    assert advice.why == "ITL 42 ms there, 14 ms elsewhere"
    assert advise(moments(0.022, 40.0)).cause == "healthy"


def test_decode_that_waits_for_transfers_prefill_no_longer_holds_has_stuck_receivers() -> None:
    assert advise(history(transfer=lambda t: 2 * t)).cause == "stuck_transfers"
    assert advise(history(transfer=lambda t: t, waiting=lambda t: t)).cause == "prefill_bound"


def test_decode_that_holds_back_with_room_is_set_up_wrongly() -> None:
    advice = advise(history(prealloc=lambda t: t, kv_usage=lambda t: 0.1))
    assert advice.cause == "misconfigured"
    assert "--num-reserved-decode-tokens" in advice.what


def test_a_queue_that_comes_and_goes_changes_nothing() -> None:
    assert advise(history(waiting=lambda t: 40 if t % 30 < 10 else 0)).cause == "healthy"
    assert advise(history()).cause == "healthy"


def test_a_queue_that_has_just_emptied_changes_nothing() -> None:
    assert advise(history(waiting=lambda t: 40 if t < 60 else 0)).cause == "healthy"
    assert advise(history(waiting=lambda t: t if t < 60 else 0)).cause == "healthy"


def test_a_small_rise_changes_nothing() -> None:
    assert advise(history(waiting=lambda t: t / 30)).cause == "healthy"


@pytest.mark.parametrize(
    ("moments", "reason"),
    [
        ([], "0 of 60 s watched"),
        (history(1), "0 of 60 s watched"),
        (history(30, waiting=lambda t: t), "29 of 60 s watched"),
        (history(rate=0.1, waiting=lambda t: t), "6 of 10 requests seen"),
        (history(rate=0.0), "0 of 10 requests seen"),
        (history(waiting=lambda t: None), "at least one engine did not report"),
        (history(step=30, waiting=lambda t: t), "0 of 60 s watched"),
        (history(40) + history(121)[100:], "20 of 60 s watched"),
        ([replace(one, requests=None) for one in history()], "nothing counts arriving requests"),
    ],
)
def test_too_little_evidence_is_said_so(moments: list[Moment], reason: str) -> None:
    advice = advise(moments)
    assert advice.cause == "not_enough_evidence"
    assert reason in advice.what
    assert advice.change is None


def test_after_a_change_of_engines_the_minute_begins_anew() -> None:
    moments = history(120, waiting=lambda t: t)
    changed = [replace(one, num_prefill=3) if one.at_s >= 60 else one for one in moments]
    advice = advise(changed)
    assert advice.cause == "not_enough_evidence"
    assert "44 of 60 s watched" in advice.what  # 119 s less 60 s less 15 s to settle


def test_after_a_restart_the_minute_begins_anew() -> None:
    moments = history(120, waiting=lambda t: t)
    moments[100] = replace(moments[100], restarted=True)
    assert advise(moments).cause == "not_enough_evidence"


def test_colocated_engines_at_their_limit_ask_for_another() -> None:
    moments = [
        replace(one, num_prefill=0, num_decode=0, num_colocated=8)
        for one in history(waiting=lambda t: 2 * t)
    ]
    advice = advise(moments)
    assert advice.cause == "overloaded"
    assert advice.change == Counts(total=9)


def test_requests_count_by_one_counter_even_where_another_one_steps_in() -> None:
    """A router that dies takes its total along; those of the engines are other numbers."""
    moments = history()
    by_router = [replace(one, counted_by="router") for one in moments]
    for i in (20, 21, 22):
        by_router[i] = replace(by_router[i], counted_by="engines", requests=5000.0 + i)
    assert arrivals(by_router) == 120
    assert arrival_rate(by_router) == 2.0


def test_a_counter_that_starts_over_hides_only_the_time_around_it() -> None:
    begun = [replace(one, requests=(one.requests or 0) - 60) for one in history()[31:]]
    moments = [*history()[:31], *begun]
    assert arrivals(moments) == 60 + 58
    assert arrival_rate(moments) == 2.0


def test_a_minute_that_begins_anew_says_why() -> None:
    moments = history(120)
    moments[110] = replace(moments[110], restarted=True)
    assert "0 of 60 s watched since engines changed or restarted." in advise(moments).what
    assert "since" not in advise(history(30)).what


def test_an_engine_that_has_been_silent_for_long_says_for_how_long() -> None:
    silent = (EngineMoment("decode-1", "decode", "failed"),)
    moments = [replace(one, engines=silent) if one.at_s >= 10 else one for one in history(61)]
    assert advise(moments).why == "it has not run for 50 s"
