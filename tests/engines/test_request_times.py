"""Lines of time stats, as releases of SGLang write them, and logs that lack some."""

from datetime import datetime
from pathlib import Path

import pytest

from pdctl.engines.request_times import (
    MAX_LINE_BYTES,
    RequestTimes,
    log_lines,
    request_log,
)
from pdctl.errors import InvalidInput

AT = "[2026-11-28 10:00:09 TP0] "
AT_S = datetime(2026, 11, 28, 10, 0, 9).astimezone().timestamp()
ENTRY = f"entry_time={AT_S - 8:.3f}"
NEW_PREFILL = (
    f"{AT}ReqTimeStats(rid=a, bootstrap_room=7, input_len=4096, cached_input_len=96, output_len=1, "
    "attempts=0, type=prefill): bootstrap_duration=2.00ms, queue_duration=30.00ms, "
    f"forward_duration=500.00ms, {ENTRY}, transfer_speed=2.00 GB/s, transfer_total=512.00 MB"
)
NEW_DECODE = (
    f"{AT}ReqTimeStats(rid=b, bootstrap_room=7, input_len=4096, cached_input_len=0, output_len=9, "
    "attempts=0, type=decode): bootstrap_duration=1.00ms, alloc_wait_duration=4.00ms, "
    f"transfer_duration=600.00ms, queue_duration=5.00ms, forward_duration=80.00ms, {ENTRY}"
)


def _only(line: str) -> RequestTimes:
    (record,) = request_log(iter([line.encode()]), "prefill-0").records
    return record


def test_a_prefill_line_of_0_5_23_is_read() -> None:
    record = _only(NEW_PREFILL)
    assert (record.role, record.rid, record.room) == ("prefill", "a", 7)
    assert (record.input_tokens, record.cached_tokens, record.new_tokens) == (4096, 96, 4000)
    assert record.start_s - record.entry_s == pytest.approx(0.032, abs=1e-6)
    assert record.end_s - record.start_s == pytest.approx(0.5, abs=1e-6)
    assert record.sending_s == pytest.approx(0.25)
    assert record.entry_s == pytest.approx(AT_S - 8)


def test_a_decode_line_of_0_5_23_is_read() -> None:
    record = _only(NEW_DECODE)
    assert (record.bootstrap_s, record.allocation_s) == (0.001, 0.004)
    assert (record.transfer_s, record.queue_s, record.forward_s) == (0.6, 0.005, 0.08)


@pytest.mark.parametrize(
    ("before", "bootstrap_s", "allocation_s"),
    [
        # 0.5.1 to 0.5.5, 0.5.6 to 0.5.9, 0.5.10 and 0.5.11, and since 0.5.12 without a handshake
        ("prealloc_duration=9.00ms, transfer_duration=5.00ms, ", 0.0, 0.009),
        (
            "prealloc_queue_duration(9.00ms) = alloc_wait(5.00ms) + bootstrap(3.00ms) "
            "+ other(1.00ms); transfer_duration=5.00ms; ",
            0.003,
            0.006,
        ),
        (
            "prealloc_queue_duration(9.00ms) = bootstrap(3.00ms) + alloc_wait(6.00ms); "
            "transfer_duration=5.00ms; ",
            0.003,
            0.006,
        ),
        ("prealloc_queue_duration=9.00ms, transfer_duration=5.00ms, ", 0.0, 0.009),
    ],
)
def test_older_spellings_of_the_same_durations_are_read(
    before: str, bootstrap_s: float, allocation_s: float
) -> None:
    line = (
        f"{AT}Req Time Stats(rid=b, bootstrap_room=7, input len=4096, output len=9, type=decode): "
        f"{before}queue_duration=5.00ms, forward_duration=80.00ms, start=1234.500"
    )
    record = _only(line)
    assert record.bootstrap_s == pytest.approx(bootstrap_s)
    assert record.allocation_s == pytest.approx(allocation_s)
    assert record.transfer_s == 0.005
    assert record.cached_tokens is None


def test_a_clock_that_counts_from_the_start_of_the_machine_becomes_unix_time() -> None:
    """Lines have whole seconds: the one written latest after its second tells most."""
    line = (
        "[2026-11-28 10:00:{s:02d}] Req Time Stats(rid=r{s}, input len=8, output len=2, "
        "type=unified): queue_duration=100.00ms, forward_duration=400.00ms, start_time={at:.3f}"
    )
    # ends at 500.5 + s·0.9 on its own clock, which is 10:00:00.5 + s·0.9
    lines = [line.format(s=int(0.5 + n * 0.9), at=500.0 + n * 0.9).encode() for n in range(20)]
    records = request_log(iter(lines), "one").records
    first_s = datetime(2026, 11, 28, 10).astimezone().timestamp()
    assert records[0].entry_s == pytest.approx(first_s, abs=0.11)


@pytest.mark.parametrize(
    ("words", "retries"), [("attempts=0, ", 0), ("attempts=1, ", 0), ("attempts=3, ", 2), ("", 2)]
)
def test_repeated_prefills_are_counted_in_both_spellings(words: str, retries: int) -> None:
    line = NEW_PREFILL.replace("attempts=0, ", words)
    assert _only(line if words else f"{line}, #retries=2").retries == retries


def test_a_negative_duration_counts_as_none() -> None:
    line = NEW_DECODE.replace("queue_duration=5.00ms", "queue_duration=-31000.00ms")
    assert _only(line).queue_s == 0


@pytest.mark.parametrize("at", range(40, len(NEW_DECODE) - 30, 7))
def test_a_line_cut_off_anywhere_is_counted_and_left_out(at: int) -> None:
    log = request_log(iter([NEW_DECODE[:at].encode(), NEW_PREFILL.encode()]), "x")
    assert [record.rid for record in log.records] == ["a"]
    assert log.num_unreadable == 1


def test_health_checks_of_sglang_itself_are_no_requests() -> None:
    line = NEW_PREFILL.replace("rid=a", "rid=HEALTH_CHECK_1795.5")
    assert request_log(iter([line.encode()]), "x").records == ()


def test_only_the_last_requests_of_a_long_log_are_kept() -> None:
    lines = (NEW_DECODE.replace("rid=b", f"rid=b{n}").encode() for n in range(1000))
    log = request_log(lines, "x", keep=10)
    assert [record.rid for record in log.records] == [f"b{n}" for n in range(990, 1000)]
    assert log.num_dropped == 990


def test_the_requests_around_a_wanted_one_are_kept() -> None:
    lines = (NEW_DECODE.replace("rid=b", f"rid=b{n:03d}").encode() for n in range(1000))
    log = request_log(lines, "x", rid="b500", keep=10)
    assert [record.rid for record in log.records] == [f"b{n}" for n in range(496, 506)]


def test_lines_about_a_request_that_never_ended_are_kept() -> None:
    lines = [b"[2026-11-28 10:00:00] Request zzz timed out after 300.0s in KVPoll.Bootstrapping\n"]
    log = request_log(iter(lines), "x", rid="zzz")
    assert log.mentions == (lines[0].decode().rstrip(),)


@pytest.mark.parametrize(
    ("line", "is_enabled"),
    [
        ("# pdctl 2026-11-28 10:00:00 python --enable-request-time-stats-logging", True),
        ("server_args=ServerArgs(enable_request_time_stats_logging=True, x=1)", True),
        ("server_args={'enable_request_time_stats_logging': False}", False),
        ("nothing", None),
    ],
)
def test_a_log_tells_whether_its_engine_has_the_flag(line: str, is_enabled: bool | None) -> None:
    assert request_log(iter([line.encode()]), "x").is_enabled is is_enabled


def test_a_line_of_any_length_is_read_in_bounded_pieces(tmp_path: Path) -> None:
    path = tmp_path / "x.log"
    path.write_bytes(b"x" * (3 * MAX_LINE_BYTES) + b"\n" + NEW_DECODE.encode() + b"\n")
    lines = list(log_lines(path))
    assert [len(line) for line in lines] == [MAX_LINE_BYTES, len(NEW_DECODE) + 1]


def test_a_log_that_cannot_be_read_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read: Is a directory"):
        list(log_lines(tmp_path))


def test_of_a_long_log_only_whole_lines_of_its_end_are_read(tmp_path: Path) -> None:
    path = tmp_path / "decode-0.log"
    path.write_bytes(b"first\nsecond\nthird\n")
    assert list(log_lines(path, last_bytes=10)) == [b"third\n"]
    assert len(list(log_lines(path, last_bytes=100))) == 3


def test_a_line_that_another_one_is_stuck_to_is_left_out_and_the_other_is_read() -> None:
    for end in range(30, len(NEW_PREFILL) - 1, 7):
        log = request_log([(NEW_PREFILL[:end] + NEW_DECODE).encode()], "x")
        assert [one.rid for one in log.records] == ["b"], end
        assert log.num_unreadable == (1 if "ReqTimeStats(" in NEW_PREFILL[:end] else 0)


def test_a_time_that_was_cut_off_is_no_time() -> None:
    assert not request_log([NEW_DECODE[:-8].encode()], "x").records


@pytest.mark.parametrize(
    ("number", "lie"),
    [
        ("transfer_duration=600.00ms", "transfer_duration=1e308ms"),
        ("transfer_duration=600.00ms", "transfer_duration=1e400ms"),
        ("input_len=4096", f"input_len={'9' * 20}"),
        ("output_len=9", "output_len=-9"),
    ],
)
def test_a_line_with_a_number_that_cannot_be_is_left_out(number: str, lie: str) -> None:
    log = request_log([NEW_DECODE.replace(number, lie).encode()], "x")
    assert (log.records, log.num_unreadable) == ((), 1)
