"""The autopilot's decision, and seeded days under it."""

from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest

from pdctl.status.autopilot import Limits, Move, Split, next_step
from pdctl.status.autopilot_journal import Entry, moves_of, read_entries, write_entry
from pdctl.status.records import Alternative, WhatIf
from tests.status.autopilot_histories import Result, result_of

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


def test_a_clear_gain_moves_one_engine_at_once() -> None:
    decision = next_step(NOW, [look(0.0, other(4, 0.95, 0.3), other(3, 0.8, 0.15))], [], LIMITS)
    assert (decision.action, decision.to) == ("move", Split(3, 3))
    assert decision.promised == 0.8


def test_a_small_gain_must_be_confirmed_by_the_next_look() -> None:
    small = other(3, 0.66, 0.01)
    assert next_step(NOW, [look(0.0, small)], [], LIMITS).action == "wait"
    assert next_step(NOW, [look(0.0, small), look(20.0, small)], [], LIMITS).action == "move"


def test_a_gain_in_doubt_moves_nothing() -> None:
    assert next_step(NOW, [look(0.0, other(3, 0.9, 0.0))] * 2, [], LIMITS).action == "wait"


def test_a_model_that_does_not_match_moves_nothing() -> None:
    wrong = replace(look(0.0, other(3, 0.95, 0.3)), seen=0.2)
    decision = next_step(NOW, [wrong] * 2, [], LIMITS)
    assert decision.action == "wait"
    assert "does not match" in decision.why


def test_no_opposite_move_comes_within_the_cool_down() -> None:
    back = look(150.0, other(1, 0.95, 0.3))
    assert next_step(NOW, [back], [moved(100.0)], LIMITS).action == "wait"
    assert next_step(NOW, [replace(back, at_s=201.0)], [moved(100.0)], LIMITS).to == Split(1, 5)


def test_a_further_step_in_the_same_direction_need_not_wait() -> None:
    further = look(150.0, other(3, 0.95, 0.3))
    assert next_step(NOW, [further], [moved(100.0)], LIMITS).to == Split(3, 3)


def test_a_move_that_made_it_worse_is_undone_and_not_repeated() -> None:
    worse = look(201.0, other(1, 0.7, 0.05), seen=0.6)
    decision = next_step(NOW, [worse], [moved(100.0, seen=0.75)], LIMITS)
    assert (decision.action, decision.to) == ("undo", Split(1, 5))
    undone = Move(201.0, "undo", NOW, Split(1, 5), 0.6, 0.75)
    again = look(320.0, layout="1P5D")
    again = replace(again, alternatives=(Alternative("2P4D", 2, 4, 0.9, 0.3, 0.2),))
    decision = next_step(Split(1, 5), [again], [moved(100.0, seen=0.75), undone], LIMITS)
    assert decision.action == "wait"
    assert "did not help" in decision.why


def test_a_fall_that_the_load_explains_is_not_undone() -> None:
    heavier = look(201.0, other(1, 0.4, -0.3), seen=0.6)
    assert next_step(NOW, [heavier], [moved(100.0, seen=0.75)], LIMITS).action == "wait"


def test_all_moves_used_are_all_moves() -> None:
    moves = [moved(0.0), moved(1.0), moved(2.0)]
    decision = next_step(NOW, [look(500.0, other(3, 0.95, 0.3), seen=0.6)], moves, LIMITS)
    assert decision.why == "All 3 moves are used."


def test_the_journal_returns_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PDCTL_STATE_HOME", str(tmp_path))
    (tmp_path / "chat").mkdir(mode=0o700)
    one = look(1.0, other(3, 0.95, 0.3))
    decision = next_step(NOW, [one], [], LIMITS)
    entries = (Entry(1.0, "2P4D", decision, one, moved(2.0)), Entry(3.0, "2P4D", decision))
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


@pytest.mark.long  # 5 s each
def test_sixty_seeded_days_are_hardly_ever_worse_than_leaving_the_engines_alone() -> None:
    results = [result_of(seed) for seed in range(40, 100)]
    check(results, most_worse=3)
    quarter = fmean(r.baselines["N/4"] for r in results)
    assert fmean(r.autopilot for r in results) > quarter
