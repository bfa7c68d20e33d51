"""The memory of an engine: weights per GPU, SGLang's split, and KV capacity in tokens."""

import math
from dataclasses import dataclass, replace

from pdctl.errors import InvalidInput
from pdctl.inspection.layers import KEPT_WHOLE, Matrix, Mixer, Part, mixers_of, part_params
from pdctl.inspection.llm_layers.request_bytes import (
    index_bytes,
    is_trimmed,
    kv_bytes,
    latent_window_bytes,
    request_ring_bytes,
    ring_bytes,
)
from pdctl.inspection.llm_size import state_bytes
from pdctl.inspection.records import GpuModel, Llm
from pdctl.inspection.sglang_models import (
    most_running,
    page_tokens,
    slots_per_request,
    state_memory_ratio,
    window_pool_share,
)
from pdctl.perf_model.formats import counted_layers, is_narrow
from pdctl.perf_model.hardware import kv_value_bytes
from pdctl.perf_model.records import SGLANG_DEFAULTS, Parallelism, Role, Serving
from pdctl.perf_model.releases import prefill_graphs
from pdctl.perf_model.simulator.scheduling import MAX_PREFILL_TOKENS
from pdctl.units import GIB, MIB


@dataclass(frozen=True)
class Shard:
    """Parameters of one GPU by part, over its layers; not bytes."""

    layers: float
    attention: float
    dense_mlp: float
    shared_experts: float
    routed_experts: float
    embedding: float
    head: float

    @property
    def streamed(self) -> float:
        """Read by every step whatever it routes: all but routed experts and embedding."""
        return self.attention + self.dense_mlp + self.shared_experts


def shard(llm: Llm, parallelism: Parallelism) -> Shard:
    """The parameters on one GPU of the fullest pipeline stage."""
    return _shard(llm, parallelism, math.ceil(llm.num_layers / parallelism.pp))


def mean_shard(llm: Llm, parallelism: Parallelism) -> Shard:
    """Parameters that one GPU would hold with pp = 1."""
    return _shard(llm, parallelism, llm.num_layers)


def _shard(llm: Llm, parallelism: Parallelism, layers: int) -> Shard:
    tp, share = parallelism.tp, layers / llm.num_layers
    vocabulary = llm.vocab_size * llm.hidden_size
    shared = _params_of(llm, "shared") * share
    looked_up = 0.0 if llm.tied_embeddings else float(vocabulary)
    looked_up += llm.per_layer_embedding
    return Shard(
        layers=layers,
        attention=layers * attention_params(llm, attention_tp(parallelism)),
        dense_mlp=_params_of(llm, "mlp") * share / tp,
        shared_experts=shared / (1 if parallelism.ep > 1 else tp),
        routed_experts=_params_of(llm, "experts") * share / tp,
        embedding=looked_up / (1 if parallelism.dp > 1 else tp),
        head=vocabulary / tp,
    )


def attention_tp(parallelism: Parallelism) -> int:
    """GPUs that share the heads of one attention group."""
    return max(1, parallelism.tp // parallelism.dp)


def attention_params(llm: Llm, tp: int) -> float:
    """Parameters of a layer's mixer on one of `tp` GPUs, the mean over all layers."""
    held = sum(
        num * sum(_held(m, mixer, tp) for mixer in layer.mixers for m in mixer.matrices)
        for layer, num in counted_layers(llm.layers)
    )
    return held / llm.num_layers


def _params_of(llm: Llm, part: Part) -> float:
    """Parameters of one part over all layers."""
    return sum(num * part_params((layer,), part) for layer, num in counted_layers(llm.layers))


def _held(matrix: Matrix, mixer: Mixer, tp: int) -> float:
    """Parameters of one matrix of a mixer on one of `tp` GPUs."""
    if matrix.leaf in KEPT_WHOLE:
        return matrix.params
    if matrix.part == "attention" and matrix.leaf in ("k", "v"):
        return matrix.params / mixer.kv_heads * max(1.0, mixer.kv_heads / tp)
    return matrix.params / tp


def kv_cell_bytes(llm: Llm, parallelism: Parallelism, kv_dtype_bytes: float = 2.0) -> float:
    """Memory one token of KV capacity takes on one GPU of the fullest stage, index included.

    Windows that SGLang trims have a pool of their own, a share of the full one's tokens.
    Source: sglang 0.5.23 model_executor/pool_configurator.py; sglang_models.py has the shares.
    """
    tp = attention_tp(parallelism)
    whole = sum(_cell_bytes(llm, mixer, tp, kv_dtype_bytes) for mixer in mixers_of(llm.layers))
    return whole * math.ceil(llm.num_layers / parallelism.pp) / llm.num_layers


def sent_bytes_per_token(llm: Llm, parallelism: Parallelism, kv_dtype_bytes: float) -> float:
    """Bytes of each further prompt token that one GPU's layers send, windows left out."""
    tp = attention_tp(parallelism)
    return sum(
        kv_mixer_bytes(mixer, tp, kv_dtype_bytes) + index_bytes(mixer)
        for mixer in mixers_of(llm.layers)
        if not is_trimmed(llm, mixer)
    )


def sent_window_bytes_per_token(llm: Llm, parallelism: Parallelism, kv_dtype_bytes: float) -> float:
    """Bytes of each token in a trimmed window that one GPU's layers keep and send."""
    tp = attention_tp(parallelism)
    return sum(_window_cell(llm, mixer, tp, kv_dtype_bytes) for mixer in mixers_of(llm.layers))


def kv_mixer_bytes(mixer: Mixer, tp: int, kv_dtype_bytes: float) -> float:
    """KV bytes of one token and mixer on one of `tp` GPUs; heads are cut, latents are not."""
    share = max(1.0, mixer.kv_heads / tp) / mixer.kv_heads if mixer.kv_heads else 1.0
    return kv_bytes(mixer, kv_dtype_bytes) * share


def _cell_bytes(llm: Llm, mixer: Mixer, tp: int, kv_dtype_bytes: float) -> float:
    window = window_pool_share(llm.architecture) * _window_cell(llm, mixer, tp, kv_dtype_bytes)
    if mixer.kind == "latents":
        window += window_pool_share(llm.architecture) * ring_bytes(mixer)
    if is_trimmed(llm, mixer):
        return window
    return kv_mixer_bytes(mixer, tp, kv_dtype_bytes) + index_bytes(mixer) + window


def _window_cell(llm: Llm, mixer: Mixer, tp: int, kv_dtype_bytes: float) -> float:
    if mixer.kind == "latents":
        return latent_window_bytes()
    return kv_mixer_bytes(mixer, tp, kv_dtype_bytes) if is_trimmed(llm, mixer) else 0.0


# The driver and CUDA keep some: an H200 shows 139.09 of 140.40 GiB free to SGLang at start
CONTEXT_BYTES = 1.31 * GIB
MIN_RESERVED_MIB = 10240.0
WIDE_DP = 8
# Tokens of a rank: SGLang's GB200 recipe. Simulated, larger ones prefill no faster and let short
# prompts wait for long ones (docs/decisions/0070).
WIDE_DP_CHUNK = 2048
WIDE_DP_FRACTION = 0.835
DISPATCHED_ROWS = 256  # of a decode step on one rank
# (below GiB of memory, chunked_prefill_size, decode graph batch for tp < 4, for tp >= 4)
_BY_MEMORY: tuple[tuple[float, int, int, int], ...] = (
    (20, 2048, 8, 8),
    (35, 2048, 24, 80),
    (60, 4096, 32, 160),
    (90, 8192, 256, 512),
    (160, 8192, 256, 512),
    (math.inf, 16384, 512, 512),
)


def usual_serving(serving: Serving, parallelism: Parallelism, role: Role) -> Serving:
    """The settings of an engine that pdctl starts: with attention-DP some of its own.

    Over WIDE_DP ranks SGLang divides its chunk until it starves them, and its formula for memory
    asks for more than a GPU has. Such deployments set both by hand: 2K (GB200) to 16K (LMSYS)
    tokens a rank, 0.80-0.85 (Kimi-K2) and 0.835-0.85 (LMSYS) of the memory.
    Buffers of all-to-all between experts hold the rows of a decode step that was known before;
    LMSYS sized them for 256 a rank.
    """
    dp = parallelism.dp
    chunk, fraction, most = serving.chunk, serving.mem_fraction, serving.max_running
    if dp > WIDE_DP:
        chunk, fraction = chunk or WIDE_DP_CHUNK * dp, fraction or WIDE_DP_FRACTION
    if dp > 1 and serving.all_to_all and role != "prefill":
        most = most or max(1, DISPATCHED_ROWS // serving.verify_tokens) * dp
    return replace(serving, chunk=chunk, mem_fraction=fraction, max_running=most)


def chunked_prefill_size(gpu: GpuModel) -> int:
    """Tokens of one prefill step of the whole engine, SGLang's default on this GPU."""
    return _memory_row(gpu)[1]


def decode_graph_batch(gpu: GpuModel, tp: int) -> int:
    """The largest batch SGLang captures a decode graph for by default."""
    row = _memory_row(gpu)
    return row[3] if tp >= 4 else row[2]


def weight_bytes_per_gpu(llm: Llm, parallelism: Parallelism) -> float:
    """Bytes of weights on the GPU that holds most.

    Source: sharding rules of shard() times the bytes per parameter of each part.
    Ignores: norms, biases and routers, under 0.1 % of a model.
    """
    part = shard(llm, parallelism)
    linear = part.attention + part.dense_mlp + part.shared_experts
    vocabulary = _vocabulary_params(llm, parallelism, part.embedding, part.head)
    return (
        linear * llm.linear_bytes
        + part.routed_experts * llm.expert_bytes
        + vocabulary * llm.embedding_bytes
    )


def reserved_bytes(
    llm: Llm,
    gpu: GpuModel,
    parallelism: Parallelism,
    role: Role,
    serving: Serving = SGLANG_DEFAULTS,
) -> float:
    """Memory SGLang leaves outside weights and KV: activations, graphs, communication.

    Source: sglang arg_groups/memory_hook.py: MiB = 512 + 1.5·A + 128·tp·pp + graphs, at least
    10240 above 60 GiB; A = max(chunk, 2048), on decode the tokens of its largest batch. The chunk
    is that of all attention-DP ranks: SGLang divides it only afterwards.
    Ignores: the extra of multimodal models and of DeepEP decode graphs.
    """
    chunk = serving.chunk or chunked_prefill_size(gpu)
    batch = serving.graph_batch or decode_graph_batch(gpu, parallelism.tp)
    tokens = chunk if chunk > 0 else MAX_PREFILL_TOKENS
    if role == "decode":
        tokens = (serving.max_running or batch) * serving.verify_tokens
    mib = 512 + 1.5 * max(tokens, 2048) + 128 * parallelism.num_gpus
    if role != "prefill":
        mib += 2 * batch + _dp_attention_mib(parallelism.dp, batch)
    mib += _prefill_graph_mib(llm, role, chunk, has_prefill_graphs(llm, parallelism, role, serving))
    if gpu.memory_bytes > 60 * GIB:
        mib = max(mib, MIN_RESERVED_MIB)
    return mib * MIB


def has_prefill_graphs(llm: Llm, parallelism: Parallelism, role: Role, serving: Serving) -> bool:
    """True if this engine prefills from CUDA graphs: as told, or by its release's default."""
    if serving.prefill_graphs is not None:
        return serving.prefill_graphs
    attention_dp = parallelism.dp > 1
    return prefill_graphs(serving.release, role, attention=llm.attention, attention_dp=attention_dp)


def mem_fraction_static(
    llm: Llm,
    gpu: GpuModel,
    parallelism: Parallelism,
    role: Role,
    serving: Serving = SGLANG_DEFAULTS,
) -> float:
    """SGLang's --mem-fraction-static, its default or as given: the share for weights and KV."""
    if serving.mem_fraction is not None:
        return serving.mem_fraction
    reserved = reserved_bytes(llm, gpu, parallelism, role, serving)
    return round((gpu.memory_bytes - reserved) / gpu.memory_bytes, 3)


def kv_capacity_tokens(
    llm: Llm,
    gpu: GpuModel,
    parallelism: Parallelism,
    role: Role,
    serving: Serving = SGLANG_DEFAULTS,
) -> int:
    """Tokens of KV the whole engine holds, over its attention-DP ranks; <= 0: does not fit.

    Source: sglang mem_cache/kv_cache_configurator.py:
    floor_page((free after weights − free at start·(1 − fraction) − state pool) / bytes per token).
    Ignores: allocator slack, +0.02 % against an H200 log of Llama-3.1-8B.
    """
    room = _room(llm, gpu, parallelism, role, serving)
    room -= _state_pool_bytes(llm, parallelism, room, serving)
    kv_dtype_bytes = kv_value_bytes(llm, gpu, serving.kv_dtype_bytes)
    cell = kv_cell_bytes(llm, parallelism, kv_dtype_bytes)
    tokens = math.floor(room / cell) if cell else 0
    page = max(serving.page_size, page_tokens(llm.architecture))
    tokens = tokens // page * page
    if serving.max_total_tokens is not None:
        tokens = min(tokens, serving.max_total_tokens)
    return tokens * parallelism.dp


def state_slots(
    llm: Llm,
    gpu: GpuModel,
    parallelism: Parallelism,
    role: Role,
    serving: Serving = SGLANG_DEFAULTS,
) -> int | None:
    """Requests whose state fits in the engine's pool. None: no layer keeps a state.

    Source: sglang 0.5.23 mem_cache/kv_cache_configurator.py: the pool takes
    --mamba-full-memory-ratio 0.9 to 1 of KV, one slot of it is padding.
    Ignores: --max-mamba-cache-size.
    """
    if not _keeps_state(llm):
        return None
    room = _room(llm, gpu, parallelism, role, serving)
    return max(0, _slots(llm, parallelism, room, serving) - 1) * parallelism.dp


def running_cap(
    llm: Llm,
    gpu: GpuModel,
    parallelism: Parallelism,
    role: Role,
    serving: Serving = SGLANG_DEFAULTS,
) -> int | None:
    """The most requests that the state pool or the architecture allows an engine. None: no cap.

    A decode engine has no radix cache and takes one slot a request, others several: it runs up to
    five times as many. Source: sglang 0.5.23 kv_cache_configurator.py; sglang_models.py.
    """
    slots = state_slots(llm, gpu, parallelism, role, serving)
    caps = [most_running(llm.architecture)]
    if slots is not None:
        caps.append(slots // slots_each(llm, role, serving))
    return min((cap for cap in caps if cap is not None), default=None)


def slots_each(llm: Llm, role: Role, serving: Serving = SGLANG_DEFAULTS) -> int:
    """State slots that an engine reserves for each running request.

    Source: sglang_models.py.
    """
    radix = role != "decode" if serving.radix_cache is None else serving.radix_cache
    if radix and serving.state_slots:
        return serving.state_slots
    return slots_per_request(llm.architecture, radix_cache=radix)


def _room(llm: Llm, gpu: GpuModel, parallelism: Parallelism, role: Role, serving: Serving) -> float:
    """Bytes of one GPU for KV and state, beside the weights."""
    fraction = mem_fraction_static(llm, gpu, parallelism, role, serving)
    usable = (gpu.memory_bytes - CONTEXT_BYTES) * fraction
    return usable - weight_bytes_per_gpu(llm, parallelism)


def _keeps_state(llm: Llm) -> bool:
    return any(mixer.kind == "state" for mixer in mixers_of(llm.layers))


def _state_pool_bytes(llm: Llm, parallelism: Parallelism, room: float, serving: Serving) -> float:
    if _keeps_state(llm):
        return _slots(llm, parallelism, room, serving) * _slot_bytes(llm, parallelism)
    rings = sum(request_ring_bytes(mixer) for mixer in mixers_of(llm.layers))
    return rings * (most_running(llm.architecture) or 0) / parallelism.pp


def _slots(llm: Llm, parallelism: Parallelism, room: float, serving: Serving) -> int:
    ratio = serving.state_memory_ratio or state_memory_ratio(llm.architecture)
    share = ratio / (1 + ratio)
    return max(0, math.floor(room * share / _slot_bytes(llm, parallelism)))


def _slot_bytes(llm: Llm, parallelism: Parallelism) -> float:
    return state_bytes(llm) / attention_tp(parallelism) / parallelism.pp


def max_running_requests(
    kv_capacity_tokens: int, max_context: int | None, *, speculative: bool = False, dp: int = 1
) -> int:
    """SGLang's default --max-running-requests of the whole engine.

    Source: sglang: min(clamp(int(tokens / context·512), 2048, 4096), tokens // 2) of each
    attention-DP rank; 48 with speculative decoding.
    """
    if speculative:
        return 48
    tokens = kv_capacity_tokens // dp
    wanted = int(tokens / (max_context or 131072) * 512)
    return max(1, min(max(2048, min(wanted, 4096)), tokens // 2)) * dp


def check_parallelism(llm: Llm, parallelism: Parallelism) -> None:
    """Check that the LLM can be split this way. Raises InvalidInput if not.

    Source: sglang layers/quantization/fp8.py asserts that no block of weights with one scale is
    split, and layers/moe that ep divides the experts. With attention-DP, redundant experts may
    make up the difference.
    """
    tp, dp, pp, ep = parallelism.tp, parallelism.dp, parallelism.pp, parallelism.ep
    for name, value in (("tp", tp), ("pp", pp), ("dp", dp), ("ep", ep)):
        if value < 1:
            raise InvalidInput(f"{name} must be at least 1, not {value}.", hint=f"--{name} 1")
    if tp % dp:
        raise InvalidInput(f"dp {dp} does not divide tp {tp}.", hint=f"--dp {math.gcd(tp, dp)}")
    if llm.num_heads % (tp // dp):
        good = [n for n in (1, 2, 4, 8, 16, 32) if llm.num_heads % n == 0]
        raise InvalidInput(
            f"tp {tp // dp} does not divide the {llm.num_heads} attention heads of {llm.name}.",
            hint=f"--tp {good[-1] if tp > good[-1] else max(n for n in good if n <= tp)}",
        )
    if pp > llm.num_layers:
        raise InvalidInput(
            f"pp {pp} is more than the {llm.num_layers} layers of {llm.name}.", hint="--pp 1"
        )
    if ep > 1:
        _check_experts(llm, tp, ep, may_be_redundant=dp > 1)
    _check_blocks(llm, parallelism)


def _check_blocks(llm: Llm, parallelism: Parallelism) -> None:
    """Check that no FP8 block is split. With attention-DP, dense MLPs are not split."""
    block, ways = llm.weight_block, parallelism.tp // parallelism.ep
    if block is None or ways == 1:
        return
    for width in _cut_widths(llm, dense=parallelism.dp == 1 and parallelism.ep == 1):
        if width % (ways * block):
            good = [n for n in range(1, parallelism.tp) if width % (n * block) == 0]
            raise InvalidInput(
                f"tp {parallelism.tp} splits the {width}-wide MLPs of {llm.name} into parts "
                f"that are not multiples of its FP8 blocks of {block}.",
                hint=f"--ep {parallelism.tp}" if llm.experts else f"--tp {max(good, default=1)}",
            )


def _cut_widths(llm: Llm, *, dense: bool) -> set[int]:
    """Widths of the quantised MLPs that tensor parallelism splits. dense: include dense MLPs."""
    mlps = [mlp for layer, _ in counted_layers(llm.layers) for mlp in layer.mlps]
    return {
        mlp.width
        for mlp in mlps
        if (mlp.num_experts or dense) and any(is_narrow(m) for m in mlp.matrices)
    }


def _check_experts(llm: Llm, tp: int, ep: int, *, may_be_redundant: bool) -> None:
    if llm.experts is None:
        raise InvalidInput(f"ep {ep} needs experts, and {llm.name} has none.", hint="--ep 1")
    if tp % ep:
        raise InvalidInput(f"ep {ep} does not divide tp {tp}.", hint=f"--ep {math.gcd(tp, ep)}")
    num = llm.experts.num_experts
    if num % ep and not may_be_redundant:
        raise InvalidInput(
            f"ep {ep} does not divide the {num} experts of {llm.name}.",
            hint=f"--ep {math.gcd(num, ep)}",
        )


def prefill_graph_sizes(largest: int) -> int:
    """The number of prefill graphs that SGLang captures up to `largest` tokens.

    Source: sglang: 4-32 by 4, 48-256 by 16, 288-512 by 32, 576-1024 by 64, 1280-4096 by 256,
    then by 512.
    """
    bands = ((4, 32, 4), (48, 256, 16), (288, 512, 32), (576, 1024, 64), (1280, 4096, 256))
    sizes = [n for low, high, step in bands for n in range(low, high + 1, step)]
    return sum(n <= largest for n in sizes) + len(range(4608, largest + 1, 512))


def _prefill_graph_mib(llm: Llm, role: Role, chunk: int, captured: bool) -> float:
    if not captured or role == "decode":
        return 0.0
    return 1536.0 if llm.attention == "mla" else 8.0 * prefill_graph_sizes(chunk)


def _dp_attention_mib(dp: int, batch: int) -> float:
    return 0.0 if dp == 1 else (4.5 if batch > 300 else 3.0) * batch * dp


def _vocabulary_params(llm: Llm, parallelism: Parallelism, embedding: float, head: float) -> float:
    """A pipeline keeps the embedding on its first stage and the head on its last."""
    return embedding + head if parallelism.pp == 1 else max(embedding, head)


def _memory_row(gpu: GpuModel) -> tuple[float, int, int, int]:
    return next(row for row in _BY_MEMORY if gpu.memory_bytes < row[0] * 1024 * MIB)
