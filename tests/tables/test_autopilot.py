"""What an autopilot and a what-if say."""

from dataclasses import replace

from pdctl.status.autopilot.decision import Decision, Move
from pdctl.status.autopilot.journal import Entry
from pdctl.status.autopilot.split_advice import Split
from pdctl.status.records import Alternative, WhatIf
from pdctl.tables.autopilot import entry_line, report_lines, what_if_lines

BETTER = Alternative("3P5D", 3, 5, 0.96, 0.13, 0.08)
LOOK = WhatIf(100.0, "2P6D", 1200, 4.0, 300.0, 0.83, 0.85, 0.83, (BETTER,))
MOVE = Move(110.0, "move", Split(2, 6), Split(3, 5), 0.83, 0.96)
MOVED = Entry(100.0, "2P6D", Decision("move", "because.", Split(3, 5), 0.96), LOOK, MOVE)


def test_a_what_if_names_the_better_layout_with_how_well_the_replay_matches() -> None:
    first, second = what_if_lines(LOOK, 220.0)
    assert first == (
        "Now 2P6D: 83 % meet the SLOs (its replay says 85 %). 3P5D would give 96 %, at least "
        "8 points more."
    )
    assert second == "Replayed 1,200 requests, 2 min ago: 3P5D 96 %."


def test_a_replay_that_does_not_match_gives_no_advice() -> None:
    first, second = what_if_lines(replace(LOOK, replayed=0.5), 110.0)
    assert first.endswith("which does not match: no advice).")
    assert second == "Replayed 1,200 requests, just now."


def test_a_what_if_says_what_a_share_is_of() -> None:
    first, _ = what_if_lines(replace(LOOK, by_whole=True, attainment=0.5), 110.0)
    assert first.startswith(
        "Now 2P6D: 50 % meet the SLOs in its replay (83 % end in the time that both limits allow "
        "together; its replay says 85 %)."
    )
    first, _, last = what_if_lines(replace(LOOK, usual_ttft_s=0.5, usual_tpot_s=0.03), 110.0)
    assert first.startswith("Now 2P6D: 83 % get today's median times (its replay says")
    assert last.endswith("TTFT 500 ms and TPOT 30 ms, or less of both.")


def test_a_dry_decision_says_what_it_would_do() -> None:
    line = entry_line(replace(MOVED, is_dry=True, move=None))
    assert line.endswith("2P6D → 3P5D  would move: because.")


def test_the_report_compares_what_a_move_promised_with_what_it_brought() -> None:
    after = Entry(200.0, "3P5D", Decision("wait", "fine."), replace(LOOK, seen=0.94))
    lines = report_lines("chat", (MOVED, after))
    assert "moves: 1, undone: 0." in lines[0]
    assert lines[2].endswith("2P6D → 3P5D (move): 83 % before, 96 % promised, 94 % after")


def test_a_deployment_without_an_autopilot_says_so() -> None:
    assert report_lines("chat", ()) == ["No autopilot has run on chat."]
