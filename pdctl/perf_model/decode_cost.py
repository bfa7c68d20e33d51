"""Decode coefficients of StepTimes from the roofline."""

from typing import NamedTuple

from pdctl.inspection.llm_size import num_kv_layers
from pdctl.inspection.records import Cluster, Llm
from pdctl.perf_model.collectives import collectives
from pdctl.perf_model.efficiencies import (
    DECODE_LAYER_S,
    DECODE_ROW_S,
    DECODE_STEP_S,
    EXPERT_IMBALANCE,
)
from pdctl.perf_model.prefill_cost import gemm_s, imbalance, kernels_s
from pdctl.perf_model.rates import Rates
from pdctl.perf_model.records import Parallelism, Role, Serving
from pdctl.perf_model.shards import Shard, attention_tp, kv_layer_bytes

# MLA decode multiplies each cached latent with every head: near the compute limit.
# Source: FlashMLA README, H800: 660 TFLOPS of 989 when compute-bound.
MLA_DECODE_SHARE = 0.60


class DecodeCost(NamedTuple):
    """As in StepTimes, of requests that verify `verify_tokens` tokens a step."""

    base_s: float
    dense_s: float
    weight_s: float
    request_s: float
    latency_s: float
    context_s: float
    compute_s: float
    split_s: float
    wave_batch: float


def decode_cost(
    llm: Llm,
    cluster: Cluster,
    part: Shard,
    rates: Rates,
    parallelism: Parallelism,
    role: Role,
    serving: Serving,
) -> DecodeCost:
    """What a decode step over all layers of the LLM costs one engine.

    Source: bytes read over memory bandwidth: dense weights each step, experts by coverage,
    KV by context; a step is at least its FLOPs (DistServe; InferSim). Verify batches multiply
    rows, not KV reads. A colocated engine cannot use DeepEP's low-latency mode.
    Ignores: padding of batches to graph sizes, CPU work that overlap hides.
    """
    moved = collectives(llm, cluster, parallelism, normal=role != "decode")
    uneven = EXPERT_IMBALANCE if parallelism.ep > 1 else 1.0
    head_s = part.head * llm.embedding_bytes / rates.memory
    dense_s = part.streamed * llm.linear_bytes / rates.memory
    draft_s = _draft_s(llm, dense_s, head_s, serving.verify_tokens)
    rows_s = moved.token_s + DECODE_ROW_S / parallelism.dp
    rows_s += _window_s(llm, rates, parallelism, serving.kv_dtype_bytes) / serving.verify_tokens
    row_flops_s = gemm_s(llm, part, rates, parallelism) + 2 * part.head / rates.gemm
    rows_per_stage = serving.verify_tokens / parallelism.pp
    return DecodeCost(
        base_s=DECODE_STEP_S + kernels_s(llm) + dense_s + head_s + draft_s + moved.step_s,
        dense_s=dense_s + head_s,
        weight_s=part.routed_experts * llm.expert_bytes / rates.memory * uneven,
        request_s=rows_s * rows_per_stage,
        latency_s=rates.latency_s * _full_layers(llm),
        context_s=_context_s(llm, rates, parallelism, cluster.gpu.bf16_flops, serving),
        compute_s=row_flops_s * rows_per_stage,
        split_s=rates.split_s * _full_layers(llm) / parallelism.pp,
        wave_batch=_wave_batch(llm, rates, parallelism),
    )


def _wave_batch(llm: Llm, rates: Rates, parallelism: Parallelism) -> float:
    """Requests of the whole engine whose KV heads fill its GPUs once, a thread block each.

    Ignores: MLA, whose heads share one latent; 0 says so.
    """
    if llm.attention == "mla":
        return 0.0
    heads = llm.num_kv_heads / attention_tp(parallelism)
    return rates.blocks / max(1.0, heads) * parallelism.dp


def _draft_s(llm: Llm, dense_s: float, head_s: float, verify_tokens: int) -> float:
    """One draft layer and head per drafted token, as in MTP and EAGLE with a chain of drafts."""
    return (verify_tokens - 1) * (dense_s / llm.num_layers + DECODE_LAYER_S + head_s)


def _context_s(
    llm: Llm, rates: Rates, parallelism: Parallelism, bf16_flops: float, serving: Serving
) -> float:
    """Seconds per token of context over the full-attention layers, on the busiest rank."""
    layers = _full_layers(llm) / parallelism.pp
    read_s = kv_layer_bytes(llm, parallelism, serving.kv_dtype_bytes) / rates.kv
    if llm.attention == "mla":
        values = 2 * (llm.kv_lora_rank or 0) + (llm.rope_head_dim or 0)
        flops = 2 * llm.num_heads / attention_tp(parallelism) * values
        read_s = max(read_s, flops / (bf16_flops * MLA_DECODE_SHARE))
    return layers * read_s * imbalance(parallelism) / parallelism.dp


def _window_s(llm: Llm, rates: Rates, parallelism: Parallelism, kv_dtype_bytes: float) -> float:
    """Sliding layers read one window per request (contexts beyond it)."""
    if not llm.sliding_window:
        return 0.0
    sliding = min(llm.num_sliding_layers, num_kv_layers(llm))
    read = kv_layer_bytes(llm, parallelism, kv_dtype_bytes) * llm.sliding_window
    return sliding * read / rates.kv / parallelism.dp


def _full_layers(llm: Llm) -> int:
    sliding = llm.num_sliding_layers if llm.sliding_window else 0
    return max(0, num_kv_layers(llm) - sliding)
