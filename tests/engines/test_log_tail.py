"""What a log says about a failure."""

from pathlib import Path

import pytest

from pdctl.engines import log_tail

LOGS = Path(__file__).parent.parent / "data" / "logs"

OOM = """# pdctl 2026-11-23 17:00:00 python -m sglang.launch_server
[2026-11-23 17:00:01] server_args=ServerArgs(model_path='x', note='address already in use')
[2026-11-23 17:00:02] Ignore import error when loading sglang.srt.models.grok: No module named 'x'
[2026-11-23 17:00:03 TP0] Scheduler hit an exception: Traceback (most recent call last):
  File "scheduler.py", line 1, in run
torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.
[2026-11-23 17:00:04] Received sigquit from a child process. It usually means the child failed.
RuntimeError: Rank 0 scheduler died during initialization (exit code: -9).
"""


DIED = (LOGS / "failed/sglang-0.5.15-prefill-died.log").read_text()


def test_a_scheduler_that_died_is_known_by_its_last_words_while_its_parent_lives() -> None:
    assert log_tail.what_died(DIED) == (
        "its scheduler died: RuntimeError: Out of memory. Try to lower your batch size."
    )
    assert log_tail.what_died("[2026-11-26 13:02:29 TP3] Scheduler hit an exception: Tra") == (
        "its scheduler died"
    )


@pytest.mark.parametrize(
    "text",
    [
        "[2026-11-26 13:02:29] Prefill batch, #new-seq: 1, #new-token: 8192",
        # a prompt that is logged says it within a line
        "[2026-11-26 13:02:29] Receive: text='[2026-11-26 13:02:28] Scheduler hit an exception: '",
        "Scheduler hit an exception: without SGLang's time stamp",
    ],
)
def test_nothing_else_is_taken_for_a_death(text: str) -> None:
    assert log_tail.what_died(text) == ""


def test_a_log_is_read_on_from_where_it_was_left_and_anew_once_it_was_cut(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    log.write_text("one\n")
    text, at = log_tail.read_from(log, 0)
    log.write_text("one\ntwo\n")
    assert (text, log_tail.read_from(log, at)) == ("one\n", ("two\n", 8))
    log.write_text("3\n")
    assert log_tail.read_from(log, 8) == ("3\n", 2)


def test_the_last_start_in_a_log_is_found(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    assert log_tail.last_start_at(log) == 0
    log.write_text(first := OOM)
    assert log_tail.last_start_at(log) == 0
    log.write_text(first + OOM)
    assert log_tail.last_start_at(log) == len(first)
    log.write_text("no start in sight\n")
    assert log_tail.last_start_at(log) == 18


def test_the_earliest_cause_is_told_not_the_last_exception() -> None:
    told = log_tail.telling_line(tuple(OOM.splitlines()))
    assert told == "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."


@pytest.mark.parametrize(
    "line",
    [
        "sglang: error: unrecognized arguments: --max-prefil-tokens 3",
        "ERROR:    [Errno 98] error while attempting to bind on address: address already in use",
        "ModuleNotFoundError: No module named 'sglang'",
        "pdctl: cannot run sglang: No such file or directory",
        "thread 'main' panicked at src/server.rs:10: Address already in use (os error 98)",
    ],
)
def test_what_people_search_for_is_told_amid_other_lines(line: str) -> None:
    assert log_tail.telling_line(("starting", line, "goodbye")) == line


def test_a_log_without_a_cause_tells_its_last_line() -> None:
    assert log_tail.telling_line(("one", "two")) == "two"


def test_an_empty_log_tells_nothing() -> None:
    assert log_tail.telling_line(()) == ""
    assert log_tail.telling_line(("# pdctl 2026-11-23 17:00:00 sleep 1",)) == ""


@pytest.mark.parametrize("log", sorted(LOGS.glob("*.log")), ids=lambda p: p.stem)
def test_a_healthy_start_holds_no_telling_line(log: Path) -> None:
    lines = log_tail.read_lines(log)
    assert log_tail.telling_line(lines) == lines[-1]


def test_only_the_last_start_of_a_process_is_looked_at() -> None:
    lines = ("# pdctl 1 a", "ValueError: old", "# pdctl 2 a", "fine")
    assert log_tail.last_start(lines) == ("# pdctl 2 a", "fine")


def test_colours_and_redrawn_bars_are_reduced_to_what_a_person_would_see(tmp_path: Path) -> None:
    log = tmp_path / "router.log"
    log.write_bytes(b"\x1b[2mone\x1b[0m\nold\rnew\n\n")
    assert log_tail.read_lines(log) == ("one", "new")


def test_a_log_that_is_not_there_has_no_lines(tmp_path: Path) -> None:
    assert log_tail.read_lines(tmp_path / "none.log") == ()
