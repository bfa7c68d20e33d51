"""Completion as a shell asks for it: words in the environment, words on stdout."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pdctl.commands.command_line.verbs import TOPICS, VERBS
from pdctl.engines import state

SLOW = ("rich.table", "aiohttp", "yaml", "asyncio", "pdctl.verdict.verdict")


def _bash(*words: str) -> list[str]:
    """What bash is offered for the last word."""
    env = {
        **os.environ,
        "_PDCTL_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(["pdctl", *words]),
        "COMP_CWORD": str(len(words)),
    }
    return _asked(env)


def _asked(env: dict[str, str]) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-m", "pdctl"], env=env, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.fixture
def chat(home: Path) -> Path:
    """A deployment with logs, whose supervisor this test is."""
    folder = state.make_state_dir("chat")
    (folder / "launch.json").write_text("{}")
    for process in ("router", "decode-0"):
        (folder / "logs" / f"{process}.log").write_text("x\n")
    return folder


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("pl",), ["plan"]),
        (("plan", "qwen3-3"), ["qwen3-30b-a3b", "qwen3-32b"]),
        (("up", "llama-3.1-8"), ["llama-3.1-8b"]),
        (("plan", "--gpus", "2x8xB2"), ["2x8xB200"]),
        (("up", "--engine", "s"), ["sglang", "sim"]),
        (("up", "--policy", "r"), ["round_robin", "random"]),
        (("up", "--transfer-backend", "moon"), ["mooncake", "mooncake_tcp"]),
        (("plan", "--time-unit", "m"), ["ms"]),
        (("plan", "--attention-backend", "fa"), ["fa3"]),
        (("render", "m"), ["miles"]),
        (("render", "shell", "--as", ""), ["flag", "yaml"]),
        (("help", "exit"), ["exit-codes"]),
        (("schema", "sta"), ["status"]),
        (("plan", "--conc"), ["--concurrency"]),
    ],
    ids=" ".join,
)
def test_words_are_completed(words: tuple[str, ...], expected: list[str]) -> None:
    found = _bash(*words)
    assert found[: len(expected)] == expected or set(expected) <= set(found)
    assert all(word.startswith(words[-1]) for word in found)


def test_every_verb_and_every_topic_is_offered() -> None:
    assert _bash("") == list(VERBS)
    assert set(TOPICS) <= set(_bash("help", ""))


@pytest.mark.parametrize("verb", ["status", "down", "scale", "doctor"])
def test_deployments_that_run_are_offered(chat: Path, verb: str) -> None:
    assert _bash(verb, "") == []
    held = state.lock("chat")
    assert held is not None
    try:
        assert _bash(verb, "c") == ["chat"]
    finally:
        os.close(held)


def test_logs_offers_deployments_that_ended_and_their_processes(chat: Path) -> None:
    assert _bash("logs", "c") == ["chat"]
    assert _bash("logs", "chat", "--process", "") == ["decode-0", "router"]


def test_files_are_left_to_the_shell(home: Path) -> None:
    for words in (("plan", "--trace", "x"), ("up", "-f", "x"), ("plan", "./"), ("plan", "-o", "")):
        assert _bash(*words) == []


def test_zsh_and_fish_ask_the_same() -> None:
    zsh = {"_PDCTL_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "pdctl up --engine si"}
    assert '"sim"' in " ".join(_asked({**os.environ, **zsh}))
    fish = {
        "_PDCTL_COMPLETE": "complete_fish",
        "_TYPER_COMPLETE_ARGS": "pdctl up --engine si",
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }
    assert _asked({**os.environ, **fish}) == ["sim"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_every_shell_calls_pdctl(shell: str) -> None:
    script = " ".join(_asked({**os.environ, "_PDCTL_COMPLETE": f"source_{shell}"}))
    assert f"_PDCTL_COMPLETE=complete_{shell}" in script


def test_completion_imports_nothing_slow() -> None:
    code = (
        "import sys\nfrom pdctl.cli import main\n"
        "try: main([])\nexcept SystemExit: pass\n"
        f"slow = [m for m in {SLOW!r} if m in sys.modules]\n"
        "sys.exit(f'imported {slow}' if slow else 0)\n"
    )
    for words in ("pdctl plan qw", "pdctl plan --gpus 8x", "pdctl status "):
        env = {
            **os.environ,
            "_PDCTL_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(words.count(" ")),
        }
        done = subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{words}: {done.stderr}"
