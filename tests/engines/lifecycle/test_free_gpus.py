"""The free GPUs of a cluster, from launchers without machines and from a small sinfo."""

import os
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from pdctl.deployment.cluster_file import ClusterFile, RdmaSettings, SlurmSettings
from pdctl.deployment.records import Deployment, PlacePolicy, RolePlan
from pdctl.engines import state
from pdctl.engines.launchers import registry
from pdctl.engines.lifecycle.free_gpus import find_free_gpus
from pdctl.engines.lifecycle.node_hardware import gpus_of_nodes
from pdctl.engines.lifecycle.place import placed_engines
from pdctl.errors import EnvironmentProblem, InvalidInput
from pdctl.inspection.cluster import machines_text
from pdctl.inspection.gpus import is_free
from pdctl.inspection.records import Gpu, RdmaPort
from pdctl.perf_model.records import Fleet
from pdctl.verdict.layouts import colocated_fleets, engines_that_fit, pd_fleets
from pdctl.verdict.records import Site
from tests.deployment.examples import split
from tests.engines.launchers.in_memory import InMemoryLauncher
from tests.engines.test_state import some_launch
from tests.engines.world import spec
from tests.verdict.examples import question

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
def slurm(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with Slurm's commands, outside any job."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    program(tmp_path, "srun")
    program(tmp_path, "scontrol")
    return tmp_path


def in_job(monkeypatch: pytest.MonkeyPatch, nodes: Nodes) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    monkeypatch.setitem(registry.LAUNCHERS, "slurm", lambda scope: nodes)


def test_nodes_have_as_many_gpus_as_are_free_there(monkeypatch: pytest.MonkeyPatch) -> None:
    cards = {"head": [], "a": [H200] * 8, "b": [H200] * 8, "c": [H200] * 2 + [f"{H200}!"] * 6}
    in_job(monkeypatch, Nodes(cards=cards, gbit_per_s=400))
    found = find_free_gpus("slurm", ClusterFile()).cluster
    assert (machines_text(found), found.num_gpus) == ("2x8+2xH200", 18)
    assert found.rdma_bytes_per_s == 50e9


def test_a_deployment_that_still_loads_has_its_gpus(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_job(monkeypatch, Nodes(cards={"a": [H200] * 8, "b": [H200] * 8}))
    env = {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}
    loading = replace(spec("colocated-0", "colocated", 1), node="b", gpus=(0, 1, 2, 3), env=env)
    state.make_state_dir("loading")
    state.write_launch(replace(some_launch("loading"), specs=(loading,)))
    held = state.lock("loading")
    assert held is not None
    found = find_free_gpus("slurm", ClusterFile()).cluster
    os.close(held)
    assert (machines_text(found), found.rdma_bytes_per_s) == ("8+4xH200", None)


@pytest.mark.parametrize(
    ("cards", "says"),
    [
        ({"a": [f"{H200}!"] * 2}, "No GPU of this Slurm job is free."),
        ({"a": [], "b": []}, "No GPU of this Slurm job is free."),
        (
            {"a": [H200], "b": ["NVIDIA L4"] * 2},
            "2 kinds: a has 1 NVIDIA H200, b has 2 NVIDIA L4.",
        ),
        ({"a": ["Frobnicator 9"]}, "pdctl has no figures for the GPUs of this Slurm job"),
    ],
)
def test_a_cluster_to_plan_for_has_free_gpus_of_one_known_kind(
    cards: dict[str, list[str]], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_job(monkeypatch, Nodes(cards=cards))
    with pytest.raises(EnvironmentProblem, match=says) as error:
        find_free_gpus("slurm", ClusterFile())
    assert "--gpus" in (error.value.hint or "") or "name a kind" in (error.value.hint or "")


SINFO = """n1 idle gpu:h200:8(S:0-1) gpu:h200:0(IDX:N/A)
n2 mixed gpu:h200:8 gpu:h200:3(IDX:0-2)
n2 mixed gpu:h200:8 gpu:h200:3(IDX:0-2)
n3 drained gpu:h200:8 gpu:h200:0
n4 idle* gpu:h200:8 gpu:h200:0
n5 idle (null) gpu:0"""


def test_outside_a_job_slurm_says_which_gpus_no_job_has(slurm: Path) -> None:
    program(slurm, "sinfo", SINFO)
    found = find_free_gpus("slurm", ClusterFile())
    assert machines_text(found.cluster) == "8xH200"
    assert found.notes == (
        "One job has 8 GPUs of each node (gpus_per_node in cluster.yaml) or some of one node; also "
        "free: n2 has 5 h200.",
    )
    found = find_free_gpus("slurm", ClusterFile(gpus_per_node=5))
    assert machines_text(found.cluster) == "2x5xH200"
    assert found.notes[0].endswith("also free: n1 has 3 h200.")
    parts = find_free_gpus("slurm", ClusterFile(gpus_per_node=16))
    assert machines_text(parts.cluster) == "8xH200", "a part of one node"
    whole = ClusterFile(gpus_per_node=5, slurm=SlurmSettings(exclusive=True))
    assert machines_text(find_free_gpus("slurm", whole).cluster) == "5xH200", "n2 has a job"


def test_a_plan_takes_one_node_where_up_would_ask_for_one(slurm: Path) -> None:
    program(slurm, "sinfo", "n1 idle gpu:h200:8 gpu:0\nn2 idle gpu:h200:8 gpu:0")
    program(slurm, "scontrol", "BlockName=b BlockIndex=0 Nodes=n[1-2] BlockSize=2")
    block = ClusterFile(place="domain")
    assert machines_text(find_free_gpus("slurm", block).cluster) == "8xH200"
    sure = replace(block, rdma=RdmaSettings(mnnvl=True))
    assert machines_text(find_free_gpus("slurm", sure).cluster) == "16xH200"
    spread = find_free_gpus("slurm", ClusterFile(place="spread"))
    assert spread.notes[0].startswith("place: spread")


def test_only_nodes_of_the_partition_count(slurm: Path) -> None:
    program(slurm, "sinfo", SINFO)
    with pytest.raises(EnvironmentProblem, match="No GPU of Slurm is free."):
        find_free_gpus("slurm", ClusterFile(slurm=SlurmSettings(partition="none")))


def test_a_kind_that_slurm_does_not_name_comes_from_the_cluster_file(slurm: Path) -> None:
    program(slurm, "sinfo", "n1 idle gpu:8 gpu:0")
    with pytest.raises(EnvironmentProblem, match="does not say of which kind"):
        find_free_gpus("slurm", ClusterFile())
    found = find_free_gpus("slurm", ClusterFile(slurm=SlurmSettings(gpu_type="h100"))).cluster
    assert (found.gpu.name, found.num_gpus) == ("H100", 8)


def test_another_place_names_no_nodes() -> None:
    with pytest.raises(InvalidInput, match="names no nodes"):
        find_free_gpus("moon", ClusterFile())


def test_nvlink_between_nodes_makes_one_node_of_a_domain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cards = {"a": [H200] * 4, "b": [H200] * 4, "c": [H200] * 4, "d": [f"{H200}!"] * 4}
    told = {"a": "x", "b": "x", "c": "y", "d": "y"}
    in_job(monkeypatch, Nodes(cards=cards, told_domains=told))
    unsure = find_free_gpus("slurm", ClusterFile())
    assert machines_text(unsure.cluster) == "3x4xH200"
    assert unsure.notes[0].startswith("The nodes of an NVLink domain (x has a, b) count as joined ")
    rack = ClusterFile(rdma=RdmaSettings(mnnvl=True))
    found = find_free_gpus("slurm", rack)
    joined = found.cluster
    assert (joined.num_nodes, joined.gpus_per_node, joined.num_gpus) == (2, 8, 12)
    assert found.notes == ("NVLink joins the nodes of a domain: x has a, b.",)
    alone = find_free_gpus("slurm", replace(rack, place="domain"))
    assert machines_text(alone.cluster) == "8xH200"
    assert alone.notes[0] == (
        "Takes one NVLink domain, x (place: domain); also free: c has 4 NVIDIA H200."
    )


def nodes_of(dice: random.Random) -> Nodes:
    """Up to five nodes with up to eight GPUs each, some in use; of two kinds now and then."""
    kinds = [H200, "NVIDIA H100 80GB HBM3"] if dice.random() < 0.1 else [H200]
    cards = {
        f"n{i}": [
            name + "!" * (dice.random() < 0.2)
            for name in [dice.choice(kinds)] * dice.choice((2, 4, 4, 6, 7, 8, 8))
        ]
        for i in range(dice.randint(1, 5))
    }
    told = {node: dice.choice("xy") for node in cards} if dice.random() < 0.4 else {}
    return Nodes(names=tuple(cards), cards=cards, told_domains=told)


def layouts(site: Site, dice: random.Random) -> Iterator[Fleet]:
    """Layouts that a plan may print: those with the most engines, and some others."""
    engines = engines_that_fit(site)
    yield from colocated_fleets(site, engines)
    for prefill in engines.prefill:
        for decode in engines.decode:
            splits = pd_fleets(site, prefill, decode)
            yield from dice.sample(splits, min(2, len(splits)))


def launched(fleet: Fleet, place: PlacePolicy) -> Deployment:
    """The deployment that starts a layout."""
    engines = {e.role: e for e in (fleet.colocated, fleet.prefill, fleet.decode) if e}
    roles = {role: RolePlan(n, engines[role].parallelism) for role, n in fleet.counts.items()}
    return replace(split(), roles=roles, place=place)


@pytest.mark.parametrize(
    "seed", [*range(40), *(pytest.param(n, marks=pytest.mark.slow) for n in range(40, 200))]
)
def test_every_layout_of_a_plan_for_unequal_nodes_is_placed_by_up(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    dice = random.Random(seed)
    there = nodes_of(dice)
    in_job(monkeypatch, there)
    place: PlacePolicy = dice.choice(("auto", "pack", "domain"))
    settings = ClusterFile(place=place, rdma=RdmaSettings(mnnvl=bool(there.told_domains)))
    free = {node: [c for c in own if c[-1] != "!"] for node, own in there.cards.items()}
    said = [f"{node} has {len(own)} " for node, own in free.items() if own]
    if len({card for own in free.values() for card in own}) != 1:
        with pytest.raises(EnvironmentProblem) as error:
            find_free_gpus("slurm", settings)
        assert all(text in error.value.message for text in said)
        return
    found = find_free_gpus("slurm", settings).cluster
    assert found.num_gpus == sum(map(len, free.values())) or place == "domain"
    model = dice.choice(("llama-3.1-8b", "qwen3-30b-a3b"))
    site = replace(question(model), cluster=found, total=dice.choice((None, None, None, 2, 3)))
    if (site.total or 0) > found.num_gpus:
        site = replace(site, total=None)
    for fleet in layouts(site, dice):
        deployment = launched(fleet, place)
        gpus = gpus_of_nodes(deployment, there, there.names)
        placed = placed_engines(deployment, (), gpus, there)
        parts = [part for place in placed.values() for part in (place, *place.others)]
        used = [(part.node, index) for part in parts for index in part.gpus]
        assert set(placed) == set(deployment.engine_names)
        assert len(used) == len(set(used)) == fleet.num_gpus
        assert all(is_free(gpus[node][index]) for node, index in used)
