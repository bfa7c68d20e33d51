"""The kind of mixer and MLP of each layer, from any of the keys that config files use. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from pdctl.inspection.llm_layers.state_mixers import has_mamba
from pdctl.inspection.model_files import Fields, shown

MixerWord = Literal["full", "window", "state", "mamba", "conv", "both", "none"]
MlpWord = Literal["given", "dense", "moe", "none"]

_WORDS: dict[str, MixerWord] = {
    "full_attention": "full",
    "attention": "full",
    "full": "full",
    "deepseek_sparse_attention": "full",
    "indexed_attention": "full",
    "compressed_sparse_attention": "full",
    "heavily_compressed_attention": "full",
    "minimax_m3_sparse": "full",
    "global": "full",
    "sliding_attention": "window",
    "chunked_attention": "window",
    "sliding": "window",
    "local": "window",
    "local_attention": "window",
    "swa": "window",
    "attn": "full",
    "reference_sliding_attention": "window",
    "linear_attention": "state",
    "linear": "state",
    "kda": "state",
    "gated_delta_net": "state",
    "recurrent": "state",
    "jet": "state",
    "mamba": "mamba",
    "mamba2": "mamba",
    "conv": "conv",
    "short_conv": "conv",
    "hybrid": "both",
    "hybrid_sliding": "window",
    "moe": "none",
    "mlp": "none",
    "-": "none",
    "M": "mamba",
    "E": "none",
    "*": "full",
}
_ALONE: dict[str, MlpWord] = {"moe": "moe", "E": "moe", "mlp": "dense", "-": "dense"}
_ALL_WINDOWS = frozenset(("mistral",))
_EXTRA = ("num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_modules")


@dataclass(frozen=True)
class Kind:
    """The words for one layer. mlp: "given" leaves it to the keys about experts."""

    mixer: MixerWord
    mlp: MlpWord = "given"


def depth(text: Fields) -> int:
    """The number of layers: the key that says it, else the length of the list that names them.

    Raises InvalidInput naming the key that is missing.
    """
    found = text.maybe_count("num_hidden_layers", "n_layer", "num_layers", "n_layers", most=10_000)
    if found is not None:
        return found
    for key in ("layer_types", "layers_block_type", "block_configs", "hybrid_override_pattern"):
        listed = text.raw(key)
        if isinstance(listed, list | str) and 0 < len(listed) <= 10_000:
            return len(listed)
    raise text.wrong("num_hidden_layers", "is missing")


def layer_kinds(text: Fields, model_type: str, num_layers: int) -> tuple[list[Kind], list[str]]:
    """One Kind per layer, and sentences about what had to be assumed.

    Raises InvalidInput where a list names fewer layers than there are.
    Source: the configuration classes of transformers 5.23 and sglang 0.5.23 srt/configs.
    """
    notes: list[str] = []
    pattern = text.text("hybrid_override_pattern")
    words: Sequence[Any] | None = _listed(text, num_layers, notes, pattern)
    if words is not None:
        alone = any(isinstance(word, str) and word in _ALONE for word in words)
        kinds = [_kind(word, notes, alone=alone) for word in words]
        return _without_mamba(text, kinds, notes), _with_window(text, words, notes)
    found = _by_interval(text, model_type, num_layers, notes)
    return [Kind(word) for word in found], notes


def per_layer(text: Fields, key: str, num_layers: int, notes: list[str]) -> list[Any] | None:
    """The list under `key`, an entry for each layer; None where it holds no list.

    Raises InvalidInput where the list is shorter than the layers; a longer one is cut, and said
    unless its extra entries are those of multi-token prediction.
    """
    listed = text.raw(key)
    if not isinstance(listed, list) or not listed:
        return None
    if len(listed) < num_layers:
        raise text.wrong(key, f"names {len(listed)} layers, and there are {num_layers}")
    extra = text.maybe_count(*_EXTRA, least=0) or 0
    if len(listed) > num_layers + max(extra, 1 if key == "compress_ratios" else 0):
        notes.append(f"{key} names {len(listed)} layers; the first {num_layers} are taken.")
    return listed[:num_layers]


def _listed(
    text: Fields, num_layers: int, notes: list[str], pattern: str | None
) -> Sequence[Any] | None:
    for key in ("layers_block_type", "layer_types", "attn_type_list"):
        if isinstance(text.raw(key), str | dict):
            raise text.wrong(key, f"must be a list, not {shown(text.raw(key))}")
        listed = per_layer(text, key, num_layers, notes)
        if listed is not None:
            return [
                ("linear", "full")[bool(one)] if isinstance(one, int) else one for one in listed
            ]
    if pattern is None:
        return None
    plain = pattern.replace("|", "")
    if len(plain) < num_layers:
        raise text.wrong(
            "hybrid_override_pattern", f"names {len(plain)} layers, and there are {num_layers}"
        )
    return plain[:num_layers]


def _kind(word: object, notes: list[str], *, alone: bool) -> Kind:
    """alone: the layers are one thing each, as Nemotron-H's: a mixer or an MLP."""
    known = _WORDS.get(word) if isinstance(word, str) else None
    if known is None:
        note = f"Layers of type {str(word)[:40]!r} are not known; they are taken as full attention."
        if note not in notes:
            notes.append(note)
        return Kind("full")
    return Kind(known, _ALONE.get(str(word), "none" if alone else "given"))


def _without_mamba(text: Fields, kinds: list[Kind], notes: list[str]) -> list[Kind]:
    """Hybrid layers of files without a state-space mixer have attention beside short convolutions
    (Inkling, ZAYA1), whose state is not counted."""
    if has_mamba(text) or not any(kind.mixer == "both" for kind in kinds):
        return kinds
    notes.append(
        "Its hybrid layers have an unknown part beside attention, whose state is not counted."
    )
    return [replace(kind, mixer="full") if kind.mixer == "both" else kind for kind in kinds]


def _with_window(text: Fields, words: Sequence[Any], notes: list[str]) -> list[str]:
    named = any(_WORDS.get(w) == "window" for w in words if isinstance(w, str))
    if named and not _window_length(text):
        notes.append("Layers with a sliding window of unknown length are taken as full attention.")
    return notes


def attention_window(text: Fields) -> int | None:
    """Tokens a window layer attends to; None without one, or as long as the context."""
    if text.flag("use_sliding_window") is False:
        return None
    found = _window_length(text)
    context = text.maybe_count("max_position_embeddings", most=10**9)
    return None if not found or (context and found >= context) else found


def _window_length(text: Fields) -> int | None:
    keys = ("sliding_window", "sliding_window_size", "attention_chunk_size", "window_size")
    found = (text.maybe_count(key, least=-1, most=10**9) for key in keys)
    return next((window for window in found if window and window > 0), None)


def _by_interval(
    text: Fields, model_type: str, num_layers: int, notes: list[str]
) -> list[MixerWord]:
    if isinstance(text.raw("compress_ratios"), list):  # DeepSeek-V4: a window in every layer
        return ["full"] * num_layers
    states = _state_layers(text, num_layers)
    if states is not None:
        return states
    window = attention_window(text)
    if window is None:
        return ["full"] * num_layers
    flags = _window_flags(text, model_type, num_layers, notes)
    if flags is None:
        notes.append(
            f"A window of {window} tokens is ignored, because nothing says for which layers it is."
        )
        return ["full"] * num_layers
    return ["window" if flag else "full" for flag in flags]


def _state_layers(text: Fields, num_layers: int) -> list[MixerWord] | None:
    groups = per_layer(text, "layer_group_size", num_layers, [])
    if groups is not None:  # Ling: 1 marks linear attention
        return ["state" if one == 1 else "full" for one in groups]
    interval = text.maybe_count("full_attention_interval", "layer_group_size", most=10_000)
    if interval is not None and interval > 1:
        return ["full" if (i + 1) % interval == 0 else "state" for i in range(num_layers)]
    linear = text.part("linear_attn_config")
    listed = linear.raw("kda_layers") if linear else None
    if isinstance(listed, list):  # counted from one; GLM-5.3-Flash: from zero
        first = 0 if 0 in listed else 1
        return ["state" if i + first in listed else "full" for i in range(num_layers)]
    whole = text.raw("full_attention_layers")
    if isinstance(whole, list):
        return ["full" if i in whole else "state" for i in range(num_layers)]
    named = text.raw("attn_layer_indices")
    if isinstance(named, list):
        return ["full" if i in named else "mamba" for i in range(num_layers)]
    convolved = text.raw("full_attn_idxs")
    if isinstance(convolved, list):
        return ["full" if i in convolved else "conv" for i in range(num_layers)]
    period = text.maybe_count("attn_layer_period", most=10_000)
    if period is not None:
        offset = text.maybe_count("attn_layer_offset", least=0) or 0
        return ["full" if i % period == offset else "mamba" for i in range(num_layers)]
    return ["both"] * num_layers if text.maybe_count("mamba_d_ssm") else None


def _window_flags(
    text: Fields, model_type: str, num_layers: int, notes: list[str]
) -> list[bool] | None:
    pattern = text.raw("sliding_window_pattern") or text.raw("_sliding_window_pattern")
    if isinstance(pattern, str) and pattern:  # EXAONE's "LLLG"
        return [pattern[i % len(pattern)] == "L" for i in range(num_layers)]
    every = text.maybe_count(
        "sliding_window_pattern",
        "_sliding_window_pattern",
        "global_attn_every_n_layers",
        most=10_000,
    )
    if every is not None:  # every so many layers one attends to everything
        return [(i + 1) % every != 0 for i in range(num_layers)]
    for key in ("hybrid_layer_pattern", "no_rope_layers"):
        listed = per_layer(text, key, num_layers, notes)
        if listed is not None:  # 1: windowed
            return [one == 1 for one in listed]
    if model_type.startswith("llama4"):  # its class's no_rope_layer_interval
        every = text.maybe_count("no_rope_layer_interval") or 4
        return [(i + 1) % every != 0 for i in range(num_layers)]
    indices = text.raw("swa_layers")
    if isinstance(indices, list):
        return [i in indices for i in range(num_layers)]
    first = text.maybe_count("max_window_layers", least=0)
    if text.flag("use_sliding_window") and first is not None:  # Qwen2: full ones come first
        return [i >= first for i in range(num_layers)]
    return [True] * num_layers if model_type in _ALL_WINDOWS else None
