"""A node of a running deployment fails, or is cut off for a while."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.cluster import slurm
from tests.cluster.pdctl_there import OnSlurm, deployed
from tests.cluster.slurm import until

pytestmark = pytest.mark.slurm


@pytest.fixture
def there(tmp_path: Path) -> Iterator[OnSlurm]:
    """pdctl on a cluster of its own, which the test may break."""
    if why := slurm.missing():
        pytest.skip(why)
    (tmp_path / "slurm").mkdir()
    with slurm.slurm(3, tmp_path / "slurm") as cluster:
        yield OnSlurm(cluster, tmp_path / "state", tmp_path / "work")


def lost(there: OnSlurm) -> set[str]:
    return {p["name"] for p in there.state("chat")["processes"] if p["node"] == "node3"}


def test_a_node_that_fails_takes_only_its_own_engines_with_it(there: OnSlurm) -> None:
    deployed(there, "slurm")
    gone = lost(there)
    assert gone
    there.cluster.nodes[2].power_off()
    until(lambda: not gone & there.serving("chat"))
    assert there.serving("chat") == set(there.phases("chat")) - gone
    assert all(there.serves("chat") for _ in range(5))
    state = there.state("chat")
    assert state["phase"] == "degraded"
    assert "node3 does not answer" in state["detail"]

    until(lambda: "node3 down" in there.cluster.run("sinfo", "-hN", "-o", "%N %T").stdout, 60.0)
    there.done("scale", "--decode", "9", "--total", "11", "--no-wait")
    until(lambda: "decode-8" in there.serving("chat"))
    assert there.phases("chat").keys() > gone
    there.done("down", "chat")
    there.leaves_nothing()


def test_engines_of_a_node_that_was_cut_off_serve_again_without_a_restart(
    there: OnSlurm,
) -> None:
    deployed(there, "slurm")
    tasks, gone = there.tasks("chat"), lost(there)
    there.cluster.nodes[2].unplug()
    until(lambda: not gone & there.serving("chat"))
    assert all(there.serves("chat") for _ in range(5))
    there.cluster.nodes[2].plug()
    until(lambda: there.state("chat")["phase"] == "serving")
    assert there.tasks("chat") == tasks
    assert there.serves("chat")


def test_engines_of_a_node_that_stays_away_start_on_other_nodes(there: OnSlurm) -> None:
    early = replace(there, variables={"PDCTL_MOVE_AFTER_S": "2"})
    deployed(early, "slurm").moves_off_a_lost_host("chat", there.cluster.nodes[2])
