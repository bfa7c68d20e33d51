"""The shape of an LLM from its config.json."""

import os
from collections import Counter
from dataclasses import replace
from typing import Any

from pdctl.inspection.layers import Layer, Mixer, Mlp, mixers_of
from pdctl.inspection.llm_layers.attention_shape import hidden_size
from pdctl.inspection.llm_layers.formats import stored
from pdctl.inspection.llm_layers.kinds import depth, layer_kinds
from pdctl.inspection.llm_layers.mixers import mixers_at
from pdctl.inspection.llm_layers.mlps import dense_width, mlp_plan, mlps_at
from pdctl.inspection.llm_layers.nas_blocks import nas_layers
from pdctl.inspection.llm_layers.state_mixers import LIGHTNING
from pdctl.inspection.model_files import (
    Fields,
    ModelFile,
    bundled_names,
    find_model,
    from_params,
    is_params,
    read_fields,
)
from pdctl.inspection.quantization import EXPERTS_FP4, Quantization, format_named, quantization_of
from pdctl.inspection.records import Experts, Llm
from pdctl.inspection.sglang_models import trims_windows

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
deepseek_v4 deepseek_ref kimi_k3 minimax_m3 minimax_m3_vl gemma4
gemma4_text gemma3n gemma3n_text mistral4 mistral_large_3 kimi_linear
nemotron_h nemotron-nas deci granitemoehybrid falcon_h1 bamba jamba lfm2 lfm2_moe
step3p5 step3p7 minimax minimax_text_01 bailing_moe bailing_moe_v2 bailing_hybrid
dots1 longcat_flash hunyuan_v1_dense hy_v3 exaone_moe llama4_moe qwen3_omni_moe
mimo_v2 glm4v glm4v_moe glm4_moe_v glm4v_text glm4v_moe_text glm_5 internvl internvl_chat
arcee apertus smollm3 kimi_vl ernie4_5_moe_vl ernie4_5_vl_moe
"""
KNOWN_TYPES = frozenset(_KNOWN.split())
TIED_BY_DEFAULT = frozenset(
    ("gemma", "gemma2", "gemma3", "gemma3_text", "cohere", "cohere2", "gpt2", "opt")
)
UNGATED_MLP = frozenset(("gpt2", "opt", "gpt_neox", "phi", "starcoder2", "nemotron"))
# Words in a key that make it look like a part of the shape, and words that say it is none.
_STRUCTURAL = """
layer expert head latent rank window chunk kernel state dim compress block pattern index conv moe
mamba linear interval period hidden intermediate width shared group
"""
STRUCTURAL = tuple(_STRUCTURAL.split())
_HARMLESS = """
loss time_step attn_res norm act dtype eps init token_id output_hidden rope scal theta
prediction nextn mtp
vision audio _dropout chunk_size_feed topk_group n_group num_expert_group router_ aux prun output_
max_window_layers auto_map id2label
"""
HARMLESS = tuple(_HARMLESS.split())
# Keys that repeat what others say, or that no figure follows from.
_IDLE = """
num_key_value_heads head_dim qk_head_dim sliding_window sliding_window_size attention_chunk_size
full_attention_interval num_hash_layers index_topk_freq index_topk_pattern index_skip_topk_offset
index_share_for_mtp_iteration moe_layer_freq mamba_chunk_size chunk_size mamba_expand expand
num_beam_groups rotary_dim rotary_emb_base mlp_layer_types first_k_dense_replace layer_types
swa_head_dim swa_num_attention_heads moe_every_n_layers initial_context_length intermediate_size
num_hidden_layers vocab_size image_token_index video_token_index interleave_moe_layer_step
decoder_sparse_step num_attention_heads max_expert_parallel use_cla cla_share_factor
num_nextn_predict_layers num_mtp_modules mtp_transformer_layers moe_intermediate_size
no_rope_layer_interval no_rope_layers architectures max_position_embeddings window_size
head_wise_attn_gate shared_intermediate_size hybrid_override_pattern norm_after_attn
linear_attn_config num_global_key_value_heads global_head_dim tie_word_embeddings hidden_size
linear_conv_kernel_dim torch_dtype kv_channels qkv_clip sliding_window_pattern gating_layer
pad_head_dim_to_multiple_of_n
"""
IDLE = frozenset(_IDLE.split())
# Keys a config.json leaves out because they are the class's defaults.
DEFAULTS: dict[str, dict[str, int | bool]] = {
    "qwen3_next": {"attn_output_gate": True},
    "gemma4_text": {"sliding_window_pattern": 6},
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
    top = from_params(top) if is_params(top) else top
    text, wrapped = _text_part(top)
    model_type = (text.text("model_type") or top.text("model_type") or "").lower()
    text = Fields({**DEFAULTS.get(model_type, {}), **text.values}, text.file)
    num_layers = depth(text)
    matrices = 2 if model_type in UNGATED_MLP else 3
    layers, notes = _layers(text, model_type, num_layers, matrices)
    llm = Llm(
        name=name,
        architecture=_architecture(top, text, model_type),
        num_layers=num_layers,
        hidden_size=hidden_size(text),
        intermediate_size=dense_width(text),
        vocab_size=text.count("vocab_size", "padded_vocab_size"),
        **_attention_fields(text, layers),
        experts=_experts(layers),
        mlp_matrices=_mlp_matrices(layers, matrices),
        tied_embeddings=_tied(top, text, model_type),
        per_layer_embedding=_per_layer_embedding(text, num_layers),
        max_context=_max_context(text),
        layers=layers,
    )
    llm = replace(llm, trims_windows=trims_windows(llm.architecture))
    quantised = top.part("quantization_config") or text.part("quantization_config")
    llm = _quantised(llm, text, quantised) if quantised else _unquantised(llm, top, text)
    guesses = (*_guesses(llm, model_type, text), *notes, *llm.guesses)
    facts = _facts(top, text, wrapped=wrapped)
    return replace(llm, guesses=guesses, assumptions=(*guesses, *facts, *llm.assumptions))


def _layers(
    text: Fields, model_type: str, num_layers: int, matrices: int
) -> tuple[tuple[Layer, ...], tuple[str, ...]]:
    """The layers, and sentences about what had to be assumed."""
    searched = nas_layers(text, num_layers)
    if searched is not None:
        return searched, ()
    kinds, notes = layer_kinds(text, model_type, num_layers)
    plan = mlp_plan(text, num_layers, matrices)
    layers = tuple(
        Layer(mixers_at(text, kind.mixer, i), mlps_at(text, kind.mlp, plan, i))
        for i, kind in enumerate(kinds)
    )
    return layers, (*notes, *plan.notes)


def _attention_fields(text: Fields, layers: tuple[Layer, ...]) -> dict[str, Any]:
    """What the first attention of the LLM looks like, and how many layers differ from it."""
    mixers = mixers_of(layers)
    latent = any(m.kind in ("mla", "latents") for m in mixers)
    first = _representative(mixers)
    heads = text.count("num_attention_heads", "n_head", "n_heads", most=100_000)
    rope = text.count("qk_rope_head_dim", least=0) if latent else None
    windows = [m.window for m in mixers if m.kind == "window" and m.window]
    shape = {"num_heads": heads, "num_kv_heads": heads if latent else first.kv_heads or heads}
    return shape | {
        "head_dim": first.head_dim,
        "v_head_dim": first.v_head_dim,
        "attention": "mla" if latent else "gqa",
        "q_lora_rank": text.maybe_count("q_lora_rank") if latent else None,
        "kv_lora_rank": first.kv_values - rope if rope is not None else None,
        "rope_head_dim": rope,
        "sliding_window": max(windows, default=None),
        "num_sliding_layers": len(windows),
        "num_state_layers": sum(1 for one in layers if not any(m.kv_values for m in one.mixers)),
    }


def _representative(mixers: tuple[Mixer, ...]) -> Mixer:
    attention = [m for m in mixers if m.kv_values]
    full = [m for m in attention if m.kind != "window"]
    return next(iter(full or attention), Mixer("state", "none", (), 1, 1, 1))


def _experts(layers: tuple[Layer, ...]) -> Experts | None:
    """The most common experts, and how many layers have none."""
    found = [mlp for layer in layers for mlp in layer.mlps if mlp.num_experts]
    if not found:
        return None
    usual = Counter(
        (m.num_experts, m.experts_per_token, m.width, m.shared_width) for m in found
    ).most_common(1)[0][0]
    return Experts(*usual, num_dense_layers=len(layers) - len(found))


def _mlp_matrices(layers: tuple[Layer, ...], default: int) -> int:
    mlps: list[Mlp] = [mlp for layer in layers for mlp in layer.mlps]
    leaves = {m.leaf for mlp in mlps for m in mlp.matrices if m.part in ("mlp", "experts")}
    return len(leaves) or default


def _per_layer_embedding(text: Fields, num_layers: int) -> int:
    """Parameters of the embeddings that Gemma-3n and small Gemma-4 look up in every layer."""
    width = text.maybe_count("hidden_size_per_layer_input", least=0) or 0
    words = text.maybe_count("vocab_size_per_layer_input", least=0) or 0
    return width * words * num_layers


def _max_context(text: Fields) -> int | None:
    return text.maybe_count(
        "max_position_embeddings",
        "n_positions",
        "max_sequence_length",
        "model_max_length",
        "seq_length",
        "max_seq_len",
        most=10**9,
    )


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


def _tied(top: Fields, text: Fields, model_type: str) -> bool:
    said = text.flag("tie_word_embeddings")
    said = top.flag("tie_word_embeddings") if said is None else said
    return model_type in TIED_BY_DEFAULT if said is None else said


def _guesses(llm: Llm, model_type: str, text: Fields) -> tuple[str, ...]:
    """What the figures rest on without the file saying it."""
    notes = []
    if model_type not in KNOWN_TYPES:
        notes.append(
            f"architecture {llm.architecture!r} is not one pdctl knows: its parameters, KV and "
            "step times are those of the layers that the keys of its config.json describe"
        )
    if any(m.name == LIGHTNING for m in mixers_of(llm.layers)) and "minimax" not in model_type:
        notes.append(
            "the keys of its linear attention are not known: taken as MiniMax-01's, with the "
            "heads of its full attention"
        )
    unread = _unread(text)
    if unread:
        more = f" and {len(unread) - 4} more" if len(unread) > 4 else ""
        notes.append(
            f"not read, though they look like the shape: {', '.join(unread[:4])}{more}; "
            "parameters, KV and step times may be off"
        )
    return tuple(notes)


def _unread(text: Fields) -> tuple[str, ...]:
    """Keys with a value that are named like a part of the shape and that nothing asked for."""
    return tuple(
        key[:60]
        for key, value in text.values.items()
        if value not in (None, False, 0, "", [], {})
        and key not in text.seen
        and key not in IDLE
        and not isinstance(value, float | bool)
        and any(word in key for word in STRUCTURAL)
        and not any(word in key for word in HARMLESS)
    )


def _facts(top: Fields, text: Fields, *, wrapped: bool) -> tuple[str, ...]:
    if wrapped or text.part("vision_config") is not None:
        return ("only the language model is counted; vision and audio towers are left out",)
    return ()


def _unquantised(llm: Llm, top: Fields, text: Fields) -> Llm:
    dtype = text.text("torch_dtype") or text.text("dtype") or top.text("torch_dtype") or ""
    if (dtype or top.text("dtype")) != "float32":
        return llm
    note = "float32 weights are counted as bf16, which is how SGLang loads them"
    return replace(llm, assumptions=(*llm.assumptions, note))


def _quantised(llm: Llm, text: Fields, config: Fields) -> Llm:
    found = quantization_of(config, num_layers=llm.num_layers)
    if found is None:
        return llm
    if text.text("expert_dtype") == "fp4":  # DeepSeek-V4
        found = replace(found, named=(*found.named, EXPERTS_FP4))
    return stored(llm, found)


def _quantised_by_name(llm: Llm, file: ModelFile) -> Llm:
    found = format_named(file.quantised_as or "")
    note = f"taken as the bundled {file.bundled} with {found.label} weights"
    llm = replace(llm, assumptions=(*llm.assumptions, note))
    return stored(llm, Quantization(found))


def _with_quantization(top: Fields, beside: Fields) -> Fields:
    """`top` with what ModelOpt wrote into its own file instead."""
    said = beside.part("quantization")
    if said is None:
        return top
    config = {"quant_method": "modelopt", **said.values}
    return Fields({**top.values, "quantization_config": config}, top.file)
