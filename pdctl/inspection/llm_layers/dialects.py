"""Spellings that say of each layer what the readers expect for all of them. Pure.

Source: transformers 5.24 configuration classes and the config.json files they write.
"""

from pdctl.inspection.model_files import Fields

_BY_LAYER = ("num_attention_heads", "num_key_value_heads", "head_dim")


def normalised(text: Fields) -> Fields:
    """The keys with DeepSeek-V4's compression as a list and LongCat's layers one by one."""
    return _longcat(_compression(text))


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
