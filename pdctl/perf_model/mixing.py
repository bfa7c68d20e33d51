"""The time of mixers: attention, windows, sparse indexes, linear attention."""

from pdctl.inspection.layers import Mixer, mixers_of
from pdctl.inspection.llm_layers.request_bytes import index_bytes, latent_window_bytes
from pdctl.inspection.llm_size import num_kv_layers, state_bytes
from pdctl.inspection.records import GpuModel, Llm
from pdctl.perf_model.hardware import ATTENTION_DP_IMBALANCE, Rates, dense_flops
from pdctl.perf_model.memory import attention_tp, kv_mixer_bytes
from pdctl.perf_model.records import Parallelism, Serving

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


def pair_layer_s(llm: Llm, rates: Rates, parallelism: Parallelism) -> float:
    """Seconds per query-key pair and layer: two products per head."""
    flops = 2 * llm.num_heads * (llm.head_dim + llm.v_head_dim) / parallelism.tp
    return flops * imbalance(parallelism) / rates.attention


def imbalance(parallelism: Parallelism) -> float:
    """The busiest attention-DP rank against the mean."""
    return ATTENTION_DP_IMBALANCE if parallelism.dp > 1 else 1.0


def full_layers(llm: Llm) -> int:
    return num_kv_layers(llm) - _sliding_layers(llm)


def _sliding_layers(llm: Llm) -> int:
    return min(llm.num_sliding_layers, num_kv_layers(llm)) if llm.sliding_window else 0


def _sparse_mixers(llm: Llm) -> list[Mixer]:
    """Mixers whose tokens attend to chosen ones: DSA."""
    return [m for m in mixers_of(llm.layers) if m.kind == "mla" and m.index_topk]


def pair_s(llm: Llm, gpu: GpuModel, rates: Rates, parallelism: Parallelism) -> float:
    """Seconds per query-key pair over all layers: attention, or an index's score of it.

    Ignores: that layers with a window skip no pair of a short prompt, which costs as much.
    """
    sparse = _sparse_mixers(llm)
    scored = sum(_index_flops(llm, m) for m in sparse) * INDEX_PASSES / dense_flops(gpu, "fp8")
    dense = full_layers(llm) - len(sparse) + rates.skipped * _sliding_layers(llm)
    return dense * pair_layer_s(llm, rates, parallelism) + scored / parallelism.dp


def cached_weight(llm: Llm, rates: Rates) -> float:
    """Cost of a pair with a cached token over one among new tokens, over all layers.

    Layers with a window skip pairs among new tokens one by one, but a cached prefix at once.
    """
    skipping = rates.skipped * _sliding_layers(llm)
    full = full_layers(llm)
    return rates.cached_weight * full / (full + skipping) if skipping else rates.cached_weight


def _index_flops(llm: Llm, mixer: Mixer) -> float:
    """Products of one query's index heads with one key; each GPU of a group does them all."""
    params = sum(m.params for m in mixer.matrices if m.leaf == "index")
    per_head = (llm.q_lora_rank or llm.hidden_size) * mixer.index_dim + llm.hidden_size
    return 2.0 * mixer.index_dim * max(0.0, params - llm.hidden_size * mixer.index_dim) / per_head


def prefill_token_s(llm: Llm, rates: Rates, parallelism: Parallelism) -> float:
    """Seconds per token of layers that attend to no more than so many tokens, and of scans.

    Ignores: prompts shorter than the window or the chosen tokens, which cost less.
    """
    window = llm.sliding_window or 0
    sliding = _sliding_layers(llm) * window * pair_layer_s(llm, rates, parallelism)
    scanned = _scan_s(llm, parallelism) + state_rows_s(llm, rates, parallelism)
    return sliding + _chosen_s(llm, rates, parallelism) + scanned


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


def state_rows_s(llm: Llm, rates: Rates, parallelism: Parallelism) -> float:
    """Seconds per prompt token of the kernels that rearrange rows around a gated delta net.

    Read and written in 16 bits: q, k, v and z when they are split, q, k and v once more behind the
    convolution; the gated norm reads two rows as wide as z and writes one, and its input is a copy.
    Source: sglang 0.5.17 models/qwen3_next.py and gdn_backend.py; within 10 % of their kernels in
    a trace of Qwen3-Next at 4,096 tokens. Ignores: other kinds of linear attention.
    """
    leaves = [m for one in mixers_of(llm.layers) if one.kind == "state" for m in one.matrices]
    qkv, z = (sum(m.params for m in leaves if m.leaf == leaf) for leaf in ("in_qkv", "in_z"))
    moved = (8 * qkv + 14 * z) / llm.hidden_size / attention_tp(parallelism)
    return moved / rates.memory / parallelism.dp


def decode_context_s(llm: Llm, rates: Rates, parallelism: Parallelism, serving: Serving) -> float:
    """Seconds per token of context over the layers without a window, on the busiest rank.

    Where an index chooses tokens, decode reads the index of all and the KV of the chosen ones.
    """
    size, tp = kv_size(llm, serving), attention_tp(parallelism)
    if verifies_in_blocks(llm, rates, serving):
        return full_layers(llm) * _verified_token_s(llm, rates, parallelism)
    whole = sum(
        index_bytes(mixer) * INDEX_PASSES / rates.kv
        if mixer.kind == "mla" and mixer.index_topk
        else _cached_token_s(llm, mixer, tp, size, rates)
        for mixer in mixers_of(llm.layers)
        if mixer.kind != "window"
    )
    return whole * imbalance(parallelism) / parallelism.pp / parallelism.dp


def verifies_in_blocks(llm: Llm, rates: Rates, serving: Serving) -> bool:
    """True where drafts are verified by the kernel of prefill, a block of rows per query head."""
    return serving.verify_tokens > 1 and rates.verify > 0 and llm.attention != "mla"


def _verified_token_s(llm: Llm, rates: Rates, parallelism: Parallelism) -> float:
    """Seconds per token of context and layer, of which every query head computes a whole block.

    Source: extend_attention_fwd in sglang 0.5.17: a thread block per request, head and
    verify_block rows. Ignores: more drafts than rows of a block.
    """
    flops = 2 * llm.num_heads * (llm.head_dim + llm.v_head_dim) * rates.verify_block
    share = attention_tp(parallelism) * parallelism.dp * parallelism.pp
    return flops * imbalance(parallelism) / rates.verify / share


def _cached_token_s(llm: Llm, mixer: Mixer, tp: int, size: float, rates: Rates) -> float:
    """Seconds of decode attention to one cached token in one layer."""
    return max(
        (kv_mixer_bytes(mixer, tp, size) + index_bytes(mixer)) / rates.kv,
        _latent_flops(llm, mixer) / tp / rates.latents,
    )


def state_read_s(llm: Llm, rates: Rates, parallelism: Parallelism) -> float:
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


def decode_request_s(
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


def kv_size(llm: Llm, serving: Serving) -> float:
    return serving.kv_dtype_bytes or llm.kv_dtype_bytes
