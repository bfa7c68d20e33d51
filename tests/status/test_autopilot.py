"""The autopilot's decision, and seeded days under it."""

from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest

from pdctl.status.autopilot.decision import Decision, Limits, Move, next_step
from pdctl.status.autopilot.journal import Entry, moves_of, read_entries, write_entry
from pdctl.status.autopilot.split_advice import Split, SplitAdvice
from pdctl.status.records import Alternative, WhatIf
from tests.status.autopilot_histories import Result, make, result_of

LIMITS = Limits(cool_down_s=100.0, max_moves=3)
NOW = Split(2, 4)


def other(prefill: int, attainment: float, low: float) -> Alternative:
    """An alternative to 2P4D, of which 60 % meet the SLOs."""
    layout = Split(prefill, 6 - prefill).layout
    return Alternative(layout, prefill, 6 - prefill, attainment, attainment - 0.6, low)


def look(at_s: float, *others: Alternative, seen: float = 0.6, layout: str = "2P4D") -> WhatIf:
    found = sorted(others, key=lambda one: -one.attainment)
    return WhatIf(at_s, layout, 500, 5.0, 100.0, seen, 0.6, 0.6, tuple(found))


def moved(at_s: float, seen: float = 0.5) -> Move:
    return Move(at_s, "move", Split(1, 5), NOW, seen, 0.9)


def decided(
    looks: list[WhatIf],
    moves: list[Move] | None = None,
    queues: SplitAdvice | None = None,
    latest: WhatIf | None = None,
) -> Decision:
    """What is decided on 2P4D at the time of the last look."""
    at_s = looks[-1].at_s
    return next_step(NOW, looks, moves or [], LIMITS, at_s=at_s, latest=latest, queues=queues)


def test_a_clear_gain_moves_all_the_way_at_once() -> None:
    decision = decided([look(0.0, other(4, 0.95, 0.3), other(3, 0.8, 0.15))])
    assert (decision.action, decision.to) == ("move", Split(4, 2))
    assert decision.promised == 0.95


def test_no_move_takes_more_than_half_of_a_role() -> None:
    decision = decided([look(0.0, other(5, 0.95, 0.3), other(4, 0.8, 0.15))])
    assert (decision.to, decision.promised) == (Split(4, 2), 0.8)


def test_of_splits_that_are_as_good_the_nearest_is_chosen() -> None:
    assert decided([look(0.0, other(4, 0.95, 0.3), other(3, 0.94, 0.3))]).to == Split(3, 3)


def test_a_small_gain_must_be_confirmed_by_the_next_look() -> None:
    small = other(3, 0.66, 0.03)
    assert decided([look(0.0, small)]).action == "wait"
    assert decided([look(0.0, small), look(20.0, small)]).action == "move"


def test_a_gain_too_small_to_pay_for_a_move_moves_nothing() -> None:
    small = other(3, 0.66, 0.01)
    assert decided([look(0.0, small), look(20.0, small)]).action == "wait"


def test_a_gain_in_doubt_moves_nothing() -> None:
    assert decided([look(0.0, other(3, 0.9, 0.0))] * 2).action == "wait"


def test_a_gain_within_the_mismatch_of_the_replay_moves_nothing() -> None:
    wrong = replace(look(0.0, other(3, 0.95, -0.05)), seen=0.2)
    decision = decided([wrong] * 2)
    assert decision.action == "wait"
    assert "does not match" in decision.why


def test_a_replay_that_does_not_match_moves_only_for_a_clear_gain_beyond_its_mismatch() -> None:
    wrong = replace(look(0.0, other(3, 0.95, 0.09)), seen=0.4)
    assert decided([wrong] * 2).action == "wait"
    clear = replace(look(0.0, other(3, 0.99, 0.15)), seen=0.4)
    assert decided([clear]).to == Split(3, 3)


def test_a_smaller_role_becomes_smaller_only_for_a_clear_gain() -> None:
    assert decided([look(0.0, other(1, 0.69, 0.09))] * 2).action == "wait"
    assert decided([look(0.0, other(1, 0.9, 0.11))]).to == Split(1, 5)


def test_a_move_that_the_latest_requests_are_against_is_not_made() -> None:
    clear = look(0.0, other(3, 0.95, 0.3))
    assert decided([clear], latest=look(0.0, other(3, 0.65, -0.2))).action == "move"
    decision = decided([clear], latest=look(0.0, other(3, 0.5, -0.2)))
    assert decision.action == "wait"
    assert "not for the latest requests" in decision.why


def test_a_shift_that_shows_in_the_latest_requests_alone_moves_for_a_clear_gain() -> None:
    before = look(0.0, other(3, 0.5, -0.2))
    assert decided([before], latest=look(0.0, other(3, 0.9, 0.2))).to == Split(3, 3)
    assert decided([before] * 2, latest=look(0.0, other(3, 0.9, 0.09))).action == "wait"
    wrong = replace(look(0.0, other(3, 0.9, 0.2)), seen=0.4)
    assert decided([before], latest=wrong).action == "wait"


def test_the_latest_requests_alone_make_no_small_role_smaller() -> None:
    before = look(0.0, other(1, 0.5, -0.2))
    assert decided([before], latest=look(0.0, other(1, 1.0, 0.4))).action == "wait"


def test_whole_times_alone_move_only_for_a_clear_gain_and_undo_nothing() -> None:
    small = replace(look(0.0, other(3, 0.69, 0.09)), by_whole=True)
    assert decided([small] * 2).action == "wait"
    clear = replace(look(0.0, other(3, 0.9, 0.2)), by_whole=True)
    assert decided([clear]).to == Split(3, 3)
    worse = replace(look(201.0, other(1, 0.61, 0.0)), by_whole=True)
    assert decided([worse], [moved(100.0, seen=0.75)]).action == "wait"


MORE_PREFILL = SplitAdvice(Split(3, 3), "Prefill is the bottleneck.")


def test_queues_decide_where_the_model_does_not_match_or_says_nothing() -> None:
    wrong = replace(look(0.0, other(1, 0.95, -0.05)), seen=0.2)
    assert decided([wrong], queues=MORE_PREFILL).to == Split(3, 3)
    assert next_step(NOW, [], [], LIMITS, at_s=0.0, queues=MORE_PREFILL).to == Split(3, 3)


def test_queues_alone_leave_no_single_engine_in_a_role_of_a_larger_deployment() -> None:
    fewer = SplitAdvice(Split(1, 5), "Decode is the bottleneck.")
    assert next_step(NOW, [], [], LIMITS, at_s=0.0, queues=fewer).action == "wait"
    small = SplitAdvice(Split(1, 2), "Decode is the bottleneck.")
    assert next_step(Split(2, 1), [], [], LIMITS, at_s=0.0, queues=small).to == Split(1, 2)


def test_queues_do_not_overrule_a_replay_that_matches() -> None:
    assert decided([look(0.0, other(3, 0.5, -0.2))], queues=MORE_PREFILL).action == "wait"
    assert decided([look(0.0, other(3, 0.65, -0.2))], queues=MORE_PREFILL).to == Split(3, 3)


def test_queues_call_for_no_opposite_move_within_the_cool_down() -> None:
    fewer = SplitAdvice(Split(1, 5), "Decode is the bottleneck.")
    wrong = replace(look(150.0), seen=0.2)
    assert decided([wrong], [moved(100.0)], fewer).action == "wait"
    assert decided([wrong], [moved(100.0)], MORE_PREFILL).action == "move"


def test_no_opposite_move_comes_within_the_cool_down() -> None:
    back = look(150.0, other(1, 0.95, 0.3))
    assert decided([back], [moved(100.0)]).action == "wait"
    assert decided([replace(back, at_s=201.0)], [moved(100.0)]).to == Split(1, 5)


def test_a_further_step_in_the_same_direction_need_not_wait() -> None:
    further = look(150.0, other(3, 0.95, 0.3))
    assert decided([further], [moved(100.0)]).to == Split(3, 3)


def test_a_move_that_made_it_worse_is_undone_and_not_repeated() -> None:
    worse = look(201.0, other(1, 0.7, 0.05), seen=0.6)
    decision = decided([worse], [moved(100.0, seen=0.75)])
    assert (decision.action, decision.to) == ("undo", Split(1, 5))
    undone = Move(201.0, "undo", NOW, Split(1, 5), 0.6, 0.75)
    again = look(320.0, layout="1P5D")
    again = replace(again, alternatives=(Alternative("2P4D", 2, 4, 0.9, 0.3, 0.2),))
    moves = [moved(100.0, seen=0.75), undone]
    decision = next_step(Split(1, 5), [again], moves, LIMITS, at_s=320.0)
    assert decision.action == "wait"
    assert "did not help" in decision.why


@pytest.mark.parametrize(("replayed", "action"), [(0.5, "move"), (0.9, "wait")])
def test_an_undone_move_is_repeated_once_a_replay_that_matches_sees_less_than_it_gave(
    replayed: float, action: str
) -> None:
    undone = Move(201.0, "undo", NOW, Split(1, 5), 0.6, 0.75)
    less = replace(look(320.0, layout="1P5D"), seen=0.5, replayed=replayed)
    less = replace(less, alternatives=(Alternative("2P4D", 2, 4, 0.95, 0.45, 0.4),))
    decision = next_step(Split(1, 5), [less], [undone], LIMITS, at_s=320.0)
    assert decision.action == action


def test_a_fall_that_the_load_explains_is_not_undone() -> None:
    heavier = look(201.0, other(1, 0.4, -0.3), seen=0.6)
    assert decided([heavier], [moved(100.0, seen=0.75)]).action == "wait"


def test_a_fall_is_not_undone_if_even_a_doubtful_replay_is_clearly_against_it() -> None:
    heavier = replace(look(201.0, other(1, 0.1, -0.8)), seen=0.3)
    assert decided([heavier], [moved(100.0, seen=0.75)]).action == "wait"
    in_doubt = replace(heavier, alternatives=(other(1, 0.4, -0.5),))
    assert decided([in_doubt], [moved(100.0, seen=0.75)]).action == "undo"


def test_a_move_that_queues_called_for_is_not_undone_for_the_share_before_it() -> None:
    worse = look(201.0, other(1, 0.7, 0.0), seen=0.6)
    called_for = replace(moved(100.0, seen=0.75), promised=None)
    assert decided([worse], [called_for]).action == "wait"


def test_a_fall_long_after_a_move_is_not_blamed_on_it() -> None:
    late = look(301.0, other(1, 0.61, 0.0), seen=0.6)
    assert decided([late], [moved(100.0, seen=0.75)]).action == "wait"


def test_all_moves_used_are_all_moves() -> None:
    moves = [moved(0.0), moved(1.0), moved(2.0)]
    decision = decided([look(500.0, other(3, 0.95, 0.3), seen=0.6)], moves)
    assert decision.why == "All 3 moves are used."


def test_the_journal_returns_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PDCTL_STATE_HOME", str(tmp_path))
    (tmp_path / "chat").mkdir(mode=0o700)
    one = look(1.0, other(3, 0.95, 0.3))
    decision = decided([one])
    entries = (
        Entry(1.0, "2P4D", decision, one, moved(2.0), latest=one),
        Entry(3.0, "2P4D", decision),
    )
    for entry in entries:
        write_entry("chat", entry)
    assert read_entries("chat") == entries
    assert moves_of(entries) == (moved(2.0),)


def check(results: list[Result], most_worse: int) -> None:
    """No hasty pair, better in the mean, and hardly ever worse than leaving the engines alone."""
    assert [r for r in results if r.hasty_pairs] == []
    assert sum(r.autopilot < r.started_with - 0.02 for r in results) <= most_worse
    assert fmean(r.autopilot for r in results) > fmean(r.started_with for r in results)


@pytest.mark.slow
def test_seeded_days_are_not_worse_than_leaving_the_engines_alone() -> None:
    check([result_of(seed, baselines=False) for seed in (2, 10)], most_worse=0)


def test_a_seeded_day_is_as_long_as_asked_for() -> None:
    short, long = make(3), make(3, 1200.0)
    assert (short.end_s, long.end_s) == (1800.0, 3600.0)
    assert (short.kind, short.start) == (long.kind, long.start)
    assert 3500.0 < long.requests.arrival_s[-1] < 3600.0


@pytest.mark.long  # 5 s each
def test_sixty_seeded_days_are_hardly_ever_worse_than_leaving_the_engines_alone() -> None:
    results = [result_of(seed) for seed in range(40, 100)]
    check(results, most_worse=3)
    quarter = fmean(r.baselines["N/4"] for r in results)
    assert fmean(r.autopilot for r in results) > quarter
