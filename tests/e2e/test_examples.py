"""The examples of README, docs/ and every --help run, on simulated engines instead of GPUs.

Only what the examples assume of a machine is put in their place: a model's folder, a trace, a
router at port 30000, GPUs. tests/test_docs.py and tests/test_tour.py run the pages whose output
they compare.
"""

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator

import pytest

from pdctl.commands.command_line.verbs import VERBS
from pdctl.paths import profiles_dir
from tests.doc_examples import commands_in_text, commands_of_docs, commands_of_help, words_of
from tests.e2e.cli import Cli, free_port
from tests.status.explain.histories import history, log_lines
from tests.test_docs import RUN

SIMULATED = ("--engine", "sim")
# verb -> words that make its examples short, and run without GPUs
ADDED = {
    "up": ("--sim-speed", "4"),
    "measure": ("--duration", "3s"),
    "calibrate": ("--budget", "3s"),
    "rehearse": ("--duration", "5s"),
}
NEEDS_GPUS = ("up", "measure", "calibrate")
RUNNING = (
    *("status", "explain", "autopilot", "scale", "down", "logs", "doctor", "measure"),
    *("calibrate", "plan"),
)
READING = ("status", "explain", "logs", "doctor", "plan")  # they may share a deployment
PATIENCE_S = 120
# what an example may answer besides "done": no fault of the example
ALLOWED = {
    "doctor": {4},  # this machine has no GPU
    "plan": {2, 3, 4},  # --from: no GPU here, or too few requests; no layout meets the SLOs
    "calibrate": {2, 3},  # --from: idle engines
    "measure": {3},
    "explain": {2},  # its id is of no request here
    "scale": {7},  # --undo: nothing was changed before
}
# words of examples that cannot run here -> why
NOT_HERE = {
    "--on slurm": "needs a Slurm cluster; tests/cluster runs it on three nodes",
    "--on ray": "needs a Ray cluster; tests/cluster runs it on three hosts",
    "--as external": "needs the running deployment of its pd.yaml, as the last test here has",
    "--resume": "needs a deployment whose supervisor died; tests/e2e/test_sim_fleet.py kills one",
}
STANDS_FOR = {
    "/models/llama-8b": "llama-8b",
    "/models/Qwen3-32B": "llama-8b",
    "mooncake_conversation.jsonl": "requests.jsonl",
}
PD_YAML = """schema: 1
model: qwen3-8b
engine: sim
prefill: {engines: 1}
decode: {engines: 1}
router: {port: PORT}
"""
CHAT_YAML = """schema: 1
name: chat
model: qwen3-8b
engine: sim
gpus: 16xH200
slo: {ttft: 2s, tpot: 50ms}
prefill: {engines: 2}
decode: {engines: 4}
"""
ELSEWHERE = {"tour.md", *(f"{name}.md" for name in RUN)}
HELP = tuple(line for _, line in commands_of_help())
DOCS = {
    shlex.join(words_of(line)): line  # each command once
    for page, line in (*commands_of_docs(), *commands_in_text())
    if page not in ELSEWHERE and words_of(line) not in map(words_of, HELP)
}
EXAMPLES = (*HELP, *DOCS.values())


def _start_chat(cli: Cli) -> int:
    """Start a deployment that the examples call chat; its port."""
    port = free_port()
    (cli.cwd / "chat.yaml").write_text(CHAT_YAML)
    done = cli.run("up", "-f", "chat.yaml", "--port", str(port), "-d")
    assert done.returncode == 0, done.stderr
    return port


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cli, int]]:
    """A deployment for the examples that only read it."""
    home = tmp_path_factory.mktemp("examples")
    (home / "work").mkdir()
    own = Cli(home=home / "state", cwd=home / "work")
    _make_files(own)
    yield own, _start_chat(own)
    own.run("down", "--all", "--now")


def _make_files(cli: Cli) -> None:
    """The files that the examples name."""
    model = cli.cwd / "llama-8b"
    model.mkdir()
    shutil.copy(profiles_dir() / "models" / "llama-3.1-8b.json", model / "config.json")
    shutil.copy(profiles_dir() / "traces" / "conversation-40s.jsonl", cli.cwd / "requests.jsonl")
    (cli.cwd / "pd.yaml").write_text(PD_YAML.replace("PORT", str(free_port(28700))))
    lines = log_lines(history(1, "slow_link").sent)
    for role in ("prefill", "decode"):
        (cli.cwd / f"{role}.log").write_text("\n".join(lines[f"{role}-0"]))


def _adapted(words: list[str], cli: Cli, port: int) -> list[str]:
    """The words of an example for this machine: simulated, short, with the files of the test."""
    verb, url = words[0], f"http://127.0.0.1:{port}"
    found = [STANDS_FOR.get(word, word).replace("~", str(cli.cwd)) for word in words]
    for router in ("http://127.0.0.1:30000", "http://host:30000"):
        found = [word.replace(router, url) for word in found]
    found = ["2s" if words[place - 1] == "--window" else word for place, word in enumerate(found)]
    starts = not {"--target", "--from", "--url"} & set(words)
    if verb in NEEDS_GPUS and starts:
        found += [] if "--engine" in words else SIMULATED
    if verb == "up" and "--gpus" in words:
        found[found.index("--gpus") + 1] = "8xH200"  # simulated GPUs have a kind, not numbers
    if verb == "up" and "--port" not in words:
        found += ["--port", str(free_port(28600))]
    if starts:
        found += ADDED.get(verb, ())
    elif verb == "measure":
        found += ["--duration", "3s"]
    elif verb == "calibrate":
        found += ["--window", "1s"]
    if verb == "scale" and "--dry-run" in words:
        found += ["--window", "1s"]
    return [sys.executable, "-m", "pdctl", *found]


@pytest.mark.parametrize("line", EXAMPLES)
def test_an_example_runs(line: str, cli: Cli, request: pytest.FixtureRequest) -> None:
    for words_here, reason in NOT_HERE.items():
        if words_here in line:
            pytest.skip(reason)
    words = words_of(line)
    needs_chat = words[0] in RUNNING and not (words[0] in NEEDS_GPUS and "--from" not in line)
    needs_chat |= "--target" in line
    port = 30000
    if needs_chat and words[0] in READING:
        cli, port = request.getfixturevalue("shared")
    else:
        _make_files(cli)
        port = _start_chat(cli) if needs_chat else port
    if "batch" in words:
        batch = ("qwen3-8b", *SIMULATED, "--total", "1", "--prefill", "0", "--name", "batch")
        assert cli.run("up", *batch, "--port", str(free_port()), "-d").returncode == 0
    command = _adapted(words, cli, port)
    done = _interrupted(command, cli) if _is_endless(words) else _ended(command, cli)
    assert "Traceback" not in done.stderr
    allowed = {0, *ALLOWED.get(words[0], ())}
    assert done.returncode in allowed, f"{shlex.join(command)}\n{done.stderr}"
    if "--json" in words:
        assert json.loads(done.stdout.splitlines()[0])["command"] == words[0]


def _ended(command: list[str], cli: Cli) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        command,
        cwd=cli.cwd,
        env=cli.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def _interrupted(command: list[str], cli: Cli) -> "subprocess.CompletedProcess[str]":
    """Run a command that goes on until Ctrl-C, and press that once it has shown its screen."""
    process = subprocess.Popen(
        command,
        cwd=cli.cwd,
        env=cli.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    limit = threading.Timer(PATIENCE_S, process.kill)
    limit.start()
    with process:
        assert process.stdout is not None
        last = "logs -f" if "up" in command else "\n"  # ends the screen of up; any line of a log
        shown = ""
        while last not in shown and (line := process.stdout.readline()):
            shown += line
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate()
    limit.cancel()
    assert process.returncode == 130, f"{shlex.join(command)}\n{shown}{errors}"
    return subprocess.CompletedProcess(command, 0, shown + rest, errors)


def _is_endless(words: list[str]) -> bool:
    """True for an example that goes on until Ctrl-C."""
    is_started = words[0] == "up" and not {"-d", "--dry-run", "-o"} & set(words)
    is_pilot = words[0] == "autopilot" and "--report" not in words
    return is_started or is_pilot or (words[0] == "logs" and "-f" in words)


def test_every_verb_and_page_has_examples_here() -> None:
    assert {words_of(line)[0] for line in HELP} == set(VERBS)
    assert len(DOCS) > 20


def test_every_reason_for_not_running_holds_for_an_example() -> None:
    for words in NOT_HERE:
        assert any(words in line for line in EXAMPLES)


def test_miles_is_given_the_engines_that_run(cli: Cli) -> None:
    _make_files(cli)
    assert cli.run("up", "-f", "pd.yaml", "-d").returncode == 0
    told = cli.run("render", "miles", "-f", "pd.yaml", "--as", "external")
    assert told.returncode == 0, told.stderr
    addresses = re.findall(r"\b127\.0\.0\.1:(\d+)", told.stdout)
    assert "--rollout-external-engine-addrs" in told.stdout
    assert len(set(addresses)) == 2
    for port in addresses:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/server_info") as page:
            assert json.load(page)["disaggregation_mode"] in ("prefill", "decode")
    cli.run("down", "--all", "--now")
