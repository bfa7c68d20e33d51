"""The MLPs of an LLM's layers from its config.json: dense, experts, both, none. Pure."""

from dataclasses import dataclass, replace

from pdctl.inspection.layers import Matrix, Mlp, Part
from pdctl.inspection.llm_layers.attention_shape import hidden_size
from pdctl.inspection.llm_layers.dialects import at_layer
from pdctl.inspection.llm_layers.kinds import MlpWord, per_layer
from pdctl.inspection.model_files import Fields

# Activations of MLPs without a gate, and the architecture that gates one nevertheless
_UNGATED_ACTIVATIONS = frozenset(("relu2", "xielu"))
_GATED_ANYWAY = frozenset(("bitnet",))
_NUM_EXPERTS = ("n_routed_experts", "num_experts", "num_local_experts", "moe_num_experts")
_CHOSEN = (
    "num_experts_per_tok",
    "num_experts_per_token",
    "experts_per_token",
    "moe_topk",
    "moe_top_k",
    "moe_k",
    "top_k_experts",
    "num_activated_experts",
)
_EXPERT_WIDTH = (
    "moe_intermediate_size",
    "expert_ffn_hidden_size",
    "expert_intermediate_size",
    "moe_ffn_hidden_size",
    "intermediate_size",
    "ffn_hidden_size",
)
_WIDTH = (
    "dense_intermediate_size",
    "intermediate_size_mlp",
    "intermediate_size",
    "block_ff_dim",
    "ffn_hidden_size",
    "n_inner",
    "ffn_dim",
    "ff_intermediate_size",
    "hidden_dim",
)
# Architectures whose files leave out the width of the MLP. Source: transformers 5.24
_FOUR_TIMES = frozenset(("bloom", "falcon", "mpt", "gpt_neox_japanese"))
_SHARED_WIDTH = (
    "shared_expert_intermediate_size",
    "moe_shared_expert_intermediate_size",
    "shared_intermediate_size",
    "shared_experts_intermediate_size",
    "share_expert_dim",
)
_OF_ONE_SHARED = ("moe_shared_expert_intermediate_size", "shared_experts_intermediate_size")
_SHARED = (
    "n_shared_experts",
    "num_shared_experts",
    "num_shared_expert",
    "moe_num_shared_experts",
)


_LATENT = ("moe_latent_size", "routed_expert_hidden_size", "moe_hidden_size")


@dataclass(frozen=True)
class MlpPlan:
    """The layers that have experts, and the number of matrices of an MLP."""

    sparse: tuple[bool, ...]
    matrices: int
    notes: tuple[str, ...] = ()


def mlp_plan(text: Fields, num_layers: int, matrices: int) -> MlpPlan:
    """The layers that have experts, in the several ways files name them.

    Raises InvalidInput where a list names fewer layers than there are.
    Source: the configuration classes of transformers 5.23.
    """
    activation = text.text("mlp_hidden_act") or text.text("hidden_act")
    if activation in _UNGATED_ACTIVATIONS and text.text("model_type") not in _GATED_ANYWAY:
        matrices = 2
    notes: list[str] = []
    if not num_experts(text, 0):
        return MlpPlan((False,) * num_layers, matrices)
    sparse = tuple(_sparse(text, num_layers, notes))
    if not any(sparse) and text.raw("hybrid_override_pattern") is None:
        notes.append(
            f"It has experts, but the keys that place them leave none of {num_layers} layers any."
        )
    return MlpPlan(sparse, matrices, tuple(notes))


def num_experts(text: Fields, layer: int) -> int:
    """Routed experts of a layer that has any; 0: the LLM is dense."""
    if text.flag("enable_moe_block") is False:
        return 0
    found = num_experts_said(text, layer)
    return 0 if not found or found == 1 else found


def num_experts_said(text: Fields, layer: int = 0) -> int | None:
    """The number of experts that the file has for a layer, 0 and 1 included; None: it has none."""
    return text.at(layer, *_NUM_EXPERTS, least=0)


def mlps_at(text: Fields, word: MlpWord, plan: MlpPlan, layer: int) -> tuple[Mlp, ...]:
    """The MLPs of one layer.

    Raises InvalidInput naming the key that is missing or absurd.
    """
    text = at_layer(text, layer)
    if word == "none":
        return ()
    if word == "dense" or (word == "given" and not plan.sparse[layer]):
        return (_dense(text, plan.matrices, layer),)
    experts = _experts(text, plan.matrices, layer)
    # Gemma-4 and Grok-2: a dense MLP beside the experts
    beside = text.flag("enable_moe_block") is True or text.flag("residual_moe") is True
    return (experts, _dense(text, plan.matrices, layer)) if beside else (experts,)


def dense_width(text: Fields, layer: int = 0) -> int:
    """Width of a dense layer's MLP. 0 if the file has none because every layer has experts."""
    found = text.at(layer, *_WIDTH, least=0)
    if found is not None:
        halves = 2 if text.text("model_type") == "qwen" else 1  # it counts up and gate as one
        return _adjusted(text, found // halves)
    if text.maybe_count("n_embd") is not None or text.text("model_type") in _FOUR_TIMES:
        return 4 * hidden_size(text)  # GPT-2's n_inner defaults to this
    if num_experts(text, layer) or text.raw("block_configs"):
        return 0
    raise text.wrong("intermediate_size", "is missing")


def _adjusted(text: Fields, width: int) -> int:
    """The width LFM2 makes of the one in its file. Source: transformers 5.24 Lfm2MLP."""
    if not text.flag("block_auto_adjust_ff_dim"):
        return width
    multiplier = text.raw("block_ffn_dim_multiplier")
    scaled = int(2 * width / 3)
    if isinstance(multiplier, int | float):
        scaled = int(multiplier * scaled)
    multiple = text.maybe_count("block_multiple_of") or 1
    return -(-scaled // multiple) * multiple


def _dense(text: Fields, matrices: int, layer: int) -> Mlp:
    width = dense_width(text, layer)
    shares = text.maybe_count("num_kv_shared_layers", least=0) or 0
    depth = text.maybe_count("num_hidden_layers", least=0) or 0
    if text.flag("use_double_wide_mlp") and layer >= depth - shares:  # Gemma-4's small ones
        width *= 2
    return dense_mlp(hidden_size(text), width, matrices)


def dense_mlp(hidden: int, width: int, matrices: int = 3) -> Mlp:
    """A dense MLP."""
    return Mlp("dense MLP", _three("mlp", hidden, width, matrices), width=width)


def _three(part: Part, hidden: int, width: int, matrices: int) -> tuple[Matrix, ...]:
    leaves = ("up", "down", "gate")[:matrices]
    return tuple(Matrix(part, leaf, float(hidden * width)) for leaf in leaves)


def _experts(text: Fields, matrices: int, layer: int) -> Mlp:
    number = num_experts(text, layer)
    chosen = text.at(layer, *_CHOSEN)
    if chosen is None:
        raise text.wrong(_CHOSEN[0], "is missing")
    width = text.at(layer, *_EXPERT_WIDTH)
    if width is None:
        raise text.wrong(_EXPERT_WIDTH[0], "is missing")
    found = moe(
        text,
        (number, chosen, width),
        shared=_shared_width(text, width, layer),
        latent=text.maybe_count(*_LATENT),
        matrices=matrices,
    )
    return replace(found, matrices=(*found.matrices, *_vision_experts(text, matrices)))


def _vision_experts(text: Fields, matrices: int) -> tuple[Matrix, ...]:
    """ERNIE-4.5-VL's experts for tokens of images: they take memory, and no token of text."""
    number = text.maybe_count("vision_experts", least=0) or 0
    one = number * hidden_size(text) * (text.maybe_count("vision_expert_width") or 0)
    leaves = ("up", "down", "gate")[:matrices] if one else ()
    return tuple(Matrix("experts", leaf, float(one), used=0.0) for leaf in leaves)


def moe(
    text: Fields,
    shape: tuple[int, int, int],
    *,
    shared: int = 0,
    latent: int | None = None,
    matrices: int = 3,
) -> Mlp:
    """Routed experts of `shape` (number, chosen, width) with shared ones beside them.

    latent: the width experts work on where it is not the residual stream's.
    Raises InvalidInput where more experts are chosen than there are.
    """
    number, chosen, width = shape
    if chosen > number:
        raise text.wrong(_CHOSEN[0], f"is {chosen}, more than the {number} experts")
    hidden = hidden_size(text)
    inner = latent or hidden
    one = float(inner * width * number)
    routes = number + (text.maybe_count("zero_expert_num", least=0) or 0)  # zero: no matrices
    used = chosen / routes
    parts = [Matrix("experts", leaf, one, used) for leaf in ("up", "down", "gate")]
    latents = [Matrix("shared", leaf, float(hidden * inner)) for leaf in ("in", "out")]
    return Mlp(
        name=f"{chosen} of {number} experts",
        matrices=(
            *parts[:matrices],
            Matrix("router", "router", float(hidden * routes)),
            *(latents if inner != hidden else ()),
            *(_three("shared", hidden, shared, matrices) if shared else ()),
        ),
        num_experts=number,
        experts_per_token=max(1, round(used * number)),
        width=width,
        shared_width=shared,
        expert_input=inner,
    )


def _shared_width(text: Fields, width: int, layer: int) -> int:
    shared = text.at(layer, *_SHARED_WIDTH, least=0)
    number = text.at(layer, *_SHARED, least=0)
    if shared is not None:
        several = any(text.raw(key) is not None for key in _OF_ONE_SHARED)
        return shared * (number or 1) if several else shared
    if number is None and (text.text("model_type") or "").startswith("llama4"):
        number = 1
    return (number or 0) * width


def _sparse(text: Fields, num_layers: int, notes: list[str]) -> list[bool]:
    named = per_layer(text, "mlp_layer_types", num_layers, notes)
    if named is not None:
        return [one not in ("dense", "mlp") for one in named]
    frequencies = per_layer(text, "moe_layer_freq", num_layers, notes)
    if frequencies is not None:
        return [one != 0 for one in frequencies]
    listed = _indices(text, "moe_layers_enum", "moe_layers", "moe_layer_indices")
    if listed is not None:
        return [i in listed for i in range(num_layers)]
    return _by_steps(text, num_layers)


def _indices(text: Fields, *keys: str) -> set[int] | None:
    """Layers named by number, in a list or in a text with commas."""
    for key in keys:
        value = text.raw(key)
        if isinstance(value, str) and value:
            value = [int(one) for one in value.split(",") if one.strip().isdigit()]
        if isinstance(value, list) and value:
            return {one for one in value if isinstance(one, int)}
    return None


def _by_steps(text: Fields, num_layers: int) -> list[bool]:
    first = text.at(
        0, "first_k_dense_replace", "moe_layer_start_index", "num_dense_layers", least=0
    )
    last = text.at(0, "moe_layer_end_index", least=-1)
    step = text.maybe_count("decoder_sparse_step", "interleave_moe_layer_step") or 1
    period = text.maybe_count("moe_layer_freq", "moe_layer_interval", "expert_layer_period") or 1
    offset = text.maybe_count("expert_layer_offset", least=0) or 0
    only_dense = _indices(text, "mlp_only_layers") or set()
    end = num_layers if last is None or last < 0 else last + 1
    return [
        (first or 0) <= i < end
        and (i + 1) % step == 0
        and (i - offset) % period == 0
        and i not in only_dense
        for i in range(num_layers)
    ]
