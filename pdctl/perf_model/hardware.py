"""Generic constants: which share of a datasheet rate a kernel reaches, and fixed costs.

They hold for any model without a measured profile; a profile replaces them. Each constant
names where it comes from; those marked "assumed" have no public measurement behind them.
"""

from dataclasses import dataclass
from typing import Literal

from pdctl.inspection.records import GpuModel, Llm

Generation = Literal["ampere", "ada", "hopper", "h20", "blackwell", "cdna", "other"]


@dataclass(frozen=True)
class Efficiency:
    """Shares of the datasheet rate that large kernels reach on one generation of GPU."""

    gemm_bf16: float
    gemm_fp8: float
    experts_bf16: float  # grouped GEMM over many experts
    experts_fp8: float
    attention: float  # prefill attention, of the bf16 rate
    memory: float  # weights and KV streamed by decode


# Source: hopper gemm_bf16, experts_bf16 and memory: measured on two H200 with SGLang 0.5.15, the
# part of Llama-3.1-8B's and Qwen3-30B-A3B's prefill that grows with tokens, and the weights their
# decode reads (profiles/measured/h200-*); gemm_bf16 was 0.77 with dummy weights, which draw less
# power than real ones: 0.70; other memory 0.8: InferSim (hardware/gpu.py); h20
# computes near its low peak (InferSim: MFU 0.6 of the whole), but its 78 SMs stream weights at 1.4
# of 4 TB/s (Qwen3 speed benchmark, SGLang 0.4.6: Qwen3-30B-A3B at batch 1); attention on hopper:
# FlashAttention-3 paper (about 600 of 989 TFLOPS causal, head 128); blackwell 0.5: InferSim
# GB200; experts in FP8 and on cdna: assumed; ampere and ada: assumed near DistServe's A100 fits.
EFFICIENCIES: dict[Generation, Efficiency] = {
    "ampere": Efficiency(0.70, 0.70, 0.45, 0.45, 0.55, 0.80),
    "ada": Efficiency(0.65, 0.60, 0.40, 0.40, 0.50, 0.80),
    "hopper": Efficiency(0.70, 0.55, 0.36, 0.40, 0.55, 0.86),
    "h20": Efficiency(0.85, 0.75, 0.70, 0.65, 0.80, 0.34),
    "blackwell": Efficiency(0.60, 0.50, 0.40, 0.40, 0.40, 0.80),
    "cdna": Efficiency(0.50, 0.45, 0.35, 0.35, 0.35, 0.70),
    "other": Efficiency(0.60, 0.50, 0.40, 0.40, 0.40, 0.75),
}


@dataclass(frozen=True)
class AttentionKernel:
    """One attention backend. prefill: its share of a generation's attention efficiency.

    decode_memory: share of memory bandwidth when it reads the KV of many sequences.
    decode_latency_s: seconds per token of one sequence's context and layer when nothing else
    fills the GPU. Where splitting a sequence over thread blocks works well it is small.
    cached_weight, cached_tokens: as prefill_cached_… of StepTimes. row_s: of a prompt token per
    layer, however long its prompt. split_s: of a decode step per layer, a second pass that puts
    together the parts of sequences which thread blocks split while the batch does not fill the GPU.
    has_waves: a KV head of a request is a thread block, or several equal ones, and those run in
    waves of as many as the GPU has room for (see steps.py).
    """

    prefill: float
    decode_memory: float
    decode_latency_s: float
    cached_weight: float = 1.0
    cached_tokens: float = 0.0
    row_s: float = 0.0
    split_s: float = 0.0
    has_waves: bool = False


# Source: triton: measured on one H200 with SGLang 0.5.15, Llama-3.1-8B and Qwen3-30B-A3B
# (profiles/measured/h200-*): prefill of 4 to 8192 new tokens after 0 to 16384 cached ones, decode
# of one sequence at 1K to 32K of context, of up to 256 at 400K in all. fa3: the same of
# Llama-3.1-8B alone (profiles/measured/h200--dense-gqa--sglang-0.5.15--fa3).
# torch_native: SGLang 0.5.23 on a CPU (tests/real_engine/predicted.py, 2026-11-26): 64 to 1024 new
# tokens after 256 to 1024 cached ones, whose KV it copies for every step.
# decode_memory of the others: InferSim's attention kernels on H20, 1.05 GB in 362 µs of 4 TB/s; the
# rest of them: assumed.
ATTENTION_KERNELS: dict[str, AttentionKernel] = {
    "triton": AttentionKernel(0.50, 0.55, 11e-9, 1.7, 250, 0.1e-6),
    "fa3": AttentionKernel(0.64, 0.90, 0.8e-9, 0.6, 187, split_s=4e-6, has_waves=True),
    "torch_native": AttentionKernel(1.0, 0.70, 1.0e-9, 0.5, 1230),
    "other": AttentionKernel(1.0, 0.70, 1.0e-9),
}

# What `--attention-backend` may be. Source: ATTENTION_BACKEND_CHOICES of SGLang's server_args.py,
# 0.5.9 and the main branch of late 2026, together.
ATTENTION_BACKENDS = frozenset((
    "aiter", "ascend", "compressed", "cutedsl_mla", "cutlass_mla", "dsa", "dsv4",
    "dual_chunk_flash_attn", "fa3", "fa4", "flashinfer", "flashmla", "flex_attention", "hpc_ops",
    "intel_amx", "intel_xpu", "minicpm_flashattn", "minicpm_flashinfer", "mlu", "nsa",
    "tokenspeed_mla", "torch_native", "triton", "trtllm_mha", "trtllm_mla", "wave",
))  # fmt: skip

# Fixed costs of a step. Source: PD prefill engines of SGLang 0.5.15 on H200, which run without
# CUDA graphs: on one host 11-18 ms for one token on 32 dense layers, on another about 20 (and up to
# twice that for seconds on end: what Python launches waits for a busy CPU); Qwen3-30B-A3B (48
# layers) 39 ms more than with graphs.
EAGER_LAYER_S = 0.50e-3
EAGER_MOE_LAYER_S = 1.20e-3
# A request's way through HTTP, tokenizer and detokenizer processes, and the CPU time from a
# prefill step's decision until the GPU has it, which a running step hides. Source: three hosts with
# H200 (SGLang 0.5.15): idle answers less the gaps that they tear into decodes come to 5 to 8 ms in
# all; fits of both (profiles/measured/*fa3): 2.4 and 4.1 ms (8B), 1.7 and 4.0 (30B MoE).
REQUEST_S = 2.0e-3
PREFILL_START_S = 4.0e-3
# Kernels of a layer replayed from a CUDA graph: about ten at 3.5 µs, about sixteen with experts.
# Assumed from kernel counts; checked against public decode rates at batch 1.
DECODE_STEP_S = 0.25e-3
DECODE_LAYER_S = 35e-6
DECODE_MOE_LAYER_S = 55e-6
# Sampling, bookkeeping and output of one row. Source: what Qwen3-8B on H100 takes beyond bytes
# read at 396 (bf16) and 472 (FP8) running requests (silybench-data, decode-128-1024).
DECODE_ROW_S = 10e-6
# A token's row is copied for each of its experts, read, written and summed by other kernels than
# the products: passes over it. Source: Qwen3-30B-A3B's prefill of 128 to 2048 tokens on H200.
EXPERT_PASSES = 6
# The busiest of several ranks against the mean. Assumed; EPLB's published balance is 1.1-1.3.
EXPERT_IMBALANCE = 1.20
ATTENTION_DP_IMBALANCE = 1.10


def generation(gpu_name: str) -> Generation:
    """The generation of a GPU by its name; "other" when unknown."""
    name = gpu_name.upper()
    known: tuple[tuple[Generation, tuple[str, ...]], ...] = (
        ("hopper", ("H100", "H200", "H800")),
        ("h20", ("H20",)),  # after H200
        ("blackwell", ("B100", "B200", "B300", "GB200", "GB300", "5090", "RTX PRO 6000")),
        ("ada", ("L40", "L4", "4090", "RTX 6000")),
        ("ampere", ("A100", "A800", "A10", "A40", "3090", "A6000")),
        ("cdna", ("MI2", "MI3")),
    )
    return next((found for found, parts in known if any(p in name for p in parts)), "other")


# Streaming multiprocessors: each runs one block of FlashAttention-3's decode. Source: datasheets.
SMS: dict[Generation, int] = {"hopper": 132, "h20": 78}


def attention_kernel(backend: str | None, gpu_name: str) -> AttentionKernel:
    """The kernel of an SGLang attention backend; by default the one SGLang takes on this GPU."""
    name = backend or default_attention_backend(gpu_name)
    return ATTENTION_KERNELS.get(name, ATTENTION_KERNELS["other"])


def default_attention_backend(gpu_name: str) -> str:
    """What SGLang takes on this GPU unless told otherwise.

    Source: server_args.py of SGLang 0.5.15. Ignores: its exceptions for single models.
    """
    known = {"hopper": "fa3", "h20": "fa3", "blackwell": "trtllm_mha", "cdna": "aiter"}
    return known.get(generation(gpu_name), "flashinfer")


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
