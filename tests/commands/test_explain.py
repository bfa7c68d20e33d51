"""`pdctl explain` on logs of a staged deployment."""

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pdctl.cli import main
from pdctl.engines import request_times, state
from pdctl.status.explain.records import (
    Cause,
    ExplainedRequest,
    Explanation,
    OtherSplit,
    Replay,
)
from pdctl.tables.explain import explanation_page
from tests.commands.test_schema import check
from tests.status.explain.histories import History, history, log_lines

SLOW = history(4, "decode_queue")


def write_logs(folder: Path, one: History = SLOW) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in log_lines(one.sent).items():
        (folder / f"{name}.log").write_text("".join(f"{line}\n" for line in lines))


@pytest.fixture
def chat(home: Path) -> Path:
    """The logs of a deployment that has ended."""
    state.make_state_dir("chat")
    folder = state.logs_dir("chat")
    write_logs(folder)
    (folder / "router.log").write_text("2026-11-28 10:00:00 INFO smg: ready\n")
    return folder


def run(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> tuple[str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["explain", *words])
    printed = capsys.readouterr()
    assert (ended.value.code or 0) == code, printed.err
    return printed.out, printed.err


def data(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    out, _ = run(capsys, *words, "--json")
    found = json.loads(out)
    check("explain", found)
    return found["data"]


def test_the_slowest_requests_of_an_ended_deployment_come_with_their_causes(
    chat: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = data(capsys, "--slowest", "3")
    assert [one["rid"] for one in found["requests"]][0] == SLOW.victim.rid
    assert found["requests"][0]["cause"]["kind"] == "decode_queue"
    assert len(found["requests"]) == 3
    assert found["num_requests"] == len(SLOW.sent)
    assert "No deployment 'chat' is running" in found["replay_missing"]


def test_off_a_terminal_there_is_a_line_per_request_with_tabs(
    chat: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = run(capsys, "--slowest", "3")
    head, first, *rest = out.splitlines()
    assert len(rest) == 2
    row = dict(zip(head.split("\t"), first.split("\t"), strict=True))
    assert row["REQUEST"] == SLOW.victim.rid
    assert row["CAUSE"] == "decode_queue"
    assert "decode_queue=" in row["PARTS"]


def test_one_request_has_a_timeline_and_its_cause(
    chat: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = run(capsys, SLOW.victim.rid, "-n", "chat")
    assert f"{SLOW.victim.rid} · prefill-" in out
    assert f"for a batch on {SLOW.engine}." in out
    assert "█" in out


def test_the_room_names_a_request_too(chat: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (one,) = data(capsys, str(SLOW.victim.room))["requests"]
    assert one["rid"] == SLOW.victim.rid


def test_logs_of_engines_that_pdctl_did_not_start_are_files(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_logs(tmp_path / "logs")
    files = [str(path) for path in sorted((tmp_path / "logs").glob("*.log"))]
    by_files = data(capsys, "--logs", *files, "--slowest", "5")
    by_folder = data(capsys, "--logs", str(tmp_path / "logs"), "--slowest", "5")
    one = data(capsys, SLOW.victim.rid, "--logs", *files)
    assert by_files == by_folder
    assert one["requests"] == by_files["requests"][:1]
    assert "model and GPUs behind these logs are unknown" in one["replay_missing"]


def test_a_window_counts_back_from_the_last_request(
    chat: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last_s = max(one.marks["end"] for one in SLOW.sent)
    found = data(capsys, "--window", "3s", "--slowest", "1000")
    recent = {one.rid for one in SLOW.sent if one.at_s >= last_s - 3}
    assert {one["rid"] for one in found["requests"]} == recent


def test_the_slowest_per_token_are_asked_for_by_name(
    chat: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = data(capsys, "--by", "tpot", "--slowest", "1000")["requests"]
    times = [one["tpot_s"] for one in found if one["tpot_s"] is not None]
    assert times == sorted(times, reverse=True)


def test_a_report_is_a_page_that_fetches_nothing(
    chat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "slow.html"
    run(capsys, "--slowest", "2", "--report", str(page))
    text = page.read_text()
    assert text.startswith("<!doctype html>")
    assert SLOW.victim.rid in text
    assert "http" not in text


def test_an_id_from_outside_cannot_write_html(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = history(4, "decode_queue")
    one.victim.rid = "<script>x</script>"
    write_logs(tmp_path / "logs", one)
    page = tmp_path / "slow.html"
    run(capsys, "--logs", str(tmp_path / "logs"), "--report", str(page))
    assert "<script>" not in page.read_text()


def test_logs_without_the_flag_are_refused_with_it(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "p.log"
    log.write_text("[2026-11-28 10:00:00] Prefill batch, #new-seq: 1, #new-token: 2000\n")
    _, err = run(capsys, "--logs", str(log), code=2)
    assert "logs the times of its requests" in err
    assert "--enable-request-time-stats-logging" in err


def test_engines_with_the_flag_and_without_requests_are_told_apart(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "p.log"
    log.write_text("# pdctl 2026-11-28 10:00:00 x --enable-request-time-stats-logging\n")
    _, err = run(capsys, "--logs", str(log), code=7)
    assert "No request has ended in these logs." in err


def test_one_engine_without_the_flag_is_named(
    chat: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (chat / "decode-1.log").write_text("server_args={'enable_request_time_stats_logging': False}\n")
    notes = data(capsys)["notes"]
    assert "Started without --enable-request-time-stats-logging: decode-1." in notes
    assert any("have no decode half" in note for note in notes)


def test_an_unknown_request_is_an_error_that_says_what_is_known(
    chat: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (chat / "decode-0.log").open("a") as log:
        log.write("[2026-11-28 10:00:00] Request zzz timed out after 300.0s in KVPoll.x\n")
    _, err = run(capsys, "zzz", code=2)
    assert f"they hold {len(SLOW.sent)} requests" in err
    assert "decode-0 | [2026-11-28 10:00:00] Request zzz timed out" in err


def test_both_halves_of_an_old_request_are_found_in_logs_longer_than_what_is_kept(
    chat: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    old = min(SLOW.sent, key=lambda one: one.at_s)
    monkeypatch.setattr(request_times.request_log, "__kwdefaults__", {"rid": None, "keep": 20})
    (one,) = data(capsys, old.rid)["requests"]
    assert one["prefill_engine"] == f"prefill-{old.prefill}"
    assert one["decode_engine"] == f"decode-{old.decode}"


def test_a_rotated_log_is_read_with_its_successor(
    chat: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = chat / "prefill-0.log"
    lines = log.read_text().splitlines(keepends=True)
    (chat / "prefill-0.log.1").write_text("".join(lines[:40]))
    log.write_text("".join(lines[40:]))
    assert data(capsys, "--slowest", "1000")["notes"] == []


@pytest.mark.parametrize("suffixes", [(".2.gz", ".1", ""), ("-20261127.gz", "-20261128", "")])
def test_rotated_and_packed_parts_of_a_log_given_as_files_are_one_engines(
    suffixes: tuple[str, ...], home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "logs"
    write_logs(folder)
    whole = data(capsys, "--logs", str(folder), "--slowest", "5")
    log = folder / "prefill-0.log"
    lines = log.read_bytes().splitlines(keepends=True)
    log.unlink()
    for suffix, start in zip(suffixes, (0, 20, 40), strict=True):
        part = b"".join(lines[start : start + 20] if suffix else lines[start:])
        packed = gzip.compress(part) if suffix.endswith(".gz") else part
        (folder / f"prefill-0.log{suffix}").write_bytes(packed)
    assert data(capsys, "--logs", str(folder), "--slowest", "5") == whole


def test_a_packed_log_that_is_cut_off_is_refused_by_name(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "d.log.gz").write_bytes(gzip.compress(b"[2026-11-28 10:00:00] x\n" * 9000)[:60])
    _, err = run(capsys, "--logs", str(tmp_path / "d.log.gz"), code=2)
    assert "d.log.gz cannot be read: Compressed file ended" in err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("a", "b"), "'b' is a second request."),
        (("--by", "rate"), "--by is ttft or tpot, not 'rate'."),
        (("--logs", "nowhere.log"), "There is no log nowhere.log."),
        (("--logs", ".", "-n", "chat"), "holds no *.log file."),
        (("--window", "5x"), "5x"),
        (("-n", "other"), "There are no logs of 'other'"),
    ],
)
def test_bad_input_is_one_sentence(
    chat: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], text: str
) -> None:
    with pytest.raises(SystemExit):
        main(["explain", *words])
    assert text in capsys.readouterr().err


def test_a_window_without_a_request_is_an_error_that_says_so(
    chat: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, said = run(capsys, "--window", "1ms", code=7)
    assert said.startswith("error: No request began in the last 1 ms of the logs of chat.")


def test_off_a_terminal_notes_on_the_logs_go_to_stderr(
    chat: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (chat / "decode-0.log").unlink()
    out, said = run(capsys)
    assert "have no decode half in these logs." in said
    assert "no decode half" not in out


def test_by_tpot_no_split_is_named_for_its_time_to_first_token() -> None:
    now, other = OtherSplit("1P1D", {"r": 9.0}, 9.0), OtherSplit("2P1D", {"r": 1.0}, 1.0)
    replay = Replay("roofline", now, (other,), 0.0)
    one = ExplainedRequest(
        *("r", "", 0.0, 100, 0, 10, "prefill-0", "decode-0", 1.0, 0.1, 2.0, ()),
        Cause("slow_decode", "decode-0", 1.0, "Its tokens took long."),
    )
    found = Explanation(1, 2.0, (one,), replay=replay)
    assert "With 2P1D" not in explanation_page(found, "logs")
    late = replace(one, cause=Cause("prefill_queue", "prefill-0", 1.0, "It waited."))
    assert "With 2P1D" in explanation_page(replace(found, requests=(late,)), "logs")


def test_logs_that_do_not_exist_are_answered_with_those_that_do(
    chat: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, said = run(capsys, "-n", "nope", code=7)
    assert "There are no logs of 'nope'." in said
    assert "there are logs of chat" in said


def test_logs_of_damaged_lines_alone_are_called_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "decode.log"
    log.write_text("ReqTimeStats(rid=a, bootst\n")
    _, said = run(capsys, "--logs", str(log), code=2)
    assert "No request can be read in these logs: 1 line is cut off or damaged." in said
