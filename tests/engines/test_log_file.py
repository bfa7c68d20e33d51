"""What a log says about a failure."""

from pathlib import Path

import pytest

from pdctl.engines import log_file
from pdctl.engines.log_file import StartupPhase, hand_over, read_phases, rotate, startup_phase


def test_the_log_goes_with_its_writer_and_the_one_before_is_set_aside(tmp_path: Path) -> None:
    old, new = tmp_path / "decode-1.log", tmp_path / "prefill-1.log"
    old.write_text("as decode\n")
    new.write_text("an earlier prefill-1\n")
    with old.open("a") as writer:
        hand_over(old, new)
        writer.write("as prefill\n")
    assert new.read_text() == "as decode\nas prefill\n"
    assert (tmp_path / "prefill-1.log.1").read_text() == "an earlier prefill-1\n"
    assert not old.exists()


def test_a_log_that_is_not_there_is_no_trouble(tmp_path: Path) -> None:
    hand_over(tmp_path / "a.log", tmp_path / "b.log")
    assert list(tmp_path.iterdir()) == []


LOGS = Path(__file__).parent.parent / "data" / "logs"


def phases_of(text: str) -> list[str]:
    """The names of all phases in the order they were first seen, one line at a time."""
    phase: StartupPhase | None = None
    names: list[str] = []
    for line in text.replace("\r", "\n").split("\n"):
        phase = startup_phase(phase, line)
        if phase and (not names or names[-1] != phase.name):
            names.append(phase.name)
    return names


def test_a_decode_engine_on_a_gpu_goes_through_every_phase_once() -> None:
    text = (LOGS / "sglang-0.5.15-decode.log").read_bytes().decode()
    assert phases_of(text) == [
        "schedulers",
        "distributed",
        "weights",
        "memory pool",
        "CUDA graphs",
        "HTTP",
        "warm-up",
        "started",
    ]


def test_a_prefill_engine_on_a_cpu_captures_no_graphs() -> None:
    text = (LOGS / "sglang-0.5.23-prefill.log").read_bytes().decode()
    names = phases_of(text)
    assert "CUDA graphs" not in names
    assert names[-1] == "started"
    assert names.index("weights") < names.index("memory pool") < names.index("warm-up")


@pytest.mark.parametrize(
    ("line", "name", "share", "count"),
    [
        (
            "Loading safetensors checkpoint shards:  45% Completed | 9/20 [00:07<00:09]",
            "weights",
            0.45,
            "",
        ),
        ("Multi-thread loading shards: 100% Completed | 1/1 [00:00<00:00]", "weights", 1.0, ""),
        (
            "Capturing batches (bs=104 avail_mem=24.21 GB):  56%|█▌ | 20/36 [00:01<00:01]",
            "CUDA graphs",
            20 / 36,
            "20/36",
        ),
        (
            "Capturing num tokens (num_tokens=8192 avail_mem=26.16 GB):   0%| | 0/58 [00:00<?]",
            "CUDA graphs",
            0.0,
            "0/58",
        ),
        ("[2026-11-23 08:36:01 TP3] Load weight begin. avail mem=139.09 GB", "weights", None, ""),
    ],
)
def test_a_line_gives_its_phase_and_how_far_it_is(
    line: str, name: str, share: float | None, count: str
) -> None:
    assert startup_phase(None, line) == StartupPhase(name, share, count)


def test_of_a_bar_drawn_over_and_over_the_last_state_counts() -> None:
    bar = "\rCapturing batches (bs=8):  50%| | 1/2 [0]\rCapturing batches (bs=4): 100%| | 2/2 [0]"
    phase = read_phases(None, bar)
    assert phase is not None
    assert phase.text == "CUDA graphs 2/2"


def test_a_phase_never_goes_back() -> None:
    at_warmup = StartupPhase("warm-up")
    assert startup_phase(at_warmup, "Load weight begin. avail mem=1 GB") is at_warmup


def test_a_line_that_says_nothing_changes_nothing() -> None:
    assert startup_phase(None, "flashinfer is not available") is None


def test_a_log_that_has_grown_is_set_aside_and_its_writer_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "router.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"old" * 10)
        assert rotate(log, max_bytes=20)
        writer.write(b"new")
    assert log.read_bytes() == b"new"
    assert (tmp_path / "router.log.1").read_bytes() == b"old" * 10
    assert (tmp_path / "router.log.1").stat().st_mode & 0o777 == 0o600


def test_only_one_is_kept(tmp_path: Path) -> None:
    log = tmp_path / "router.log"
    for content in (b"first", b"second"):
        log.write_bytes(content)
        assert rotate(log, max_bytes=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["router.log", "router.log.1"]
    assert (tmp_path / "router.log.1").read_bytes() == b"second"


def test_a_small_log_and_none_at_all_are_left_alone(tmp_path: Path) -> None:
    log = tmp_path / "router.log"
    assert not rotate(log)
    log.write_bytes(b"little")
    assert not rotate(log)
    assert log.read_bytes() == b"little"


def test_a_link_in_place_of_the_old_log_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_bytes(b"precious")
    log = tmp_path / "router.log"
    log.write_bytes(b"much")
    (tmp_path / "router.log.1").symlink_to(target)
    assert rotate(log, max_bytes=1)
    assert target.read_bytes() == b"precious"


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
    assert log_file.what_died(DIED) == (
        "its scheduler died: RuntimeError: Out of memory. Try to lower your batch size."
    )
    assert log_file.what_died("[2026-11-26 13:02:29 TP3] Scheduler hit an exception: Tra") == (
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
    assert log_file.what_died(text) == ""


def test_a_log_is_read_on_from_where_it_was_left_and_anew_once_it_was_cut(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    log.write_text("one\n")
    text, at = log_file.read_from(log, 0)
    log.write_text("one\ntwo\n")
    assert (text, log_file.read_from(log, at)) == ("one\n", ("two\n", 8))
    log.write_text("3\n")
    assert log_file.read_from(log, 8) == ("3\n", 2)


def test_the_last_start_in_a_log_is_found(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    assert log_file.last_start_at(log) == 0
    log.write_text(first := OOM)
    assert log_file.last_start_at(log) == 0
    log.write_text(first + OOM)
    assert log_file.last_start_at(log) == len(first)
    log.write_text("no start in sight\n")
    assert log_file.last_start_at(log) == 18


def test_the_earliest_cause_is_told_not_the_last_exception() -> None:
    told = log_file.telling_line(tuple(OOM.splitlines()))
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
    assert log_file.telling_line(("starting", line, "goodbye")) == line


def test_a_log_without_a_cause_tells_its_last_line() -> None:
    assert log_file.telling_line(("one", "two")) == "two"


def test_an_empty_log_tells_nothing() -> None:
    assert log_file.telling_line(()) == ""
    assert log_file.telling_line(("# pdctl 2026-11-23 17:00:00 sleep 1",)) == ""


@pytest.mark.parametrize("log", sorted(LOGS.glob("*.log")), ids=lambda p: p.stem)
def test_a_healthy_start_holds_no_telling_line(log: Path) -> None:
    lines = log_file.read_log_lines(log)
    assert log_file.telling_line(lines) == lines[-1]


def test_only_the_last_start_of_a_process_is_looked_at() -> None:
    lines = ("# pdctl 1 a", "ValueError: old", "# pdctl 2 a", "fine")
    assert log_file.last_start(lines) == ("# pdctl 2 a", "fine")


def test_colours_and_redrawn_bars_are_reduced_to_what_a_person_would_see(tmp_path: Path) -> None:
    log = tmp_path / "router.log"
    log.write_bytes(b"\x1b[2mone\x1b[0m\nold\rnew\n\n")
    assert log_file.read_log_lines(log) == ("one", "new")


def test_a_log_that_is_not_there_has_no_lines(tmp_path: Path) -> None:
    assert log_file.read_log_lines(tmp_path / "none.log") == ()
