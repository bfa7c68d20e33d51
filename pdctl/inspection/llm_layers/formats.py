"""An LLM in the formats its release stores: bytes of each matrix, of the KV cache. Pure."""

from dataclasses import replace

from pdctl.inspection.layers import Layer, Matrix, mixers_of
from pdctl.inspection.quantization import Format, Quantization
from pdctl.inspection.records import Llm


def stored(llm: Llm, found: Quantization) -> Llm:
    """Every matrix in its format, and bytes per parameter by part: the means over the layers."""
    layers = tuple(_layer_in(layer, i, found) for i, layer in enumerate(llm.layers))
    matrices = [m for layer in layers for m in layer.matrices]
    linear = [m for m in matrices if m.part not in ("experts", "router")]
    experts = [m for m in matrices if m.part == "experts"]
    embedding = found.format_of(None, "embedding", "embedding").bytes_per_param
    head = found.format_of(None, "head", "head").bytes_per_param
    cache = found.kv_dtype_bytes
    if cache is not None and any(m.index_dim for m in mixers_of(layers)):
        cache = None  # SGLang keeps 16 bits beside a sparse index before Blackwell
    return replace(
        llm,
        layers=layers,
        linear_bytes=_mean_bytes(linear, found.format),
        expert_bytes=_mean_bytes(experts, found.format),
        embedding_bytes=head if llm.tied_embeddings else (embedding + head) / 2,
        kv_dtype_bytes=cache or 2.0,
        compute_dtype=found.format.compute,
        quantization=found.format.label,
        weight_block=found.block,
        guesses=(*llm.guesses, *found.notes),
    )


def _layer_in(layer: Layer, index: int, found: Quantization) -> Layer:
    def in_format(matrices: tuple[Matrix, ...]) -> tuple[Matrix, ...]:
        # not `replace`, which takes three times as long: an LLM has thousands of matrices
        return tuple(
            Matrix(
                part=m.part,
                leaf=m.leaf,
                params=m.params,
                used=m.used,
                bytes_per_param=found.format_of(index, m.part, m.leaf).bytes_per_param,
            )
            for m in matrices
        )

    return Layer(
        tuple(replace(mixer, matrices=in_format(mixer.matrices)) for mixer in layer.mixers),
        tuple(replace(mlp, matrices=in_format(mlp.matrices)) for mlp in layer.mlps),
    )


def _mean_bytes(matrices: list[Matrix], default: Format) -> float:
    params = sum(m.params for m in matrices)
    stored = sum(m.params * m.bytes_per_param for m in matrices)
    return stored / params if params else default.bytes_per_param
