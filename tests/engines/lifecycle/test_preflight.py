"""Faults of nodes that are found before weights load: one sentence with the node and the fix."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from pdctl.deployment.records import Follower, ProcessSpec
from pdctl.engines.launchers.protocol import Door
from pdctl.engines.lifecycle.preflight import (
    Clock,
    check_equal,
    check_network,
    clock_faults,
    rdma_faults,
    ways_of,
)
from pdctl.errors import EnvironmentProblem
from pdctl.inspection.model_contents import REVISION, FileOnDisk
from pdctl.inspection.records import RdmaPort
from tests.deployment.examples import split
from tests.engines.launchers.in_memory import InMemoryLauncher
from tests.engines.world import spec

NODES = ("a", "b", "c")
ON_DISK = replace(split(), model="/models/llama")
MODEL = {
    "config.json": FileOnDisk(700, "c0"),
    "model-1.safetensors": FileOnDisk(5_000_000_000),
    "model.safetensors.index.json": FileOnDisk(4000, "1d"),
}


def cluster(*with_model: str) -> InMemoryLauncher:
    made = InMemoryLauncher(names=NODES)
    made.models.update({(node, Path(ON_DISK.model)): MODEL for node in with_model})
    return made


def test_equal_nodes_pass() -> None:
    launcher = cluster(*NODES)
    assert check_equal(ON_DISK, launcher.sglang("a", None), launcher, NODES) == ()
    check_equal(replace(split(), model="Qwen/Qwen3-8B"), None, cluster(), NODES)


def test_a_node_that_runs_nothing_needs_no_model() -> None:
    check_equal(ON_DISK, None, cluster("a", "b"), ("a", "b"))


@dataclass(frozen=True)
class Bad:
    """One thing that is wrong with the nodes, and what is said about it."""

    text: str
    hint: str
    code: str
    lacking: str = ""  # a node without the model
    files: Mapping[str, Mapping[str, FileOnDisk]] = field(default_factory=dict)  # by node
    versions: Mapping[str, str] = field(default_factory=dict)
    clocks: Mapping[str, float] = field(default_factory=dict)


def with_file(name: str, file: FileOnDisk) -> dict[str, FileOnDisk]:
    return {**MODEL, name: file}


BAD = {
    "a model path missing on host 3": Bad(
        "c does not have /models/llama.",
        "a path that all nodes share, or copy the model to that node",
        "no_model_there",
        lacking="c",
    ),
    "a cut weight file": Bad(
        "model-1.safetensors in /models/llama has 2.79 GiB on b and 4.66 GiB on a.",
        "rsync -a a:/models/llama/ /models/llama/ on b",
        "unequal_model",
        files={"b": with_file("model-1.safetensors", FileOnDisk(3_000_000_000))},
    ),
    "a weight file one byte short": Bad(
        "model-1.safetensors in /models/llama has 4,999,999,999 bytes on b and"
        " 5,000,000,000 bytes on a.",
        "rsync -a a:/models/llama/ /models/llama/ on b",
        "unequal_model",
        files={"b": with_file("model-1.safetensors", FileOnDisk(4_999_999_999))},
    ),
    "another weight index on the first host": Bad(
        "model.safetensors.index.json in /models/llama has other content on a than on b.",
        "rsync -a b:/models/llama/ /models/llama/ on a",
        "unequal_model",
        files={"a": with_file("model.safetensors.index.json", FileOnDisk(4000, "1e"))},
    ),
    "a file that one host lacks": Bad(
        "/models/llama on c lacks model-1.safetensors, which a has.",
        "rsync -a a:/models/llama/ /models/llama/ on c",
        "unequal_model",
        files={"c": {n: f for n, f in MODEL.items() if n != "model-1.safetensors"}},
    ),
    "unequal SGLang versions": Bad(
        "b has SGLang 0.5.23 in python, and a has 0.5.15.",
        "install SGLang 0.5.15 there, or --python with one that all share",
        "unequal_sglang",
        versions={"b": "0.5.23"},
    ),
    "clocks 30 s apart": Bad(
        "The clock of c is 30.0 s behind that of a.",
        "chronyc makestep on c",
        "unequal_clocks",
        clocks={"b": 0.2, "c": -30.0},
    ),
    "the clock of the first host is wrong": Bad(
        "The clock of a is 30.0 s ahead of that of b.",
        "chronyc makestep on a",
        "unequal_clocks",
        clocks={"a": 30.0},
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_refused_with_the_node_and_the_fix(name: str) -> None:
    bad = BAD[name]
    launcher = cluster(*(node for node in NODES if node != bad.lacking))
    launcher.models.update({(n, Path(ON_DISK.model)): files for n, files in bad.files.items()})
    launcher.versions.update(bad.versions)
    launcher.clocks.update(bad.clocks)
    with pytest.raises(EnvironmentProblem) as error:
        check_equal(ON_DISK, InMemoryLauncher().sglang("", None), launcher, NODES)
    assert (error.value.message, error.value.hint) == (bad.text, bad.hint)
    assert error.value.code == bad.code


def cached(revision: str, *digests: str) -> dict[str, FileOnDisk]:
    """A model in a node's Hugging Face cache, as `model_contents` reads it."""
    files = {f"model-{i}.safetensors": FileOnDisk(5, name) for i, name in enumerate(digests)}
    return {REVISION: FileOnDisk(0, revision), **files}


@pytest.mark.parametrize(
    ("others", "said"),
    [
        (cached("0ld", "w0"), "The cache of b has Qwen/Qwen3-8B at 0ld, and that of a at n3w."),
        (cached("n3w", "cut"), "model-0.safetensors in Qwen/Qwen3-8B has other content on b than"),
        (cached("n3w"), "Qwen/Qwen3-8B on b lacks model-0.safetensors, which a has."),
    ],
)
def test_caches_of_a_model_id_that_differ_are_refused_where_sglang_may_not_download(
    others: Mapping[str, FileOnDisk], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", "/hf")
    launcher = cluster()
    folder = Path("/hf/hub/models--Qwen--Qwen3-8B")
    launcher.models.update({("a", folder): cached("n3w", "w0"), ("b", folder): others})
    wanted = replace(split(), model="Qwen/Qwen3-8B")
    (warning,) = check_equal(wanted, None, launcher, NODES)
    assert warning.startswith(said)
    assert warning.endswith("Fix: hf download Qwen/Qwen3-8B --revision n3w on b.")
    assert not check_equal(replace(wanted, engine="sim"), None, launcher, NODES)

    offline = {r: replace(p, env={"HF_HUB_OFFLINE": "1"}) for r, p in wanted.roles.items()}
    with pytest.raises(EnvironmentProblem) as error:
        check_equal(replace(wanted, roles=offline), None, launcher, NODES)
    assert error.value.message.startswith(said)


def test_a_clock_a_few_seconds_off_is_a_warning() -> None:
    launcher = cluster(*NODES)
    launcher.clocks["b"] = 3.0
    (warning,) = check_equal(ON_DISK, None, launcher, NODES)
    assert warning.startswith("The clock of b is 3.0 s ahead of that of ")


def test_a_clock_counts_as_wrong_only_where_it_could_be_read_well_enough() -> None:
    clocks = {"a": Clock(100.0, 0.1), "b": Clock(100.2, 0.1), "c": Clock(102.0, 1.5)}
    assert not list(clock_faults(clocks))
    assert not list(clock_faults({}))


NO_RDMA: Mapping[str, Sequence[RdmaPort]] = dict.fromkeys(NODES, ())
PD = (
    replace(spec("router", "router", 0), node="a", host="10.0.0.1"),
    replace(spec("prefill-0", "prefill", 1), node="a", host="10.0.0.1"),
    replace(spec("decode-0", "decode", 2), node="b", host="10.0.0.2"),
)
LARGE = replace(
    spec("decode-1", "decode", 3),
    node="b",
    host="10.0.0.2",
    argv=("python", "-m", "sglang.launch_server", "--dist-init-addr", "10.0.0.2:24000"),
    followers=(Follower("c", (), {}, (), Path("log")),),
)


def test_decode_hosts_reach_the_bootstrap_port_and_ranks_reach_dist_init() -> None:
    bootstrap = PD[1].bootstrap_port
    found = {(way.source, *way.door) for way in ways_of((*PD, LARGE))}
    assert ("b", "10.0.0.1", bootstrap) in found
    assert ("c", "10.0.0.2", 24000) in found
    assert ("a", "10.0.0.2", PD[2].port) in found
    assert all(way.source != way.target for way in ways_of(PD))


def test_a_wall_between_two_hosts_is_named_with_the_key_to_set() -> None:
    launcher = InMemoryLauncher(names=NODES)
    check_network(ON_DISK, PD, (), launcher, NO_RDMA)
    launcher.walls.add(("b", "10.0.0.1"))
    with pytest.raises(EnvironmentProblem) as error:
        check_network(ON_DISK, PD, (), launcher, NO_RDMA)
    bootstrap = PD[1].bootstrap_port
    assert error.value.message == (
        f"b does not reach a at 10.0.0.1:{bootstrap}, the bootstrap port of prefill-0."
    )
    assert error.value.hint.startswith("interface: NAME in cluster.yaml")
    assert not launcher.doors, "nothing listens afterwards"


def test_a_process_that_runs_already_keeps_its_port() -> None:
    class Serving(InMemoryLauncher):
        def unreached(self, node: str, doors: Collection[Door]) -> tuple[Door, ...]:
            assert (PD[1].host, PD[1].bootstrap_port) not in self.doors
            return super().unreached(node, doors)

    check_network(ON_DISK, PD, ("router", "prefill-0"), Serving(names=NODES), NO_RDMA)


def ports(*states: str) -> tuple[RdmaPort, ...]:
    """mlx5_0, mlx5_1, ... in these states."""
    return tuple(RdmaPort(f"mlx5_{i}", 1, state, 5e10) for i, state in enumerate(states))


def with_cards(cards: str) -> tuple[ProcessSpec, ...]:
    argv = ("python", "-m", "sglang.launch_server", "--disaggregation-ib-device", cards)
    return tuple(replace(one, argv=argv) for one in PD[1:])


@pytest.mark.parametrize("cards", ["mlx5_1", '{"0": "mlx5_0", "1": "mlx5_1"}'])
def test_a_link_that_is_down_names_card_port_and_host(cards: str) -> None:
    rdma = {"a": ports("ACTIVE", "ACTIVE"), "b": ports("ACTIVE", "DOWN")}
    (fault,) = rdma_faults(with_cards(cards), rdma)
    assert fault.text == ("Port 1 of mlx5_1 on b is DOWN, and --disaggregation-ib-device names it.")
    assert fault.fix == "cards that are active there, in --disaggregation-ib-device: mlx5_0"
    assert fault.is_fatal


def test_a_card_that_a_host_lacks_is_named() -> None:
    rdma = {"a": ports("ACTIVE", "ACTIVE"), "b": ports("ACTIVE")}
    (fault,) = rdma_faults(with_cards("mlx5_1"), rdma)
    assert fault.text.startswith("b has no RDMA card mlx5_1, and")


def test_a_card_of_cluster_yaml_must_be_active_on_its_host() -> None:
    rdma = {"a": ports("ACTIVE"), "b": ports("INIT")}
    (fault,) = rdma_faults(PD, rdma, {"b": ("mlx5_0",)})
    assert fault.text == "Port 1 of mlx5_0 on b is INIT, and cluster.yaml names it."


def test_an_unused_link_that_is_down_on_one_host_alone_is_fatal_only_without_another() -> None:
    down = {"a": ports("ACTIVE", "ACTIVE"), "b": ports("ACTIVE", "DOWN")}
    dead = {"a": ports("ACTIVE"), "b": ports("DOWN")}
    assert [fault.is_fatal for fault in rdma_faults(PD, down)] == [False]
    assert [fault.is_fatal for fault in rdma_faults(PD, dead)] == [True]
    assert [f.is_fatal for f in rdma_faults(PD, dead, may_do_without=True)] == [False]
    same = {"a": ports("ACTIVE", "DOWN"), "b": ports("ACTIVE", "DOWN")}
    assert not list(rdma_faults(PD, same)), "nobody uses that card"
    assert not list(rdma_faults(PD, NO_RDMA))
