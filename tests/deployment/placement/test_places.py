from collections import Counter
from dataclasses import replace

import pytest

from pdctl.deployment.placement.places import Place, cautions_of_places, place_engines
from pdctl.deployment.records import Follower, RolePlan
from pdctl.errors import EnvironmentProblem
from pdctl.inspection.records import Gpu
from pdctl.perf_model.records import Parallelism
from tests.deployment.examples import gpu, split
from tests.engines.world import NO_LOG, fleet_specs


def nodes(*num_gpus: int) -> dict[str, list[Gpu]]:
    return {f"n{i}": [gpu(index) for index in range(num)] for i, num in enumerate(num_gpus)}


def test_engines_go_to_the_node_with_the_most_free_gpus_largest_first() -> None:
    roles = {"prefill": RolePlan(2), "decode": RolePlan(1, Parallelism(tp=4))}
    placed = place_engines(split(roles=roles), (), nodes(2, 4))
    assert placed == {
        "decode-0": Place("n1", (0, 1, 2, 3)),
        "prefill-0": Place("n0", (0,)),
        "prefill-1": Place("n0", (1,)),
    }


def test_an_engine_larger_than_every_node_is_refused() -> None:
    with pytest.raises(
        EnvironmentProblem, match="2 free GPUs on each of 2 nodes; no nodes"
    ) as problem:
        place_engines(split(1, 1, parallelism=Parallelism(tp=4)), (), nodes(2, 2))
    assert problem.value.code == "not_enough_gpus"


def test_a_node_that_is_full_is_named_with_who_holds_its_gpus() -> None:
    busy = [gpu(0), gpu(1, held_gib=70, by="71 python")]
    with pytest.raises(EnvironmentProblem) as error:
        place_engines(split(1, 1, parallelism=Parallelism(tp=2)), (), {"n0": busy, "n1": busy})
    assert error.value.message == (
        "prefill-0 needs 2 free GPUs on one node; the emptiest, n0, has 1 of 2 "
        "(GPU 1: 70 GiB held by pid 71 python)."
    )


def test_the_fullest_of_the_nodes_that_an_engine_would_span_is_named() -> None:
    held = {"n0": [gpu(0), gpu(1)], "n1": [gpu(0), gpu(1, held_gib=70, by="71 python")]}
    with pytest.raises(EnvironmentProblem) as error:
        place_engines(split(1, 1, parallelism=Parallelism(tp=4)), (), held)
    assert error.value.message == (
        "prefill-0 needs 2 free GPUs on each of 2 nodes; 1 node has as many; n1 has 1 of 2 "
        "(GPU 1: 70 GiB held by pid 71 python)."
    )


def test_an_engine_that_stays_keeps_its_node_and_a_leaving_one_gives_its_gpu() -> None:
    router, prefill, decode, last = (
        replace(spec, node=node)
        for spec, node in zip(fleet_specs(1, 2), ("n0", "n0", "n1", "n1"), strict=True)
    )
    used = nodes(1, 3)
    for node, index in (("n0", 0), ("n1", 1), ("n1", 2), ("n1", 0)):
        used[node][index] = replace(used[node][index], memory_used_bytes=70 << 30)
    placed = place_engines(split(2, 1), (router, prefill, decode, last), used)
    assert placed["prefill-0"] == Place("n0", (0,))
    assert placed["decode-0"] == Place("n1", (1,))
    assert placed["prefill-1"] == Place("n1", (2,))


def test_simulated_engines_are_spread_over_the_nodes_with_numbers_of_their_own() -> None:
    placed = place_engines(split(1, 3, engine="sim"), (), nodes(0, 0))
    assert Counter(place.node for place in placed.values()) == {"n0": 2, "n1": 2}
    assert len({place.gpus for place in placed.values()}) == 4


def test_a_simulated_engine_takes_no_number_that_another_has_on_its_second_node() -> None:
    roles = {"prefill": RolePlan(1, Parallelism(tp=8)), "decode": RolePlan(1, Parallelism(tp=16))}
    router, prefill, decode = fleet_specs(1, 1)
    rank = Follower(node="n2", argv=(), env={}, gpus=tuple(range(16, 24)), log=NO_LOG)
    present = (
        replace(router, node="n0"),
        replace(prefill, node="n0", gpus=tuple(range(8))),
        replace(decode, node="n1", gpus=tuple(range(8, 16)), followers=(rank,)),
    )
    more = {**roles, "decode": replace(roles["decode"], engines=2)}
    placed = place_engines(split(roles=more, engine="sim"), present, nodes(8, 8, 8))
    new = placed["decode-1"]
    assert min(gpu for part in (new, *new.others) for gpu in part.gpus) > max(rank.gpus)


LINKED = [gpu(i, peers=tuple(j for j in range(4) if j != i)) for i in range(4)]


def racks(**num_gpus: int) -> dict[str, list[Gpu]]:
    """Nodes "x0", "x1", "y0", ... whose GPUs share an NVLink fabric by their first letter."""
    return {
        node: [replace(g, fabric=f"rack-{node[0]}") for g in LINKED[:num]]
        for node, num in num_gpus.items()
    }


def nodes_of(placed: dict[str, Place]) -> set[str]:
    return {node for place in placed.values() for node in place.nodes}


def test_one_domain_is_the_smallest_fabric_with_room_for_all() -> None:
    both = split(1, 2, parallelism=Parallelism(tp=2), place="domain")
    found = racks(x0=4, x1=4, x2=4, y0=2, y1=4, z0=4)
    assert nodes_of(place_engines(both, (), found)) == {"y0", "y1"}
    large = split(1, 1, parallelism=Parallelism(tp=8), place="domain")
    assert nodes_of(place_engines(large, (), {**found, "x3": found["x0"]})) == {*found} - {
        *("y0", "y1", "z0")
    } | {"x3"}


def test_the_cluster_s_file_says_which_nodes_share_a_domain() -> None:
    both = split(1, 2, parallelism=Parallelism(tp=2), place="domain", engine="sim")
    pretended = {"n0": 4, "n1": 4, "n2": 4}
    placed = place_engines(
        both, (), nodes(0, 0, 0), pretended=pretended, domains={"n1": "r", "n2": "r"}
    )
    assert nodes_of(placed) == {"n1", "n2"}


def test_without_a_fabric_a_domain_is_the_gpus_of_one_node_that_nvlink_joins() -> None:
    two = split(1, 1, parallelism=Parallelism(tp=2), place="domain")
    placed = place_engines(two, (), {"pcie": nodes(8)["n0"], "nvlink": LINKED})
    assert placed == {"prefill-0": Place("nvlink", (0, 1)), "decode-0": Place("nvlink", (2, 3))}


def test_no_domain_with_room_is_refused_with_what_is_free_where() -> None:
    held = [replace(g, memory_used_bytes=70 << 30) for g in LINKED[:1]] + LINKED[1:]
    wide = split(1, 1, parallelism=Parallelism(tp=4), place="domain")
    with pytest.raises(EnvironmentProblem) as error:
        place_engines(wide, (), {"a": LINKED, "b": held, "c": [gpu(0)]})
    assert error.value.message == (
        "No NVLink domain has room for 1P1D, 8 GPUs: a has 4 of 4 free, b has 3 of 4 free, "
        "c has 1 of 1 free."
    )
    assert "--place spread" in error.value.hint


def test_engines_that_are_added_stay_in_the_domain_of_the_others() -> None:
    gpus = racks(x0=2, x1=1, y0=4)
    gpus["x0"] = [replace(g, problem="in use") for g in gpus["x0"]]
    present = [replace(spec, node="x0") for spec in fleet_specs(1, 1)]
    placed = place_engines(split(1, 2, place="domain"), present, gpus)
    assert placed["decode-1"].node == "x1"


@pytest.mark.parametrize("engine", ["sglang", "sim"])
def test_spread_is_refused_where_one_node_would_end_a_role(engine: str) -> None:
    wanted = split(2, 1, parallelism=Parallelism(tp=4), place="spread", engine=engine)
    with pytest.raises(EnvironmentProblem) as error:
        place_engines(wanted, (), nodes(12, 2), pretended={"n0": 12, "n1": 2})
    assert error.value.message == (
        "2 prefill engines cannot be spread: all of them would end with n0; "
        "n0 has 12 of 12 free, n1 has 2 of 2 free."
    )
    with pytest.raises(EnvironmentProblem, match="would end with this machine"):
        place_engines(wanted, (), {"": nodes(12)["n0"]})


def test_by_default_such_a_role_is_only_warned_of() -> None:
    wanted = split(2, 1, parallelism=Parallelism(tp=4))
    placed = place_engines(wanted, (), nodes(8, 4, 2))
    assert cautions_of_places(wanted, placed, {}) == ()
    placed = place_engines(split(3, 1, parallelism=Parallelism(tp=4)), (), nodes(16, 2))
    assert cautions_of_places(split(3, 1), placed, {}) == (), (
        "with one node nothing could be better"
    )
    roles = {"prefill": RolePlan(2, Parallelism(tp=4)), "decode": RolePlan(2)}
    placed = place_engines(split(roles=roles), (), nodes(9, 2))
    assert cautions_of_places(split(roles=roles), placed, {}) == (
        "Every prefill engine is on n0, because no other node has room for one: losing n0 ends "
        "them all.",
    )
    assert cautions_of_places(split(roles=roles, place="pack"), placed, {}) == ()


def test_simulated_engines_fill_the_gpus_that_the_cluster_s_file_says() -> None:
    wanted = split(1, 3, parallelism=Parallelism(tp=2), engine="sim")
    pretended = {"n0": 2, "n1": 8}
    placed = place_engines(wanted, (), nodes(0, 0), pretended=pretended)
    assert Counter(place.node for place in placed.values()) == {"n0": 1, "n1": 3}
    full = replace(wanted, place="pack")
    with pytest.raises(EnvironmentProblem, match="prefill-0 needs 2 free GPUs on one node"):
        place_engines(full, (), nodes(0, 0), pretended={"n0": 2, "n1": 4})
    crowded = place_engines(wanted, (), nodes(0, 0), pretended={"n0": 2, "n1": 4})
    assert len({place.gpus for place in crowded.values()}) == 4
