"""Faults that `pdctl up` finds on the nodes of a cluster once it has chosen them."""

from dataclasses import replace

import pytest

from pdctl.commands import up_run
from pdctl.doctor.records import Check
from pdctl.engines.lifecycle.start import Prepared
from pdctl.errors import EnvironmentProblem
from tests.deployment.examples import split
from tests.engines.world import fleet_specs

SPECS = tuple(replace(spec, node="node2") for spec in fleet_specs(1, 1))
REAL = Prepared(split(), SPECS, "0.5.23", "H200", "", (), launcher="slurm:1")
FEW_FILES = Check("open_files", "fail", "A process may open 9 files.", "ulimit -n", node="node2")
FULL = Check("state_dir", "fail", "State goes to /s, 1 MiB free.", "free space", node="node2")


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[Check]:
    """The faults that the nodes report."""
    checks: list[Check] = []
    monkeypatch.setattr(up_run, "launcher_named", lambda name: None)
    monkeypatch.setattr(up_run, "node_faults", lambda launcher, cluster, nodes: checks)
    return checks


def test_low_limits_of_a_node_are_a_warning_with_its_name(
    found: list[Check], capsys: pytest.CaptureFixture[str]
) -> None:
    found.append(FEW_FILES)
    up_run._check_nodes(REAL)
    assert capsys.readouterr().err == "warning: node2: A process may open 9 files. ulimit -n\n"


def test_a_node_without_room_for_state_is_refused_with_its_name(found: list[Check]) -> None:
    found.append(FULL)
    with pytest.raises(EnvironmentProblem, match="node2: State goes to /s, 1 MiB free"):
        up_run._check_nodes(REAL)
    up_run._check_nodes(replace(REAL, launcher="local"))
    up_run._check_nodes(replace(REAL, version=None))  # simulated engines
