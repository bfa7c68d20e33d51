from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdctl.deployment.cluster_file import ClusterFile, RdmaSettings
from pdctl.deployment.elsewhere import Elsewhere, expand_in_pods, expand_on_nodes, pack
from pdctl.deployment.exports.slurm import sbatch_options
from pdctl.deployment.records import Deployment, PlacePolicy, RolePlan
from pdctl.deployment.sglang_flags import options
from pdctl.errors import InvalidInput
from pdctl.perf_model.records import Parallelism
from tests.deployment.examples import split


def planned(deployment: Deployment) -> Elsewhere:
    return expand_on_nodes(
        deployment,
        ClusterFile(),
        address_of=lambda node: f"address-{node}",
        python="python",
    )


@given(st.lists(st.sampled_from([1, 2, 4, 8, 16, 32]), min_size=2, max_size=2), st.integers(1, 6))
def test_no_gpu_is_used_twice_and_no_node_is_empty(sizes: list[int], num_decode: int) -> None:
    prefill, decode = (Parallelism(tp=size) for size in sizes)
    deployment = split(
        roles={"prefill": RolePlan(2, prefill), "decode": RolePlan(num_decode, decode)}
    )
    places = [
        p for place in pack(deployment, ClusterFile()).values() for p in (place, *place.others)
    ]
    used = [(p.node, gpu) for p in places for gpu in p.gpus]
    assert len(set(used)) == len(used) == deployment.num_gpus
    assert all(0 <= gpu < 8 for _, gpu in used)
    nodes = {int(node) for node, _ in used}
    assert nodes == set(range(len(nodes)))
    assert len(nodes) == -(-len(used) // 8), "sizes that divide each other fill every node"


def test_a_lost_node_leaves_engines_of_both_roles() -> None:
    specs = planned(split(2, 8, parallelism=Parallelism(tp=2))).specs
    by_role = {(s.role, s.node) for s in specs[1:]}
    assert {node for role, node in by_role if role == "prefill"} == {"0", "2"}
    assert {node for role, node in by_role if role == "decode"} == {"0", "1", "2"}


@pytest.mark.parametrize(
    ("place", "num_nodes"), [("auto", 1), ("pack", 1), ("spread", 2), ("domain", 1)]
)
def test_a_policy_asks_for_the_nodes_that_it_needs(place: PlacePolicy, num_nodes: int) -> None:
    made = planned(split(2, 2, parallelism=Parallelism(tp=2), place=place))
    assert made.num_nodes == num_nodes
    assert len({spec.node for spec in made.specs if spec.role == "prefill"}) == num_nodes


def test_one_domain_of_several_nodes_needs_nvlink_between_them() -> None:
    wide = split(2, 2, parallelism=Parallelism(tp=4), place="domain")
    with pytest.raises(InvalidInput, match="2P2D needs 2 nodes of 8 GPUs, and here NVLink reaches"):
        pack(wide, ClusterFile())
    rack = ClusterFile(rdma=RdmaSettings(mnnvl=True))
    assert "--segment=2" in sbatch_options(wide, rack, 2)
    assert len({place.node for place in pack(wide, rack).values()}) == 2


def test_deepseek_r1_with_tp16_runs_on_two_nodes_of_eight() -> None:
    r1 = replace(split(1, 1, parallelism=Parallelism(tp=16)), model="deepseek-ai/DeepSeek-R1")
    made = planned(r1)
    assert made.num_nodes == 4
    assert [s.name for s in made.specs] == ["router", "prefill-0", "decode-0"]
    leader = made.specs[1]
    (follower,) = leader.followers
    assert (leader.node, follower.node) == ("0", "1")
    assert leader.gpus == follower.gpus == tuple(range(8))
    flags = options(leader.argv[3:]), options(follower.argv[3:])
    assert flags[0]["--dist-init-addr"].startswith("address-0:")
    different = {flag for flag in flags[0] if flags[0][flag] != flags[1][flag]}
    assert different == {"--host", "--node-rank"}
    assert [f["--node-rank"] for f in flags] == ["0", "1"]
    assert {f["--nnodes"] for f in flags} == {"2"}
    assert follower.env["SGLANG_HOST_IP"] == "address-1"
    assert follower.env["CUDA_VISIBLE_DEVICES"] == "0,1,2,3,4,5,6,7"


def test_two_engines_of_many_nodes_share_no_port() -> None:
    specs = planned(split(2, 2, parallelism=Parallelism(tp=16))).specs[1:]
    leaders = [options(s.argv[3:]) for s in specs]
    for flag in ("--port", "--dist-init-addr", "--nccl-port", "--disaggregation-bootstrap-port"):
        assert len({f[flag].rpartition(":")[2] for f in leaders}) == 4


def test_an_engine_that_nodes_cannot_share_equally_is_refused() -> None:
    with pytest.raises(InvalidInput) as error:
        planned(split(1, 1, parallelism=Parallelism(tp=9)))
    assert error.value.message == ("prefill-0 has 9 GPUs, which 2 nodes of 8 cannot share equally.")


def test_a_role_of_small_engines_fills_what_large_ones_leave() -> None:
    roles = {
        "prefill": RolePlan(2, Parallelism(tp=4)),
        "decode": RolePlan(1, Parallelism(tp=8)),
    }
    assert planned(split(roles=roles)).num_nodes == 2


def test_engines_in_pods_all_have_the_same_ports() -> None:
    specs = expand_in_pods(split(2, 2), ClusterFile(), address="$(POD_IP)").specs[1:]
    assert len({s.port for s in specs}) == 1
    assert {s.host for s in specs} == {"$(POD_IP)"}
