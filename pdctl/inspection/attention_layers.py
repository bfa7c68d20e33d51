"""Which layers of an LLM attend to everything, to a window, or keep a fixed state. Pure."""

from dataclasses import dataclass

from pdctl.inspection.config_json import Fields

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
