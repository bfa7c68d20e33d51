import json
from dataclasses import replace
from pathlib import Path

from pdctl.deployment.nics import IB_DEVICE, nearest_ports, only_cards, with_nics
from pdctl.deployment.records import Follower, ProcessSpec
from pdctl.inspection.records import Gpu, RdmaPort
from tests.deployment.examples import gpu
from tests.engines.world import spec

FAST, SLOW = 50e9, 3e9


def card(number: int, root: str, *, state: str = "ACTIVE", rate: float = FAST) -> RdmaPort:
    path = f"pci0000:{root}/0000:{root}:01.0/0000:{root}:02.0/card"
    return RdmaPort(f"mlx5_{number}", 1, state, rate, pci_path=path)


def near(index: int, root: str) -> Gpu:
    return replace(gpu(index), pci_path=f"pci0000:{root}/0000:{root}:01.0/0000:{root}:03.0/gpu")


GPUS = (near(0, "15"), near(1, "38"), near(2, "15"))
CARDS = (card(0, "15"), card(1, "38"), card(2, "5d", rate=SLOW), card(3, "15", state="DOWN"))
MOONCAKE = ("python", "-m", "sglang.launch_server", "--disaggregation-transfer-backend", "mooncake")
ENGINE = replace(
    spec("prefill-0", "prefill", 0),
    argv=MOONCAKE,
    gpus=(1, 2),
    env={"CUDA_VISIBLE_DEVICES": "1,2"},
    node="a",
)


def chosen(
    engine: ProcessSpec = ENGINE, *, a: tuple[RdmaPort, ...] = CARDS, b: tuple[RdmaPort, ...] = ()
) -> ProcessSpec:
    return with_nics(engine, {"a": GPUS, "b": GPUS}, {"a": a, "b": b})


def test_a_gpu_uses_the_active_fast_card_behind_its_own_bridges() -> None:
    found = [[port.device for port in nearest_ports(one, CARDS)] for one in GPUS]
    assert found == [["mlx5_0"], ["mlx5_1"], ["mlx5_0"]]


def test_without_a_shared_bridge_the_numa_node_decides() -> None:
    apart = replace(gpu(0), numa_node=1)
    cards = tuple(replace(card(i, "99"), numa_node=i // 2) for i in range(4))
    assert [port.device for port in nearest_ports(apart, cards)] == ["mlx5_2", "mlx5_3"]
    assert nearest_ports(gpu(0), cards) == ()


def test_every_library_is_told_the_same_cards() -> None:
    made = chosen()
    devices = json.loads(made.argv[made.argv.index(IB_DEVICE) + 1])
    assert devices == {"0": "mlx5_1", "1": "mlx5_0"}
    assert made.env["NCCL_IB_HCA"] == "=mlx5_1:1,mlx5_0:1"
    assert made.env["NVSHMEM_HCA_LIST"] == made.env["UCX_NET_DEVICES"] == "mlx5_1:1,mlx5_0:1"


def test_what_the_user_set_stays() -> None:
    own = replace(
        ENGINE, argv=(*MOONCAKE, IB_DEVICE, "mlx5_9"), env={**ENGINE.env, "NCCL_IB_HCA": "mine"}
    )
    made = chosen(own)
    assert made.argv == own.argv
    assert made.env["NCCL_IB_HCA"] == "mine"


def test_each_rank_uses_the_cards_of_its_own_node() -> None:
    other = Follower("b", MOONCAKE, ENGINE.env, (0,), Path("/log"))
    made = chosen(replace(ENGINE, followers=(other,)), b=(card(7, "15"),))
    assert made.followers[0].env["UCX_NET_DEVICES"] == "mlx5_7:1"
    assert made.env["UCX_NET_DEVICES"] == "mlx5_1:1,mlx5_0:1"


def test_nothing_changes_on_one_machine_or_where_the_way_to_a_gpu_is_unknown() -> None:
    assert chosen(a=()) == ENGINE
    assert with_nics(ENGINE, {"a": GPUS}, {"a": CARDS}) == ENGINE
    assert chosen(replace(ENGINE, env={})) == replace(ENGINE, env={})


def test_cards_that_cluster_yaml_leaves_out_are_not_used() -> None:
    assert only_cards(CARDS, ("mlx5_1", "mlx5_3")) == (CARDS[1], CARDS[3])
    assert only_cards(CARDS, ()) == CARDS
