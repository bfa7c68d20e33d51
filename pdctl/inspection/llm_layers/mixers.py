"""The mixers of an LLM's layers from its config.json: attention, latents, state. Pure."""

from collections.abc import Iterable

from pdctl.inspection.layers import Matrix, Mixer
from pdctl.inspection.llm_layers.attention_shape import attention_shape, hidden_size
from pdctl.inspection.llm_layers.dialects import at_layer
from pdctl.inspection.llm_layers.kinds import MixerWord, attention_window
from pdctl.inspection.llm_layers.state_mixers import linear_attention, mamba, short_conv
from pdctl.inspection.model_files import Fields

INDEX_SCALE_BYTES = 4  # one fp32 scale per FP8 index key
INDEX_KEY_BYTES = 2  # of a value in MiniMax's index
_BLOCK_INDEXED = ("minimax_m3_sparse", "indexed_attention")  # what transformers calls its layers


def mixers_at(text: Fields, word: MixerWord, layer: int) -> tuple[Mixer, ...]:
    """The mixers of one layer that `word` names.

    Raises InvalidInput naming the key that is missing or absurd.
    """
    text = at_layer(text, layer)
    if word == "none":
        return ()
    if word == "both":
        return (_attention(text, layer, windowed=False), mamba(text))
    if word == "mamba":
        return (mamba(text),)
    if word == "conv":
        return (short_conv(text),)
    if word == "state":
        return (linear_attention(text),)
    return (_attention(text, layer, windowed=word == "window"),)


def _attention(text: Fields, layer: int, *, windowed: bool) -> Mixer:
    if isinstance(text.raw("compress_ratios"), list):
        return _compressed(text, layer)
    if text.maybe_count("kv_lora_rank") is not None:
        return _mla(text, layer, window=attention_window(text) if windowed else None)
    return _heads(text, layer, windowed=windowed)


def _heads(text: Fields, layer: int, *, windowed: bool) -> Mixer:
    """Attention with its own keys and values per KV head."""
    window = attention_window(text) if windowed else None
    text = _of_windows(text) if window is not None else text
    heads, kv_heads, width, v_width = attention_shape(text, windowed=window is not None)
    hidden = hidden_size(text)
    gate = 2 if text.flag("attn_output_gate") or text.flag("use_attn_output_gate") else 1
    shares = _shares_kv(text, layer)
    images = text.raw("cross_attention_layers")  # Llama 3.2's: their KV is an image's
    crossed = isinstance(images, list) and layer in images
    same = bool(text.flag("attention_k_eq_v")) and window is None
    queries = heads * width * gate
    rank = text.maybe_count("share_q_dim")  # Step-3's queries
    matrices = [
        *((_matrix("q_a", hidden * rank),) if rank else ()),
        _matrix("q", (rank or hidden) * queries),
        _matrix("o", heads * v_width * hidden),
    ]
    if not shares:
        matrices.append(_matrix("k", hidden * kv_heads * width))
    if not shares and not same:
        matrices.append(_matrix("v", hidden * kv_heads * v_width))
    index, chosen = _block_index(text, layer)
    if index:
        matrices.append(Matrix("attention", "index", float(hidden * index[0] * (index[1] + 1))))
    return Mixer(
        kind="full" if window is None else "window",
        name="full attention" if window is None else f"window of {window} tokens",
        matrices=tuple(matrices),
        kv_heads=kv_heads,
        head_dim=width,
        v_head_dim=v_width,
        kv_values=0 if shares or crossed else kv_heads * (width + v_width),
        window=window,
        index_dim=index[0] if index else 0,
        index_bytes=index[0] * INDEX_KEY_BYTES if index else 0.0,
        index_topk=chosen,
    )


def _block_index(text: Fields, layer: int) -> tuple[tuple[int, int] | None, int | None]:
    """Width and heads of MiniMax's block index in this layer, and the tokens it chooses.

    Source: MiniMax-M3's sparse_attention_config; sglang keeps one 16-bit index key a token.
    """
    sparse = text.part("sparse_attention_config")
    if sparse is None and text.raw("index_topk_blocks") and _word(text, layer) in _BLOCK_INDEXED:
        chosen = text.count("index_topk_blocks") * text.count("index_block_size")
        return (text.count("index_head_dim"), text.count("index_n_heads")), chosen
    if sparse is None or not sparse.flag("use_sparse_attention"):
        return None, None
    if not sparse.at(layer, "sparse_attention_freq", least=0):
        return None, None
    heads = sparse.count("sparse_num_index_heads")
    chosen = sparse.count("sparse_topk_blocks") * sparse.count("sparse_block_size")
    return (sparse.count("sparse_index_dim"), heads), chosen


def _word(text: Fields, layer: int) -> object:
    types = text.raw("layer_types")
    return types[layer] if isinstance(types, list) and layer < len(types) else None


def _of_windows(text: Fields) -> Fields:
    """The keys of Step-3.5's window layers, which stand apart."""
    other = text.part("attention_other_setting")
    return text if other is None else text.overlaid(other.values)


def _shares_kv(text: Fields, layer: int) -> bool:
    """True if this layer reads another layer's KV and keeps none itself."""
    last = text.maybe_count("num_kv_shared_layers", least=0) or 0
    depth = text.maybe_count("num_hidden_layers", "n_layer", "num_layers", least=0) or 0
    if last and layer >= depth - last:
        return True
    sources = text.raw("kv_source_layer_ids") or text.raw("kv_source_layers")
    if isinstance(sources, list) and layer < len(sources):
        return sources[layer] is not None and sources[layer] != layer
    factor = text.maybe_count("cla_share_factor") if text.flag("use_cla") else None
    return bool(factor) and layer % (factor or 1) != 0


def _mla(text: Fields, layer: int, *, window: int | None) -> Mixer:
    """Multi-head latent attention, with or without a sparse index; without one in a window.

    Source: DeepSeek-V2 (arXiv 2405.04434) appendix C; DeepSeek-V3.2 report section 2.
    """
    heads, _, width, v_width = attention_shape(text)
    hidden, latent = hidden_size(text), text.count("kv_lora_rank")
    rope = text.count("qk_rope_head_dim", least=0)
    rank = text.maybe_count("q_lora_rank")
    queries = heads * width
    q = (
        [_matrix("q_a", hidden * rank), _matrix("q_b", rank * queries)]
        if rank
        else [_matrix("q", hidden * queries)]
    )
    index = _index_dim(text, layer) if window is None else 0
    shares = _shares_kv(text, layer)
    matrices = (
        *q,
        *(() if shares else (_matrix("kv_a", hidden * (latent + rope)),)),
        _matrix("kv_b", latent * heads * (width - rope + v_width)),
        _matrix("o", heads * v_width * hidden),
        *(_indexer(text, index) if index else ()),
        *_output_gate(text, hidden * heads, v_width),
    )
    topk = text.maybe_count("index_topk") if window is None else None
    name = "MLA" if topk is None else "MLA with a sparse index"
    return Mixer(
        kind="mla" if window is None else "window",
        name=name if window is None else f"{name} in a window of {window} tokens",
        matrices=matrices,
        kv_heads=1,
        head_dim=width,
        v_head_dim=v_width,
        kv_values=0 if shares else latent + rope,
        window=window,
        index_dim=index,
        index_bytes=_index_bytes(text, index) if index else 0.0,
        index_topk=topk,
    )


def _index_bytes(text: Fields, width: int) -> float:
    """Bytes of an index per token; GLM-5.3-Flash keeps one key for several tokens.

    Source: sglang 0.5.23 model_executor/pool_configurator.py _compute_dsa_indexer_cell_size.
    """
    return float(-(-(width + INDEX_SCALE_BYTES) // (text.maybe_count("index_kpool") or 1)))


def _output_gate(text: Fields, size: int, width: int) -> tuple[Matrix, ...]:
    """The gate on what latents' attention puts out: of every value, or of every head.

    Source: sglang 0.5.23 models/kimi_k3.py, bailing_moe_v3.py, gigachat35.py.
    """
    grain = text.text("gated_attention_proj_granularity_type")
    whole = text.flag("mla_use_output_gate") or text.flag("gated_attention")
    if whole or grain == "element_wise":
        return (_matrix("gate", size * width),)
    return (_matrix("gate", size),) if grain == "head_wise" else ()


def _index_dim(text: Fields, layer: int) -> int:
    width = text.maybe_count("index_head_dim") if text.maybe_count("index_topk") else None
    types = text.raw("indexer_types")
    if width and isinstance(types, list) and layer < len(types):
        return width if types[layer] == "full" else 0
    return width or 0


def _indexer(text: Fields, width: int) -> Iterable[Matrix]:
    heads, hidden = text.count("index_n_heads"), hidden_size(text)
    rank = text.maybe_count("q_lora_rank") or hidden
    size = rank * heads * width + hidden * width + hidden * heads
    return (Matrix("attention", "index", float(size)),)


def _compressed(text: Fields, layer: int) -> Mixer:
    """DeepSeek-V4's attention over compressed latents and a window.

    Source: DeepSeek-V4 report; sglang 0.5.23 srt/models/deepseek_v4.py.
    """
    ratio = _ratio(text, layer)
    heads, width = text.count("num_attention_heads"), text.count("head_dim")
    hidden, rank = hidden_size(text), text.count("q_lora_rank")
    groups, out_rank = text.count("o_groups"), text.count("o_lora_rank")
    index = text.count("index_head_dim") if ratio == 4 else 0
    overlap = 2 if ratio == 4 else 1
    compressor = 2 * overlap * hidden * (width + index) if ratio else 0
    matrices = (
        _matrix("q_a", hidden * rank),
        _matrix("q_b", rank * heads * width),
        _matrix("kv_a", hidden * width),
        _matrix("o_a", heads * width * out_rank),
        _matrix("o_b", groups * out_rank * hidden),
        *([_matrix("compressor", compressor)] if compressor else ()),
        *(_indexer(text, index) if index else ()),
    )
    return Mixer(
        kind="latents",
        name=f"latents of {ratio} tokens" if ratio else "window of latents",
        matrices=matrices,
        kv_heads=1,
        head_dim=width,
        v_head_dim=width,
        kv_values=width,
        window=attention_window(text),
        compress_ratio=ratio,
        index_dim=index,
        index_bytes=(index + INDEX_SCALE_BYTES) / ratio if index else 0.0,
        index_topk=text.maybe_count("index_topk") if index else None,
        state_values=overlap * ratio * 2 * overlap * (width + index),
    )


def _ratio(text: Fields, layer: int) -> int:
    listed = text.raw("compress_ratios")
    ratio = listed[layer] if isinstance(listed, list) and layer < len(listed) else None
    if isinstance(ratio, bool) or not isinstance(ratio, int) or not 0 <= ratio <= 256:
        raise text.wrong("compress_ratios", f"must give layer {layer} a number from 0 to 256")
    return ratio


def _matrix(leaf: str, params: int) -> Matrix:
    return Matrix("attention", leaf, float(params))
