"""Compile an LLM on GPUs under a parallelism down to one StepTimes record."""

from dataclasses import replace
from typing import Any, NamedTuple

from pdctl.inspection.layers import Mixer, mixers_of
from pdctl.inspection.llm_layers.request_bytes import index_bytes, latent_window_bytes
from pdctl.inspection.llm_size import num_kv_layers, router_params, state_bytes, trimmed_window
from pdctl.inspection.records import Cluster, GpuModel, Llm
from pdctl.perf_model.communication import (
    assumed_cluster,
    collectives,
    kv_token_s,
    link_between_engines,
    pipeline_handover_s,
    state_s,
    window_token_s,
)
from pdctl.perf_model.fitting.profiles import check_gpu
from pdctl.perf_model.formats import layer_kinds, quantises
from pdctl.perf_model.hardware import (
    ATTENTION_DP_IMBALANCE,
    DECODE_ROW_S,
    DECODE_STEP_S,
    EXPERT_IMBALANCE,
    EXPERT_PASSES,
    EXPERT_WIDTH_PASSES,
    FUSED_EXPERT_PASSES,
    PREFILL_START_S,
    REQUEST_RANK_S,
    REQUEST_S,
    UNBALANCED_EXPERTS,
    Rates,
    dense_flops,
    rates,
)
from pdctl.perf_model.kernels import launched_s, quantised_products, replayed_s
from pdctl.perf_model.memory import (
    Shard,
    attention_tp,
    check_parallelism,
    decode_graph_batch,
    has_prefill_graphs,
    kv_mixer_bytes,
    mean_shard,
)
from pdctl.perf_model.records import (
    SGLANG_DEFAULTS,
    Link,
    Parallelism,
    Profile,
    Role,
    Serving,
    StepTimes,
)
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
    Ignores: the head (one row per prompt), padding to graph sizes.
    """
    moved = collectives(llm, cluster, parallelism, normal=True)
    hidden, plain = _hidden_and_plain_s(llm, part, rates, parallelism)
    if serving.two_batch_overlap:
        hidden, plain = smooth_max(hidden + plain, moved.token_s), 0.0
    else:
        plain += moved.token_s
    weights = part.streamed * llm.linear_bytes + part.routed_experts * llm.expert_bytes
    return PrefillCost(
        base_s=DECODE_STEP_S + kernels_s(llm, cluster.gpu, rates) + moved.step_s,
        token_s=hidden,
        row_s=plain + _passes_s(llm, cluster.gpu, rates, parallelism),
        pair_s=_pair_s(llm, cluster.gpu, rates, parallelism),
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
    beside_s = _prefill_window_s(llm, rates, parallelism)
    beside_s += rates.row_s * num_kv_layers(llm) / parallelism.tp
    if llm.experts is None:
        return dense_s, beside_s
    copied_s = _copied_bytes(llm, rates, parallelism) / rates.memory
    return experts_s, dense_s + copied_s + beside_s


def _copied_bytes(llm: Llm, rates: Rates, parallelism: Parallelism) -> float:
    """Bytes per token that bring rows to experts and back, on one GPU over all layers."""
    share = 1 / parallelism.ep if uses_deepep(parallelism) else 1.0
    share *= FUSED_EXPERT_PASSES if rates.runner == "flashinfer_trtllm" else 1.0
    split = parallelism.tp / parallelism.ep
    return share * sum(
        2
        * num
        * mlp.experts_per_token
        * (EXPERT_PASSES * mlp.expert_input + EXPERT_WIDTH_PASSES * mlp.width / split)
        for layer, num in layer_kinds(llm.layers)
        for mlp in layer.mlps
        if mlp.num_experts
    )


def uses_deepep(parallelism: Parallelism) -> bool:
    """Do tokens go to their experts by DeepEP's all-to-all? With ep alone SGLang reduces."""
    return parallelism.ep > 1 and parallelism.dp > 1


def _unevenness(parallelism: Parallelism) -> float:
    """Work of the busiest rank's experts against the mean."""
    if parallelism.ep <= 1:
        return 1.0
    return EXPERT_IMBALANCE if uses_deepep(parallelism) else UNBALANCED_EXPERTS


def pair_layer_s(llm: Llm, rates: Rates, parallelism: Parallelism) -> float:
    """Seconds per query-key pair and layer: two products per head."""
    flops = 2 * llm.num_heads * (llm.head_dim + llm.v_head_dim) / parallelism.tp
    return flops * imbalance(parallelism) / rates.attention


def kernels_s(llm: Llm, gpu: GpuModel, rates: Rates) -> float:
    """The kernels of one step replayed from a CUDA graph, weights and rows apart."""
    return replayed_s(llm, runner=rates.runner, dynamic=quantises(llm, gpu))


def launch_s(llm: Llm, gpu: GpuModel, rates: Rates) -> float:
    """The least an eager step takes: launching every kernel from Python."""
    return launched_s(llm, runner=rates.runner, dynamic=quantises(llm, gpu))


# Norms with their residuals read and write a row of hidden size so often per layer, on each GPU of
# a tensor-parallel group whole; at tp 1 they are within the measured share of the products.
NORM_PASSES = 8
QUANTISING_BYTES = 3.0  # a value read in 16 bits and written in 8


def _passes_s(llm: Llm, gpu: GpuModel, rates: Rates, parallelism: Parallelism) -> float:
    """Seconds per token of norms that tensor parallelism does not divide, and of quantising."""
    whole = (1 - 1 / parallelism.tp) / parallelism.dp
    moved = NORM_PASSES * 2.0 * llm.hidden_size * llm.num_layers * whole
    if quantises(llm, gpu):
        products = quantised_products(llm, runner=rates.runner)
        moved += products * QUANTISING_BYTES * llm.hidden_size / parallelism.dp
    return moved / rates.memory


def imbalance(parallelism: Parallelism) -> float:
    """The busiest attention-DP rank against the mean."""
    return ATTENTION_DP_IMBALANCE if parallelism.dp > 1 else 1.0


def _routed(llm: Llm, part: Shard, parallelism: Parallelism) -> float:
    if llm.experts is None:
        return 0.0
    share = llm.experts.experts_per_token / llm.experts.num_experts
    return part.routed_experts * share * _unevenness(parallelism)


# Attention over chosen tokens multiplies latents with every head, in tiles of so many heads.
# Source: flash_mla_sparse_fwd and trtllm's kernel take 64 (AIConfigurator dsa_context_module_perf:
# 8 heads of GLM-5 at tp 8 take 70 % of what 64 take); 0.5 of the bf16 rate there, 8,192 tokens.
HEAD_TILE = 64
SPARSE_SHARE = 0.5
# Scores of a sparse index and the choice among them, beside the products: mqa_logits and
# topk of the same tables take as long as one another.
INDEX_PASSES = 2.0
# The scan of linear attention in prefill: chunks of a prompt one after another, and each head's
# products. Source: chunk_gated_delta_rule and causal_conv1d_fn on H200 and B200 (AIConfigurator
# gdn_perf, sglang 0.5.14): 25 ns a token and 1.6 ns a head of 128 × 128; others: assumed.
SCAN_TOKEN_S = 25e-9
SCAN_STATE_S = 1.6e-9 / (128 * 128)


def _full_layers(llm: Llm) -> int:
    return num_kv_layers(llm) - _sliding_layers(llm)


def _sliding_layers(llm: Llm) -> int:
    return min(llm.num_sliding_layers, num_kv_layers(llm)) if llm.sliding_window else 0


def _sparse_mixers(llm: Llm) -> list[Mixer]:
    """Mixers whose tokens attend to chosen ones: DSA."""
    return [m for m in mixers_of(llm.layers) if m.kind == "mla" and m.index_topk]


def _pair_s(llm: Llm, gpu: GpuModel, rates: Rates, parallelism: Parallelism) -> float:
    """Seconds per query-key pair over all layers: attention, or an index's score of it."""
    sparse = _sparse_mixers(llm)
    scored = sum(_index_flops(llm, m) for m in sparse) * INDEX_PASSES / dense_flops(gpu, "fp8")
    dense = _full_layers(llm) - len(sparse)
    return dense * pair_layer_s(llm, rates, parallelism) + scored / parallelism.dp


def _index_flops(llm: Llm, mixer: Mixer) -> float:
    """Products of one query's index heads with one key; each GPU of a group does them all."""
    params = sum(m.params for m in mixer.matrices if m.leaf == "index")
    per_head = (llm.q_lora_rank or llm.hidden_size) * mixer.index_dim + llm.hidden_size
    return 2.0 * mixer.index_dim * max(0.0, params - llm.hidden_size * mixer.index_dim) / per_head


def _prefill_window_s(llm: Llm, rates: Rates, parallelism: Parallelism) -> float:
    """Seconds per token of layers that attend to no more than so many tokens, and of scans.

    Ignores: prompts shorter than the window or the chosen tokens, which cost less.
    """
    window = llm.sliding_window or 0
    sliding = _sliding_layers(llm) * window * pair_layer_s(llm, rates, parallelism)
    return sliding + _chosen_s(llm, rates, parallelism) + _scan_s(llm, parallelism)


def _chosen_s(llm: Llm, rates: Rates, parallelism: Parallelism) -> float:
    """Seconds per prompt token of attention to the tokens that an index chose."""
    heads = max(llm.num_heads / attention_tp(parallelism), HEAD_TILE)
    values = 2 * (llm.kv_lora_rank or 0) + (llm.rope_head_dim or 0)
    chosen = sum(m.index_topk or 0 for m in _sparse_mixers(llm))
    rate = rates.bf16_peak * SPARSE_SHARE
    return 2 * heads * values * chosen / rate / parallelism.dp * imbalance(parallelism)


def _scan_s(llm: Llm, parallelism: Parallelism) -> float:
    """Seconds per prompt token of linear attention: its state turned chunk by chunk."""
    mixers = [m for m in mixers_of(llm.layers) if m.kind == "state"]
    values = sum(m.state_values for m in mixers) / attention_tp(parallelism)
    return (SCAN_TOKEN_S * len(mixers) + SCAN_STATE_S * values) / parallelism.dp


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
    head_s = part.head * llm.embedding_bytes / rates.memory
    dense_s = part.streamed * llm.linear_bytes / rates.memory
    replayed = kernels_s(llm, cluster.gpu, rates)
    draft_s = _draft_s(llm, dense_s + replayed, head_s, serving.verify_tokens)
    rows_s = moved.token_s + DECODE_ROW_S / parallelism.dp
    read_s = _decode_window_s(llm, rates, parallelism, _kv_size(llm, serving))
    rows_s += (read_s + _state_s(llm, rates, parallelism)) / serving.verify_tokens
    row_flops_s = gemm_s(llm, part, rates, parallelism) + 2 * part.head / rates.gemm
    rows_per_stage = serving.verify_tokens / parallelism.pp
    return DecodeCost(
        base_s=DECODE_STEP_S + replayed + dense_s + head_s + draft_s + moved.step_s,
        dense_s=dense_s + head_s,
        weight_s=part.routed_experts * llm.expert_bytes / rates.memory,
        request_s=rows_s * rows_per_stage,
        latency_s=rates.latency_s * _full_layers(llm),
        context_s=_context_s(llm, rates, parallelism, serving),
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


def _draft_s(llm: Llm, layers_s: float, head_s: float, verify_tokens: int) -> float:
    """One draft layer and head per drafted token, as in MTP and EAGLE with a chain of drafts."""
    return (verify_tokens - 1) * (layers_s / llm.num_layers + head_s)


def _context_s(llm: Llm, rates: Rates, parallelism: Parallelism, serving: Serving) -> float:
    """Seconds per token of context over the layers without a window, on the busiest rank.

    Where an index chooses tokens, decode reads the index of all and the KV of the chosen ones.
    """
    size, tp = _kv_size(llm, serving), attention_tp(parallelism)
    whole = sum(
        index_bytes(mixer) * INDEX_PASSES / rates.kv
        if mixer.kind == "mla" and mixer.index_topk
        else _cached_token_s(llm, mixer, tp, size, rates)
        for mixer in mixers_of(llm.layers)
        if mixer.kind != "window"
    )
    return whole * imbalance(parallelism) / parallelism.pp / parallelism.dp


def _cached_token_s(llm: Llm, mixer: Mixer, tp: int, size: float, rates: Rates) -> float:
    """Seconds of decode attention to one cached token in one layer."""
    return max(
        (kv_mixer_bytes(mixer, tp, size) + index_bytes(mixer)) / rates.kv,
        _latent_flops(llm, mixer) / tp / rates.latents,
    )


def _state_s(llm: Llm, rates: Rates, parallelism: Parallelism) -> float:
    """Linear attention reads and writes the whole state of each request in every step.

    Source: fused_recurrent_gated_delta_rule on H200 and B200 (AIConfigurator gdn_perf) moves
    twice the state at 0.82 and 0.75 of the bandwidth.
    """
    held = state_bytes(llm) / attention_tp(parallelism)
    return 2 * held / rates.memory / parallelism.dp


def _latent_flops(llm: Llm, mixer: Mixer) -> float:
    """Products of every head with one cached latent; 0 for attention that keeps heads apart."""
    if mixer.kind not in ("mla", "latents"):
        return 0.0
    values = 2 * (llm.kv_lora_rank or 0) + (llm.rope_head_dim or 0)
    entries = 1 / max(1, mixer.compress_ratio) if mixer.compress_ratio or mixer.kind == "mla" else 0
    return 2 * llm.num_heads * values * entries


def _decode_window_s(
    llm: Llm, rates: Rates, parallelism: Parallelism, kv_dtype_bytes: float
) -> float:
    """Layers with a window read one window per request, those with an index the chosen tokens.

    Ignores: contexts shorter than that.
    """
    tp = attention_tp(parallelism)
    read = 0.0
    for mixer in mixers_of(llm.layers):
        if mixer.kind == "latents":
            read += latent_window_bytes() * (mixer.window or 0)
        elif mixer.kind == "window":
            read += kv_mixer_bytes(mixer, tp, kv_dtype_bytes) * (mixer.window or 0)
    chosen_s = sum(
        _cached_token_s(llm, mixer, tp, kv_dtype_bytes, rates) * (mixer.index_topk or 0)
        for mixer in _sparse_mixers(llm)
    )
    return (read / rates.kv + chosen_s) / parallelism.dp


def _kv_size(llm: Llm, serving: Serving) -> float:
    return serving.kv_dtype_bytes or llm.kv_dtype_bytes


def step_times(
    llm: Llm,
    cluster: Cluster,
    parallelism: Parallelism,
    role: Role,
    *,
    profile: Profile | None = None,
    link: Link | None = None,
    serving: Serving | None = None,
    **changes: Any,
) -> StepTimes:
    """How long do the steps of one engine take?

    profile: measured factors on these roofline coefficients; its attention backend is taken.
    link: what KV travels over; by default the one between two engines of this cluster, whose
    RDMA rate is assumed where it is not known.
    changes: fields of Serving, over those of `serving`.

    Raises InvalidInput if the parallelism does not fit the LLM's shape, or the profile is another
    GPU's. Source: docs/equations.md; constants in efficiencies.py, collectives.py, transfer.py.
    """
    check_parallelism(llm, parallelism)
    cluster = assumed_cluster(cluster)
    serving = replace(serving or SGLANG_DEFAULTS, **changes)
    route = link or link_between_engines(cluster, parallelism)
    if profile:
        check_gpu(profile, cluster.gpu.name)
        serving = replace(serving, attention_backend=profile.attention_backend)
    times = _roofline(llm, cluster, parallelism, role, route, serving)
    return profile.scaled(times) if profile else times


def _roofline(
    llm: Llm,
    cluster: Cluster,
    parallelism: Parallelism,
    role: Role,
    route: Link,
    serving: Serving,
) -> StepTimes:
    serving = replace(serving, kv_dtype_bytes=serving.kv_dtype_bytes or llm.kv_dtype_bytes)
    per_gpu = rates(
        llm,
        cluster.gpu,
        serving.attention_backend,
        kv_dtype_bytes=serving.kv_dtype_bytes,
        deepep=uses_deepep(parallelism),
    )
    part = mean_shard(llm, parallelism)
    handover = pipeline_handover_s(llm, cluster, parallelism)
    prefill = prefill_cost(llm, cluster, part, per_gpu, parallelism, serving)
    decode = decode_cost(llm, cluster, part, per_gpu, parallelism, role, serving)
    share, pp = _expert_share(llm), parallelism.pp
    uneven = _unevenness(parallelism) if llm.experts else 1.0
    return StepTimes(
        prefill_base_s=prefill.base_s / pp,
        prefill_token_s=prefill.token_s / pp,
        prefill_pair_s=prefill.pair_s / pp,
        prefill_weight_s=prefill.weight_s / pp,
        prefill_row_s=(prefill.row_s + handover.token_s) / pp,
        prefill_expert_share=share,
        prefill_cached_weight=per_gpu.cached_weight,
        prefill_cached_tokens=per_gpu.cached_tokens,
        decode_base_s=decode.base_s + handover.step_s,
        decode_dense_s=decode.dense_s,
        decode_split_s=decode.split_s,
        decode_wave_batch=decode.wave_batch,
        decode_weight_s=decode.weight_s,
        decode_request_s=decode.request_s + handover.token_s * serving.verify_tokens,
        decode_latency_s=decode.latency_s,
        decode_context_s=decode.context_s,
        decode_compute_s=decode.compute_s,
        eager_s=launch_s(llm, cluster.gpu, per_gpu),
        decode_graph_batch=_graph_batch(cluster, parallelism, serving),
        prefill_graphs=has_prefill_graphs(llm, parallelism, role, serving),
        transfer_base_s=route.base_s,
        transfer_token_s=kv_token_s(llm, parallelism, route, serving.kv_dtype_bytes),
        expert_share=1 - (1 - share * uneven) ** (serving.verify_tokens / pp),
        stages=pp,
        request_s=REQUEST_S + REQUEST_RANK_S * (parallelism.num_gpus - 1),
        prefill_start_s=PREFILL_START_S,
        transfer_state_s=state_s(llm, parallelism, route),
        transfer_window_token_s=window_token_s(llm, parallelism, route, serving.kv_dtype_bytes),
        transfer_window_tokens=trimmed_window(llm),
    )


def _graph_batch(cluster: Cluster, parallelism: Parallelism, serving: Serving) -> int:
    """Graphs are captured per attention-DP rank; the engine's batch is spread over them."""
    if not serving.decode_graphs:
        return 0
    return parallelism.dp * (serving.graph_batch or decode_graph_batch(cluster.gpu, parallelism.tp))


def _expert_share(llm: Llm) -> float:
    return llm.experts.experts_per_token / llm.experts.num_experts if llm.experts else 1.0
