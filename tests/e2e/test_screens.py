"""Screens of a running deployment on terminals of several widths and 24 rows."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pexpect
import pytest
from rich.cells import cell_len

from tests.e2e.cli import Cli, free_port

ROWS = 24
PATIENCE_S = 120
SIMULATED = ("qwen3-8b", "--engine", "sim", "--gpus", "4x8xH200", "--sim-speed", "4")
CONTROLS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
COLOUR = re.compile(r"\x1b\[(?:\d+;)*3[0-7]m")
MOVES_UP = re.compile(r"(?:\x1b\[1A(?:\x1b\[2K)?)+")
ENDING = ("status --once", "ls", "doctor --quick", "scale --prefill 3 --dry-run --window 1s")


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cli]:
    """A deployment of 24 engines: more than 24 rows can list."""
    home = tmp_path_factory.mktemp("screens")
    cwd = home / "work"
    cwd.mkdir()
    own = Cli(home=home / "state", cwd=cwd)
    words = (*SIMULATED, "--prefill", "6", "--total", "24", "--name", "chat")
    done = own.run("up", *words, "--port", str(free_port()), "-d")
    assert done.returncode == 0, done.stderr
    yield own
    own.run("down", "--all", "--now")


def shown(cli: Cli, width: int, words: list[str], *, colour: bool, keys: str = "") -> str:
    """What a command writes on a terminal; `keys` are pressed once it has drawn something."""
    environment = {**cli.environment, "PYTHONPATH": str(Path(__file__).parents[2]), "TERM": "xterm"}
    if colour:
        del environment["NO_COLOR"]
    child = pexpect.spawn(
        sys.executable,
        ["-m", "pdctl", *words],
        cwd=str(cli.cwd),
        env={k: v for k, v in environment.items() if k not in ("COLUMNS", "LINES")},
        encoding="utf-8",
        timeout=PATIENCE_S,
        dimensions=(ROWS, width),
    )
    drawn = ""
    for key in keys:
        child.expect("q quit|Ctrl-C stops it")
        drawn += f"{child.before}{child.after}"
        child.send(key)
    child.expect(pexpect.EOF)
    child.close()
    assert child.signalstatus is None
    return drawn + (child.before or "")


def too_wide(text: str, width: int) -> list[str]:
    """Lines wider than the terminal, but for the one quoted word of the request to try."""
    lines = re.split(r"[\r\n]+", CONTROLS.sub("", text))
    return [line for line in lines if cell_len(line) > width and not line.strip().startswith("'{")]


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_screens_that_end_fit_the_terminal(width: int, chat: Cli) -> None:
    for words in ENDING:
        text = shown(chat, width, words.split(), colour=width == 80)
        assert "Traceback" not in text
        assert not too_wide(text, width), words
        assert "…" not in text.rpartition("\x1b[2K")[2], words  # a progress line ends in one


@pytest.mark.parametrize(("width", "colour"), [(60, False), (80, True), (120, False), (200, True)])
def test_the_live_status_of_24_engines_stays_within_24_rows(
    width: int, colour: bool, chat: Cli
) -> None:
    text = shown(chat, width, ["status", "--interval", "200ms"], colour=colour, keys="jpq")
    assert not too_wide(text, width)
    assert bool(COLOUR.search(text)) == colour
    frames = [CONTROLS.sub("", frame) for frame in MOVES_UP.split(text) if "q quit" in frame]
    assert len(frames) > 2
    for frame in frames:
        assert frame.strip("\r\n").count("\n") < ROWS
        for words in ("serving", "PREFILL", "DECODE", "more, all well"):
            assert words in frame
    assert any("paused" in frame for frame in frames)


@pytest.mark.parametrize("width", [60, 200])
def test_a_start_in_the_foreground_fits_and_ends_with_ctrl_c(width: int, chat: Cli) -> None:
    words = ["up", *SIMULATED, "--prefill", "1", "--total", "3", "--name", f"at-{width}"]
    text = shown(chat, width, [*words, "--port", str(free_port(28500))], colour=True, keys="\x03")
    assert not too_wide(text, width)
    assert "Ready in" in text
    assert "stopped" in text


def test_a_rehearsal_beside_a_deployment_fits_60_columns(chat: Cli) -> None:
    words = ["rehearse", "qwen3-8b", "--prefill", "1", "--total", "2", "--duration", "5s"]
    text = shown(chat, 60, words, colour=False)
    assert not too_wide(text, 60)
    assert "none failed" in " ".join(text.split())


def test_a_measurement_fits_60_columns(chat: Cli) -> None:
    load = ["--isl", "2000", "--osl", "100", "--rate", "3", "--duration", "3s", "--ttft", "1s"]
    words = ["measure", "qwen3-8b", "--engine", "sim", "--gpus", "8xH200", *load]
    text = shown(chat, 60, words, colour=False)
    assert not too_wide(text, 60)
    assert "…" not in text.rpartition("Prediction beside measurement")[2]


def test_logs_of_all_processes_follow_on_a_pipe(chat: Cli) -> None:
    with chat.running("logs", "-f", "--tail", "1") as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(25)]
    names = {line.partition(" | ")[0].strip() for line in lines}
    assert {"router", "prefill-0", "decode-17"} <= names
