"""The free GPUs of a cluster, from launchers without machines and from a small sinfo."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pdctl.deployment.cluster_file import ClusterFile, SlurmSettings
from pdctl.engines.launchers import registry
from pdctl.engines.lifecycle.free_gpus import free_cluster
from pdctl.errors import EnvironmentProblem, InvalidInput
from pdctl.inspection.records import Gpu, RdmaPort
from tests.engines.launchers.in_memory import InMemoryLauncher

H200 = "NVIDIA H200"
BUSY = 70 << 30


@dataclass
class Nodes(InMemoryLauncher):
    """cards: of each node, their names; a name with "!" is in use. An empty list: no driver."""

    cards: Mapping[str, list[str]] = field(default_factory=dict)
    gbit_per_s: float | None = None

    def nodes(self) -> tuple[str, ...]:
        return tuple(self.cards)

    def gpus(self, node: str) -> tuple[Gpu, ...]:
        if not self.cards[node]:
            raise EnvironmentProblem(f"{node}: no GPU.", hint="--gpus", code="no_gpu")
        return tuple(
            Gpu(index, name.rstrip("!"), "", 141 << 30, BUSY if name.endswith("!") else 0)
            for index, name in enumerate(self.cards[node])
        )

    def rdma_ports(self, node: str) -> tuple[RdmaPort, ...]:
        if self.gbit_per_s is None:
            return ()
        rate = self.gbit_per_s * 1e9 / 8
        return tuple(RdmaPort(f"mlx5_{i}", 1, "ACTIVE", rate) for i in range(8))


def program(tmp_path: Path, name: str, prints: str = "") -> None:
    file = tmp_path / name
    file.write_text(f"#!/bin/sh\ncase \"$*\" in *'-p none'*) exit;; esac\necho '{prints}'\n")
    file.chmod(0o755)


@pytest.fixture(autouse=True)
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with Slurm's commands, outside any job."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    program(tmp_path, "srun")
    return tmp_path


def in_job(monkeypatch: pytest.MonkeyPatch, nodes: Nodes) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    monkeypatch.setitem(registry.LAUNCHERS, "slurm", lambda scope: nodes)


def test_equal_nodes_have_as_many_free_gpus_as_they_can(monkeypatch: pytest.MonkeyPatch) -> None:
    cards = {"head": [], "a": [H200] * 8, "b": [H200] * 8, "c": [H200] * 2 + [f"{H200}!"] * 6}
    in_job(monkeypatch, Nodes(cards=cards, gbit_per_s=400))
    found = free_cluster("slurm", ClusterFile())
    assert (found.num_nodes, found.gpus_per_node, found.gpu.name) == (2, 8, "H200")
    assert found.rdma_bytes_per_s == 50e9


def test_a_gpu_more_on_one_node_does_not_leave_out_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    in_job(monkeypatch, Nodes(cards={"a": [H200] * 8, "b": [H200] * 6, "c": [H200] * 6}))
    found = free_cluster("slurm", ClusterFile())
    assert (found.num_nodes, found.gpus_per_node, found.rdma_bytes_per_s) == (3, 6, None)


@pytest.mark.parametrize(
    ("cards", "says"),
    [
        ({"a": [f"{H200}!"] * 2}, "No GPU of this Slurm job is free."),
        ({"a": [], "b": []}, "No GPU of this Slurm job is free."),
        ({"a": [H200], "b": ["NVIDIA L4"] * 2}, "are of 2 kinds: 1 NVIDIA H200, 2 NVIDIA L4."),
        ({"a": ["Frobnicator 9"]}, "pdctl has no figures for the GPUs of this Slurm job"),
    ],
)
def test_a_cluster_to_plan_for_has_free_gpus_of_one_known_kind(
    cards: dict[str, list[str]], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_job(monkeypatch, Nodes(cards=cards))
    with pytest.raises(EnvironmentProblem, match=says) as error:
        free_cluster("slurm", ClusterFile())
    assert "--gpus" in (error.value.hint or "") or "name a kind" in (error.value.hint or "")


SINFO = """n1 idle gpu:h200:8(S:0-1) gpu:h200:0(IDX:N/A)
n2 mixed gpu:h200:8 gpu:h200:3(IDX:0-2)
n2 mixed gpu:h200:8 gpu:h200:3(IDX:0-2)
n3 drained gpu:h200:8 gpu:h200:0
n4 idle* gpu:h200:8 gpu:h200:0
n5 idle (null) gpu:0"""


def test_outside_a_job_slurm_says_which_gpus_no_job_has(slurm: Path) -> None:
    program(slurm, "sinfo", SINFO)
    found = free_cluster("slurm", ClusterFile())
    assert (found.num_nodes, found.gpus_per_node, found.gpu.name) == (2, 5, "H200")


def test_only_nodes_of_the_partition_count(slurm: Path) -> None:
    program(slurm, "sinfo", SINFO)
    with pytest.raises(EnvironmentProblem, match="No GPU of Slurm is free."):
        free_cluster("slurm", ClusterFile(slurm=SlurmSettings(partition="none")))


def test_a_kind_that_slurm_does_not_name_comes_from_the_cluster_file(slurm: Path) -> None:
    program(slurm, "sinfo", "n1 idle gpu:8 gpu:0")
    with pytest.raises(EnvironmentProblem, match="does not say of which kind"):
        free_cluster("slurm", ClusterFile())
    found = free_cluster("slurm", ClusterFile(slurm=SlurmSettings(gpu_type="h100")))
    assert (found.gpu.name, found.num_gpus) == ("H100", 8)


def test_another_place_names_no_nodes() -> None:
    with pytest.raises(InvalidInput, match="names no nodes"):
        free_cluster("moon", ClusterFile())
