"""Later turns with a delay become requests."""

import json
from pathlib import Path

import pytest

from pdctl.errors import InvalidInput
from pdctl.workload.conversations import ASSUMED_FIRST_TOKEN_S, ASSUMED_TOKEN_S, delay_unit
from pdctl.workload.describe import prefix_reuse, workload_from_trace
from pdctl.workload.records import Trace
from pdctl.workload.traces import read_trace


def read(path: Path, rows: list[dict[str, object]]) -> Trace:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return read_trace(path)


def conversations(num: int, turns: int = 3, **later: object) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for i in range(num):
        first = {"session_id": f"s{i}", "timestamp": 250 * i}
        rows.append(first | {"input_length": 1000, "output_length": 100})
        following = {"session_id": f"s{i}", "delay": 2000, "input_length": 50, "output_length": 10}
        rows += [following | later] * (turns - 1)
    return rows


def test_a_turn_arrives_its_delay_after_the_assumed_answer(tmp_path: Path) -> None:
    trace = read(tmp_path / "t", conversations(100))
    assert len(trace.requests) == 300
    first = ASSUMED_FIRST_TOKEN_S + 100 * ASSUMED_TOKEN_S + 2.0
    second = first + ASSUMED_FIRST_TOKEN_S + 10 * ASSUMED_TOKEN_S + 2.0
    for expected in (first, second):
        assert any(at == pytest.approx(expected) for at in trace.requests.arrival_s)
    assert list(trace.requests.arrival_s) == sorted(trace.requests.arrival_s)


def test_what_was_assumed_is_a_note(tmp_path: Path) -> None:
    (note,) = read(tmp_path / "t", conversations(100)).notes
    assert "200 requests are later turns of 100 conversations" in note
    assert "500 ms plus 30 ms per output token" in note


def test_prompts_of_later_turns_hold_the_turns_before_as_a_cached_prefix(tmp_path: Path) -> None:
    trace = read(tmp_path / "t", conversations(100))
    assert set(trace.requests.isl) == {1000, 1150, 1210}
    # 960 and 1,088 tokens are whole blocks of 64 of the turns before
    assert prefix_reuse(trace.requests) == pytest.approx((960 + 1088) / 3360, abs=0.03)


def test_prompts_that_hold_the_turns_before_already_stay_as_they_are(tmp_path: Path) -> None:
    trace = read(tmp_path / "t", conversations(100, turns=2, input_length=1200))
    assert set(trace.requests.isl) == {1000, 1200}
    assert trace.requests.blocks is None


def test_a_delay_without_a_conversation_that_has_begun_is_a_broken_line(tmp_path: Path) -> None:
    rows = conversations(5)
    with pytest.raises(InvalidInput, match="line 1: no 'timestamp', and no turn before"):
        read(tmp_path / "t", rows[1:])


def test_turns_of_a_failed_first_request_fail_too(tmp_path: Path) -> None:
    rows = conversations(100)
    rows[0]["output_length"] = 0
    trace = read(tmp_path / "t", rows)
    assert len(trace.requests) == 297
    assert trace.num_failed == 3


@pytest.mark.parametrize(
    ("named", "times", "delays", "unit"),
    [
        ("us", "ms", [1.0], "us"),
        (None, "ms", [1.0], "ms"),
        (None, "s", [2000.0], "s"),
        (None, "date", [2.0], "s"),
        (None, "", [2000.0], "ms"),
        (None, "date", [1500.0, 2000.0, 9.0], "ms"),
    ],
)
def test_delays_count_as_their_name_says_else_as_the_times_do(
    named: str | None, times: str, delays: list[float], unit: str
) -> None:
    assert delay_unit(named, times, delays) == unit


def test_conversations_without_any_times_need_a_rate(tmp_path: Path) -> None:
    rows = [{k: v for k, v in row.items() if k != "timestamp"} for row in conversations(20)]
    trace = read(tmp_path / "t", rows)
    assert len(trace.requests) == 60
    assert not trace.has_arrivals
    assert workload_from_trace(trace, "t").rate_rps is None
    assert workload_from_trace(trace, "t", rate_rps=3.0).rate_rps == pytest.approx(3.0)


def test_conversations_that_begin_at_one_instant_still_take_turns(tmp_path: Path) -> None:
    rows = [row | ({"timestamp": 0} if "timestamp" in row else {}) for row in conversations(20)]
    times = read(tmp_path / "t", rows).requests.arrival_s
    assert list(times[:20]) == [0.0] * 20
    assert times[20] == pytest.approx(ASSUMED_FIRST_TOKEN_S + 100 * ASSUMED_TOKEN_S + 2.0)
