"""Heads and widths of an LLM's attention, in the words its config.json has for them. Pure."""

from pdctl.errors import InvalidInput
from pdctl.inspection.model_files import Fields


def attention_shape(text: Fields, *, windowed: bool = False) -> tuple[int, int, int, int]:
    """Query heads, key-value heads, width of a query or key, width of a value.

    windowed: of layers with a window, where the file gives those their own.
    Raises InvalidInput naming the key that is missing or absurd.
    """
    names = (*_own("num_attention_heads", windowed), "n_head", "n_heads")
    heads = text.maybe_count(*names, most=100_000)
    if heads is None:
        raise _without_heads(text)
    if text.maybe_count("kv_lora_rank") is not None:
        rope = text.count("qk_rope_head_dim", least=0)
        return heads, heads, text.count("qk_nope_head_dim") + rope, text.count("v_head_dim")
    kv_heads = _kv_heads(text, heads, windowed=windowed)
    width = _width(text, heads, windowed=windowed)
    own = ("swa_v_head_dim",) if windowed else ()
    values = text.maybe_count(*own, "v_head_dim", least=0)  # 0 is how some write "none of its own"
    return heads, kv_heads, width, values or width


def _without_heads(text: Fields) -> InvalidInput:
    alone = text.raw("state_size") is not None
    why = "; pdctl plans no state-space models without attention" if alone else ""
    return text.wrong("num_attention_heads", f"is missing{why}")


def hidden_size(text: Fields) -> int:
    """Width of the residual stream. Raises InvalidInput if the file lacks it."""
    return text.count("hidden_size", "n_embd", "d_model", "dim")


def _own(key: str, windowed: bool) -> tuple[str, ...]:
    return (f"swa_{key}", key) if windowed else (key,)


def _kv_heads(text: Fields, heads: int, *, windowed: bool) -> int:
    own = ("swa_num_key_value_heads",) if windowed else ("num_global_key_value_heads",)
    names = (*own, "num_key_value_heads", "multi_query_group_num", "num_attention_groups")
    found = text.maybe_count(*names, "num_kv_heads", most=100_000)
    if found is not None and found > heads:
        raise text.wrong("num_key_value_heads", f"is {found}, more than the {heads} heads")
    if found and heads % found:
        raise text.wrong("num_key_value_heads", f"is {found}, which does not divide {heads} heads")
    falcon_7b = text.flag("new_decoder_architecture") is False  # whose file may count all heads
    if text.flag("multi_query") and (found is None or falcon_7b):
        return 1
    return found or heads


def _width(text: Fields, heads: int, *, windowed: bool) -> int:
    own = ("swa_head_dim",) if windowed else ("global_head_dim",)
    found = text.maybe_count(*own, "head_dim", "attention_head_dim", "kv_channels")
    if found is not None:
        return found
    hidden = hidden_size(text)
    if hidden < heads:
        raise text.wrong("num_attention_heads", f"is {heads}, more than hidden_size {hidden}")
    return hidden // heads
