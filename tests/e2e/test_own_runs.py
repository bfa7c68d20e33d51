"""Measuring here changes the intervals of later plans."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from pdctl.perf_model.fitting.profiles import named_profile, write_profile
from tests.e2e.cli import Cli, free_port

LOAD = ("--isl", "1000", "--osl", "60", "--rate", "4")
MODEL = "llama-3.1-8b"


def size(cli: Cli, profile: Path) -> float:
    """By how much a plan says its TPOT may be off, as a logarithm."""
    slos = ("--ttft", "1s", "--tpot", "50ms")
    done = cli.run(
        "plan", MODEL, "--gpus", "2xH200", "--profile", str(profile), "--json", *LOAD, *slos
    )
    arm = json.loads(done.stdout)["data"]["arms"]["colocated"]
    return math.log(arm["intervals"]["tpot_at_share_s"]["high"] / arm["tpot_at_share_s"])


def test_loads_measured_here_change_the_intervals_of_later_plans(cli: Cli, tmp_path: Path) -> None:
    bundled = named_profile("h200--dense-gqa--sglang-0.5.15--fa3")
    profile = write_profile(replace(bundled, id="mine", engine="simulated"), tmp_path)
    before, port = size(cli, profile), str(free_port())
    up = cli.run(
        *("up", MODEL, "--engine", "sim", "--prefill", "0", "--total", "1", "--port", port, "-d")
    )
    assert up.returncode == 0, up.stderr
    target = ("--target", f"http://127.0.0.1:{port}", "--gpus", "1xH200")
    repeats = ("--duration", "10s", "--repeats", "3", "--profile", str(profile))
    done = cli.run("measure", *target, *LOAD, *repeats, patience_s=120)
    assert done.returncode == 0, done.stderr
    rows = json.loads((cli.home / "residuals.json").read_text())["residuals"]
    assert all((row["simulated"], row["fitted"]) == (True, True) for row in rows)
    num = len(rows)  # a busy machine sends a load late, and that one says nothing
    assert 1 <= num <= 3
    worst = max(abs(row["tpot"]) for row in rows)
    expected = max(worst, (num * worst + (9 - num) * before) / 9)  # docs/equations.md, Intervals
    assert size(cli, profile) == pytest.approx(expected, rel=1e-3)
    assert expected != pytest.approx(before, rel=0.05)
