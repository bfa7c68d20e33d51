"""The what-if that a supervisor keeps, on simulated engines behind the real router."""

import asyncio
import json
import random
from typing import Any

import pytest

from pdctl.measurement.load import run_load
from pdctl.workload.records import Requests
from tests.commands.test_schema import check
from tests.e2e.cli import Cli, free_port, until

PD_YAML = """schema: 1
model: phi-4
engine: sim
gpus: 4xL40S
prefill: {engines: 1}
decode: {engines: 3}
slo: {ttft: 3s, tpot: 60ms}
"""
RATE_RPS, ISL, OSL, LOAD_S = 3.5, 2048, 20, 60.0


def requests() -> Requests:
    chance, at_s = random.Random(1), [0.0]
    while at_s[-1] < LOAD_S:
        at_s.append(at_s[-1] + chance.expovariate(RATE_RPS))
    return Requests(at_s, [ISL] * len(at_s), [OSL] * len(at_s))


def test_status_shows_a_better_split_that_nobody_asked_for(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PDCTL_WHAT_IF_EVERY_S", "3")
    (cli.cwd / "pd.yaml").write_text(PD_YAML)
    port = str(free_port())
    up = cli.run("up", "-f", "pd.yaml", "-d", "--no-input", "--name", "chat", "--port", port)
    assert up.returncode == 0, up.stderr
    asyncio.run(run_load(f"http://127.0.0.1:{port}", requests(), timeout_s=300))
    look: dict[str, Any] = {}

    def has_a_better_layout() -> bool:
        answer = json.loads(cli.run("status", "chat", "--once", "--json").stdout)
        check("status", answer)
        look.update(answer["data"]["what_if"] or {})
        return bool(look.get("better_layout"))

    until(has_a_better_layout)
    assert (look["layout"], look["is_match"]) == ("1P3D", True)
    assert look["better_layout"] in ("2P2D", "3P1D")
    assert f"{look['better_layout']} would give" in cli.run("status", "chat", "--once").stdout


COLOCATED_YAML = """schema: 1
model: phi-4
engine: sim
gpus: 4xL40S
colocated: {engines: 4}
observe: {what_if: false}
"""


def test_colocated_engines_are_compared_with_splits_by_median_times(cli: Cli) -> None:
    (cli.cwd / "pd.yaml").write_text(COLOCATED_YAML)
    port = str(free_port())
    up = cli.run("up", "-f", "pd.yaml", "-d", "--no-input", "--name", "chat", "--port", port)
    assert up.returncode == 0, up.stderr
    asyncio.run(run_load(f"http://127.0.0.1:{port}", requests(), timeout_s=300))
    answer = json.loads(cli.run("status", "chat", "--what-if", "--window", "2m", "--json").stdout)
    check("status", answer)
    look = answer["data"]["what_if"]
    assert (look["layout"], look["by_whole"], look["is_match"]) == ("4C", True, True)
    assert {one["layout"] for one in look["alternatives"]} == {"1P3D", "2P2D", "3P1D"}
    assert look["usual_ttft_s"] > 0
    assert "No SLOs are given" in cli.run("status", "chat", "--once").stdout
