"""Kernels of a layer by kind of mixer and MLP, which cost time even with few bytes and FLOPs.

The counts are written to be checked: profile one decode step and count the kernels between two
norms. tests/perf_model/test_kernels.py does so for five kinds of layer on H200. Their times are in
releases.py, because releases differ in them.
"""

from typing import NamedTuple

from pdctl.inspection.layers import Layer, Matrix, Mixer, Mlp
from pdctl.inspection.records import Llm
from pdctl.perf_model.formats import counted_layers, is_narrow
from pdctl.perf_model.records import Role
from pdctl.perf_model.releases import KernelTimes, kernel_times

# What Python and the driver take to launch one without a graph, on the host of a server: 1.0 of
# the host's speed. Source: one token through PD prefill engines of SGLang 0.5.15 on H200, 11 to
# 18 ms for 32 dense layers on one host and twice that on another; 58 ms for 48 layers with
# experts. Quantised products: 1,024 tokens of Qwen3-8B in FP8 took 94 ms on a host of twice that,
# which would be 170; 120 fits the public runs better.
# AIConfigurator's eager modules (dsa_context_module, sglang 0.5.14) come to half of these.
LAUNCH_S = 50e-6
TRITON_LAUNCH_S = 90e-6  # kernels of experts and of linear attention, launched by Triton
QUANTISED_LAUNCH_S = 120e-6  # quantising, and DeepGEMM's choice of a kernel


class Kernels(NamedTuple):
    """The kernels of one part of a layer.

    plain, triton: kernels, by who launches them. products: matrix products among them, each of
    which has a quantising kernel before it where activations are quantised as they come.
    """

    plain: int
    triton: int = 0
    products: int = 0


# Each mixer and MLP counts the norm before it; collectives are counted in communication.py.
MIXERS: dict[str, Kernels] = {
    # norm, q·k·v, rotary, storing KV, attention, output. Not counted, because neither the shape nor
    # the GPU says so: a norm of q and k, Triton's second pass of attention, cuBLAS' split-K sums
    "full": Kernels(6, products=2),
    "window": Kernels(6, products=2),
    # norm, q_a·kv_a, norms of q and of the latent, q_b, rotary, absorbing k, joining q and KV (2),
    # storing KV, attention, joining its parts, absorbing v, copies (2), output
    "mla": Kernels(16, products=3),
    # as mla, with compressor, gathering of latents, window and two low-rank outputs (assumed)
    "latents": Kernels(22, products=4),
    # norm, q·k·v·z, b·a, splitting, convolution, recurrence, gated norm, output, a copy
    "state": Kernels(9, products=2),
}
# Besides a layer's own, in prefill: scan over chunks (l2 norms, decay sums, products in chunks,
# triangular solve, states, outputs)
SCAN = Kernels(0, triton=8)
# What graphs of prefill leave out of a mixer of linear attention, launched for every layer: which
# requests have a state, saving inputs of the convolution (2), zeros (2), saving the state (3), a
# copy of the output; by Triton convolution, splitting q·k·v, gates, l2 norms (2), sums of decays,
# the solve (2), states, outputs. Source: eager_on_graph around the layer in sglang 0.5.17
# layers/radix_linear_attention.py; kernels between two products in a trace of Qwen3-Next
# (tests/data/gpu/steps.jsonl, next).
SCAN_PIECE = Kernels(9, triton=10)
# The same of attention, four kernels and the graph of what lies between. The host's own time for a
# prompt, from stacks of SGLang 0.5.17's scheduler, less the 4 ms until the GPU begins: 2.7 and 2.9
# ms for 36 dense layers, 1.9 for 32 (docs/log.md, plan 9).
ATTENTION_PIECE_S = 75e-6
# Launched once a step besides. Before the first layer, because a state's slots are looked up on the
# CPU (_init_track_ssm_indices in hybrid_linear_attn_backend.py): kernels before that copy, which
# waits for the step that runs, and after it. In the first layer, the table of chunks
# (prepare_chunk_indices in fla/index.py). Source: the same trace, less those of Qwen3-8B.
STATE_LOOKUP = Kernels(25)
STATE_LOOKUP_AFTER = Kernels(32)
CHUNK_TABLE = Kernels(15)
# Drafts looked up on the CPU need the tokens that the last step accepted, so the host launches
# nothing ahead: what is outside of graphs in a decode step (24 in every profile) and to bring
# drafts and masks to the GPU (8), and for each request a mask. Source: ngram_worker.py of sglang
# 0.5.17, _prepare_for_speculative_decoding.
NGRAM_STEP, NGRAM_REQUEST = Kernels(32), Kernels(4)
# Sparse index: products of q, k and weights; norm, rotary, two Hadamard turns, two quantisings,
# storing keys, scaling weights, metadata, scores, top-k, page table, copies
INDEX = Kernels(15, products=2)
# norm, up·gate, activation, down
DENSE_MLP = Kernels(4, products=2)
# norm, router (2), top-k, clearing (2), a copy, aligning (2), up·gate, activation, down, weighting,
# summing (2); Triton launches the products, what chooses experts and what sums them
EXPERTS = Kernels(9, triton=6, products=2)
EXPERTS_BY_RUNNER = {
    # norm, router, routing (2), quantising, up·gate with activation, down, summing
    "flashinfer_trtllm": Kernels(8),
    # norm, router, top-k, up·gate, activation with quantising, down; DeepEP is counted apart
    "deep_gemm": Kernels(6),
}
# up·gate, activation, down, adding
SHARED_EXPERTS = Kernels(4, products=2)
# into the latent and back
LATENT = Kernels(2, products=2)
# Bringing the tokens of attention-DP ranks together before an MLP and apart after it: clearing,
# a copy into place, all-reduce, a copy; clearing and a copy out. Triton copies rows into place and
# out. Source: _dp_gather_via_all_reduce and dp_scatter in sglang 0.5.17 layers/dp_attention.py.
GATHERED = Kernels(4, triton=2)
# Adds the shared expert to the routed ones, but not with DeepEP. Source: sglang
# determine_num_fused_shared_experts in deepseek_v2.py and glm4_moe.py (GLM-5: since February 2026)
FUSES_SHARED = ("DeepseekV3ForCausalLM", "GlmMoeDsaForCausalLM", "Glm4MoeForCausalLM")
# Norms of q and k that run as plain PyTorch, ten small kernels each, and two more norms with their
# copies per layer. Source: Gemma3RMSNorm in sglang layers/layernorm.py, whose fused kernel takes
# rows of two dimensions only; 1,826 kernels of 48 layers, of which 10 a layer are counted above
PLAIN_NORMS = Kernels(25)
HAS_PLAIN_NORMS = ("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration")


def replayed_s(llm: Llm, *, runner: str, dynamic: bool, release: str | None = None) -> float:
    """Seconds of all layers' kernels replayed from a CUDA graph, their bytes and FLOPs apart.

    runner: of routed experts, as in hardware.py.
    dynamic: narrow products quantise their input first; weight-only ones do not.
    release: of SGLang; None: the newest that was read. Source: kernel_times in releases.py.
    Ignores: kernels of single models, and that kernels on other GPUs than Hopper's may differ.
    """
    times = kernel_times(release)
    parts = [*_parts(llm, runner=runner), (num_plain_norms(llm), PLAIN_NORMS, False)]
    return sum(
        num * _replayed_s(kernels, times, quantises=narrow and dynamic)
        for num, kernels, narrow in parts
    )


def num_plain_norms(llm: Llm) -> int:
    """Layers with PLAIN_NORMS. Launching PyTorch's kernels without a graph was not measured."""
    return llm.num_layers if llm.architecture in HAS_PLAIN_NORMS else 0


def num_kernels(llm: Llm, *, runner: str, dynamic: bool) -> int:
    """Kernels of one decode step over all layers: what a profile of the step counts."""
    return num_plain_norms(llm) * PLAIN_NORMS.plain + sum(
        num * (kernels.plain + kernels.triton + (kernels.products if narrow and dynamic else 0))
        for num, kernels, narrow in _parts(llm, runner=runner)
    )


def _replayed_s(kernels: Kernels, times: KernelTimes, *, quantises: bool) -> float:
    """Products of experts in Triton take as long as its other kernels beside their bytes."""
    dense_s = times.narrow_product_s if quantises else times.product_s
    product_s = times.small_s if kernels.triton else dense_s
    quantising_s = times.quantising_s if quantises else 0.0
    small = kernels.plain + kernels.triton - kernels.products
    return times.small_s * small + (product_s + quantising_s) * kernels.products


def launched_s(llm: Llm, *, runner: str, dynamic: bool, gathers: bool = False) -> float:
    """The least time of a step without a graph, in which the host launches every kernel.

    runner, dynamic: as in replayed_s. gathers: attention-DP ranks bring their tokens together.
    Source: LAUNCH_S and its neighbours.
    Ignores: the host's own speed, which differed by two between the hosts that were measured.
    """
    parts = [*_parts(llm, runner=runner), (_num_scans(llm), SCAN, False)]
    if gathers:
        parts.append((llm.num_layers, GATHERED, False))
    return sum(
        num * _launch_s(kernels, quantises=narrow and dynamic) for num, kernels, narrow in parts
    )


def pieces_s(llm: Llm, role: Role) -> float:
    """The least time of a prefill step with graphs, in which the host launches what they leave out.

    The host prepares the first mixer and then launches one after another.
    Source: SCAN_PIECE, STATE_LOOKUP_AFTER, CHUNK_TABLE, ATTENTION_PIECE_S. Ignores: attention in
    colocated engines, which answer for nothing between two launches; the host's own speed.
    """
    num, piece_s = _num_scans(llm), _launch_s(SCAN_PIECE, quantises=False)
    scans_s = state_start_s(llm)[1] + (num - 1) * piece_s if num else 0.0
    return scans_s + (ATTENTION_PIECE_S * (llm.num_layers - num) if role == "prefill" else 0.0)


def state_start_s(llm: Llm) -> tuple[float, float]:
    """Seconds of launching before a prefill step with states: hidden by a step that runs, and not.

    Not hidden: while the host launches the first mixer of linear attention, the GPU waits.
    Source: STATE_LOOKUP and its neighbours.
    """
    if not _num_scans(llm):
        return 0.0, 0.0
    shown = (STATE_LOOKUP_AFTER, CHUNK_TABLE, SCAN_PIECE)
    return (
        _launch_s(STATE_LOOKUP, quantises=False),
        sum(_launch_s(kernels, quantises=False) for kernels in shown),
    )


def ngram_launch_s() -> tuple[float, float]:
    """Seconds of launching in a decode step whose drafts are n-grams, and for each request."""
    step_s, request_s = (_launch_s(one, quantises=False) for one in (NGRAM_STEP, NGRAM_REQUEST))
    return step_s, request_s


def _num_scans(llm: Llm) -> int:
    """Mixers of linear attention over all layers."""
    return sum(
        num * sum(mixer.kind == "state" for mixer in layer.mixers)
        for layer, num in counted_layers(llm.layers)
    )


def _launch_s(kernels: Kernels, *, quantises: bool) -> float:
    products_s = QUANTISED_LAUNCH_S * _launched_products(kernels) if quantises else 0.0
    return LAUNCH_S * kernels.plain + TRITON_LAUNCH_S * kernels.triton + products_s


def quantised_products(llm: Llm, *, runner: str) -> int:
    """Dense matrix products over all layers that quantise their input first."""
    parts = _parts(llm, runner=runner)
    return sum(num * _launched_products(kernels) for num, kernels, narrow in parts if narrow)


def _launched_products(kernels: Kernels) -> int:
    """Triton's kernels for experts quantise in the same launch code."""
    return 0 if kernels.triton else kernels.products


def _parts(llm: Llm, *, runner: str) -> list[tuple[int, Kernels, bool]]:
    """Each part's number, its kernels, and whether its weights are narrow."""
    return [
        (num, kernels, narrow)
        for layer, num in counted_layers(llm.layers)
        for kernels, narrow in _layer_parts(llm, layer, runner)
    ]


def _layer_parts(llm: Llm, layer: Layer, runner: str) -> list[tuple[Kernels, bool]]:
    found: list[tuple[Kernels, bool]] = []
    for mixer in layer.mixers:
        found += _mixer_parts(llm, mixer)
    for mlp in layer.mlps:
        found += _mlp_parts(llm, mlp, runner)
    return found


def _mixer_parts(llm: Llm, mixer: Mixer) -> list[tuple[Kernels, bool]]:
    index = tuple(m for m in mixer.matrices if m.leaf == "index")
    rest = tuple(m for m in mixer.matrices if m.leaf != "index")
    parts = [(MIXERS[mixer.kind], _any_narrow(rest))]
    return [*parts, (INDEX, _any_narrow(index))] if mixer.index_dim else parts


def _mlp_parts(llm: Llm, mlp: Mlp, runner: str) -> list[tuple[Kernels, bool]]:
    if not mlp.num_experts:
        return [(DENSE_MLP, _any_narrow(mlp.matrices))]
    routed = tuple(m for m in mlp.matrices if m.part == "experts")
    parts = [(EXPERTS_BY_RUNNER.get(runner, EXPERTS), _any_narrow(routed))]
    beside = tuple(m for m in mlp.matrices if m.part == "shared")
    fused = llm.architecture in FUSES_SHARED and runner != "deep_gemm"
    if mlp.shared_width and not fused:
        parts.append((SHARED_EXPERTS, _any_narrow(beside)))
    if mlp.expert_input and mlp.expert_input != llm.hidden_size:
        parts.append((LATENT, _any_narrow(beside)))
    return parts


def _any_narrow(matrices: tuple[Matrix, ...]) -> bool:
    return any(is_narrow(matrix) for matrix in matrices)
