"""The layers of an LLM: mixers and MLPs with their matrices, and what a request keeps of each."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

MixerKind = Literal["full", "window", "mla", "latents", "state"]
Part = Literal["attention", "state", "mlp", "experts", "shared", "router", "embedding", "head"]
KEPT_WHOLE = frozenset(("q_a", "kv_a", "index", "compressor"))  # tensor parallelism copies these


@dataclass(frozen=True)
class Matrix:
    """One weight matrix, or all of one name in a layer's experts.

    used: the share of it that one token is multiplied with.
    """

    part: Part
    leaf: str  # "q", "kv_a", "up", ...: what its name ends in
    params: float
    used: float = 1.0
    bytes_per_param: float = 2.0


@dataclass(frozen=True)
class Mixer:
    """The part of a layer that mixes tokens, and what it keeps for each request.

    kv_values: values per token in a KV cache, over all heads; 0 where it keeps none.
    window: tokens that are attended to. compress_ratio: tokens per entry of DeepSeek-V4's cache.
    index_dim: width of a sparse index's key in this layer; 0: the layer keeps none.
    state_values, conv_values: per request, whatever its length.
    """

    kind: MixerKind
    name: str  # as people say it: "full attention", "gated delta net"
    matrices: tuple[Matrix, ...]
    kv_heads: int = 0
    head_dim: int = 0
    v_head_dim: int = 0
    kv_values: int = 0
    window: int | None = None
    compress_ratio: int = 0
    index_dim: int = 0
    index_bytes: float = 0.0  # of the index, per token
    index_topk: int | None = None
    state_values: int = 0
    state_dtype_bytes: float = 4.0
    conv_values: int = 0


@dataclass(frozen=True)
class Mlp:
    """An MLP of a layer: dense, or routed experts with the shared ones beside them."""

    name: str
    matrices: tuple[Matrix, ...]
    num_experts: int = 0
    experts_per_token: int = 0
    width: int = 0  # of the dense MLP or of one routed expert
    shared_width: int = 0
    expert_input: int = 0  # hidden_size, or the latent that experts work on


@dataclass(frozen=True)
class Layer:
    """Mixers and MLPs beside each other; either may be absent."""

    mixers: tuple[Mixer, ...]
    mlps: tuple[Mlp, ...]

    @cached_property
    def matrices(self) -> tuple[Matrix, ...]:
        mixed = (m for mixer in self.mixers for m in mixer.matrices)
        return (*mixed, *(m for mlp in self.mlps for m in mlp.matrices))


def layer_params(layers: tuple[Layer, ...]) -> float:
    """Parameters of all matrices of `layers`."""
    return sum(m.params for layer in layers for m in layer.matrices)


def layer_active_params(layers: tuple[Layer, ...]) -> float:
    """Parameters of `layers` that one token is multiplied with."""
    return sum(m.params * m.used for layer in layers for m in layer.matrices)


def part_params(layers: tuple[Layer, ...], *parts: Part) -> float:
    """Parameters of the matrices of `layers` that belong to `parts`."""
    return sum(m.params for layer in layers for m in layer.matrices if m.part in parts)


def mixers_of(layers: tuple[Layer, ...]) -> tuple[Mixer, ...]:
    """All mixers, in the order of the layers."""
    return tuple(mixer for layer in layers for mixer in layer.mixers)
