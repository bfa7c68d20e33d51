"""A rehearsal plays what was planned, and comes near to what the plan says.

TTFT p50 is not within NEAR of every plan: not where it is so short that the processes' own time
counts (32 ms: +21 %), where many requests arrive at one instant (-40 %), where the first seconds of
a trace differ from all of it (-27 %), or where clients with equal lengths keep in step (+18 %).
"""

import json
from pathlib import Path

import pytest

from pdctl.deployment.pd_yaml import read_deployment
from tests.e2e.cli import Cli
from tests.verdict.questions import TRACES

NEAR = 0.15
PLANS = {
    "drawn lengths, split": (
        *("qwen3-32b", "--gpus", "8xH200", "--tp", "2", "--isl", "6000", "--osl", "300"),
        *("--isl-cv", "1", "--osl-cv", "0.7", "--rate", "4", "--ttft", "3s", "--tpot", "20ms"),
    ),
    "equal lengths, colocated": (
        *("qwen3-8b", "--gpus", "4xH200", "--isl", "4000", "--osl", "200", "--isl-cv", "0"),
        *("--osl-cv", "0", "--rate", "8", "--ttft", "1s", "--tpot", "20ms"),
    ),
    "lengths of a file": (
        *("qwen3-32b", "--gpus", "4xH100", "--tp", "2", "--trace", str(TRACES["vidur"])),
        *("--rate", "2", "--ttft", "2s", "--tpot", "40ms"),
    ),
}

CLIENTS = (
    *("llama-3.1-8b", "--gpus", "4xH200", "--isl", "3000", "--osl", "200", "--isl-cv", "0"),
    *("--osl-cv", "0", "--concurrency", "32", "--ttft", "3s", "--tpot", "20ms"),
)


@pytest.mark.parametrize("asked", PLANS.values(), ids=PLANS)
def test_a_bare_rehearsal_comes_to_the_plan(asked: tuple[str, ...], cli: Cli) -> None:
    planned = cli.run("plan", *asked)
    assert planned.returncode == 0, planned.stderr
    played = cli.run("rehearse", "--json", patience_s=180.0)
    assert played.returncode == 0, played.stderr
    kept = read_deployment(cli.home / "last-plan.yaml")
    assert kept.planned is not None
    first, *_ = played.stderr.splitlines()
    for said in ("the plan of", kept.model, kept.layout, kept.planned.gpus, "SLOs TTFT"):
        assert said in first
    figures = {
        one["figure"]: one["measured"] for one in json.loads(played.stdout)["data"]["figures"]
    }
    for name in ("ttft_p50", "tpot_p50"):
        observed = figures[name.replace("_", " ")]
        assert observed == pytest.approx(kept.predicted[f"{name}_s"], rel=NEAR), name


def test_a_plan_in_a_file_is_rehearsed_from_it(cli: Cli, tmp_path: Path) -> None:
    lengths = ("--isl", "1000", "--osl", "100", "--isl-cv", "0", "--osl-cv", "0", "--rate", "5")
    assert cli.run("plan", "qwen3-8b", "--gpus", "2xH100", *lengths, "-o", "p.yaml").returncode == 0
    assert cli.run("plan", "llama-3.1-8b", "--gpus", "8xH200", *lengths).returncode == 0
    played = cli.run("rehearse", "-f", "p.yaml", patience_s=180.0)
    first, *_ = played.stderr.splitlines()
    assert "Rehearses p.yaml: qwen3-8b" in first
    assert "on simulated 2xH100" in first


def test_clients_in_a_closed_loop_are_played_as_clients(cli: Cli) -> None:
    assert cli.run("plan", *CLIENTS).returncode == 0
    played = cli.run("rehearse", "--json", patience_s=180.0)
    assert "320 requests from 32 clients in a closed loop" in played.stderr.splitlines()[0]
    figures = {one["figure"]: one for one in json.loads(played.stdout)["data"]["figures"]}
    for name in ("ttft p50", "tpot p50"):
        found = figures[name]
        assert found["measured"] == pytest.approx(found["predicted"], rel=NEAR), name
