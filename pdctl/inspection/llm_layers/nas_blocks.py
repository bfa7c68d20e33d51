"""Layers of models that architecture search made (`block_configs`), each with its own shape."""

from typing import Any

from pdctl.inspection.layers import Layer, Mixer, Mlp
from pdctl.inspection.llm_layers.attention_shape import hidden_size
from pdctl.inspection.llm_layers.mixers import mixers_at
from pdctl.inspection.llm_layers.mlps import dense_mlp, moe
from pdctl.inspection.model_files import Fields


def nas_layers(text: Fields, num_layers: int) -> tuple[Layer, ...] | None:
    """The layers `block_configs` describes; None where the file has none.

    Raises InvalidInput where the list is shorter than the layers or a block is not an object.
    Source: transformers' DeciLM configuration (nvidia/Llama-3_3-Nemotron-Super-49B), Puzzle.
    """
    blocks = text.raw("block_configs")
    if not isinstance(blocks, list) or not blocks:
        return None
    if len(blocks) < num_layers:
        raise text.wrong("block_configs", f"names {len(blocks)} layers, and there are {num_layers}")
    return tuple(_layer(text, block, i) for i, block in enumerate(blocks[:num_layers]))


def _layer(text: Fields, block: object, layer: int) -> Layer:
    if not isinstance(block, dict):
        raise text.wrong("block_configs", f"holds no object for layer {layer}")
    whole = Fields(block, text.file)
    attention, ffn = whole.part("attention"), whole.part("ffn")
    mixers = () if attention is None else _mixers(text, attention, layer)
    return Layer(mixers, () if ffn is None else _mlps(text, ffn))


def _mixers(text: Fields, block: Fields, layer: int) -> tuple[Mixer, ...]:
    if block.flag("no_op") or block.flag("replace_with_linear"):
        return ()
    state = block.part("mamba")
    if state is not None:
        return mixers_at(text.overlaid(state.values), "mamba", layer)
    changes: dict[str, Any] = {}
    group = block.maybe_count("n_heads_in_group")
    if group:
        changes["num_key_value_heads"] = max(1, text.count("num_attention_heads") // group)
    own = block.maybe_count("num_key_value_heads")
    if own:
        changes["num_key_value_heads"] = own
    window = block.maybe_count("window_length", "sliding_window_length")
    if window:
        changes["sliding_window"] = window
    return mixers_at(text.overlaid(changes), "window" if window else "full", layer)


def _mlps(text: Fields, block: Fields) -> tuple[Mlp, ...]:
    if block.flag("no_op"):
        return ()
    experts = block.part("moe")
    if experts is not None:
        number = experts.count("num_local_experts")
        width = experts.count("expert_intermediate_dim")
        chosen = experts.count("num_experts_per_tok", least=1)
        shared = experts.maybe_count("shared_expert_intermediate_dim", least=0) or 0
        return (moe(text, (number, chosen, width), shared=shared),)
    width = block.maybe_count("intermediate_size") or _from_factor(text, block)
    return (dense_mlp(hidden_size(text), width),)


def _from_factor(text: Fields, block: Fields) -> int:
    factor = block.raw("ffn_mult")
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor < 1000:
        raise text.wrong("block_configs", "gives an MLP neither intermediate_size nor ffn_mult")
    width = int(2 * factor * hidden_size(text) / 3)
    return -(-width // 256) * 256
