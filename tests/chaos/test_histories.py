"""Random histories of kills, hangs, stolen ports and full disks: nothing is ever left behind.

PDCTL_CHAOS_HISTORIES: how many (100). PDCTL_CHAOS_SEED: the first one's seed (0), to play one
again. PDCTL_CHAOS_WORKERS: how many at a time (2, where each can have a network of its own).
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.real_engine.loopback import loopback_only

pytestmark = pytest.mark.chaos

ROOT = Path(__file__).parents[2]
NUM_HISTORIES = int(os.environ.get("PDCTL_CHAOS_HISTORIES", "100"))
FIRST_SEED = int(os.environ.get("PDCTL_CHAOS_SEED", "0"))


def num_workers() -> int:
    """Two at a time would take each other's ports where they share a network."""
    with loopback_only() as has_own_network:
        return int(os.environ.get("PDCTL_CHAOS_WORKERS", "2")) if has_own_network else 1


def outcomes() -> list[dict[str, Any]]:
    """Every history played."""
    seeds = [str(seed) for seed in range(FIRST_SEED, FIRST_SEED + NUM_HISTORIES)]
    shares = [seeds[i :: num_workers()] for i in range(num_workers())]
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.worker", *share],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
        for share in shares
        if share
    ]
    try:
        lines = [line for one in workers for line in one.communicate()[0].splitlines()]
    finally:
        for one in workers:
            one.kill()
    assert all(one.returncode == 0 for one in workers)
    return [json.loads(line) for line in lines]


def test_after_every_history_nothing_is_left_and_it_serves_or_says_why_not() -> None:
    played = outcomes()
    assert len(played) == NUM_HISTORIES
    broken = [f"seed {o['seed']}: {o['problem']}; {o['told']}" for o in played if o["problem"]]
    assert not broken, "\n".join(broken)
