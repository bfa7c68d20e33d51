"""The examples of every --help run as they stand, on simulated engines instead of GPUs.

Only what the examples assume of a machine is put in their place: a model's folder, a trace, a
router at port 30000, GPUs. What ends only with Ctrl-C is ended after a while.
"""

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pdctl.commands.command_line.verbs import VERBS
from pdctl.paths import profiles_dir
from tests.e2e.cli import Cli, free_port
from tests.status.explain.histories import history, log_lines
from tests.test_docs import _commands_of_help, _words

SIMULATED = ("--engine", "sim")
# verb -> words that make its examples short, and run without GPUs
ADDED = {
    "up": ("--sim-speed", "4"),
    "measure": ("--duration", "3s"),
    "calibrate": ("--budget", "3s"),
    "rehearse": ("--duration", "5s"),
}
NEEDS_GPUS = ("up", "measure", "calibrate")
RUNNING = ("status", "explain", "scale", "down", "logs", "doctor", "measure", "calibrate", "plan")
ENDLESS_S = 8
# what an example may answer besides "done": no fault of the example
ALLOWED = {
    "doctor": {4},  # this machine has no GPU
    "plan": {2, 3, 4},  # --from: no GPU here, or too few requests; no layout meets the SLOs
    "calibrate": {2, 3},  # --from: idle engines
    "measure": {3},
    "explain": {2},  # its id is of no request here
    "scale": {7},  # --undo: nothing was changed before
}
PD_YAML = """schema: 1
model: qwen3-8b
engine: sim
prefill: {engines: 1}
decode: {engines: 1}
"""
EXAMPLES = [line for _, line in _commands_of_help()]


@pytest.fixture
def chat(cli: Cli) -> Iterator[int]:
    """A deployment that the examples call chat, and another; the port of the first."""
    port = free_port()
    sim = ("qwen3-8b", *SIMULATED, "--prefill", "2", "--total", "6", "--gpus", "16xH200")
    done = cli.run("up", *sim, "--name", "chat", "--port", str(port), "-d")
    assert done.returncode == 0, done.stderr
    yield port
    cli.run("down", "--all", "--now")


def _world(cli: Cli) -> None:
    """The files that the examples name."""
    model = cli.cwd / "llama-8b"
    model.mkdir()
    shutil.copy(profiles_dir() / "models" / "llama-3.1-8b.json", model / "config.json")
    shutil.copy(profiles_dir() / "traces" / "conversation-40s.jsonl", cli.cwd / "requests.jsonl")
    pd_yaml = (
        "schema: 1\nmodel: qwen3-8b\nengine: sim\nprefill: {engines: 1}\ndecode: {engines: 1}\n"
    )
    (cli.cwd / "pd.yaml").write_text(pd_yaml)
    lines = log_lines(history(1, "slow_link").sent)
    for role in ("prefill", "decode"):
        (cli.cwd / f"{role}.log").write_text("\n".join(lines[f"{role}-0"]))


def _adapted(words: list[str], cwd: Path, port: int) -> list[str]:
    verb = words[0]
    found = [word.replace("/models/llama-8b", str(cwd / "llama-8b")) for word in words]
    found = [word.replace("http://127.0.0.1:30000", f"http://127.0.0.1:{port}") for word in found]
    found = [word.replace("http://host:30000", f"http://127.0.0.1:{port}") for word in found]
    found = ["2s" if words[place - 1] == "--window" else word for place, word in enumerate(found)]
    starts = not {"--target", "--from", "--url"} & set(words)
    if verb in NEEDS_GPUS and starts and "--engine" not in words:
        found += SIMULATED
    if starts:
        found += ADDED.get(verb, ())
    if verb == "measure" and not starts:
        found += ["--duration", "3s"]
    if verb == "calibrate" and not starts:
        found += ["--window", "1s"]
    if verb == "scale" and "--dry-run" in words:
        found += ["--window", "1s"]
    return found


@pytest.mark.parametrize("line", EXAMPLES)
def test_an_example_of_help_runs(line: str, cli: Cli, request: pytest.FixtureRequest) -> None:
    words = _words(line)
    verb = words[0]
    needs_chat = verb in RUNNING and not (verb in NEEDS_GPUS and "--from" not in line)
    port = request.getfixturevalue("chat") if needs_chat or "--target" in line else 30000
    _world(cli)
    if "batch" in words:
        batch = ("qwen3-8b", *SIMULATED, "--total", "1", "--prefill", "0", "--name", "batch")
        assert cli.run("up", *batch, "--port", str(free_port()), "-d").returncode == 0
    command = [sys.executable, "-m", "pdctl", *_adapted(words, cli.cwd, port)]
    if "~" in line:
        command = [word.replace("~", str(cli.cwd)) for word in command]
    try:
        done = subprocess.run(
            command,
            cwd=cli.cwd,
            env=cli.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=ENDLESS_S if _is_endless(words) else 120,
            check=False,
        )
    except subprocess.TimeoutExpired:
        assert _is_endless(words), shlex.join(command)
        return
    assert "Traceback" not in done.stderr
    allowed = {0, *ALLOWED.get(verb, ())} | ({2, 4} if "slurm" in words else set())
    assert done.returncode in allowed, f"{shlex.join(command)}\n{done.stderr}"
    if "--json" in words:
        assert json.loads(done.stdout.splitlines()[0])["command"] == verb


def _is_endless(words: list[str]) -> bool:
    """True for an example that goes on until Ctrl-C."""
    return "-f" in words[1:2] or (words[0] == "up" and "-d" not in words)


def test_every_verb_has_examples_here() -> None:
    assert {_words(line)[0] for line in EXAMPLES} == set(VERBS)
