"""The screens of `explain`."""

import io
from dataclasses import replace

from rich.console import Console, RenderableType

from pdctl.status.explain.records import (
    Cause,
    ClockGap,
    ExplainedRequest,
    Explanation,
    OtherSplit,
    Part,
    Replay,
)
from pdctl.tables.explain import explain_lines, explain_view, explanation_page, heading

SLOW = ExplainedRequest(
    rid="3f2a91c0ffee3f2a91c0ffee",
    room="7",
    at=1_790_239_000.0,
    input_tokens=4096,
    cached_tokens=0,
    output_tokens=120,
    prefill_engine="prefill-0",
    decode_engine="decode-1",
    ttft_s=2.0,
    tpot_s=0.012,
    total_s=3.4,
    parts=(
        Part("prefill queue", "prefill-0", 0.0, 1.5),
        Part("prefill", "prefill-0", 1.5, 0.4),
        Part("KV transfer", "prefill-0", 1.9, 0.1),
    ),
    cause=Cause("prefill_queue", "prefill-0", 1.5, "It waited 1.5 s in the queue of prefill-0."),
)
REPLAY = Replay(
    "roofline",
    OtherSplit("2P6D", {SLOW.rid: 2.1}, 2.4),
    (OtherSplit("3P5D", {SLOW.rid: 0.9}, 1.1), OtherSplit("1P7D", {SLOW.rid: 9.0}, 12.0)),
    0.05,
)
FOUND = Explanation(500, 120.0, (SLOW,), (ClockGap("prefill-0", "decode-1", -0.3, -0.4, -0.2),))


def shown(view: RenderableType, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(view)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert isinstance(text, str)
    return text


def test_the_table_names_the_longest_part_and_the_cause() -> None:
    text = shown(explain_view(FOUND, is_one=False, width=120))
    assert "The slowest 1 of 500 requests" in text
    assert "prefill queue 75 %" in text
    assert "It waited 1.5 s in the queue of prefill-0." in text


def test_on_a_narrow_terminal_the_reasons_stand_below_the_table_in_whole_lines() -> None:
    lines = shown(explain_view(FOUND, is_one=False, width=60), width=60).splitlines()
    assert "3f2a91c0ffee  It waited 1.5 s in the queue of prefill-0." in map(str.rstrip, lines)
    assert not any(line.split()[-1:] == ["why"] for line in lines)


def test_the_heading_says_whether_all_requests_are_shown() -> None:
    assert heading(replace(FOUND, num_requests=1)) == "The only request in 2 min"
    both = replace(FOUND, num_requests=2, requests=(SLOW, SLOW))
    assert heading(both) == "All 2 requests in 2 min, the slowest first"


def test_a_timeline_has_a_bar_for_each_part_where_it_lies() -> None:
    lines = shown(explain_view(FOUND, is_one=True, width=120)).splitlines()
    bars = {line.split("  ")[1].strip(): line.count("█") for line in lines if "█" in line}
    assert bars == {"prefill queue": 30, "prefill": 8, "KV transfer": 2}
    starts = [line.index("█") for line in lines if "█" in line]
    assert starts == sorted(starts)
    assert any("First token after 2 s, then 12 ms per token; 3.4 s in all." in x for x in lines)


def test_the_best_other_split_is_said_with_what_today_s_simulates_to() -> None:
    text = shown(explain_view(replace(FOUND, replay=REPLAY), is_one=True, width=120), width=200)
    assert "With 3P5D it would have taken 900 ms to its first token" in text
    assert "(simulated; 2P6D simulated takes 2.1 s)" in text
    assert "2P6D 2.4 s, 3P5D 1.1 s, 1P7D 12 s" in text


def test_of_splits_that_are_equally_good_the_nearest_is_said() -> None:
    far = OtherSplit("5P3D", {SLOW.rid: 0.88}, 1.1)
    more = replace(REPLAY, others=(*REPLAY.others[:1], far))
    assert "With 3P5D it" in shown(
        explain_view(replace(FOUND, replay=more), is_one=True, width=120)
    )


def test_no_other_split_is_praised_that_would_be_slower() -> None:
    slower = replace(REPLAY, others=REPLAY.others[1:])
    text = shown(explain_view(replace(FOUND, replay=slower), is_one=True, width=120), width=200)
    assert "it would have taken" not in text


def test_the_distance_of_the_replay_from_the_log_is_said_with_its_side() -> None:
    for off, said in ((0.05, "5 % above the"), (-0.12, "12 % below the"), (0.001, "is the")):
        replay = replace(REPLAY, median_off=off)
        text = shown(explain_view(replace(FOUND, replay=replay), is_one=True, width=120), width=200)
        assert f"{said} observed" in text


def test_a_clock_that_was_corrected_is_named() -> None:
    assert "decode-1's clock is 300 ms behind prefill-0's" in shown(
        explain_view(FOUND, is_one=True, width=120), width=200
    )


def test_a_line_for_other_programs_has_a_value_for_every_name() -> None:
    head, line = explain_lines(FOUND)
    assert len(head.split("\t")) == len(line.split("\t"))
    assert "prefill_queue=1.5000 prefill=0.4000 KV_transfer=0.1000" in line


def test_the_page_escapes_what_logs_hold() -> None:
    page = explanation_page(replace(FOUND, requests=(replace(SLOW, rid="<b>"),)), "a & b")
    assert "<b>" not in page
    assert "a &amp; b" in page
    assert 'style="left:75.00%;width:20.00%"' in page
