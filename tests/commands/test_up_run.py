"""Ctrl-C while `pdctl up` starts, and faults that it finds on the nodes it has chosen."""

import signal
from dataclasses import replace

import pytest

from pdctl.commands import up_run
from pdctl.commands.up_run import Interrupts
from pdctl.doctor.records import Check
from pdctl.engines.lifecycle.start import Prepared
from pdctl.errors import EnvironmentProblem
from tests.deployment.examples import split
from tests.engines.world import fleet_specs


class Starting:
    """Something that Ctrl-C stops. asked: how, by each Ctrl-C."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def ask_to_stop(self, *, now: bool = False) -> None:
        self.asked.append("now" if now else "drain")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_before_anything_is_started_ends_the_command(number: signal.Signals) -> None:
    with pytest.raises(KeyboardInterrupt), Interrupts():
        signal.raise_signal(number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_while_a_supervisor_starts_stops_it_once_it_is_known(
    number: signal.Signals,
) -> None:
    supervisor = Starting()
    with Interrupts() as interrupts:
        interrupts.postpone()
        signal.raise_signal(number)
        interrupts.stop(supervisor)
        assert supervisor.asked == ["drain"]
        signal.raise_signal(number)
    assert supervisor.asked == ["drain", "now"]


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
