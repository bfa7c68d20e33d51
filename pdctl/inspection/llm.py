"""The shape of an LLM from its config.json."""

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from pdctl.inspection.known_keys import (
    TIED_BY_DEFAULT,
    UNGATED_MLP,
    defaults,
    is_known,
    says_shape,
)
from pdctl.inspection.layers import Layer, Mixer, Mlp, mixers_of
from pdctl.inspection.llm_layers.attention_shape import hidden_size
from pdctl.inspection.llm_layers.dialects import at_layer, normalised
from pdctl.inspection.llm_layers.formats import stored
from pdctl.inspection.llm_layers.kinds import depth, layer_kinds
from pdctl.inspection.llm_layers.mixers import mixers_at
from pdctl.inspection.llm_layers.mlps import dense_width, mlp_plan, mlps_at, num_experts_said
from pdctl.inspection.llm_layers.nas_blocks import nas_layers
from pdctl.inspection.llm_layers.state_mixers import LIGHTNING
from pdctl.inspection.llm_size import weight_bytes
from pdctl.inspection.model_files import (
    Fields,
    ModelFile,
    bundled_names,
    find_model,
    from_params,
    is_params,
    read_fields,
    shown,
)
from pdctl.inspection.quantization import EXPERTS_FP4, Quantization, format_named, quantization_of
from pdctl.inspection.records import Experts, Llm
from pdctl.inspection.sglang_models import READ_VERSION, is_served, trims_windows
from pdctl.inspection.weight_index import index_note, missing_shards_note

__all__ = ["bundled_names", "llm_from_config", "read_llm"]

_WRAPPED = ("text_config", "llm_config", "language_config", "thinker_config")
_CLASSES = ("ForCausalLM", "ForConditionalGeneration", "LMHeadModel")
_QUANTISED = ("quantization_config", "compression_config")  # the latter in older releases


def read_llm(model: str) -> Llm:
    """The shape of `model`: a directory with config.json, an id in the local cache, or a
    bundled name. Never asks the network.

    Raises InvalidInput naming the file and the key where the shape cannot be told.
    """
    file = find_model(model)
    top = read_fields(file.config)
    beside = file.config.with_name("hf_quant_config.json")
    if file.bundled is None and top.part(*_QUANTISED) is None and os.path.isfile(beside):
        top = _with_quantization(top, read_fields(beside))
    llm = llm_from_config(top, name=file.name)
    if file.quantised_as:
        llm = _quantised_by_name(llm, file)
    if file.bundled is None:
        llm = _beside_weights(llm, file.config.parent, top)
    return replace(llm, path=file.path, max_context=file.max_context or llm.max_context)


def _beside_weights(llm: Llm, folder: Path, top: Fields) -> Llm:
    """Add notes about the weight files in the model's folder that contradict the shape."""
    wrapped = _text_part(top)[1] or top.part("vision_config") is not None
    # float32 weights are counted as bf16: nothing to compare
    stored_bytes = 0.0 if _is_float32(top) else weight_bytes(llm)
    differs = index_note(folder, stored_bytes, wrapped=wrapped)
    incomplete = missing_shards_note(folder)
    return replace(
        llm,
        guesses=(*llm.guesses, *filter(None, (differs,))),
        assumptions=(*llm.assumptions, *filter(None, (differs, incomplete))),
    )


def llm_from_config(top: Fields, *, name: str) -> Llm:
    """The shape a parsed config.json describes.

    Raises InvalidInput naming the file and the key that is missing or absurd.
    Ignores: vision and audio towers, multi-token-prediction layers.
    """
    top = from_params(top) if is_params(top) else top
    text, wrapped = _text_part(top)
    model_type = (text.text("model_type") or top.text("model_type") or "").lower()
    text = normalised(Fields({**defaults(model_type, nested=wrapped), **text.values}, text.file))
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
    opted_in = text.flag("is_hybrid_swa") is True  # for classes that SGLang does not list
    llm = replace(llm, trims_windows=opted_in or trims_windows(llm.architecture))
    quantised = top.part(*_QUANTISED) or text.part(*_QUANTISED)
    llm = _quantised(llm, text, quantised) if quantised else _unquantised(llm, top, text)
    guesses = (*_guesses(llm, model_type, text), *notes, *_no_object(top, text), *llm.guesses)
    facts = (*_facts(top, text, wrapped=wrapped), *_unserved(llm.architecture))
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
    """Shape of the first attention mixer, and counts of the layers of other kinds."""
    mixers = mixers_of(layers)
    latent = any(m.kind in ("mla", "latents") for m in mixers)
    first = _representative(mixers)
    heads = at_layer(text, 0).count("num_attention_heads", "n_head", "n_heads", most=100_000)
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
    """The language model's own object. True if it was nested in a multimodal model's config."""
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
    """Sentences about figures that rest on an assumption instead of a key in the file."""
    notes = []
    if not is_known(model_type):
        notes.append(
            f"Architecture {llm.architecture!r} is not one pdctl knows; its parameters, KV and "
            "step times are those of the layers that the keys of its config.json describe."
        )
    lightning = any(m.name == LIGHTNING for m in mixers_of(llm.layers))
    if lightning and not model_type.startswith(("minimax", "bailing")):
        notes.append(
            "The keys of its linear attention are not known; it is taken as MiniMax-01's, with "
            "the heads of its full attention."
        )
    unread = _unread(text, has_experts=llm.experts is not None)
    if unread:
        more = f" and {len(unread) - 4} more" if len(unread) > 4 else ""
        notes.append(
            f"Keys that pdctl does not know may describe its shape: {', '.join(unread[:4])}{more}. "
            "Parameters, KV and step times may be off."
        )
    return tuple(notes)


def _no_object(top: Fields, text: Fields) -> tuple[str, ...]:
    """A note if `quantization_config` is present and is not an object."""
    said = top.raw("quantization_config") or text.raw("quantization_config")
    if said is None or isinstance(said, dict):
        return ()
    return (
        f"quantization_config is {shown(said)} instead of an object; weights are counted as bf16.",
    )


def _unread(text: Fields, *, has_experts: bool) -> tuple[str, ...]:
    """Keys that look like a part of the shape and that no reader asked for.

    has_experts: without them, keys about experts say nothing where the file also says how many.
    Nor do keys about a state-space mixer where the list of layers has none.
    """
    idle = [] if has_experts or num_experts_said(text) is None else ["expert", "moe"]
    idle += [] if text.raw("layer_types") is None else ["mamba", "ssm"]
    return tuple(
        key[:60]
        for key, value in text.values.items()
        if says_shape(key, value) and key not in text.seen and not any(word in key for word in idle)
    )


def _facts(top: Fields, text: Fields, *, wrapped: bool) -> tuple[str, ...]:
    if wrapped or text.part("vision_config") is not None:
        return ("Only the language model is counted; vision and audio towers are left out.",)
    return ()


def _unserved(architecture: str) -> tuple[str, ...]:
    """A note if SGLang has no class for a language model of this name."""
    if not architecture.endswith(_CLASSES) or is_served(architecture):
        return ()
    return (
        f"SGLang {READ_VERSION} has no model {architecture!r}: it may run it by Transformers, "
        "slower than predicted, or not at all.",
    )


def _unquantised(llm: Llm, top: Fields, text: Fields) -> Llm:
    if not (_is_float32(text) or _is_float32(top)):
        return llm
    note = "Its float32 weights are counted as bf16, which is how SGLang loads them."
    return replace(llm, assumptions=(*llm.assumptions, note))


def _is_float32(fields: Fields) -> bool:
    return (fields.text("torch_dtype") or fields.text("dtype")) == "float32"


def _quantised(llm: Llm, text: Fields, config: Fields) -> Llm:
    found = quantization_of(config, num_layers=llm.num_layers)
    if found is None:
        return llm
    if text.text("expert_dtype") == "fp4":  # DeepSeek-V4
        found = replace(found, named=(*found.named, EXPERTS_FP4))
    return stored(llm, found)


def _quantised_by_name(llm: Llm, file: ModelFile) -> Llm:
    found = format_named(file.quantised_as or "")
    note = f"Taken as the bundled {file.bundled} with {found.label} weights."
    llm = replace(llm, assumptions=(*llm.assumptions, note))
    return stored(llm, Quantization(found))


def _with_quantization(top: Fields, beside: Fields) -> Fields:
    """`top` with what ModelOpt wrote into its own file instead."""
    said = beside.part("quantization")
    if said is None:
        return top
    config = {"quant_method": "modelopt", **said.values}
    return Fields({**top.values, "quantization_config": config}, top.file)
