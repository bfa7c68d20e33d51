"""Random histories on three hosts: engines, ranks, agents and supervisors die, hosts are cut off.

PDCTL_CHAOS_HOST_HISTORIES: how many on each cluster (4). PDCTL_CHAOS_SEED: the first seed (0).
"""

import os
from pathlib import Path

import pytest

from tests.chaos.on_hosts import outcomes
from tests.cluster import ray_cluster, slurm

pytestmark = pytest.mark.long

FIRST_SEED = int(os.environ.get("PDCTL_CHAOS_SEED", "0"))
SEEDS = range(FIRST_SEED, FIRST_SEED + int(os.environ.get("PDCTL_CHAOS_HOST_HISTORIES", "4")))
MISSING = {"slurm": slurm.missing, "ray": ray_cluster.missing}


@pytest.mark.parametrize("on", ["slurm", "ray"])
def test_after_every_history_nothing_is_left_on_any_host_and_it_serves_or_says_why_not(
    on: str, tmp_path: Path
) -> None:
    if why := MISSING[on]():
        pytest.skip(why)
    played = list(outcomes(on, SEEDS, tmp_path))
    assert [one.seed for one in played] == list(SEEDS)
    broken = [f"seed {one.seed}: {one.problem}; {one.told}" for one in played if one.problem]
    assert not broken, "\n".join(broken)
