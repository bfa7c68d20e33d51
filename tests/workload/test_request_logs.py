"""SGLang's logs of requests: aborted ones, time stats of every version, a prefill engine's log."""

from pathlib import Path

import pytest

from pdctl.errors import InvalidInput
from pdctl.workload.describe import facts_of, read_line
from pdctl.workload.records import Trace
from pdctl.workload.traces import read_trace

STAMP = "[2026-11-23 09:00:%02d] "


def read(path: Path, lines: list[str]) -> Trace:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return read_trace(path)


def finish(second: int, prompt: int, output: int, reason: str = "'length', 'length': 9") -> str:
    return STAMP % second + (
        f"Finish: obj=GenerateReqInput(rid='r{second}'), out={{'meta_info': {{'id': 'r{second}', "
        f"'finish_reason': {{'type': {reason}}}, 'prompt_tokens': {prompt}, "
        f"'completion_tokens': {output}, 'e2e_latency': 0.5}}}}"
    )


def test_aborted_requests_are_left_out_and_counted(tmp_path: Path) -> None:
    abort = "'abort', 'message': 'Abort before prefill'"
    lines = [finish(i, 0 if i % 10 == 0 else 700, 0 if i % 10 == 0 else 50) for i in range(30)]
    lines = [finish(i, 0, 0, abort) if i % 10 == 0 else line for i, line in enumerate(lines)]
    trace = read(tmp_path / "log", lines)
    assert (len(trace.requests), trace.num_aborted, trace.skipped_lines) == (27, 3, 3)
    assert "left out: 3 aborted" in read_line(facts_of(trace))


def test_an_abort_after_some_tokens_is_left_out_too(tmp_path: Path) -> None:
    trace = read(tmp_path / "log", [finish(1, 700, 5, "'abort'"), finish(2, 700, 50)])
    assert trace.num_aborted == 1
    assert list(trace.requests.osl) == [50]


STATS = [
    "Req Time Stats(rid=%s, input len=%d, output len=%d, type=%s): queue_duration=100.00ms, "
    "forward_duration=900.00ms, start_time=0.0",
    "Req Time Stats(rid=%s, bootstrap_room=77, input len=%d, output len=%d, type=%s): "
    "bootstrap_duration=50.00ms, queue_duration=50.00ms, forward_duration=900.00ms",
    "ReqTimeStats(rid=%s, input_len=%d, output_len=%d, type=%s): queue_duration=1000.00ms",
    "ReqTimeStats(rid=%s, input_len=%d, cached_input_len=0, output_len=%d, type=%s): "
    "bootstrap_duration=0.10ms, queue_duration=99.90ms, forward_duration=900.00ms, "
    "transfer_speed=0.14 GB/s, #retries=0",
]


@pytest.mark.parametrize("stats", STATS)
def test_time_stats_of_every_version_are_requests(tmp_path: Path, stats: str) -> None:
    lines = [STAMP % (i + 2) + stats % (f"r{i}", 700 + i, 50, "decode") for i in range(4)]
    trace = read(tmp_path / "log", [STAMP % 0 + "The server is fired up, ready", *lines])
    assert list(trace.requests.isl) == [700, 701, 702, 703]
    assert set(trace.requests.osl) == {50}
    assert list(trace.requests.arrival_s) == pytest.approx([0, 1, 2, 3])
    assert trace.notes == ()


def test_a_clock_in_the_stats_tells_the_arrival(tmp_path: Path) -> None:
    stats = "ReqTimeStats(rid=%d, input_len=7, output_len=5, type=unified): entry_time=%f"
    lines = [STAMP % 9 + stats % (i, 1781183686.25 + 2 * i) for i in range(3)]
    assert list(read(tmp_path / "log", lines).requests.arrival_s) == pytest.approx([0, 2, 4])


def test_ranks_that_repeat_a_request_count_once(tmp_path: Path) -> None:
    lines = [
        f"[2026-11-23 09:00:0{i} TP{rank}] "
        f"ReqTimeStats(rid=r{i}, input_len=7, output_len=5, type=decode): queue_duration=1.00ms"
        for i in range(3)
        for rank in range(4)
    ]
    assert len(read(tmp_path / "log", lines).requests) == 3


def test_finished_requests_are_not_counted_again_by_their_stats(tmp_path: Path) -> None:
    stats = STAMP % 1 + STATS[2] % ("r1", 700, 50, "unified")
    assert len(read(tmp_path / "log", [stats, finish(1, 700, 50)]).requests) == 1


@pytest.mark.parametrize("kind", ["finish", "stats"])
def test_a_prefill_engines_log_is_recognised(tmp_path: Path, kind: str) -> None:
    lines = [
        finish(i, 700, 1) if kind == "finish" else STAMP % i + STATS[2] % (i, 700, 1, "prefill")
        for i in range(5)
    ]
    (note,) = read(tmp_path / "log", lines).notes
    assert "prefill engine's log" in note
    assert "decode engines'" in note


def test_a_workload_of_single_tokens_is_no_log(tmp_path: Path) -> None:
    rows = ["time_s,isl,osl", *(f"{i},700,1" for i in range(9))]
    assert read(tmp_path / "trace.csv", rows).notes == ()


def test_a_log_that_begins_with_other_lines_is_still_a_log(tmp_path: Path) -> None:
    lines = ["INFO: started, with some, commas", *(finish(i, 700, 9) for i in range(3))]
    assert len(read(tmp_path / "log", lines).requests) == 3


def test_stats_without_any_time_are_a_broken_line(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no time in front"):
        read(tmp_path / "log", [STATS[2] % ("r", 7, 5, "decode")])


def test_aborts_in_the_json_form_are_left_out_whatever_the_order(tmp_path: Path) -> None:
    event = (
        '{"timestamp": "2026-11-23T09:00:0%d", "event": "request.finished", "rid": "%d", "out": '
        '{"meta_info": {"finish_reason": %s, "prompt_tokens": %d, "completion_tokens": %d}}}'
    )
    reasons = [
        ('{"message": "gone", "type": "abort"}', 9, 4),
        ('{"type": "abort"}', 0, 0),
        ("null", 0, 0),
        ('{"type": "stop"}', 9, 4),
    ]
    trace = read(tmp_path / "log", [event % (i, i, *rest) for i, rest in enumerate(reasons)])
    assert (len(trace.requests), trace.num_aborted) == (1, 3)
