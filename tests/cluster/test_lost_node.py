"""A node of a running deployment fails."""

from pathlib import Path

import pytest

from tests.cluster import slurm
from tests.cluster.pdctl_there import PdctlThere
from tests.cluster.slurm import until


@pytest.mark.slurm
def test_a_node_that_fails_takes_only_its_own_engines_with_it(tmp_path: Path) -> None:
    if why := slurm.missing():
        pytest.skip(why)
    for directory in ("slurm", "work"):
        (tmp_path / directory).mkdir()
    with slurm.slurm(3, tmp_path / "slurm") as cluster:
        there = PdctlThere(cluster, home=tmp_path / "state", cwd=tmp_path / "work")
        there.done("up", "-f", there.write("chat"), "--on", "slurm", "-d")
        lost = {p["name"] for p in there.state("chat")["processes"] if p["node"] == "node3"}
        assert lost
        cluster.nodes[2].power_off()
        until(lambda: not lost & there.serving("chat"), 120.0)
        assert there.serving("chat") == set(there.phases("chat")) - lost
        assert there.serves("chat")
        there.done("down", "chat")
        there.leaves_nothing()
