"""Spellings that say of each layer what the readers expect for all of them. Pure.

Source: transformers 5.24 configuration classes and the config.json files they write.
"""

from pdctl.inspection.model_files import Fields

_BY_LAYER = ("num_attention_heads", "num_key_value_heads", "head_dim")


_TEXT_AND_VISION = {
    "moe_num_experts": "vision_experts",
    "moe_intermediate_size": "vision_expert_width",
    "moe_layer_start_index": "vision_start_index",
    "moe_layer_end_index": "vision_end_index",
}
_INNER_NAMES = {"kv_n_heads": "num_key_value_heads"}


def normalised(text: Fields) -> Fields:
    """The keys with DeepSeek-V4's compression as a list, LongCat's layers one by one, ERNIE-VL's
    experts for text and for images apart, and the keys of DBRX's, MPT's and Jet-Nemotron's parts
    beside the rest.
    """
    return _longcat(_compression(_text_experts(_jet(_parts(text)))))


def _jet(text: Fields) -> Fields:
    """Jet-Nemotron's blocks are gated delta nets; its windows have their length in an object.

    Source: sglang 0.5.23 configs/jet_nemotron.py.
    Ignores: the generator of their convolutions, 3 % of the model.
    """
    parts = text.part("efficient_attention_config")
    block = parts.part("jet") if parts else None
    if parts is None or block is None:
        return text
    heads, width, growth = block.count("num_heads"), block.count("head_dim"), block.raw("expand_v")
    windows = parts.part("swa")
    return text.overlaid(
        {
            "linear_num_key_heads": heads,
            "linear_num_value_heads": heads,
            "linear_key_head_dim": width,
            "linear_value_head_dim": width * growth if isinstance(growth, int | float) else width,
            "linear_conv_kernel_dim": block.maybe_count("conv_size"),
            "sliding_window": windows.maybe_count("window_size") if windows else None,
        }
    )


def _parts(text: Fields) -> Fields:
    """Keys that stand in objects for attention and MLP. Source: transformers 5.24 DbrxConfig."""
    inner: dict[str, object] = {}
    for name in ("attn_config", "ffn_config"):
        part = text.part(name)
        for key, value in part.values.items() if part else ():
            inner[_INNER_NAMES.get(key, key)] = value
    inner = {key: value for key, value in inner.items() if key not in text.values}
    return text.overlaid(inner) if inner else text


def _text_experts(text: Fields) -> Fields:
    """ERNIE-4.5-VL gives experts to tokens of text, and others to those of images.

    Source: sglang 0.5.23 models/ernie45_moe_vl.py.
    """
    if not text.part("vision_config") and not (text.text("model_type") or "").startswith("ernie"):
        return text
    found: dict[str, object] = {}
    for key, image in _TEXT_AND_VISION.items():
        value = text.values.get(key)
        pair = value if isinstance(value, list) and len(value) == 2 else [value, value]
        found |= {key: pair[0], image: pair[1]} if value is not None else {}
    several = any(isinstance(text.values.get(key), list) for key in _TEXT_AND_VISION)
    return text.overlaid(found) if several else text


def _compression(text: Fields) -> Fields:
    rates, types = text.part("compress_rates"), text.raw("layer_types")
    if rates is None or not isinstance(types, list):
        return text
    found = [rates.maybe_count(str(word), least=0) or 0 for word in types]
    return text.overlaid({"compress_ratios": found})


def _longcat(text: Fields) -> Fields:
    """LongCat-Flash counts two layers as one: both have attention and an MLP, one has experts too.

    Source: sglang 0.5.23 models/longcat_flash.py; LongCat-Flash report (arXiv 2509.01322).
    """
    if text.raw("zero_expert_num") is None:
        return text
    pairs = text.count("num_layers", "num_hidden_layers", most=10_000)
    return text.overlaid(
        {
            "num_hidden_layers": 2 * pairs,
            "moe_layer_freq": [1, 0] * pairs,
            "enable_moe_block": True,
        }
    )


def at_layer(text: Fields, layer: int) -> Fields:
    """The keys as one layer has them: its own entry of a list, and of `per_layer_config`."""
    own: dict[str, object] = {}
    for key in _BY_LAYER:
        listed = text.values.get(f"{key}_per_layer", text.values.get(key))
        if isinstance(listed, list) and layer < len(listed):
            text.seen.add(f"{key}_per_layer")
            own[key] = listed[layer]
    several = text.part("per_layer_config")
    for name, changes in several.values.items() if several else ():
        if name.isdecimal() and int(name) == layer and isinstance(changes, dict):
            own |= changes
    return text.overlaid(own) if own else text
