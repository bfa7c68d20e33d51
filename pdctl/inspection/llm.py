"""The shape of an LLM from its config.json."""

import os
from dataclasses import dataclass, replace

from pdctl.inspection.llm_size import attention_params_per_layer, mlp_params
from pdctl.inspection.model_files import Fields, ModelFile, bundled_names, find_model, read_fields
from pdctl.inspection.quantization import BF16, PARTS, Quantization, format_named, quantization_of
from pdctl.inspection.records import Experts, Llm

_KNOWN = """
llama mistral mixtral ministral3 mistral3 llama4 llama4_text
qwen2 qwen2_moe qwen2_vl qwen2_vl_text qwen2_5_vl qwen2_5_vl_text qwen3 qwen3_moe qwen3_next
qwen3_vl qwen3_vl_text qwen3_vl_moe qwen3_vl_moe_text
qwen3_5 qwen3_5_text qwen3_5_moe qwen3_5_moe_text
deepseek_v2 deepseek_v3 deepseek_v32 kimi_k2 kimi_k25 gpt_oss
glm4 glm4_moe glm4_moe_lite glm_moe_dsa gemma gemma2 gemma3 gemma3_text phi phi3 phimoe
minimax_m2 olmo2 olmo3 olmoe granite granitemoe exaone4 ernie4_5 ernie4_5_moe
internlm2 internlm3 seed_oss hunyuan_v1_moe cohere cohere2 starcoder2 mimo mimo_v2_flash
opt gpt2 gpt_neox nemotron
"""
KNOWN_TYPES = frozenset(_KNOWN.split())
TIED_BY_DEFAULT = frozenset(
    ("gemma", "gemma2", "gemma3", "gemma3_text", "cohere", "cohere2", "gpt2", "opt")
)
UNGATED_MLP = frozenset(("gpt2", "opt", "gpt_neox", "phi", "starcoder2", "nemotron"))
SPARSE_ATTENTION = frozenset(("deepseek_v32", "glm_moe_dsa"))
# Keys a config.json leaves out because they are the class's defaults.
DEFAULTS: dict[str, dict[str, int]] = {
    "gemma3_text": {
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "vocab_size": 262208,
        "max_position_embeddings": 131072,
        "sliding_window_pattern": 6,
    },
    "gemma2": {"sliding_window_pattern": 2},
    "cohere2": {"sliding_window_pattern": 4},
}

_SLIDING = frozenset(("sliding_attention", "chunked_attention", "sliding", "local"))
_STATE = frozenset(("linear_attention", "mamba", "recurrent", "conv", "kda"))
_ALL_SLIDING = frozenset(("mistral",))


@dataclass(frozen=True)
class AttentionLayers:
    """How many layers are windowed and how many keep a fixed state; the rest attend fully."""

    window: int | None = None
    num_sliding: int = 0
    num_state: int = 0
    assumptions: tuple[str, ...] = ()


def attention_layers(text: Fields, model_type: str, num_layers: int) -> AttentionLayers:
    """The kinds of attention layers, in the several ways files say it.

    Source: transformers' configuration classes (gpt_oss, gemma2, gemma3, llama4, qwen3_next).
    Ignores: the size of a linear-attention layer's state, which does not grow with context.
    """
    window = _window(text)
    types = text.texts("layer_types", "layers_block_type")[:num_layers]
    state = _num_state(text, types, num_layers)
    notes = (_state_note(state, num_layers),) if state else ()
    if window is None:
        return AttentionLayers(num_state=state, assumptions=notes)
    sliding = _num_sliding(text, types, model_type, num_layers - state)
    if sliding is None:
        guess = f"a window of {window} tokens is given without saying for which layers: ignored"
        return AttentionLayers(num_state=state, assumptions=(*notes, guess))
    return AttentionLayers(window if sliding else None, sliding, state, notes)


def _window(text: Fields) -> int | None:
    if text.flag("use_sliding_window") is False:
        return None
    window = text.maybe_count("sliding_window", "attention_chunk_size", least=0, most=10**9)
    context = text.maybe_count("max_position_embeddings", most=10**9)
    return None if not window or (context and window >= context) else window


def _num_sliding(
    text: Fields, types: tuple[str, ...], model_type: str, num_layers: int
) -> int | None:
    if types:
        return sum(1 for one in types if one in _SLIDING)
    pattern = text.maybe_count("sliding_window_pattern", "_sliding_window_pattern", most=10_000)
    if pattern is not None:  # every pattern-th layer attends to everything
        return num_layers - num_layers // pattern
    flags = text.values.get("hybrid_layer_pattern") or text.values.get("no_rope_layers")
    if isinstance(flags, list):  # 1: windowed
        return min(sum(1 for one in flags if one == 1), num_layers)
    return num_layers if model_type in _ALL_SLIDING else None


def _num_state(text: Fields, types: tuple[str, ...], num_layers: int) -> int:
    if types:
        return sum(1 for one in types if one in _STATE)
    interval = text.maybe_count("full_attention_interval", most=10_000)
    if interval is not None:
        return num_layers - num_layers // interval
    linear = text.part("linear_attn_config")
    listed = linear.values.get("kda_layers") if linear else None
    if isinstance(listed, list):
        return min(len(listed), num_layers)
    pattern = text.text("hybrid_override_pattern")
    return num_layers - pattern[:num_layers].count("*") if pattern else 0


def _state_note(state: int, num_layers: int) -> str:
    return (
        f"{state} of {num_layers} layers keep a fixed state instead of a KV cache: "
        "their weights are counted like attention, their state is left out"
    )


__all__ = ["bundled_names", "llm_from_config", "read_llm"]

_WRAPPED = ("text_config", "llm_config", "language_config", "thinker_config")


def read_llm(model: str) -> Llm:
    """The shape of `model`: a directory with config.json, an id in the local cache, or a
    bundled name. Never asks the network.

    Raises InvalidInput naming the file and the key where the shape cannot be told.
    """
    file = find_model(model)
    top = read_fields(file.config)
    beside = file.config.with_name("hf_quant_config.json")
    if file.bundled is None and top.part("quantization_config") is None and os.path.isfile(beside):
        top = _with_quantization(top, read_fields(beside))
    llm = llm_from_config(top, name=file.name)
    if file.quantised_as:
        llm = _quantised_by_name(llm, file)
    return replace(llm, path=file.path, max_context=file.max_context or llm.max_context)


def llm_from_config(top: Fields, *, name: str) -> Llm:
    """The shape a parsed config.json describes.

    Raises InvalidInput naming the file and the key that is missing or absurd.
    Ignores: vision and audio towers, multi-token-prediction layers.
    """
    text, wrapped = _text_part(top)
    model_type = (text.text("model_type") or top.text("model_type") or "").lower()
    text = Fields({**DEFAULTS.get(model_type, {}), **text.values}, text.file)
    heads, kv_heads, head_dim, v_head_dim = _heads(text)
    num_layers = text.count("num_hidden_layers", "n_layer", "num_layers", most=10_000)
    hidden = _hidden(text)
    layers = attention_layers(text, model_type, num_layers)
    mla = text.maybe_count("kv_lora_rank") is not None
    llm = Llm(
        name=name,
        architecture=_architecture(top, text, model_type),
        num_layers=num_layers,
        hidden_size=hidden,
        intermediate_size=_intermediate(text, hidden),
        vocab_size=text.count("vocab_size", "padded_vocab_size"),
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        v_head_dim=v_head_dim,
        attention="mla" if mla else "gqa",
        q_lora_rank=text.maybe_count("q_lora_rank") if mla else None,
        kv_lora_rank=text.maybe_count("kv_lora_rank"),
        rope_head_dim=text.count("qk_rope_head_dim", least=0) if mla else None,
        experts=_experts(text, num_layers),
        sliding_window=layers.window,
        num_sliding_layers=layers.num_sliding,
        num_state_layers=layers.num_state,
        mlp_matrices=2 if model_type in UNGATED_MLP else 3,
        tied_embeddings=_tied(top, text, model_type),
        max_context=text.maybe_count(
            "max_position_embeddings",
            "n_positions",
            "max_sequence_length",
            "seq_length",
            most=10**9,
        ),
        assumptions=(*_assumptions(model_type, text, top, wrapped=wrapped), *layers.assumptions),
    )
    quantised = top.part("quantization_config") or text.part("quantization_config")
    return _quantised(llm, quantised) if quantised else _unquantised(llm, top, text)


def _text_part(top: Fields) -> tuple[Fields, bool]:
    """The language model's own object, and whether it was wrapped in a larger model's."""
    part, depth = top, 0
    while depth < 3:
        inner = part.part(*_WRAPPED)
        if inner is None:
            break
        part, depth = inner, depth + 1
    return part, depth > 0


def _architecture(top: Fields, text: Fields, model_type: str) -> str:
    names = top.texts("architectures") or text.texts("architectures")
    return (names[0] if names else model_type or "unknown")[:80]


def _hidden(text: Fields) -> int:
    return text.count("hidden_size", "n_embd", "d_model")


def _heads(text: Fields) -> tuple[int, int, int, int]:
    """Query heads, key-value heads, width of a query or key, width of a value."""
    heads = text.count("num_attention_heads", "n_head", most=100_000)
    if text.maybe_count("kv_lora_rank") is not None:
        rope = text.count("qk_rope_head_dim", least=0)
        return heads, heads, text.count("qk_nope_head_dim") + rope, text.count("v_head_dim")
    kv_heads = text.maybe_count("num_key_value_heads", "multi_query_group_num", most=100_000)
    if kv_heads is not None and kv_heads > heads:
        raise text.wrong("num_key_value_heads", f"is {kv_heads}, more than the {heads} heads")
    width = text.maybe_count("head_dim", "attention_head_dim", "kv_channels")
    if width is None:
        hidden = _hidden(text)
        if hidden < heads:
            raise text.wrong("num_attention_heads", f"is {heads}, more than hidden_size {hidden}")
        width = hidden // heads
    return heads, kv_heads or heads, width, text.maybe_count("v_head_dim") or width


def _intermediate(text: Fields, hidden: int) -> int:
    """Of a dense layer's MLP; 0 where every layer has experts and the file leaves it out."""
    found = text.maybe_count(
        "intermediate_size_mlp", "intermediate_size", "n_inner", "ffn_dim", least=0
    )
    if found is not None:
        return found
    if text.maybe_count("n_embd") is not None:  # GPT-2's n_inner defaults to this
        return 4 * hidden
    if _num_experts(text):
        return 0
    raise text.wrong("intermediate_size", "is missing")


def _num_experts(text: Fields) -> int | None:
    return text.maybe_count(
        "n_routed_experts", "num_experts", "num_local_experts", "moe_num_experts", least=0
    )


def _experts(text: Fields, num_layers: int) -> Experts | None:
    number = _num_experts(text)
    if not number or number == 1:
        return None
    chosen = text.count(
        "num_experts_per_tok", "experts_per_token", "moe_topk", "moe_k", "top_k_experts"
    )
    if chosen > number:
        raise text.wrong("num_experts_per_tok", f"is {chosen}, more than the {number} experts")
    width = text.count("moe_intermediate_size", "intermediate_size")
    dense = _num_dense_layers(text, num_layers)
    if dense >= num_layers:
        return None
    return Experts(number, chosen, width, _shared_width(text, width), dense)


def _shared_width(text: Fields, width: int) -> int:
    shared = text.maybe_count(
        "shared_expert_intermediate_size", "shared_intermediate_size", least=0
    )
    if shared is not None:
        return shared
    number = text.maybe_count(
        "n_shared_experts", "num_shared_experts", "moe_num_shared_experts", least=0
    )
    if number is None and (text.text("model_type") or "").startswith("llama4"):
        number = 1
    return (number or 0) * width


def _num_dense_layers(text: Fields, num_layers: int) -> int:
    """How many layers have no experts, in the several ways files say it."""
    leading = text.maybe_count("first_k_dense_replace", "moe_layer_start_index", least=0)
    if leading is not None:
        return min(leading, num_layers)
    frequencies = text.values.get("moe_layer_freq")
    if isinstance(frequencies, list):
        return min(sum(1 for one in frequencies if one == 0), num_layers)
    step = text.maybe_count("decoder_sparse_step", "interleave_moe_layer_step") or 1
    named = text.values.get("mlp_only_layers")
    only_dense = len(named) if isinstance(named, list) else 0
    return min(num_layers - num_layers // step + only_dense, num_layers)


def _tied(top: Fields, text: Fields, model_type: str) -> bool:
    said = text.flag("tie_word_embeddings")
    said = top.flag("tie_word_embeddings") if said is None else said
    return model_type in TIED_BY_DEFAULT if said is None else said


def _assumptions(model_type: str, text: Fields, top: Fields, *, wrapped: bool) -> tuple[str, ...]:
    notes = []
    if model_type not in KNOWN_TYPES:
        name = _architecture(top, text, model_type)
        notes.append(
            f"architecture {name!r} is not one pdctl knows: taken as a decoder with grouped-query "
            "attention and a gated MLP, from the keys its config.json has"
        )
    if wrapped or text.part("vision_config") is not None:
        notes.append("only the language model is counted; vision and audio towers are left out")
    if model_type in SPARSE_ATTENTION:
        notes.append("sparse attention is counted as full attention, its index cache is left out")
    return tuple(notes)


def _unquantised(llm: Llm, top: Fields, text: Fields) -> Llm:
    dtype = text.text("torch_dtype") or text.text("dtype") or top.text("torch_dtype") or ""
    if (dtype or top.text("dtype")) != "float32":
        return llm
    note = "float32 weights are counted as bf16, which is how SGLang loads them"
    return replace(llm, assumptions=(*llm.assumptions, note))


def _quantised(llm: Llm, config: Fields) -> Llm:
    found = quantization_of(config, num_layers=llm.num_layers)
    return llm if found is None else _apply(llm, found)


def _apply(llm: Llm, found: Quantization) -> Llm:
    """Bytes per parameter by part; `linear_bytes` is the mean over attention and dense MLPs."""
    small, left = found.format.bytes_per_param, found.left_out
    kept = {part: small + (BF16.bytes_per_param - small) * left.get(part, 0.0) for part in PARTS}
    attention = attention_params_per_layer(llm) * llm.num_layers
    mlp = mlp_params(llm)
    mlp_kept = (
        kept["shared"] if llm.experts and llm.experts.shared_intermediate_size else kept["mlp"]
    )
    notes = (found.assumption,) if found.assumption else ()
    return replace(
        llm,
        linear_bytes=(attention * kept["attention"] + mlp * mlp_kept) / (attention + mlp),
        expert_bytes=kept["experts"],
        compute_dtype=found.format.compute,
        quantization=found.format.label,
        assumptions=(*llm.assumptions, *notes),
    )


def _quantised_by_name(llm: Llm, file: ModelFile) -> Llm:
    found = format_named(file.quantised_as or "")
    note = f"taken as the bundled {file.bundled} with {found.label} weights"
    llm = replace(llm, assumptions=(*llm.assumptions, note))
    return _apply(llm, Quantization(found, {}))


def _with_quantization(top: Fields, beside: Fields) -> Fields:
    """`top` with what ModelOpt wrote into its own file instead."""
    said = beside.part("quantization")
    if said is None:
        return top
    config = {"quant_method": "modelopt", **said.values}
    return Fields({**top.values, "quantization_config": config}, top.file)
