import pytest

from pdctl.deployment.placement import (
    assign_gpus,
    crossing,
    index_ranges,
    needs_gpus,
    nvlink_domains,
    parse_gpu_list,
)
from pdctl.deployment.records import RolePlan
from pdctl.errors import EnvironmentProblem, InvalidInput
from pdctl.inspection.records import Gpu
from pdctl.perf_model.records import Parallelism
from tests.deployment.examples import colocated, gpu, split

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
    with pytest.raises(InvalidInput, match="names GPU 8, which is not here"):
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
    assert crossing(assigned, TWO_DOMAINS) == ()


def test_small_engines_leave_whole_domains_to_large_ones() -> None:
    engines = split(roles={"prefill": RolePlan(2), "decode": RolePlan(1, Parallelism(tp=4))})
    assigned = assign_gpus(engines, TWO_DOMAINS)
    assert assigned["decode-0"] == (0, 1, 2, 3)
    assert assigned["prefill-0"] == (4,)


def test_where_no_domain_has_room_the_group_crosses_and_says_so() -> None:
    assigned = assign_gpus(colocated(1, roles={"colocated": RolePlan(1, Parallelism(tp=2))}), EIGHT)
    assert assigned == {"colocated-0": (0, 1)}
    assert crossing(assigned, EIGHT) == (
        "colocated-0 spans GPU 0-1, which share no NVLink: its GPUs talk over PCIe.",
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
    with pytest.raises(InvalidInput, match="8 engines take 8 GPUs; --gpus 4xH200 describes 4"):
        assign_gpus(split(engine="sim", gpus="4xH200"), ())
    with pytest.raises(InvalidInput, match="B2000"):
        assign_gpus(split(engine="sim", gpus="8xB2000"), ())


def test_ranges_are_short() -> None:
    assert index_ranges([6, 0, 1, 2, 4, 5]) == "0-2,4-6"
    assert index_ranges([3]) == "3"
