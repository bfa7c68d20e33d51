"""Compile an LLM on GPUs under a parallelism down to one StepTimes record."""

from dataclasses import replace
from typing import Any, NamedTuple

from pdctl.inspection.llm_size import num_kv_layers, router_params, trimmed_window
from pdctl.inspection.records import Cluster, GpuModel, Llm
from pdctl.perf_model.communication import (
    Dispatch,
    assumed_cluster,
    collectives,
    kv_token_s,
    link_between_engines,
    pipeline_handover_s,
    state_s,
    window_token_s,
)
from pdctl.perf_model.fitting.profiles import check_gpu
from pdctl.perf_model.formats import counted_layers, quantises
from pdctl.perf_model.hardware import (
    DECODE_ROW_S,
    DECODE_STEP_S,
    EXPERT_IMBALANCE,
    EXPERT_PASSES,
    EXPERT_WIDTH_PASSES,
    FUSED_EXPERT_PASSES,
    PREFILL_START_S,
    REQUEST_S,
    UNBALANCED_EXPERTS,
    Rates,
    kv_value_bytes,
    rates,
)
from pdctl.perf_model.kernels import (
    launched_s,
    ngram_launch_s,
    num_plain_norms,
    pieces_s,
    quantised_products,
    replayed_s,
    state_start_s,
)
from pdctl.perf_model.memory import (
    Shard,
    attention_tp,
    check_parallelism,
    decode_graph_batch,
    has_prefill_graphs,
    mean_shard,
)
from pdctl.perf_model.mixing import (
    cached_weight,
    decode_context_s,
    decode_request_s,
    full_layers,
    imbalance,
    kv_size,
    pair_s,
    prefill_token_s,
    state_read_s,
    verifies_in_blocks,
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
from pdctl.perf_model.releases import rank_s, waits_in_layers
from pdctl.perf_model.simulator.steps import smooth_max


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
    """Coefficients of a prefill step over all layers of the LLM.

    Source: 2 FLOPs per active parameter and token, 4·L·h·d per query-key pair (Mooncake,
    FAST'25, eq. 1). Two-batch overlap: half the batch computes while the other communicates.
    Ignores: the head (one row per prompt), padding to graph sizes.
    """
    moved = collectives(
        llm, cluster, parallelism, dispatch=_dispatch(parallelism, "prefill", serving), prefill=True
    )
    hidden, plain = _hidden_and_plain_s(llm, part, rates, parallelism, serving)
    if serving.two_batch_overlap:
        hidden, plain = smooth_max(hidden + plain, moved.token_s), 0.0
    else:
        plain += moved.token_s
    weights = part.streamed * llm.linear_bytes + part.routed_experts * llm.expert_bytes
    _, launched = state_start_s(llm)
    return PrefillCost(
        base_s=DECODE_STEP_S
        + kernels_s(llm, cluster.gpu, rates, serving)
        + moved.step_s
        + launched,
        token_s=hidden,
        row_s=plain + _passes_s(llm, cluster.gpu, rates, parallelism),
        pair_s=pair_s(llm, cluster.gpu, rates, parallelism),
        weight_s=weights / rates.memory,
    )


def gemm_s(
    llm: Llm, part: Shard, rates: Rates, parallelism: Parallelism, serving: Serving
) -> float:
    """Seconds of matrix products per token of the engine's step."""
    return sum(_products_s(llm, part, rates, parallelism, serving))


def _products_s(
    llm: Llm, part: Shard, rates: Rates, parallelism: Parallelism, serving: Serving
) -> tuple[float, float]:
    """Seconds per token of dense products and of those of routed experts.

    Attention-DP splits tokens over ranks, the others split matrices: either way each GPU
    computes 1/tp of a token, shared experts under expert parallelism included.
    """
    attention = part.attention / parallelism.dp * imbalance(parallelism)
    shared = part.shared_experts / (parallelism.tp if parallelism.ep > 1 else 1)
    router = router_params(llm) / parallelism.tp
    dense = 2 * (attention + part.dense_mlp + shared + router) / rates.gemm
    return dense, 2 * _routed(llm, part, parallelism, serving) / rates.experts


def _hidden_and_plain_s(
    llm: Llm, part: Shard, rates: Rates, parallelism: Parallelism, serving: Serving
) -> tuple[float, float]:
    """Seconds per token that reading weights may hide, and the rest.

    Dense products are bound by compute from a few hundred tokens on, those of experts only once
    each expert gets as many: with experts, nothing hides the dense ones, nor copying rows to
    experts and back.
    """
    dense_s, experts_s = _products_s(llm, part, rates, parallelism, serving)
    beside_s = prefill_token_s(llm, rates, parallelism)
    beside_s += rates.row_s * num_kv_layers(llm) / parallelism.tp
    if llm.experts is None:
        return dense_s, beside_s
    copied_s = _copied_bytes(llm, rates, parallelism, serving) / rates.memory
    return experts_s, dense_s + copied_s + beside_s


def _copied_bytes(llm: Llm, rates: Rates, parallelism: Parallelism, serving: Serving) -> float:
    """Bytes per token that bring rows to experts and back, on one GPU over all layers."""
    share = 1 / parallelism.ep if uses_deepep(parallelism, serving) else 1.0
    share *= FUSED_EXPERT_PASSES if rates.runner == "flashinfer_trtllm" else 1.0
    split = parallelism.tp / parallelism.ep
    return share * sum(
        2
        * num
        * mlp.experts_per_token
        * (EXPERT_PASSES * mlp.expert_input + EXPERT_WIDTH_PASSES * mlp.width / split)
        for layer, num in counted_layers(llm.layers)
        for mlp in layer.mlps
        if mlp.num_experts
    )


def uses_deepep(parallelism: Parallelism, serving: Serving) -> bool:
    """True if DeepEP sends tokens to their experts. Otherwise, as with ep alone, all GPUs get all.

    Ignores: other backends of all-to-all, which are taken for DeepEP.
    """
    return serving.all_to_all and parallelism.ep > 1 and parallelism.dp > 1


def _dispatch(parallelism: Parallelism, role: Role, serving: Serving) -> Dispatch | None:
    """The mode in which DeepEP sends tokens: low latency on decode engines alone."""
    if not uses_deepep(parallelism, serving):
        return None
    return "low_latency" if role == "decode" else "normal"


def _unevenness(parallelism: Parallelism, serving: Serving) -> float:
    """Work of the busiest rank's experts against the mean."""
    if parallelism.ep <= 1:
        return 1.0
    return EXPERT_IMBALANCE if uses_deepep(parallelism, serving) else UNBALANCED_EXPERTS


def kernels_s(llm: Llm, gpu: GpuModel, rates: Rates, serving: Serving) -> float:
    """The kernels of one step replayed from a CUDA graph, weights and rows apart."""
    dynamic = quantises(llm, gpu)
    return replayed_s(llm, runner=rates.runner, dynamic=dynamic, release=serving.release)


def launch_s(
    llm: Llm, gpu: GpuModel, rates: Rates, parallelism: Parallelism, serving: Serving
) -> float:
    """The least an eager step takes: launching every kernel from Python."""
    dynamic = quantises(llm, gpu)
    gathers = parallelism.dp > 1 and not uses_deepep(parallelism, serving)
    return launched_s(llm, runner=rates.runner, dynamic=dynamic, gathers=gathers)


# Norms with their residuals read and write a row of hidden size so often per layer, on each GPU of
# a tensor-parallel group whole; at tp 1 they are within the measured share of the products.
NORM_PASSES = 8
QUANTISING_BYTES = 3.0  # a value read in 16 bits and written in 8
# A value of q or k through a norm in plain PyTorch: to 32 bits (6), squared (8), averaged (4),
# scaled twice (16), back to 16 bits (6), and its head moved behind its token (4). Source:
# Gemma3RMSNorm and Gemma3Attention in sglang 0.5.17.
PLAIN_NORM_BYTES = 44.0


def _passes_s(llm: Llm, gpu: GpuModel, rates: Rates, parallelism: Parallelism) -> float:
    """Seconds per token of norms that tensor parallelism does not divide or PyTorch runs, and of
    quantising.
    """
    whole = (1 - 1 / parallelism.tp) / parallelism.dp
    moved = NORM_PASSES * 2.0 * llm.hidden_size * llm.num_layers * whole
    heads = (llm.num_heads + llm.num_kv_heads) / parallelism.tp
    moved += num_plain_norms(llm) * PLAIN_NORM_BYTES * heads * llm.head_dim
    if quantises(llm, gpu):
        products = quantised_products(llm, runner=rates.runner)
        moved += products * QUANTISING_BYTES * llm.hidden_size / parallelism.dp
    return moved / rates.memory


def _routed(llm: Llm, part: Shard, parallelism: Parallelism, serving: Serving) -> float:
    if llm.experts is None:
        return 0.0
    share = llm.experts.experts_per_token / llm.experts.num_experts
    return part.routed_experts * share * _unevenness(parallelism, serving)


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
    block_batch: float


def decode_cost(
    llm: Llm,
    cluster: Cluster,
    part: Shard,
    rates: Rates,
    parallelism: Parallelism,
    role: Role,
    serving: Serving,
) -> DecodeCost:
    """Coefficients of a decode step over all layers of the LLM.

    Source: bytes read over memory bandwidth: dense weights each step, experts by coverage,
    KV by context; a step is at least its FLOPs (DistServe; InferSim). Verify batches multiply
    rows, not KV reads. A colocated engine cannot use DeepEP's low-latency mode.
    Ignores: padding of batches to graph sizes, CPU work that overlap hides.
    """
    moved = collectives(
        llm, cluster, parallelism, dispatch=_dispatch(parallelism, role, serving), prefill=False
    )
    head_s = part.head * llm.embedding_bytes / rates.memory
    dense_s = part.streamed * llm.linear_bytes / rates.memory
    replayed = kernels_s(llm, cluster.gpu, rates, serving)
    drafts = drafting(serving, (dense_s + replayed) / llm.num_layers, head_s)
    rows_s = moved.token_s + DECODE_ROW_S / parallelism.dp
    read_s = decode_request_s(llm, rates, parallelism, kv_size(llm, serving))
    read_s += state_read_s(llm, rates, parallelism)
    rows_s += (read_s + drafts.request_s) / serving.verify_tokens
    row_flops_s = gemm_s(llm, part, rates, parallelism, serving) + 2 * part.head / rates.gemm
    latency_s = 0.0 if verifies_in_blocks(llm, rates, serving) else rates.latency_s
    rows_per_stage = serving.verify_tokens / parallelism.pp
    return DecodeCost(
        base_s=DECODE_STEP_S + replayed + dense_s + head_s + drafts.step_s + moved.step_s,
        dense_s=dense_s + head_s,
        weight_s=part.routed_experts * llm.expert_bytes / rates.memory,
        request_s=rows_s * rows_per_stage,
        latency_s=latency_s * full_layers(llm),
        context_s=decode_context_s(llm, rates, parallelism, serving),
        compute_s=row_flops_s * rows_per_stage,
        split_s=rates.split_s * full_layers(llm) / parallelism.pp,
        wave_batch=_wave_batch(llm, rates, parallelism),
        block_batch=_block_batch(llm, rates, parallelism, serving),
    )


def _wave_batch(llm: Llm, rates: Rates, parallelism: Parallelism) -> float:
    """Requests of the whole engine whose KV heads fill its GPUs once, a thread block each.

    Ignores: MLA, whose heads share one latent; 0 says so.
    """
    if llm.attention == "mla":
        return 0.0
    heads = llm.num_kv_heads / attention_tp(parallelism)
    return rates.blocks / max(1.0, heads) * parallelism.dp


def _block_batch(llm: Llm, rates: Rates, parallelism: Parallelism, serving: Serving) -> float:
    """Requests of the whole engine whose query heads fill its GPUs once; 0: none verify so."""
    if not verifies_in_blocks(llm, rates, serving):
        return 0.0
    heads = llm.num_heads / attention_tp(parallelism)
    return rates.verify_blocks / max(1.0, heads) * parallelism.dp


class Drafting(NamedTuple):
    """Seconds that drafting adds to a decode step, and to it for each request."""

    step_s: float
    request_s: float


def drafting(serving: Serving, layer_s: float, head_s: float) -> Drafting:
    """A step of one draft layer and a head per drafted token, or a look-up on the CPU.

    Source: MTP, and EAGLE with a chain of drafts, of which a step spans 0.58 ms on H200
    (docs/log.md), layer and head being 0.4; NGRAM_STEP in kernels.py.
    Ignores: trees of drafts, and what finding n-grams takes.
    """
    if serving.verify_tokens <= 1:
        return Drafting(0.0, 0.0)
    if serving.ngram:
        return Drafting(*ngram_launch_s())
    return Drafting((serving.verify_tokens - 1) * (DECODE_STEP_S + layer_s + head_s), 0.0)


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
    """The step times of one engine.

    profile: measured factors on these roofline coefficients; its attention backend is taken.
    link: what KV travels over; by default the one between two engines of this cluster, whose
    RDMA rate is assumed where it is not known.
    changes: fields of Serving, over those of `serving`.

    Raises InvalidInput if the parallelism does not fit the LLM's shape, or the profile is another
    GPU's. Source: docs/equations.md; constants in hardware.py, kernels.py, communication.py.
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
    kv_dtype_bytes = kv_value_bytes(llm, cluster.gpu, serving.kv_dtype_bytes)
    serving = replace(serving, kv_dtype_bytes=kv_dtype_bytes)
    per_gpu = rates(
        llm,
        cluster.gpu,
        serving.attention_backend,
        kv_dtype_bytes=serving.kv_dtype_bytes,
        deepep=uses_deepep(parallelism, serving),
    )
    part = mean_shard(llm, parallelism)
    handover = pipeline_handover_s(llm, cluster, parallelism)
    prefill = prefill_cost(llm, cluster, part, per_gpu, parallelism, serving)
    decode = decode_cost(llm, cluster, part, per_gpu, parallelism, role, serving)
    share, pp = _expert_share(llm), parallelism.pp
    uneven = _unevenness(parallelism, serving) if llm.experts else 1.0
    eager_s = launch_s(llm, cluster.gpu, per_gpu, parallelism, serving)
    waited_s = eager_s if llm.num_state_layers and waits_in_layers(serving.release) else 0.0
    return StepTimes(
        prefill_base_s=(prefill.base_s + waited_s) / pp,
        prefill_token_s=prefill.token_s / pp,
        prefill_pair_s=prefill.pair_s / pp,
        prefill_weight_s=prefill.weight_s / pp,
        prefill_row_s=(prefill.row_s + handover.token_s) / pp,
        prefill_expert_share=share,
        prefill_padding=per_gpu.padding / share if llm.experts else 0.0,
        prefill_cached_weight=cached_weight(llm, per_gpu),
        prefill_cached_tokens=per_gpu.cached_tokens,
        decode_base_s=decode.base_s + handover.step_s,
        decode_dense_s=decode.dense_s,
        decode_split_s=decode.split_s,
        decode_wave_batch=decode.wave_batch,
        decode_block_batch=decode.block_batch,
        decode_weight_s=decode.weight_s,
        decode_request_s=decode.request_s + handover.token_s * serving.verify_tokens,
        decode_latency_s=decode.latency_s,
        decode_context_s=decode.context_s,
        decode_compute_s=decode.compute_s,
        eager_s=eager_s,
        prefill_pieces_s=pieces_s(llm, role),
        prefill_sizes=serving.prefill_sizes,
        decode_graph_batch=_graph_batch(cluster, parallelism, serving),
        prefill_graphs=has_prefill_graphs(llm, parallelism, role, serving),
        transfer_base_s=route.base_s,
        transfer_token_s=kv_token_s(llm, parallelism, route, serving.kv_dtype_bytes),
        expert_share=1 - (1 - share * uneven) ** (serving.verify_tokens / pp),
        stages=pp,
        request_s=REQUEST_S + rank_s(serving.release) * (parallelism.num_gpus - 1),
        prefill_start_s=PREFILL_START_S + state_start_s(llm)[0],
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
