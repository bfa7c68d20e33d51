"""What fits on a GPU, against SGLang's own figures and logs."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pdctl.errors import InvalidInput
from pdctl.inspection.cluster import parse_gpus
from pdctl.inspection.llm import llm_from_config, read_llm
from pdctl.inspection.model_files import Fields
from pdctl.inspection.records import Llm
from pdctl.perf_model.engine_model import does_not_fit_reason, engine_model
from pdctl.perf_model.hardware import kv_value_bytes
from pdctl.perf_model.memory import (
    check_parallelism,
    chunked_prefill_size,
    decode_graph_batch,
    kv_capacity_tokens,
    kv_cell_bytes,
    max_running_requests,
    mem_fraction_static,
    prefill_graph_sizes,
    running_cap,
    state_slots,
    weight_bytes_per_gpu,
)
from pdctl.perf_model.records import Parallelism, Role, Serving
from pdctl.units import GIB
from tests.perf_model.shapes import ONE, cluster, gpu, llm


@pytest.mark.parametrize(
    ("name", "tp", "role", "prefill_graphs", "fraction"),
    [
        ("H200", 1, "colocated", True, 0.903),
        ("H200", 1, "prefill", False, 0.910),
        ("H200", 1, "prefill", True, 0.907),
        ("H200", 1, "decode", True, 0.929),
        ("H100", 1, "colocated", True, 0.830),
        ("H100", 1, "prefill", False, 0.841),
        ("H100", 1, "decode", True, 0.874),
        ("H100", 8, "colocated", True, 0.812),
        ("H100", 8, "prefill", False, 0.831),
        ("H100", 8, "decode", True, 0.874),
    ],
)
def test_the_memory_fraction_is_what_sglang_computes(
    name: str, tp: int, role: Role, prefill_graphs: bool, fraction: float
) -> None:
    # prefill_graphs False is SGLang 0.5.15's prefill engine, which captures none
    found = mem_fraction_static(
        llm("llama-3.1-8b"),
        gpu(name),
        Parallelism(tp=tp),
        role,
        Serving(prefill_graphs=prefill_graphs),
    )
    assert found == fraction


def test_kv_capacity_is_within_a_thousandth_of_what_an_h200_logged() -> None:
    # SGLang 0.5.15, Llama-3.1-8B bf16, --mem-fraction-static 0.8: "#tokens: 788347"
    tokens = kv_capacity_tokens(
        llm("llama-3.1-8b"), gpu("H200"), ONE, "decode", Serving(mem_fraction=0.8)
    )
    assert tokens == pytest.approx(788_347, rel=1e-3)


def test_the_capacity_formula_gives_the_tokens_of_the_logged_memory() -> None:
    # (avail after weights − free at start·(1 − f)) / cell, all from the same log
    cell = kv_cell_bytes(llm("llama-3.1-8b"), ONE)
    assert cell == 131_072
    assert int((124.07 - 139.09 * 0.2) * GIB / cell) == 788_496


def test_max_running_requests_is_what_sglang_logged() -> None:
    assert max_running_requests(788_347, 131_072) == 3079
    assert max_running_requests(788_347, 131_072, speculative=True) == 48
    assert max_running_requests(1000, 131_072) == 500
    assert max_running_requests(10**8, 4096) == 4096


def test_defaults_follow_the_memory_of_the_gpu() -> None:
    assert [chunked_prefill_size(gpu(n)) for n in ("RTX-4090", "L40S", "H100", "H200", "B200")] == [
        2048,
        4096,
        8192,
        8192,
        16384,
    ]
    assert decode_graph_batch(gpu("H200"), tp=1) == 256
    assert decode_graph_batch(gpu("H200"), tp=4) == 512


def test_as_many_prefill_graphs_are_counted_as_sglang_captures() -> None:
    # 58 MiB·8: what SGLang 0.5.23's prefill engine reserves beyond 0.5.15's, 464 MiB
    assert prefill_graph_sizes(8192) == 58


def test_tensor_parallelism_divides_weights_and_gqa_cache_until_kv_heads_run_out() -> None:
    shape = llm("llama-3.1-70b")
    one, eight, sixteen = (Parallelism(tp=n) for n in (1, 8, 16))
    assert weight_bytes_per_gpu(shape, eight) == pytest.approx(weight_bytes_per_gpu(shape, one) / 8)
    assert kv_cell_bytes(shape, eight) == kv_cell_bytes(shape, one) / 8
    assert kv_cell_bytes(shape, sixteen) == kv_cell_bytes(shape, eight)


def test_mla_cache_is_whole_on_every_gpu_and_attention_dp_multiplies_capacity() -> None:
    shape, h200 = llm("deepseek-v3"), gpu("H200")
    tp8, dp8 = Parallelism(tp=8), Parallelism(tp=8, dp=8)
    assert kv_cell_bytes(shape, tp8) == kv_cell_bytes(shape, ONE) == 70_272
    fixed = Serving(mem_fraction=0.85)
    plain = kv_capacity_tokens(shape, h200, tp8, "decode", fixed)
    ranks = kv_capacity_tokens(shape, h200, dp8, "decode", fixed)
    assert weight_bytes_per_gpu(shape, dp8) > weight_bytes_per_gpu(shape, tp8)
    assert 5 * plain < ranks < 8 * plain


def test_expert_parallelism_keeps_routed_experts_cut_and_shared_ones_whole() -> None:
    shape = llm("deepseek-v3")
    cut, spread = (weight_bytes_per_gpu(shape, Parallelism(tp=8, ep=n)) for n in (1, 8))
    shared = 58 * 3 * 7168 * 2048 * shape.linear_bytes
    assert spread - cut == pytest.approx(shared * 7 / 8)


def test_pipeline_stages_hold_their_layers_and_one_end_of_the_vocabulary() -> None:
    shape = llm("llama-3.1-70b")
    whole = weight_bytes_per_gpu(shape, ONE)
    head = shape.vocab_size * shape.hidden_size * 2
    half = weight_bytes_per_gpu(shape, Parallelism(pp=2))
    assert half == pytest.approx((whole - 2 * head) / 2 + head)


def test_wide_attention_dp_takes_the_fraction_deployments_set_by_hand() -> None:
    wide = Parallelism(tp=72, dp=72, ep=72)
    model = engine_model(llm("deepseek-v3"), cluster("H100", 12, 50e9), wide, "decode")
    assert model is not None
    assert model.kv_capacity_tokens / 72 > 256 * 2500  # LMSYS ran 256 requests a GPU of 2.5K


def test_what_does_not_fit_is_told_in_words_with_both_sizes() -> None:
    assert engine_model(llm("llama-3.1-70b"), cluster("H100"), ONE, "prefill") is None
    reason = does_not_fit_reason(llm("llama-3.1-70b"), cluster("H100"), ONE, "prefill")
    assert reason is not None
    assert "131 GiB of weights" in reason
    assert "H100" in reason
    assert (
        does_not_fit_reason(llm("llama-3.1-70b"), cluster("H100"), Parallelism(tp=4), "prefill")
        is None
    )


def test_weights_that_fit_without_room_for_kv_do_not_fit() -> None:
    tight = replace(gpu("H100"), memory_bytes=16.5 * GIB)
    small = replace(cluster("H100"), gpu=tight)
    reason = does_not_fit_reason(
        llm("llama-3.1-8b"), small, ONE, "decode", serving=Serving(mem_fraction=0.99)
    )
    assert reason is not None
    assert "tokens of KV" in reason


def test_an_engine_larger_than_the_cluster_does_not_fit() -> None:
    reason = does_not_fit_reason(llm("deepseek-v3"), cluster(), Parallelism(tp=16), "prefill")
    assert reason == "one engine takes 16 GPUs and there are 8"


@pytest.mark.parametrize(
    ("parallelism", "words"),
    [
        (Parallelism(tp=3), "3 does not divide the 32 attention heads of llama-3.1-8b"),
        (Parallelism(tp=0), "tp must be at least 1, not 0"),
        (Parallelism(tp=4, dp=3), "dp 3 does not divide tp 4"),
        (Parallelism(pp=33), "pp 33 is more than the 32 layers"),
        (Parallelism(tp=2, ep=2), "needs experts, and llama-3.1-8b has none"),
    ],
)
def test_a_cut_the_llm_does_not_allow_is_refused(parallelism: Parallelism, words: str) -> None:
    with pytest.raises(InvalidInput, match=words) as caught:
        check_parallelism(llm("llama-3.1-8b"), parallelism)
    assert caught.value.hint.startswith("--")


def test_expert_parallelism_must_divide_tp() -> None:
    with pytest.raises(InvalidInput, match="ep 3 does not divide tp 8"):
        check_parallelism(llm("qwen3-30b-a3b"), Parallelism(tp=8, ep=3))


def test_an_engine_takes_sglangs_defaults_where_nothing_is_given() -> None:
    model = engine_model(llm("llama-3.1-8b"), cluster(), ONE, "colocated")
    assert model is not None
    assert (model.chunked_prefill_size, model.max_context, model.radix_cache) == (
        8192,
        131072,
        True,
    )
    decode = engine_model(llm("llama-3.1-8b"), cluster(), ONE, "decode", max_total_tokens=5000)
    assert decode is not None
    assert decode.kv_capacity_tokens == 5000
    assert not decode.radix_cache  # SGLang's decode engines keep no radix cache by default


QWEN35 = Path(__file__).parent.parent / "data" / "models" / "Qwen3.5-35B-A3B.json"


def hybrid() -> Llm:
    config = json.loads(QWEN35.read_text())["config.json"]
    return llm_from_config(Fields(config, "config.json"), name="Qwen3.5-35B-A3B")


def test_a_decode_engine_of_a_hybrid_runs_five_times_what_a_colocated_one_runs() -> None:
    # with one fraction for both: 509 and 101 on one H200, KV 1,786,330 tokens
    same = Serving(mem_fraction=0.929)
    engines = {
        role: engine_model(hybrid(), cluster("H200"), ONE, role, serving=same)
        for role in ("decode", "colocated", "prefill")
    }
    running = {role: engine.max_running_requests for role, engine in engines.items() if engine}
    assert running["decode"] == pytest.approx(509, abs=2)
    assert running["colocated"] == running["prefill"] == pytest.approx(101, abs=1)
    assert engines["decode"] is not None
    assert engines["decode"].kv_capacity_tokens == pytest.approx(1_786_330, rel=2e-3)


def test_state_is_cut_by_tensor_parallelism_and_a_plain_model_has_no_state_pool() -> None:
    one = state_slots(hybrid(), gpu("H200"), ONE, "decode")
    two = state_slots(hybrid(), gpu("H200"), Parallelism(tp=2), "decode")
    assert one is not None
    assert two is not None
    assert two > 2 * one  # half the state and half the weights on each
    assert state_slots(llm("llama-3.1-8b"), gpu("H200"), ONE, "decode") is None


def test_a_wish_for_more_running_requests_than_the_state_pool_has_is_capped() -> None:
    found = engine_model(hybrid(), cluster("H200"), ONE, "colocated", max_running=1000)
    assert found is not None
    assert found.max_running_requests < 110


def test_blocks_of_fp8_scales_must_survive_the_cut() -> None:
    minimax = llm("minimax-m2.5")  # experts 1,536 wide, blocks of 128
    check_parallelism(minimax, Parallelism(tp=4))
    with pytest.raises(InvalidInput, match="splits the 1536-wide .* FP8 blocks of 128") as caught:
        check_parallelism(minimax, Parallelism(tp=8))
    assert caught.value.hint == "--ep 8"
    check_parallelism(minimax, Parallelism(tp=8, ep=8))
    check_parallelism(llm("deepseek-r1"), Parallelism(tp=16))


def test_experts_must_divide_among_their_ranks() -> None:
    with pytest.raises(InvalidInput, match="ep 16 does not divide the 8 experts"):
        check_parallelism(llm("mixtral-8x7b"), Parallelism(tp=16, ep=16))
    # 32 redundant ones make 288 of them, as LMSYS serves it
    check_parallelism(llm("deepseek-v3"), Parallelism(tp=72, dp=72, ep=72))


def test_more_memory_for_states_leaves_less_for_kv_and_runs_more_requests() -> None:
    hybrid, h200 = llm("qwen3.5-35b-a3b"), gpu("H200")
    usual, more = Serving(), Serving(state_memory_ratio=2.0)
    kv = [kv_capacity_tokens(hybrid, h200, ONE, "colocated", s) for s in (usual, more)]
    running = [running_cap(hybrid, h200, ONE, "colocated", s) for s in (usual, more)]
    assert kv[1] < kv[0]
    assert running[0] is not None
    assert running[1] is not None
    assert running[1] > running[0]
    unbuffered = running_cap(hybrid, h200, ONE, "colocated", Serving(state_slots=3))
    assert unbuffered is not None
    assert unbuffered > 1.5 * running[0]


def test_an_engine_without_room_for_one_state_does_not_fit() -> None:
    hybrid, gpus = read_llm("qwen3.5-35b-a3b"), parse_gpus("8xH100")
    reason = does_not_fit_reason(hybrid, gpus, Parallelism(tp=1), "colocated")
    assert reason is not None
    assert "no room for the state of one request" in reason
    assert engine_model(hybrid, gpus, Parallelism(tp=1), "colocated") is None
    assert engine_model(hybrid, gpus, Parallelism(tp=2), "colocated") is not None


def test_sparse_attention_keeps_fp8_on_blackwell_and_16_bits_before() -> None:
    """sglang 0.5.23 arg_groups/overrides.py _dsa_kv_cache_dtype_default."""
    sparse = llm("deepseek-v3.2")
    assert kv_value_bytes(sparse, gpu("H200"), None) == 2.0
    assert kv_value_bytes(sparse, gpu("B200"), None) == 1.0
    assert kv_value_bytes(sparse, gpu("B200"), 2.0) == 2.0
    assert kv_value_bytes(llm("deepseek-v3"), gpu("B200"), None) == 2.0
