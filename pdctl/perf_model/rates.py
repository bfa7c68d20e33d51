"""What one GPU reaches on this LLM: datasheet rates times efficiencies."""

from dataclasses import dataclass

from pdctl.inspection.records import GpuModel, Llm
from pdctl.perf_model.efficiencies import EFFICIENCIES, SMS, attention_kernel, generation


@dataclass(frozen=True)
class Rates:
    """FLOP/s of dense and grouped matrix products and of prefill attention.

    memory, kv: bytes/s of weights streamed and of KV read by decode attention.
    latency_s: decode attention per token of one sequence and layer.
    cached_weight, cached_tokens: as prefill_cached_… of StepTimes. row_s: per prompt token, layer.
    """

    gemm: float
    experts: float
    attention: float
    memory: float
    kv: float
    latency_s: float
    cached_weight: float
    cached_tokens: float
    row_s: float
    split_s: float
    blocks: int  # thread blocks of decode attention that a GPU runs at once; 0: not known


def rates(llm: Llm, gpu: GpuModel, backend: str | None = None) -> Rates:
    """The rates of one GPU for this LLM's number formats and attention backend.

    Weight-only quantisation (compute_dtype bf16) computes at the bf16 rate.
    Source: GpuModel and efficiencies.py.
    """
    share = EFFICIENCIES[generation(gpu.name)]
    kernel = attention_kernel(backend, gpu.name)
    narrow = _narrow_flops(llm, gpu)
    dense_narrow = narrow if llm.linear_bytes < 2 else None
    expert_narrow = narrow if llm.expert_bytes < 2 else None
    return Rates(
        gemm=dense_narrow * share.gemm_fp8 if dense_narrow else gpu.bf16_flops * share.gemm_bf16,
        experts=expert_narrow * share.experts_fp8
        if expert_narrow
        else gpu.bf16_flops * share.experts_bf16,
        attention=gpu.bf16_flops * share.attention * kernel.prefill,
        memory=gpu.bandwidth_bytes_per_s * share.memory,
        kv=gpu.bandwidth_bytes_per_s * kernel.decode_memory,
        latency_s=kernel.decode_latency_s,
        cached_weight=kernel.cached_weight,
        cached_tokens=kernel.cached_tokens,
        row_s=kernel.row_s,
        split_s=kernel.split_s,
        blocks=SMS.get(generation(gpu.name), 0) if kernel.has_waves else 0,
    )


def _narrow_flops(llm: Llm, gpu: GpuModel) -> float | None:
    if llm.compute_dtype == "fp4":
        return gpu.fp4_flops or gpu.fp8_flops
    return gpu.fp8_flops if llm.compute_dtype == "fp8" else None
