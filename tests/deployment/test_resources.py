from collections.abc import Mapping
from dataclasses import replace
from itertools import chain

import pytest

from pdctl.deployment.build import deployment_of
from pdctl.deployment.placement.places import Place, cautions_of_places
from pdctl.deployment.ports import DIST_INIT_PORTS, plan_ports
from pdctl.deployment.records import HERE, Ports, RolePlan, RouterPlan
from pdctl.deployment.resources import (
    assign_gpus,
    assign_more_gpus,
    choose_backend,
    index_ranges,
    needs_gpus,
    nvlink_domains,
    parse_gpu_list,
)
from pdctl.errors import EnvironmentProblem, InvalidInput
from pdctl.inspection.records import Gpu
from pdctl.perf_model.records import Parallelism
from tests.deployment.examples import colocated, gpu, install, split
from tests.engines.world import fleet_specs


def here(assigned: Mapping[str, tuple[int, ...]]) -> dict[str, Place]:
    return {name: Place(HERE, gpus) for name, gpus in assigned.items()}


@pytest.mark.parametrize(
    ("has", "rdma", "nvlink", "backend", "why"),
    [
        (("mooncake", "nixl"), True, True, "mooncake", "RDMA"),
        (("mooncake", "nixl"), False, True, "nixl", "NVLink"),
        (("nixl",), True, False, "nixl", "RDMA"),
        (("nixl",), False, False, "nixl", "shared memory"),
        (("mooncake",), False, True, "mooncake_tcp", "slow"),
        (("mori",), False, False, "mori", "only one"),
    ],
)
def test_the_backend_is_what_imports_and_the_hardware_carries(
    has: tuple[str, ...], rdma: bool, nvlink: bool, backend: str, why: str
) -> None:
    chosen, reason = choose_backend(install("0.5.23", *has), rdma=rdma, nvlink=nvlink)
    assert chosen == backend
    assert why in reason


def test_without_any_backend_the_error_says_what_to_install() -> None:
    with pytest.raises(EnvironmentProblem, match="No KV transfer backend imports") as error:
        choose_backend(install(), rdma=True, nvlink=True)
    assert "/venv/bin/python -m pip install nixl" in error.value.hint
    assert "--engine sim" in error.value.hint


def test_a_requested_backend_is_taken_if_it_imports() -> None:
    has = install("0.5.23", "mooncake")
    chosen, _ = choose_backend(has, requested="mooncake_tcp", rdma=True, nvlink=True)
    assert chosen == "mooncake_tcp"
    with pytest.raises(EnvironmentProblem, match="nixl does not import"):
        choose_backend(has, requested="nixl", rdma=True, nvlink=True)
    with pytest.raises(InvalidInput, match="no KV transfer backend 'smoke'"):
        choose_backend(has, requested="smoke", rdma=True, nvlink=True)


def all_ports(ports: Ports) -> list[int]:
    assert ports.dist_init is not None
    derived = range(ports.dist_init, ports.dist_init + DIST_INIT_PORTS)
    return [p for p in (ports.http, ports.bootstrap, ports.nccl) if p is not None] + [*derived]


def test_no_two_processes_share_a_port_even_at_the_largest_size() -> None:
    planned = plan_ports(split(25, 75), lambda port: True)
    router = planned.pop("router")
    assert (router.http, router.metrics) == (30000, 29000)
    used = [30000, 29000, *chain.from_iterable(map(all_ports, planned.values()))]
    assert len(used) == len(set(used)) == 2 + 100 * (3 + DIST_INIT_PORTS)
    # Linux hands out ports from 32768, Ray's workers use 10002-19999
    assert all(20000 <= port < 32768 for port in used)


def test_engines_are_spaced_so_that_derived_ports_never_meet() -> None:
    planned = plan_ports(split(), lambda port: True)
    http = [ports.http for name, ports in planned.items() if name != "router"]
    assert min(b - a for a, b in zip(http, http[1:], strict=False)) >= 10


def test_ports_in_use_are_passed_over() -> None:
    taken = {20000, 21010, 24006, 29000}
    planned = plan_ports(split(1, 1), lambda port: port not in taken)
    assert planned["router"].metrics == 29010
    assert planned["prefill-0"] == Ports(http=20010, bootstrap=21000, nccl=23000, dist_init=24010)
    assert planned["decode-0"].bootstrap == 21020


def test_the_routers_own_port_is_given_to_nobody_else() -> None:
    planned = plan_ports(split(1, 1, router=RouterPlan(port=20000)), lambda port: True)
    assert planned["router"].http == 20000
    assert planned["prefill-0"].http == 20010


def test_a_router_port_in_use_is_an_error_that_names_a_free_one() -> None:
    with pytest.raises(EnvironmentProblem, match="port 30000 is already in use") as error:
        plan_ports(split(), lambda port: port not in (30000, 30001))
    assert error.value.hint == "--port 30002"
    with pytest.raises(EnvironmentProblem) as error:
        plan_ports(split(), lambda port: False)
    with pytest.raises(EnvironmentProblem, match="30000 is already in use by the deployment chat"):
        plan_ports(split(), lambda port: port != 30000, owners={30000: "chat"})
    assert error.value.hint == "--port N with a free port"


def test_a_router_port_in_use_on_another_machine_names_it() -> None:
    with pytest.raises(EnvironmentProblem, match="30000 is already in use on node1"):
        plan_ports(split(), lambda port: port != 30000, router_node="node1")


def test_a_full_band_is_an_error_that_names_it() -> None:
    with pytest.raises(EnvironmentProblem, match="21999 is free for the bootstrap registry"):
        plan_ports(split(), lambda port: not 21000 <= port < 22000)


def test_a_deployment_may_have_hundreds_of_engines() -> None:
    many = deployment_of(model="m", prefill=100, total=400, engine="sim")
    router, *engines = plan_ports(many, lambda port: True).values()
    taken = {port for p in engines for port in (p.http, p.bootstrap, p.nccl)}
    groups = {(p.dist_init or 0) + i for p in engines for i in range(DIST_INIT_PORTS)}
    assert (len(taken), len(groups), len(taken & groups)) == (1200, 2800, 0)
    assert max(groups) < router.http


RUNNING = fleet_specs(1, 2)  # prefill-0 on GPU 0, decode-0 on 1, decode-1 on 2


def gpus(num: int, used: set[int]) -> list[Gpu]:
    full = 80 << 30
    return [Gpu(i, "H100", f"u{i}", full, full if i in used else 0) for i in range(num)]


def test_engines_that_stay_keep_their_gpus_and_new_ones_take_free_ones() -> None:
    wanted = deployment_of(model="m", prefill=1, total=4)
    assert assign_more_gpus(wanted, RUNNING, gpus(4, {0, 1, 2})) == {
        "prefill-0": (0,),
        "decode-0": (1,),
        "decode-1": (2,),
        "decode-2": (3,),
    }


def test_a_change_of_roles_prefers_free_gpus_to_those_of_engines_that_leave() -> None:
    wanted = deployment_of(model="m", prefill=2, total=3)
    assert assign_more_gpus(wanted, RUNNING, gpus(4, {0, 1, 2}))["prefill-1"] == (3,)
    assert assign_more_gpus(wanted, RUNNING, gpus(3, {0, 1, 2}))["prefill-1"] == (2,)


def test_too_few_gpus_are_said_so() -> None:
    wanted = deployment_of(model="m", prefill=1, total=4)
    with pytest.raises(EnvironmentProblem):
        assign_more_gpus(wanted, RUNNING, gpus(3, {0, 1, 2}))


def test_simulated_engines_get_numbers_that_no_other_has() -> None:
    wanted = deployment_of(model="m", prefill=2, total=4, engine="sim")
    assert assign_more_gpus(wanted, RUNNING, ()) == {
        "prefill-0": (0,),
        "decode-0": (1,),
        "decode-1": (2,),
        "prefill-1": (3,),
    }


def test_fewer_engines_need_nothing() -> None:
    wanted = deployment_of(model="m", prefill=1, total=2)
    assert assign_more_gpus(wanted, RUNNING, ()) == {"prefill-0": (0,), "decode-0": (1,)}


def test_a_deployment_that_does_not_run_yet_is_assigned_as_a_whole() -> None:
    wanted = replace(deployment_of(model="m", prefill=1, total=2), gpus="1-2")
    assert assign_more_gpus(wanted, (), gpus(4, set())) == {"prefill-0": (1,), "decode-0": (2,)}


EIGHT = [gpu(i) for i in range(8)]
# two NVLink domains, 0-3 and 4-7
TWO_DOMAINS = [
    gpu(i, peers=tuple(j for j in range(8) if j != i and j // 4 == i // 4)) for i in range(8)
]


def test_engines_get_free_gpus_in_order() -> None:
    busy = [gpu(i, held_gib=40, by="7 python") if i in (0, 3) else gpu(i) for i in range(10)]
    assigned = assign_gpus(split(), busy)
    assert list(assigned) == ["prefill-0", "prefill-1", *(f"decode-{i}" for i in range(6))]
    assert [g for gpus in assigned.values() for g in gpus] == [1, 2, 4, 5, 6, 7, 8, 9]


def test_too_few_free_gpus_are_told_with_who_holds_the_others_and_what_would_fit() -> None:
    held = {3: gpu(3, held_gib=71, by="4121 python"), 7: gpu(7, held_gib=40, by="4188 vllm")}
    with pytest.raises(EnvironmentProblem) as error:
        assign_gpus(split(), [held.get(i, gpu(i)) for i in range(8)])
    assert error.value.message == (
        "8 engines need 8 free GPUs; 6 are free (GPU 3: 71 GiB held by pid 4121 python, "
        "GPU 7: 40 GiB held by pid 4188 vllm)."
    )
    assert error.value.hint == (
        "pdctl up llama-3.1-8b --prefill 2 --total 6, or --gpus 0-2,4-6 to choose, "
        "or --engine sim to rehearse."
    )


def test_a_gpu_that_cannot_be_read_is_not_free() -> None:
    dead = Gpu(1, "", "", None, None, problem="is lost")
    with pytest.raises(EnvironmentProblem, match=r"1 is free \(GPU 1: is lost\)"):
        assign_gpus(colocated(2), [gpu(0), dead])


@pytest.mark.parametrize(
    ("num_free", "hint"),
    [
        (0, "--engine sim to rehearse."),
        (1, "--gpus 0 to choose, or --engine sim"),
        (2, "--prefill 1 --total 2, or --gpus 0-1"),
    ],
)
def test_the_hint_offers_only_what_can_be_started(num_free: int, hint: str) -> None:
    with pytest.raises(EnvironmentProblem) as error:
        assign_gpus(split(2, 2), EIGHT[:num_free])
    assert error.value.hint.startswith(hint) or hint in error.value.hint
    assert ("--total" in error.value.hint) == (num_free >= 2)


def test_chosen_gpus_are_used_in_their_order_and_no_others() -> None:
    assigned = assign_gpus(split(1, 2, gpus="5-6,2"), EIGHT)
    assert sorted(g for gpus in assigned.values() for g in gpus) == [2, 5, 6]
    with pytest.raises(EnvironmentProblem, match="need 8 free GPUs; 3 are free"):
        assign_gpus(split(gpus="5-6,2"), EIGHT)
    with pytest.raises(InvalidInput, match="names GPU 8, which does not exist here"):
        assign_gpus(split(gpus="7-9"), EIGHT)


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "3-1", "1,1", "8xH200", "0-999999999"])
def test_a_list_of_gpus_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="--gpus"):
        parse_gpu_list(text)


def test_a_tensor_parallel_group_stays_inside_one_nvlink_domain() -> None:
    busy = [
        gpu(g.index, held_gib=9, by="1 x", peers=g.nvlink_peers) if g.index == 1 else g
        for g in TWO_DOMAINS
    ]
    engines = split(1, 2, roles={"prefill": RolePlan(1), "decode": RolePlan(2, Parallelism(tp=2))})
    assigned = assign_gpus(engines, busy)
    domains = {name: {g // 4 for g in gpus} for name, gpus in assigned.items()}
    assert all(len(found) == 1 for found in domains.values())
    assert cautions_of_places(split(), here(assigned), {HERE: TWO_DOMAINS}) == ()


def test_small_engines_leave_whole_domains_to_large_ones() -> None:
    engines = split(roles={"prefill": RolePlan(2), "decode": RolePlan(1, Parallelism(tp=4))})
    assigned = assign_gpus(engines, TWO_DOMAINS)
    assert assigned["decode-0"] == (0, 1, 2, 3)
    assert assigned["prefill-0"] == (4,)


def test_where_no_domain_has_room_the_group_crosses_and_says_so() -> None:
    assigned = assign_gpus(colocated(1, roles={"colocated": RolePlan(1, Parallelism(tp=2))}), EIGHT)
    assert assigned == {"colocated-0": (0, 1)}
    assert cautions_of_places(split(), here(assigned), {HERE: EIGHT}) == (
        "colocated-0 spans GPUs 0-1, which have no NVLink between them: "
        "its GPUs communicate over PCIe.",
    )


def test_domains_are_joined_by_chains_of_links() -> None:
    chain = [gpu(0, peers=(1,)), gpu(2, peers=(3,)), gpu(1, peers=(2,)), gpu(3), gpu(4)]
    assert [[g.index for g in d] for d in nvlink_domains(chain)] == [[0, 1, 2, 3], [4]]


def test_simulated_engines_get_numbers_and_cpu_engines_nothing() -> None:
    simulated = split(1, 1, engine="sim", parallelism=Parallelism(tp=4, pp=2))
    assert assign_gpus(simulated, ()) == {
        "prefill-0": tuple(range(8)),
        "decode-0": tuple(range(8, 16)),
    }
    on_cpu = colocated(roles={"colocated": RolePlan(1, args=("--device=cpu",))})
    assert not needs_gpus(on_cpu)
    assert assign_gpus(on_cpu, ()) == {"colocated-0": ()}


def test_simulated_engines_must_fit_on_known_gpus() -> None:
    with pytest.raises(InvalidInput, match="8 engines need 8 GPUs, but --gpus 4xH200 describes 4"):
        assign_gpus(split(engine="sim", gpus="4xH200"), ())
    with pytest.raises(InvalidInput, match="B2000"):
        assign_gpus(split(engine="sim", gpus="8xB2000"), ())


def test_ranges_are_short() -> None:
    assert index_ranges([6, 0, 1, 2, 4, 5]) == "0-2,4-6"
    assert index_ranges([3]) == "3"
