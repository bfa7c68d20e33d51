from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdctl.errors import InvalidInput
from pdctl.inspection.cluster import parse_gpus
from pdctl.inspection.llm import read_llm
from pdctl.verdict.records import Rule
from pdctl.verdict.rules import (
    LoadEstimate,
    apply_rules,
    lean,
    quarter,
    rate_match,
    uncached_prompt_tokens,
    verify_batch,
)
from pdctl.workload.describe import workload_from_lengths
from pdctl.workload.records import Burstiness, Mix, Requests


@pytest.mark.parametrize(
    ("total", "prefill"), [(2, 1), (3, 1), (4, 1), (5, 1), (6, 2), (8, 2), (10, 3), (12, 3)]
)
def test_a_quarter_of_the_engines_prefill(total: int, prefill: int) -> None:
    sizing = quarter(total)
    assert (sizing.prefill, sizing.decode) == (prefill, total - prefill)


def test_one_engine_cannot_be_split() -> None:
    with pytest.raises(InvalidInput, match="at least 2 engines, not 1"):
        quarter(1)


def test_prefill_engines_follow_the_prompt_tokens_per_second() -> None:
    sizing = rate_match(8, prompt_tokens_per_s=24_000, prefill_tokens_per_s=10_000)
    assert (sizing.prefill, sizing.decode, sizing.basis) == (3, 5, "rate_match")


def test_an_exact_need_is_not_rounded_up() -> None:
    sizing = rate_match(8, prompt_tokens_per_s=16_000, prefill_tokens_per_s=8000)
    assert sizing.prefill == 2


def test_when_there_are_too_few_engines_both_roles_give_way_in_proportion() -> None:
    sizing = rate_match(
        4,
        prompt_tokens_per_s=10_000,
        prefill_tokens_per_s=1000,
        output_tokens_per_s=10_000,
        decode_tokens_per_s=1000,
    )
    assert (sizing.prefill, sizing.decode) == (2, 2)


@given(
    total=st.integers(2, 600),
    tokens_per_s=st.floats(1e-3, 1e10),
    speed=st.floats(1, 1e6),
)
def test_both_roles_always_have_an_engine(total: int, tokens_per_s: float, speed: float) -> None:
    sizing = rate_match(total, prompt_tokens_per_s=tokens_per_s, prefill_tokens_per_s=speed)
    assert sizing.prefill is not None
    assert sizing.decode is not None
    assert sizing.prefill >= 1
    assert sizing.decode >= 1
    assert sizing.prefill + sizing.decode == total


def test_a_verify_batch_has_a_row_per_draft_token_and_one_more() -> None:
    assert verify_batch(32, 4) == 128


IDS = (
    "long_prompts",
    "decode_batch",
    "moe",
    "short_prompts",
    "single_node",
    "variability",
    "kv_path",
)


def rules(
    *,
    model: str = "llama-3.1-8b",
    gpus: str = "2x8xH200:rdma400",
    isl: float | None = 8000,
    hit: float | None = None,
    load: LoadEstimate | None = None,
) -> dict[str, Rule]:
    workload = workload_from_lengths(isl=isl, osl=500, prefix_hit=hit)
    return rules_of(workload, load, model, gpus)


def rules_of(
    mix: Mix,
    load: LoadEstimate | None = None,
    model: str = "llama-3.1-8b",
    gpus: str = "8xH200",
) -> dict[str, Rule]:
    found = apply_rules(read_llm(model), parse_gpus(gpus), mix, load)
    return {rule.id: rule for rule in found}


def bursty(dispersion: float, peak: float) -> Rule:
    return rules_of(Mix(None, None, None, Burstiness(dispersion, peak), None))["variability"]


def test_every_rule_has_a_line_with_text_and_source() -> None:
    found = rules()
    assert tuple(found) == IDS
    assert all(rule.text and rule.source for rule in found.values())


@pytest.mark.parametrize(("isl", "long", "short"), [
    (4000, "pd", "neither"),
    (3999, "neither", "neither"),
    (1000, "neither", "neither"),
    (999, "neither", "colocated"),
])  # fmt: skip
def test_prompts_are_long_from_4k_and_short_under_1k(isl: float, long: str, short: str) -> None:
    found = rules(isl=isl)
    assert (found["long_prompts"].favours, found["short_prompts"].favours) == (long, short)


def test_only_the_uncached_part_of_a_prompt_counts() -> None:
    found = rules(isl=8000, hit=0.9)
    assert found["long_prompts"].value == pytest.approx(800)
    assert found["long_prompts"].favours == "neither"
    assert found["short_prompts"].favours == "colocated"


def test_unknown_lengths_stay_unknown() -> None:
    found = rules(isl=None)
    assert found["long_prompts"].favours == found["short_prompts"].favours == "unknown"
    assert found["long_prompts"].value is None
    assert uncached_prompt_tokens(workload_from_lengths(isl=None, osl=None)) is None


@pytest.mark.parametrize(
    ("isl", "osl", "text"),
    [
        (None, None, "unknown: --isl and --osl"),
        (8000, None, "unknown: --osl"),
        (8000, 500, "unknown: nothing can run this"),
    ],
)
def test_what_is_unknown_names_only_what_was_not_given(
    isl: float | None, osl: float | None, text: str
) -> None:
    found = rules_of(workload_from_lengths(isl=isl, osl=osl))
    assert (found["decode_batch"].text, found["kv_path"].text) == (text, text)


def test_a_decode_batch_is_high_from_32() -> None:
    assert rules()["decode_batch"].favours == "unknown"
    assert rules(load=LoadEstimate(decode_batch=31.0))["decode_batch"].favours == "neither"
    assert rules(load=LoadEstimate(decode_batch=32.0))["decode_batch"].favours == "pd"


def test_experts_favour_a_split_and_a_dense_model_says_nothing() -> None:
    assert rules(model="qwen3-30b-a3b")["moe"].favours == "pd"
    assert rules(model="qwen3-8b")["moe"].favours == "neither"


def test_one_node_is_a_prior_against_a_split() -> None:
    assert rules(gpus="8xH200")["single_node"].favours == "colocated"
    assert rules(gpus="2x8xH200:rdma400")["single_node"].favours == "neither"


@pytest.mark.parametrize(("dispersion", "peak", "favours"), [
    (2.9, 1.21, "neither"),  # Mooncake conversation
    (164.0, 4.18, "colocated"),  # Azure code 2023
    (51.0, 1.0, "colocated"),
    (1.0, 2.6, "colocated"),
])  # fmt: skip
def test_only_strongly_uneven_arrivals_count_as_variable(
    dispersion: float, peak: float, favours: str
) -> None:
    assert bursty(dispersion, peak).favours == favours


def test_kv_that_moves_slower_than_half_its_prefill_speaks_against_a_split() -> None:
    fast = rules(load=LoadEstimate(kv_move_s=0.04, prefill_s=0.4))
    slow = rules(load=LoadEstimate(kv_move_s=0.3, prefill_s=0.4))
    assert fast["kv_path"].favours == "neither"
    assert slow["kv_path"].favours == "colocated"


def test_cards_that_meet_only_over_pcie_speak_against_a_split() -> None:
    assert rules(gpus="8xRTX4090")["kv_path"].favours == "colocated"


def test_an_unknown_link_between_nodes_is_unknown_and_says_how_to_give_it() -> None:
    rule = rules(gpus="2x8xH200")["kv_path"]
    assert rule.favours == "unknown"
    assert "rdma400" in rule.text


def test_two_rules_for_a_split_and_none_against_lean_to_it() -> None:
    assert lean(tuple(rules(model="deepseek-r1").values())) == "pd"
    assert lean(tuple(rules(model="deepseek-r1", gpus="8xH200").values())) == "mixed"
    assert lean(tuple(rules(isl=500, gpus="8xH200").values())) == "colocated"


@pytest.mark.parametrize("gpus", ["1xRTX4090", "1xH100"])
def test_on_one_gpu_no_path_speaks_for_either_side(gpus: str) -> None:
    rule = rules(gpus=gpus, load=LoadEstimate(kv_move_s=9.0, prefill_s=0.1))["kv_path"]
    assert (rule.favours, rule.text) == ("neither", "one GPU: nothing is transferred")


def test_without_a_split_the_decode_batch_is_that_of_an_engine() -> None:
    batches = [LoadEstimate(decode_batch=16.0, is_split=split) for split in (True, False)]
    split, together = (rules(load=load)["decode_batch"].text for load in batches)
    assert (split, together) == ("~16 running per decode engine", "~16 running per engine")


def test_a_prompt_of_one_token_is_told_in_the_singular() -> None:
    rule = rules(isl=1)["long_prompts"]
    assert rule.text == "mean 1 token"


def test_a_bad_kv_path_decides_alone() -> None:
    load = LoadEstimate(decode_batch=200, kv_move_s=9.0, prefill_s=0.1)
    assert lean(tuple(rules(model="deepseek-r1", load=load).values())) == "colocated"


def test_a_short_trace_is_not_asked_for_again() -> None:
    seen = workload_from_lengths(isl=4000, osl=300)
    short = replace(seen, requests=Requests([0.0, 20.0], [4000, 4000], [300, 300]))
    texts = [rules_of(workload)["variability"].text for workload in (seen, short)]
    assert texts == ["unknown: give a trace", "no five minutes of arrivals"]
