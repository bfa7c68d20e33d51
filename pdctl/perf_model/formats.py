"""The number format in which a GPU multiplies each matrix of an LLM."""

from collections import Counter
from typing import Literal

from pdctl.inspection.layers import Layer, Matrix
from pdctl.inspection.records import GpuModel, Llm

Format = Literal["bf16", "fp8", "fp4"]


def dense_formats(llm: Llm, gpu: GpuModel) -> dict[Format, float]:
    """Share of the dense parameters of all layers by the format of their products.

    Weights that the GPU has no narrower product for are widened to bf16 as they are read
    (weight-only): NVFP4 on Hopper, FP8 on Ampere.
    """
    params: dict[Format, float] = {}
    for layer, num in counted_layers(llm.layers):
        for matrix in layer.matrices:
            if matrix.part not in ("experts", "router"):
                form = multiplied(llm, gpu, matrix.bytes_per_param)
                params[form] = params.get(form, 0.0) + num * matrix.params
    whole = sum(params.values())
    if not whole:
        return {multiplied(llm, gpu, llm.linear_bytes): 1.0}
    return {form: held / whole for form, held in params.items()}


_Kinds = tuple[tuple[Layer, int], ...]
# By identity, with the layers kept alive: to hash a model's layers takes longer than to group them.
_KINDS: dict[int, tuple[tuple[Layer, ...], _Kinds]] = {}
_MAX_KINDS = 64


def counted_layers(layers: tuple[Layer, ...]) -> _Kinds:
    """The different layers of an LLM, and how many there are of each."""
    known = _KINDS.get(id(layers))
    if known is None:
        if len(_KINDS) >= _MAX_KINDS:
            _KINDS.clear()
        known = _KINDS[id(layers)] = (layers, tuple(Counter(layers).items()))
    return known[1]


def expert_format(llm: Llm, gpu: GpuModel) -> Format:
    """The format of the routed experts' products."""
    return multiplied(llm, gpu, llm.expert_bytes)


def multiplied(llm: Llm, gpu: GpuModel, bytes_per_param: float) -> Format:
    """The format that a matrix of so many bytes per parameter is multiplied in on this GPU."""
    if bytes_per_param >= 2 or llm.compute_dtype == "bf16":
        return "bf16"
    if llm.compute_dtype == "fp4" and bytes_per_param < 1:
        return "fp4" if gpu.fp4_flops else "bf16"
    return "fp8" if gpu.fp8_flops else "bf16"


def quantises(llm: Llm, gpu: GpuModel) -> bool:
    """True if some product quantises its input at run time. Weight-only formats do not."""
    least = min(llm.linear_bytes, llm.expert_bytes)
    return multiplied(llm, gpu, 2.0 if least >= 2 else least) != "bf16"


def kernel_warnings(llm: Llm, gpu: GpuModel) -> tuple[str, ...]:
    """Warnings about weight formats that this GPU cannot multiply natively.

    Source: sglang layers/quantization: Marlin kernels widen such weights as they are read.
    """
    least = min(llm.linear_bytes, llm.expert_bytes)
    if llm.compute_dtype == "bf16" or least >= 2 or multiplied(llm, gpu, least) != "bf16":
        return ()
    label = (llm.quantization or llm.compute_dtype).upper()
    return (
        f"{gpu.name} has no {label} products: SGLang reads {llm.name} in {label} and multiplies in "
        f"bf16, where its release has a kernel for that; look for 'marlin' in the start log.",
    )


def is_narrow(matrix: Matrix) -> bool:
    """True if the matrix has fewer than 16 bits per parameter."""
    return matrix.bytes_per_param < 2


def peak_flops(gpu: GpuModel, form: Format) -> float:
    """The datasheet's dense rate of a format."""
    peak = {"bf16": gpu.bf16_flops, "fp8": gpu.fp8_flops, "fp4": gpu.fp4_flops}[form]
    return peak or gpu.bf16_flops
