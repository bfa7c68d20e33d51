"""The guided walk on a real terminal: wrong answers, Ctrl-C and Ctrl-D at every question."""

import json
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import pexpect
import pytest

PATIENCE_S = 30
CTRL_C, CTRL_D = "\x03", "\x04"
# question -> (answers that are refused, with what is said then; the answer that is taken)
WALK: dict[str, tuple[tuple[tuple[str, str], ...], str]] = {
    "Model (": ((("nonesuch-9b", "not a directory"), ("?", "qwen3-32b")), "qwen3-8b"),
    "which GPUs": ((("8xFOO", "FOO"), ("8x", "how many GPUs"), ("?", "H200-NVL")), "2xH100"),
    "Trace of": ((("missing.jsonl", "cannot be read"), ("?", "Mooncake")), ""),
    "prompt tokens": ((("many", "not a number of tokens"), ("?", "A number")), "2000"),
    "output tokens": ((("-3", "positive"),), "100"),
    "per second": ((("often", "not a rate"),), "2"),
    "TTFT target": ((("5", "could mean"), ("?", "A duration")), "5s"),
    "TPOT target": ((("soon", "not a duration"),), "50ms"),
    "Next (": ((("x", "not one of the choices"), ("?", "rehearse it")), "q"),
}
KEYS = ("model", "gpus", "trace", "isl", "osl", "rate", "ttft", "tpot")


@dataclass
class Terminal:
    """A pdctl on a terminal of its own."""

    home: Path
    cwd: Path
    modules: tuple[Path, ...] = ()  # folders whose modules stand before the installed ones

    def start(self, *arguments: str, term: str = "dumb") -> "pexpect.spawn[str]":
        environment = {
            **os.environ,
            "PDCTL_STATE_HOME": str(self.home),
            "NO_COLOR": "1",
            "TERM": term,
            "PYTHONPATH": os.pathsep.join(map(str, (*self.modules, Path(__file__).parents[2]))),
        }
        return pexpect.spawn(
            sys.executable,
            ["-m", "pdctl", *arguments],
            cwd=str(self.cwd),
            env=environment,
            encoding="utf-8",
            timeout=PATIENCE_S,
            dimensions=(24, 120),
        )

    def kept(self) -> dict[str, str]:
        """The answers that the next start begins with."""
        try:
            found = json.loads((self.home / "guided.json").read_text())
        except FileNotFoundError:
            return {}
        assert isinstance(found, dict)
        return found


# The calls of NVML that pdctl makes, on a machine with two idle H100s
NVML = """
from types import SimpleNamespace
class NVMLError(Exception): pass
def nvmlInit(): pass
def nvmlShutdown(): pass
def nvmlDeviceGetCount(): return 2
def nvmlDeviceGetHandleByIndex(index): return index
def nvmlDeviceGetName(handle): return "NVIDIA H100 80GB HBM3"
def nvmlDeviceGetUUID(handle): return f"GPU-{handle}"
def nvmlDeviceGetMemoryInfo(handle): return SimpleNamespace(total=85520809984, used=600000000)
def nvmlDeviceGetComputeRunningProcesses(handle): return []
"""


@pytest.fixture
def terminal_with_gpus(terminal: Terminal, tmp_path: Path) -> Terminal:
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "pynvml.py").write_text(NVML)
    return replace(terminal, modules=(modules,))


@pytest.fixture
def terminal(tmp_path: Path) -> Terminal:
    cwd = tmp_path / "work"
    cwd.mkdir()
    return Terminal(tmp_path / "state", cwd)


def _end(child: "pexpect.spawn[str]") -> tuple[int | None, str]:
    """The exit code and what was printed last."""
    child.expect(pexpect.EOF)
    said = child.before or ""
    child.close()
    assert "Traceback" not in said
    return child.exitstatus, said


def _answer_until(child: "pexpect.spawn[str]", last: str) -> None:
    """Give every answer before the question `last`, and wait for that."""
    for question, (_, answer) in WALK.items():
        child.expect_exact(question)
        if question == last:
            return
        child.sendline(answer)


def _answer_rest(child: "pexpect.spawn[str]") -> None:
    """Give the answers after those about model and GPUs."""
    for question in ("Trace of", "prompt tokens", "output tokens", "per second", "TTFT", "TPOT"):
        child.expect_exact(question)
        child.sendline(next(answer for key, (_, answer) in WALK.items() if question in key))


@pytest.mark.slow
def test_a_wrong_answer_is_asked_again_with_the_reason_at_every_question(
    terminal: Terminal,
) -> None:
    child = terminal.start()
    for question, (refused, answer) in WALK.items():
        for wrong, reason in refused:
            child.expect_exact(question)
            child.sendline(wrong)
            child.expect_exact(reason)
        child.expect_exact(question)
        child.sendline(answer)
        if question == "TPOT target":
            child.expect_exact("pdctl plan qwen3-8b --gpus 2xH100 --isl 2000 --osl 100 --rate 2")
    assert _end(child)[0] == 0


@pytest.mark.e2e  # 18 s each: every question, twice
@pytest.mark.parametrize(("key", "code"), [(CTRL_C, 130), (CTRL_D, 0)], ids=["ctrl-c", "ctrl-d"])
def test_ctrl_c_and_ctrl_d_end_cleanly_at_every_question_and_lose_no_answer(
    terminal: Terminal, key: str, code: int
) -> None:
    for number, question in enumerate(WALK):
        (terminal.home / "guided.json").unlink(missing_ok=True)
        child = terminal.start()
        _answer_until(child, question)
        child.send(key)
        exit_code, said = _end(child)
        assert exit_code == code, f"at {question}: {said}"
        assert "Your answers are kept" in said
        given = {k: answer for k, (_, answer) in zip(KEYS, WALK.values(), strict=False)}
        expected = dict(list(given.items())[:number])
        assert terminal.kept() == expected, f"after {question}"


# the prompts that other answers lead to: branch -> (question, answer) up to the last one
TWO_UNITS = (
    ("Model (", "qwen3-8b"),
    ("which GPUs", "2xH100"),
    ("Trace of", "two-units.jsonl"),
    ("two units", "s"),
)
NO_LENGTHS = (("Model (", "qwen3-8b"), ("which GPUs", "2xH100"), ("Trace of", ""))
BRANCHES = {
    "time unit": TWO_UNITS,
    "slo after a time unit": (*TWO_UNITS, ("TTFT target", "5s"), ("TPOT target", "")),
    "unknown lengths": (*NO_LENGTHS, ("prompt tokens", ""), ("TTFT target", "")),
    "write": (*((question, answer) for question, (_, answer) in WALK.items()), ("which file", "")),
    "overwrite": (
        *((question, answer) for question, (_, answer) in WALK.items()),
        ("which file", "kept.yaml"),
        ("Overwrite it", "n"),
    ),
}


def _write_trace_of_two_units(path: Path) -> None:
    """2,000 requests at whole times: 0.1 req/s in seconds, or 100 req/s in milliseconds."""
    random, at_s, rows = Random(0), 0.0, []
    for _ in range(2000):
        at_s += random.expovariate(0.1)
        rows.append({"timestamp": round(at_s), "input_length": 900, "output_length": 90})
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


@pytest.mark.e2e  # 8 s each
@pytest.mark.parametrize(("key", "code"), [(CTRL_C, 130), (CTRL_D, 0)], ids=["ctrl-c", "ctrl-d"])
@pytest.mark.parametrize("branch", BRANCHES)
def test_ctrl_c_and_ctrl_d_end_cleanly_in_every_branch(
    terminal: Terminal, branch: str, key: str, code: int
) -> None:
    _write_trace_of_two_units(terminal.cwd / "two-units.jsonl")
    (terminal.cwd / "kept.yaml").write_text("# mine\n")
    *before, (last, _) = BRANCHES[branch]
    child = terminal.start()
    for question, answer in before:
        child.expect_exact(question)
        child.sendline("w" if question == "Next (" else answer)
    child.expect_exact(last)
    child.send(key)
    exit_code, said = _end(child)
    assert exit_code == code, said
    assert "Your answers are kept" in said
    assert terminal.kept()["model"] == "qwen3-8b"
    assert (terminal.cwd / "kept.yaml").read_text() == "# mine\n"


@pytest.mark.slow
def test_wrong_answers_are_asked_again_in_the_other_branches(terminal: Terminal) -> None:
    _write_trace_of_two_units(terminal.cwd / "two-units.jsonl")
    (terminal.cwd / "kept.yaml").write_text("# mine\n")
    child = terminal.start()
    for question, answer in TWO_UNITS:
        child.expect_exact(question)
        if question == "two units":
            child.sendline("h")
            child.expect_exact("must be s, ms, us or ns")
        child.sendline(answer)
    for question, answer in (("TTFT target", "5s"), ("TPOT target", ""), ("Next (", "w")):
        child.expect_exact(question)
        child.sendline(answer)
    child.expect_exact("which file")
    child.sendline("no-such-folder/pd.yaml")
    child.expect_exact("cannot be written")
    child.expect_exact("Next (")
    child.sendline("w")
    child.expect_exact("which file")
    child.sendline("kept.yaml")
    child.expect_exact("Overwrite it")
    child.sendline("maybe")
    child.expect_exact("not one of the choices")
    child.sendline("n")
    child.expect_exact("stays as it is")
    child.expect_exact("Next (")
    child.sendline("q")
    assert _end(child)[0] == 0
    assert (terminal.cwd / "kept.yaml").read_text() == "# mine\n"


@pytest.mark.slow
def test_the_next_start_offers_the_answers_of_the_last_one(terminal: Terminal) -> None:
    first = terminal.start()
    _answer_until(first, "TTFT target")
    first.send(CTRL_D)
    _end(first)
    second = terminal.start()
    for kept in ("[qwen3-8b]", "[2xH100]"):
        second.expect_exact(kept)
        second.sendline("")
    second.expect_exact("Trace of")
    second.sendline("")
    for kept in ("[2000]", "[100]", "[2]"):
        second.expect_exact(kept)
        second.sendline("")
    second.expect_exact("TTFT target")
    second.send(CTRL_D)
    assert _end(second)[0] == 0


@pytest.mark.slow
def test_a_dash_clears_a_kept_answer(terminal: Terminal) -> None:
    terminal.home.mkdir()
    kept = {"model": "qwen3-8b", "gpus": "2xH100", "isl": "2000", "osl": "100", "rate": "2"}
    (terminal.home / "guided.json").write_text(json.dumps({**kept, "ttft": "3s"}))
    child = terminal.start()
    for _ in range(6):
        child.expect_exact("? ")
        child.expect(r"\[.*\] |\)\? ")
        child.sendline("")
    child.expect_exact("[3s]")
    child.sendline("-")
    child.expect_exact("TPOT target")
    child.send(CTRL_D)
    _end(child)
    assert terminal.kept()["ttft"] == ""


@pytest.mark.slow
def test_an_edited_pd_yaml_is_replaced_only_after_a_yes(terminal: Terminal) -> None:
    file = terminal.cwd / "pd.yaml"
    file.write_text("# mine\n")
    child = terminal.start()
    _answer_until(child, "Next (")
    for answer, text in (("n", "# mine\n"), ("y", "")):
        child.sendline("w")
        child.expect_exact("which file")
        child.sendline("")
        child.expect_exact("Overwrite it")
        child.sendline(answer)
        child.expect_exact("Next (")
        assert file.read_text().startswith(text)
    assert "# mine" not in file.read_text()
    child.sendline("q")
    assert _end(child)[0] == 0


@pytest.mark.slow
def test_change_asks_again_with_the_answers_as_defaults(terminal: Terminal) -> None:
    child = terminal.start()
    _answer_until(child, "Next (")
    child.sendline("c")
    child.expect_exact("[qwen3-8b]")
    child.send(CTRL_D)
    assert _end(child)[0] == 0


@pytest.mark.slow
def test_launch_says_what_this_machine_lacks(terminal: Terminal) -> None:
    child = terminal.start()
    _answer_until(child, "Next (")
    child.sendline("l")
    child.expect_exact("The plan needs 2 × H100, but this machine has no usable GPU")
    child.expect_exact("Next (")
    child.send(CTRL_D)
    assert _end(child)[0] == 0


def test_ctrl_c_during_a_plan_leaves_the_prompt_a_line_of_its_own(terminal: Terminal) -> None:
    lengths = ("--isl", "8000", "--osl", "500", "--rate", "9", "--ttft", "2s", "--tpot", "30ms")
    child = terminal.start("plan", "qwen3-32b", "--gpus", "8xH200", *lengths, term="xterm")
    child.expect_exact("simulating")
    child.send(CTRL_C)
    code, said = _end(child)
    assert code == 130
    assert said.endswith("\r\n")


@pytest.mark.slow
def test_the_walk_rehearses_what_was_answered_not_the_pd_yaml_in_the_folder(
    terminal: Terminal,
) -> None:
    (terminal.cwd / "pd.yaml").write_text(
        "schema: 1\nmodel: llama-3.1-70b\nengine: sim\ncolocated: {engines: 8}\n"
    )
    child = terminal.start()
    _answer_until(child, "Next (")
    child.sendline("r")
    child.expect_exact("qwen3-8b")
    child.expect(r"simulated\s+\w+H100:\s+\d+\s+requests")
    child.send(CTRL_C)
    code, said = _end(child)
    assert code == 130, said
    assert "llama-3.1-70b" not in said


@pytest.mark.slow
def test_answers_that_cannot_be_planned_are_asked_again(terminal: Terminal) -> None:
    child = terminal.start()
    for question, answer in (("Model (", "deepseek-r1"), ("which GPUs", "1xA10")):
        child.expect_exact(question)
        child.sendline(answer)
    for question in ("Trace of", "prompt tokens", "TTFT target", "TPOT target"):
        child.expect_exact(question)
        child.sendline("")
    child.expect_exact("Next (c, q)")
    child.sendline("c")
    child.expect_exact("[deepseek-r1]")
    child.send(CTRL_D)
    assert _end(child)[0] == 0


@pytest.mark.slow
def test_the_gpus_of_this_machine_are_the_usual_answer(terminal_with_gpus: Terminal) -> None:
    child = terminal_with_gpus.start()
    child.expect_exact("GPUs here: 2 × H100")
    child.expect_exact("Model (")
    child.sendline("qwen3-8b")
    child.expect(r"here: 2 × H100.*\[here\] ")
    child.sendline("3xA99")
    child.expect_exact("no figures for a GPU named 'A99'")
    child.expect_exact("[here]")
    child.sendline("")
    _answer_rest(child)
    child.expect_exact("pdctl plan qwen3-8b --isl 2000")
    child.expect_exact("Next (")
    child.send(CTRL_D)
    assert _end(child)[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize(("key", "code"), [("n\r", 4), (CTRL_C, 130), (CTRL_D, 2)])
def test_a_launch_on_gpus_without_sglang_offers_simulated_engines_and_starts_nothing_else(
    terminal_with_gpus: Terminal, key: str, code: int
) -> None:
    child = terminal_with_gpus.start()
    for question, answer in (("Model (", "qwen3-8b"), ("GPUs (", "")):
        child.expect_exact(question)
        child.sendline(answer)
    _answer_rest(child)
    child.expect_exact("Next (")
    child.sendline("l")
    child.expect_exact("Start simulated engines instead?")
    child.send(key)
    exit_code, said = _end(child)
    assert exit_code == code, said
    assert not (terminal_with_gpus.home / "qwen3-8b" / "state.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("key", "code"), [(CTRL_C, 130), (CTRL_D, 0)], ids=["ctrl-c", "ctrl-d"])
@pytest.mark.parametrize("last", ["GPUs (", "Next ("])
def test_ctrl_c_and_ctrl_d_end_cleanly_on_a_machine_with_gpus(
    terminal_with_gpus: Terminal, last: str, key: str, code: int
) -> None:
    child = terminal_with_gpus.start()
    child.expect_exact("Model (")
    child.sendline("qwen3-8b")
    child.expect_exact("GPUs (")
    if last != "GPUs (":
        child.sendline("")
        _answer_rest(child)
        child.expect_exact(last)
    child.send(key)
    exit_code, said = _end(child)
    assert exit_code == code, said
    assert "Your answers are kept" in said
    kept = terminal_with_gpus.kept()
    assert kept["model"] == "qwen3-8b"
    assert kept.get("gpus") == (None if last == "GPUs (" else "here")


@pytest.mark.slow
def test_a_plan_for_more_gpus_than_this_machine_has_is_not_launched(
    terminal_with_gpus: Terminal,
) -> None:
    child = terminal_with_gpus.start()
    child.expect_exact("Model (")
    child.sendline("qwen3-8b")
    for wrong, why in (("?", "H200-NVL"), ("here too", "no figures"), ("8", "how many GPUs")):
        child.expect_exact("GPUs (")
        child.sendline(wrong)
        child.expect_exact(why)
    child.expect_exact("GPUs (")
    child.sendline("4xH100")
    _answer_rest(child)
    child.expect_exact("--gpus 4xH100")
    child.expect_exact("Next (")
    child.sendline("l")
    child.expect_exact("The plan needs 4 × H100, but this machine has 2 × H100")
    child.expect_exact("Next (")
    child.send(CTRL_D)
    assert _end(child)[0] == 0
    assert not (terminal_with_gpus.home / "qwen3-8b").exists()
