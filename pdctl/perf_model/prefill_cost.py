"""Prefill coefficients of StepTimes from the roofline."""

from typing import NamedTuple

from pdctl.inspection.llm_size import num_kv_layers, router_params
from pdctl.inspection.records import Cluster, Llm
from pdctl.perf_model.collectives import collectives
from pdctl.perf_model.efficiencies import (
    ATTENTION_DP_IMBALANCE,
    DECODE_LAYER_S,
    DECODE_MOE_LAYER_S,
    DECODE_STEP_S,
    EAGER_LAYER_S,
    EAGER_MOE_LAYER_S,
    EXPERT_IMBALANCE,
    EXPERT_PASSES,
)
from pdctl.perf_model.rates import Rates
from pdctl.perf_model.records import Parallelism, Serving
from pdctl.perf_model.shards import Shard
from pdctl.perf_model.steps import smooth_max


class PrefillCost(NamedTuple):
    """As in StepTimes."""

    base_s: float
    token_s: float
    row_s: float
    pair_s: float
    weight_s: float


def prefill_cost(
    llm: Llm,
    cluster: Cluster,
    part: Shard,
    rates: Rates,
    parallelism: Parallelism,
    serving: Serving,
) -> PrefillCost:
    """What a prefill step over all layers of the LLM costs one engine.

    Source: 2 FLOPs per active parameter and token, 4·L·h·d per query-key pair (Mooncake,
    FAST'25, eq. 1). Two-batch overlap: half the batch computes while the other communicates.
    Ignores: the head (one row per prompt), padding to graph sizes, quantisation kernels.
    """
    moved = collectives(llm, cluster, parallelism, normal=True)
    hidden, plain = _hidden_and_plain_s(llm, part, rates, parallelism)
    if serving.two_batch_overlap:
        hidden, plain = smooth_max(hidden + plain, moved.token_s), 0.0
    else:
        plain += moved.token_s
    weights = part.streamed * llm.linear_bytes + part.routed_experts * llm.expert_bytes
    return PrefillCost(
        base_s=DECODE_STEP_S + kernels_s(llm) + moved.step_s,
        token_s=hidden,
        row_s=plain,
        pair_s=_full_layers(llm) * pair_layer_s(llm, rates, parallelism),
        weight_s=weights / rates.memory,
    )


def gemm_s(llm: Llm, part: Shard, rates: Rates, parallelism: Parallelism) -> float:
    """Seconds of matrix products per token of the engine's step."""
    return sum(_products_s(llm, part, rates, parallelism))


def _products_s(
    llm: Llm, part: Shard, rates: Rates, parallelism: Parallelism
) -> tuple[float, float]:
    """Seconds per token of dense products and of those of routed experts.

    Attention-DP splits tokens over ranks, the others split matrices: either way each GPU
    computes 1/tp of a token, shared experts under expert parallelism included.
    """
    attention = part.attention / parallelism.dp * imbalance(parallelism)
    shared = part.shared_experts / (parallelism.tp if parallelism.ep > 1 else 1)
    router = router_params(llm) / parallelism.tp
    dense = 2 * (attention + part.dense_mlp + shared + router) / rates.gemm
    return dense, 2 * _routed(llm, part, parallelism) / rates.experts


def _hidden_and_plain_s(
    llm: Llm, part: Shard, rates: Rates, parallelism: Parallelism
) -> tuple[float, float]:
    """Seconds per token that reading weights may hide, and the rest.

    Dense products are bound by compute from a few hundred tokens on, those of experts only once
    each expert gets as many: with experts, nothing hides the dense ones, nor copying rows to
    experts and back.
    """
    dense_s, experts_s = _products_s(llm, part, rates, parallelism)
    beside_s = _window_s(llm, rates, parallelism)
    beside_s += rates.row_s * num_kv_layers(llm) / parallelism.tp
    if llm.experts is None:
        return dense_s, beside_s
    copies = llm.experts.experts_per_token * (llm.num_layers - llm.experts.num_dense_layers)
    row_bytes = 2 * copies * llm.hidden_size / parallelism.tp
    copied_s = EXPERT_PASSES * row_bytes / rates.memory
    return experts_s, dense_s + copied_s + beside_s


def pair_layer_s(llm: Llm, rates: Rates, parallelism: Parallelism) -> float:
    """Seconds per query-key pair and layer: two products per head."""
    flops = 2 * llm.num_heads * (llm.head_dim + llm.v_head_dim) / parallelism.tp
    return flops * imbalance(parallelism) / rates.attention


def kernels_s(llm: Llm) -> float:
    """The kernels of one step replayed from a CUDA graph, weights and rows apart."""
    moe = llm.num_layers - llm.experts.num_dense_layers if llm.experts else 0
    return DECODE_MOE_LAYER_S * moe + DECODE_LAYER_S * (llm.num_layers - moe)


def launch_s(llm: Llm) -> float:
    """The least an eager step takes: launching every kernel from Python."""
    moe = llm.num_layers - llm.experts.num_dense_layers if llm.experts else 0
    return EAGER_MOE_LAYER_S * moe + EAGER_LAYER_S * (llm.num_layers - moe)


def imbalance(parallelism: Parallelism) -> float:
    """The busiest attention-DP rank against the mean."""
    return ATTENTION_DP_IMBALANCE if parallelism.dp > 1 else 1.0


def _routed(llm: Llm, part: Shard, parallelism: Parallelism) -> float:
    if llm.experts is None:
        return 0.0
    share = llm.experts.experts_per_token / llm.experts.num_experts
    uneven = EXPERT_IMBALANCE if parallelism.ep > 1 else 1.0
    return part.routed_experts * share * uneven


def _full_layers(llm: Llm) -> int:
    return num_kv_layers(llm) - _sliding_layers(llm)


def _sliding_layers(llm: Llm) -> int:
    return min(llm.num_sliding_layers, num_kv_layers(llm)) if llm.sliding_window else 0


def _window_s(llm: Llm, rates: Rates, parallelism: Parallelism) -> float:
    """Sliding layers attend to one window per token, whatever the length (prompts beyond it)."""
    window = llm.sliding_window or 0
    return _sliding_layers(llm) * window * pair_layer_s(llm, rates, parallelism)
