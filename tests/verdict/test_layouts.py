import pytest

from pdctl.errors import InvalidInput
from pdctl.perf_model.records import Fleet, Parallelism
from pdctl.verdict.layouts import (
    colocated_fleets,
    engines_that_fit,
    gpu_budget,
    pd_fleets,
    state_limits,
)
from pdctl.verdict.records import Question
from tests.verdict.examples import question

TP2 = {role: Parallelism(tp=2) for role in ("colocated", "prefill", "decode")}


def test_both_arms_use_the_same_gpus() -> None:
    asked = question(gpus="2x8xH200:rdma400", parallelism=TP2)
    engines = engines_that_fit(asked)
    (alone,) = colocated_fleets(asked, engines)
    splits = pd_fleets(asked, engines.prefill[0], engines.decode[0])
    assert alone.layout == "8C"
    assert [fleet.layout for fleet in splits] == [f"{p}P{8 - p}D" for p in range(1, 8)]
    assert {fleet.num_gpus for fleet in splits} == {alone.num_gpus} == {16}


def test_a_model_too_large_for_one_gpu_is_only_tried_on_more() -> None:
    engines = engines_that_fit(question("llama-3.1-70b", "8xH100"))
    assert min(e.parallelism.num_gpus for e in engines.decode) >= 2
    assert all(e.kv_capacity_tokens > 0 for e in engines.decode)


def test_nothing_fits_is_an_empty_answer() -> None:
    engines = engines_that_fit(question("deepseek-r1", "2xL40S"))
    assert engines.colocated == engines.prefill == engines.decode == ()


@pytest.mark.parametrize("isl", [500, 30_000, 120_000])
def test_engines_made_for_other_prompts_are_those_that_would_be_made(isl: int) -> None:
    asked = question("llama-3.1-70b", "8xL40S", isl=isl)
    made = engines_that_fit(question("llama-3.1-70b", "8xL40S", isl=60_000))
    assert engines_that_fit(asked, made) == engines_that_fit(asked)


def test_the_number_of_engines_fixes_their_size() -> None:
    asked = question(gpus="2x8xH200:rdma400", total=4)
    assert {e.parallelism.num_gpus for e in engines_that_fit(asked).decode} == {4}


def test_more_engines_than_gpus_are_refused_with_a_number_that_fits() -> None:
    with pytest.raises(InvalidInput, match="9 engines of 2 GPUs need 18 GPUs") as refused:
        gpu_budget(question(gpus="2x8xH200", total=9, parallelism=TP2))
    assert refused.value.hint == "--total 8"


@pytest.mark.parametrize(
    ("gpus", "total", "tp", "text"),
    [
        ("2xH200", 9, 1, "9 engines of 1 GPU need 9 GPUs; there are 2."),
        ("1xH200", 2, 1, "2 engines of 1 GPU need 2 GPUs; there is 1."),
        ("2xH200", 1, 4, "1 engine of 4 GPUs needs 4 GPUs; there are 2."),
        ("3x3xH200", 4, 2, "3x3xH200 has no room for 4 engines of 2 GPUs, only for 3."),
    ],
)
def test_engines_without_room_are_counted_in_the_right_number(
    gpus: str, total: int, tp: int, text: str
) -> None:
    sizes = {role: Parallelism(tp=tp) for role in ("colocated", "prefill", "decode")}
    with pytest.raises(InvalidInput) as refused:
        gpu_budget(question(gpus=gpus, total=total, parallelism=sizes))
    assert str(refused.value) == text


def test_splits_of_unequal_engines_leave_no_room_for_another_prefill_engine() -> None:
    shapes = {"prefill": Parallelism(tp=2), "decode": Parallelism(tp=4)}
    asked = question(gpus="8xH200", parallelism=shapes)
    engines = engines_that_fit(asked)
    splits = pd_fleets(asked, engines.prefill[0], engines.decode[0])
    assert [fleet.layout for fleet in splits] == ["2P1D"]


@pytest.mark.parametrize(
    ("gpus", "most", "splits"),
    [
        ("2x6xH100", 2, ["1P1D"]),  # two GPUs of each node are left
        ("8+4xH100", 3, ["1P2D", "2P1D"]),
        ("8+2xH100", 2, ["1P1D"]),
    ],
)
def test_an_engine_of_four_gpus_stays_on_one_node(gpus: str, most: int, splits: list[str]) -> None:
    fours = {role: Parallelism(tp=4) for role in ("colocated", "prefill", "decode")}
    asked = question(gpus=gpus, parallelism=fours)
    engines = engines_that_fit(asked)
    assert [fleet.layout for fleet in colocated_fleets(asked, engines)] == [f"{most}C"]
    found = pd_fleets(asked, engines.prefill[0], engines.decode[0])
    assert [fleet.layout for fleet in found] == splits
    with pytest.raises(InvalidInput) as refused:
        gpu_budget(question(gpus=gpus, parallelism=fours, total=most + 1))
    assert refused.value.hint == f"--total {most}"


def test_small_engines_fill_what_large_ones_leave() -> None:
    shapes = {"prefill": Parallelism(tp=2), "decode": Parallelism(tp=4)}
    asked = question(gpus="2x7xH100", parallelism=shapes)
    engines = engines_that_fit(asked)
    found = pd_fleets(asked, engines.prefill[0], engines.decode[0])
    assert [fleet.layout for fleet in found] == ["2P2D", "4P1D"]


def test_experts_spread_over_whole_engines() -> None:
    engines = engines_that_fit(question("deepseek-r1", "4x8xH200:rdma400"))
    assert any(e.parallelism.ep == e.parallelism.tp > 1 for e in engines.decode)


def both_fleets(asked: Question) -> dict[str, Fleet]:
    engines = engines_that_fit(asked)
    splits = pd_fleets(asked, engines.prefill[0], engines.decode[0])
    return {"colocated": colocated_fleets(asked, engines)[0], "pd": splits[0]}


def test_states_of_requests_make_a_decode_engine_run_more_requests_than_a_colocated_one() -> None:
    asked = question("qwen3-next-80b-a3b", parallelism=TP2)
    limits = state_limits(asked.llm, both_fleets(asked))
    assert limits is not None
    assert limits.decode > 1.5 * limits.colocated


def test_limits_are_not_told_without_states_or_without_a_split() -> None:
    plain = question(parallelism=TP2)
    assert state_limits(plain.llm, both_fleets(plain)) is None
    asked = question("qwen3-next-80b-a3b", parallelism=TP2)
    assert state_limits(asked.llm, {"colocated": both_fleets(asked)["colocated"]}) is None
