"""docs/tour.md is run as it stands: its commands, and what it says they print.

Numbers, bars and the width of columns may differ from one run to the next; words may not. A line
with only `…` stands for any lines. PDCTL_TOUR=write puts what was printed into the page.
"""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "tour.md"
TRACE = ROOT / "profiles" / "traces" / "conversation-40s.jsonl"
HOME = "~/tour"  # stands for the directory of the test
ANY = "…"
_BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)
_BARS = re.compile(r"[▁-█▏▎▍▌▋▊▉]+")
_NUMBER = re.compile(
    r"(?:(?<=\s)[+-])?(?:\d[\d,.]*(?:[kM]| [mµ]?s\b| min\b| GB/s)?|\bunknown\b|–)[ ]*"
)
_UNITS = ("µs", "ms", "s", "min")

pytestmark = pytest.mark.e2e


@dataclass
class Step:
    """One command of the page and what it should print."""

    command: str
    expected: list[str]
    printed: str = ""


def steps_of(text: str) -> list[Step]:
    steps: list[Step] = []
    for block in _BLOCK.findall(text):
        for line in block.splitlines():
            if line.startswith("$ "):
                steps.append(Step(line[2:], []))
            else:
                steps[-1].expected.append(line)
    return steps


def normal(line: str) -> str:
    """A line without what may differ between runs."""
    words = _NUMBER.sub("# ", _BARS.sub("", line)).split()
    return " ".join(word for word in words if word not in _UNITS)


def matches(expected: list[str], printed: list[str]) -> bool:
    """Whether the printed lines are the expected ones, `…` standing for any."""
    if not expected:
        return not printed
    if expected[0] == ANY:
        return any(matches(expected[1:], printed[i:]) for i in range(len(printed) + 1))
    return bool(printed) and expected[0] == printed[0] and matches(expected[1:], printed[1:])


def run(step: Step, cwd: Path, env: dict[str, str]) -> "subprocess.Popen[bytes] | None":
    """Run it and keep what it prints; one that ends with & goes on, and is returned."""
    if step.command.endswith(" &"):
        return subprocess.Popen(step.command[:-2], shell=True, cwd=cwd, env=env)
    done = subprocess.run(
        step.command,
        shell=True,
        executable="/bin/bash",
        cwd=cwd,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=180,
        check=False,
    )
    step.printed = done.stdout.replace(str(cwd), HOME)
    return None


def test_the_tour_prints_what_it_says(tmp_path: Path) -> None:
    shutil.copy(TRACE, tmp_path / "requests.jsonl")
    env = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PDCTL_STATE_HOME": str(tmp_path / "state"),
        "COLUMNS": "100",
        "NO_COLOR": "1",
    }
    text = PAGE.read_text(encoding="utf-8")
    steps = steps_of(text)
    background = []
    try:
        for step in steps:
            background.append(run(step, tmp_path, env))
    finally:
        subprocess.run(["pdctl", "down", "--now"], env=env, check=False, capture_output=True)
        for left in filter(None, background):
            left.wait(60)
    if os.environ.get("PDCTL_TOUR") == "write":
        PAGE.write_text(rewritten(text, steps), encoding="utf-8")
        return
    for step in steps:
        want = [normal(line) if line != ANY else ANY for line in step.expected if line.strip()]
        got = [normal(line) for line in step.printed.splitlines() if line.strip()]
        assert matches(want, got), f"$ {step.command}\n{step.printed}"


def rewritten(text: str, steps: list[Step]) -> str:
    """The page with each command's output as printed, where it names no `…`."""
    remaining = iter(steps)

    def block(match: re.Match[str]) -> str:
        lines = []
        for _ in range(sum(line.startswith("$ ") for line in match.group(1).splitlines())):
            step = next(remaining)
            shown = step.printed.splitlines()
            keep = step.expected if ANY in step.expected else [line.rstrip() for line in shown]
            lines += [f"$ {step.command}", *keep]
        return "```console\n" + "\n".join(lines) + "\n```"

    return _BLOCK.sub(block, text)


def test_a_line_that_is_missing_is_found() -> None:
    assert matches(["a", ANY, "d"], ["a", "b", "c", "d"])
    assert not matches(["a", "b"], ["a"])
    assert not matches(["a", ANY, "e"], ["a", "b"])
    assert normal("  TTFT p50   1,234 ms ▏█▌ 3.2") == normal("  TTFT p50  98 ms ██ 12.25")
