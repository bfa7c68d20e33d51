"""Generic constants: which share of a datasheet rate a kernel reaches, and fixed costs.

They hold for any model without a measured profile; a profile replaces them. Each constant
names where it comes from; those marked "assumed" have no public measurement behind them.
"""

from dataclasses import dataclass
from typing import Literal

from pdctl.inspection.layers import mixers_of
from pdctl.inspection.records import GpuModel, Llm
from pdctl.perf_model.formats import Format, dense_formats, expert_format, peak_flops

Generation = Literal[
    "ampere", "ada", "hopper", "h20", "blackwell", "blackwell_ultra", "blackwell_rtx",
    "cdna", "cdna4", "other",
]  # fmt: skip
Runner = Literal["triton", "flashinfer_trtllm", "flashinfer_cutlass", "deep_gemm", "marlin"]


@dataclass(frozen=True)
class Efficiency:
    """Shares of the datasheet rate that large kernels reach on one generation of GPU.

    A format that a generation lacks has the share of the next wider one.
    """

    bf16: float  # dense products
    fp8: float
    fp4: float
    attention: float  # prefill attention, of the bf16 rate
    memory: float  # weights and KV streamed by decode


# Source: hopper bf16 and memory: measured on two H200 with SGLang 0.5.15, the part of
# Llama-3.1-8B's and Qwen3-30B-A3B's prefill that grows with tokens, and the weights their decode
# reads (profiles/measured/h200-*; bf16 was 0.77 with dummy weights, which draw less power than
# real ones: 0.70). h20 computes near its low peak (InferSim: MFU 0.6 of the whole), but its 78 SMs
# stream weights at 1.4 of 4 TB/s (Qwen3 speed benchmark, SGLang 0.4.6: Qwen3-30B-A3B at batch 1);
# hopper attention: FlashAttention-3 paper (about 600 of 989 TFLOPS causal, head 128).
# blackwell*, ada and fp8 of hopper: AIConfigurator's tables of single kernels, sglang 0.5.14
# (gemm_perf: medians at 4096 tokens and more, DeepGEMM for FP8 blocks, cutedsl for NVFP4; the slope
# of 8 tokens over 10 to 120 MB of weights; context_attention_perf). other memory 0.8: InferSim
# (hardware/gpu.py). ampere: the same tables and DistServe's A100 fits. cdna, cdna4: assumed.
EFFICIENCIES: dict[Generation, Efficiency] = {
    "ampere": Efficiency(0.70, 0.70, 0.70, 0.55, 0.80),
    "ada": Efficiency(0.53, 0.40, 0.40, 0.50, 0.80),
    "hopper": Efficiency(0.70, 0.55, 0.55, 0.55, 0.86),
    "h20": Efficiency(0.85, 0.75, 0.75, 0.80, 0.34),
    "blackwell": Efficiency(0.65, 0.52, 0.38, 0.50, 0.85),
    "blackwell_ultra": Efficiency(0.70, 0.55, 0.26, 0.50, 0.85),
    "blackwell_rtx": Efficiency(0.80, 0.65, 0.56, 0.70, 0.80),
    "cdna": Efficiency(0.50, 0.45, 0.45, 0.35, 0.70),
    "cdna4": Efficiency(0.50, 0.45, 0.40, 0.35, 0.70),
    "other": Efficiency(0.60, 0.50, 0.40, 0.40, 0.75),
}

# Grouped products of routed experts, by generation, format and MoE runner; copying rows apart
# (EXPERT_PASSES). Source: hopper bf16 triton: measured (profiles/measured/h200--moe-*); its FP8 and
# all of blackwell*, ada: moe_perf of AIConfigurator, sglang 0.5.14, at 256 tokens an expert and
# more, less the rows: on H200 610 to 810 TFLOP/s in FP8, on B200 750 to 1,000 in FP8 and 2,600 to
# 4,300 in NVFP4 for widths of 128 to 2,048. deep_gemm: DeepSeek's and LMSYS's rates with DeepEP
# (tests/perf_model/test_roofline.py). h20: InferSim, less padding. The rest is assumed.
EXPERT_EFFICIENCIES: dict[tuple[Generation, Format, Runner], float] = {
    ("ampere", "bf16", "triton"): 0.45,
    ("ada", "bf16", "triton"): 0.30,
    ("ada", "fp8", "triton"): 0.30,
    ("hopper", "bf16", "triton"): 0.36,
    ("hopper", "bf16", "marlin"): 0.25,
    ("hopper", "fp8", "triton"): 0.38,
    ("hopper", "fp8", "deep_gemm"): 0.40,
    ("h20", "bf16", "triton"): 0.75,
    ("h20", "fp8", "triton"): 0.69,
    ("h20", "fp8", "deep_gemm"): 0.69,
    ("blackwell", "bf16", "triton"): 0.20,
    ("blackwell", "fp8", "flashinfer_trtllm"): 0.19,
    ("blackwell", "fp8", "triton"): 0.18,
    ("blackwell", "fp8", "deep_gemm"): 0.40,
    ("blackwell", "fp4", "flashinfer_trtllm"): 0.36,
    ("blackwell_ultra", "bf16", "triton"): 0.20,
    ("blackwell_ultra", "fp8", "flashinfer_trtllm"): 0.20,
    ("blackwell_ultra", "fp8", "deep_gemm"): 0.40,
    ("blackwell_ultra", "fp4", "flashinfer_trtllm"): 0.25,
    ("blackwell_rtx", "bf16", "triton"): 0.50,
    ("blackwell_rtx", "fp8", "triton"): 0.50,
    ("blackwell_rtx", "fp4", "flashinfer_cutlass"): 0.45,
    ("cdna", "bf16", "triton"): 0.35,
    ("cdna", "fp8", "triton"): 0.35,
    ("cdna4", "bf16", "triton"): 0.30,
    ("cdna4", "fp8", "triton"): 0.30,
    ("cdna4", "fp4", "triton"): 0.20,
}
UNKNOWN_EXPERTS = 0.25
# Rows that an expert's block of tokens is padded by, on the mean: half of it. Source: moe_perf of
# AIConfigurator, sglang 0.5.14, on H200 and B200, 1,024 to 16,384 tokens: with these the median
# of rate times measured time stays within 0.9 to 1.1 over the lengths, without them it falls to 0.6
# (256 experts and more). Kernels in docs/log.md agree: 0.18 of the peak with 80 tokens an expert
# and 0.28 with 384 are 0.32 and 0.33 of padded rows. Others than these runners: assumed.
EXPERT_PADDING: dict[tuple[Runner, Format], int] = {
    ("triton", "bf16"): 64,
    ("triton", "fp8"): 32,
    ("flashinfer_trtllm", "fp8"): 96,
    ("flashinfer_trtllm", "fp4"): 64,
}
UNKNOWN_PADDING = 64


def expert_runner(gpu_name: str, form: Format, *, weight_only: bool, deepep: bool) -> Runner:
    """The MoE runner that SGLang takes unless told otherwise.

    Source: server_args.py and layers/moe of SGLang 0.5.9 to 0.5.15: flashinfer_trtllm for FP8 and
    NVFP4 on B200 and its kin, cutlass for NVFP4 on the workstation's Blackwell, DeepGEMM where
    DeepEP brings the tokens, Marlin for weights of 4 bits, else Triton.
    Ignores: models that SGLang excepts, --moe-runner-backend.
    """
    kind = generation(gpu_name)
    if weight_only:
        return "marlin"
    if deepep and form == "fp8":
        return "deep_gemm"
    if kind in ("blackwell", "blackwell_ultra") and form != "bf16":
        return "flashinfer_trtllm"
    return "flashinfer_cutlass" if kind == "blackwell_rtx" and form == "fp4" else "triton"


def expert_share(kind: Generation, form: Format, runner: Runner) -> float:
    """Share of the datasheet's rate of that format which the experts' products reach."""
    return EXPERT_EFFICIENCIES.get((kind, form, runner), UNKNOWN_EXPERTS)


def expert_padding(runner: Runner, form: Format) -> int:
    """Rows that the tokens of one expert are padded by, on the mean."""
    return EXPERT_PADDING.get((runner, form), UNKNOWN_PADDING)


@dataclass(frozen=True)
class AttentionKernel:
    """One attention backend. prefill: its share of a generation's attention efficiency.

    decode_memory: share of memory bandwidth when it reads the KV of many sequences.
    decode_memory_fp8: the same of KV in FP8, which takes as many instructions for half the bytes.
    decode_latency_s: seconds per token of one sequence's context and layer when nothing else
    fills the GPU. Where splitting a sequence over thread blocks works well it is small.
    cached_weight, cached_tokens: as prefill_cached_… of StepTimes. row_s: of a prompt token per
    layer, however long its prompt. split_s: of a decode step per layer, a second pass that puts
    together the parts of sequences which thread blocks split while the batch does not fill the GPU.
    wide_prefill: as prefill, where heads are wider than 128. skipped: cost of a pair outside a
    window over one inside, where the kernel looks at every block of keys to find it empty.
    verify: as prefill, where it verifies drafts with prefill's kernel, which computes verify_block
    rows of a query head however few there are; None: it verifies as it decodes.
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
    decode_memory_fp8: float | None = None  # None: as decode_memory
    wide_prefill: float | None = None  # None: as prefill
    skipped: float = 0.0
    verify: float | None = None
    verify_block: int = 0


# Source: triton: measured on one H200 with SGLang 0.5.15, Llama-3.1-8B and Qwen3-30B-A3B
# (profiles/measured/h200-*): prefill of 4 to 8192 new tokens after 0 to 16384 cached ones, decode
# of one sequence at 1K to 32K of context, of up to 256 at 400K in all. fa3: the same of
# Llama-3.1-8B alone (profiles/measured/h200--dense-gqa--sglang-0.5.15--fa3).
# torch_native: SGLang 0.5.23 on a CPU (tests/real_engine/predicted.py, 2026-11-26): 64 to 1024 new
# tokens after 256 to 1024 cached ones, whose KV it copies for every step.
# decode_memory of the others: InferSim's attention kernels on H20, 1.05 GB in 362 µs of 4 TB/s; the
# rest of them: assumed. trtllm_*, decode_memory_fp8: AIConfigurator's generation_attention_perf and
# generation_mla_perf, sglang 0.5.14 on H200 and B200: 200,000 tokens of KV and more.
# wide_prefill, skipped, verify…: kernels in traces of 0.5.17 on H200 (docs/log.md). Heads wider
# than 128 halve the block of queries (_get_block_sizes_for_extend_attention): 16 heads of 256 take
# 1.22 ms for 4,096 tokens, in Qwen3-Next as in Gemma-3. The loop over keys begins at 0, whatever
# the window, and looks into the mask of each block (_fwd_kernel, SKIP_TILE): a window of 1,024
# takes 1.87 ms there. A cached prefix is cut to the window before. Verifying is the same kernel
# with a block of queries for each request and head, 255 registers for each of 256 threads, so a
# multiprocessor runs one at a time: 67 ns a token of context for heads of 128 (26.8 µs at 256
# tokens, 284 at 4,096, one request; docs/log.md).
WIDE_HEAD = 128
ATTENTION_KERNELS: dict[str, AttentionKernel] = {
    "triton": AttentionKernel(
        0.50,
        0.55,
        11e-9,
        1.7,
        250,
        0.1e-6,
        wide_prefill=0.206,
        skipped=1.1,
        verify=0.237,
        verify_block=128,
    ),
    "fa3": AttentionKernel(
        0.64, 0.90, 0.8e-9, 0.6, 187, split_s=4e-6, has_waves=True, decode_memory_fp8=0.48
    ),
    "trtllm_mha": AttentionKernel(1.0, 0.81, 1.0e-9, decode_memory_fp8=0.62),
    "trtllm_mla": AttentionKernel(1.0, 0.72, 0.5e-9),
    "torch_native": AttentionKernel(1.0, 0.70, 1.0e-9, 0.5, 1230),
    "other": AttentionKernel(1.0, 0.70, 1.0e-9),
}

# MLA decode multiplies each cached latent with every head: near the compute limit. Source:
# FlashMLA README, H800: 660 TFLOPS of 989 when compute-bound, 0.60 kept; on B200 two measured
# slopes of DeepSeek-R1 with attention-DP (SGLang 0.5.9) give 660 as well, not 0.60 of 2,250.
LATENT_SHARE = 0.60
LATENT_FLOPS = 660e12

# What `--attention-backend` may be. Source: ATTENTION_BACKEND_CHOICES of SGLang's server_args.py,
# 0.5.9 and the main branch of late 2026, together.
ATTENTION_BACKENDS = frozenset((
    "aiter", "ascend", "compressed", "cutedsl_mla", "cutlass_mla", "dsa", "dsv4",
    "dual_chunk_flash_attn", "fa3", "fa4", "flashinfer", "flashmla", "flex_attention", "hpc_ops",
    "intel_amx", "intel_xpu", "minicpm_flashattn", "minicpm_flashinfer", "mlu", "nsa",
    "tokenspeed_mla", "torch_native", "triton", "trtllm_mha", "trtllm_mla", "wave",
))  # fmt: skip

# A request's way through HTTP, tokenizer and detokenizer processes, and the CPU time from a
# prefill step's decision until the GPU has it, which a running step hides. Source: three hosts with
# H200 (SGLang 0.5.15): idle answers less the gaps that they tear into decodes come to 5 to 8 ms in
# all; fits of both (profiles/measured/*fa3): 2.4 and 4.1 ms (8B), 1.7 and 4.0 (30B MoE).
REQUEST_S = 2.0e-3
PREFILL_START_S = 4.0e-3
# Of a decode step beside its layers. Assumed; checked against public decode rates at batch 1.
DECODE_STEP_S = 0.25e-3
# Sampling, bookkeeping and output of one row. Source: what Qwen3-8B on H100 takes beyond bytes
# read at 396 (bf16) and 472 (FP8) running requests (silybench-data, decode-128-1024).
DECODE_ROW_S = 10e-6
# A token's row is copied for each of its experts, read, written and summed by other kernels than
# the products: passes over it in hidden size and in the experts' width. Without all-to-all each
# GPU does so for all tokens, its own experts' or not. Source: Qwen3-30B-A3B's prefill of 128 to
# 2048 tokens on H200; moe_perf of AIConfigurator (H200, FP8): 4 and 5 explain 8-way expert
# parallelism of Qwen3.5 to 5 %; the fused runner of B200 takes half.
EXPERT_PASSES = 4
EXPERT_WIDTH_PASSES = 5
FUSED_EXPERT_PASSES = 0.5
# The busiest of several ranks against the mean. Source: EPLB's published balance is 1.1-1.3;
# without it moe_perf's power-law routing takes 1.27 (4 ranks) to 1.47 (8) of the balanced one.
EXPERT_IMBALANCE = 1.20
UNBALANCED_EXPERTS = 1.40
ATTENTION_DP_IMBALANCE = 1.10


def generation(gpu_name: str) -> Generation:
    """The generation of a GPU by its name; "other" when unknown."""
    name = gpu_name.upper()
    known: tuple[tuple[Generation, tuple[str, ...]], ...] = (
        ("hopper", ("H100", "H200", "H800")),
        ("h20", ("H20",)),  # after H200
        ("blackwell_ultra", ("B300", "GB300")),
        ("blackwell_rtx", ("5090", "RTX PRO 6000", "RTX-PRO-6000")),
        ("blackwell", ("B100", "B200", "GB200")),
        ("ada", ("L40", "L4", "4090", "RTX 6000")),
        ("ampere", ("A100", "A800", "A10", "A40", "3090", "A6000")),
        ("cdna4", ("MI350", "MI355")),
        ("cdna", ("MI2", "MI3")),
    )
    return next((found for found, parts in known if any(p in name for p in parts)), "other")


_BLACKWELL = frozenset(("blackwell", "blackwell_ultra", "blackwell_rtx"))


def kv_value_bytes(llm: Llm, gpu: GpuModel, chosen: float | None) -> float:
    """Bytes of a value in the KV cache. chosen: by --kv-cache-dtype; None: SGLang's "auto".

    Source: sglang 0.5.23 arg_groups/overrides.py _dsa_kv_cache_dtype_default: sparse attention
    keeps FP8 on Blackwell and 16 bits before; otherwise the checkpoint says.
    Ignores: scales that FlashMLA's FP8 layout keeps beside the values.
    """
    if chosen is not None:
        return chosen
    is_sparse = any(mixer.kind == "mla" and mixer.index_topk for mixer in mixers_of(llm.layers))
    return 1.0 if is_sparse and generation(gpu.name) in _BLACKWELL else llm.kv_dtype_bytes


# Streaming multiprocessors: each runs one block of FlashAttention-3's decode. Source: datasheets.
SMS: dict[Generation, int] = {"hopper": 132, "h20": 78}


def attention_kernel(backend: str | None, gpu_name: str) -> AttentionKernel:
    """The kernel of an SGLang attention backend; by default the one SGLang takes on this GPU."""
    name = backend or default_attention_backend(gpu_name)
    return ATTENTION_KERNELS.get(name, ATTENTION_KERNELS["other"])


def default_attention_backend(gpu_name: str) -> str:
    """SGLang's defaults on this GPU.

    Source: server_args.py of SGLang 0.5.15. Ignores: its exceptions for single models.
    """
    known = {
        "hopper": "fa3",
        "h20": "fa3",
        "blackwell": "trtllm_mha",
        "blackwell_ultra": "trtllm_mha",
        "cdna": "aiter",
        "cdna4": "aiter",
    }
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
    skipped: float  # as in AttentionKernel
    row_s: float
    split_s: float
    verify: float  # FLOP/s of attention that verifies drafts in blocks of queries; 0: as decode
    verify_block: int
    verify_blocks: int  # of these thread blocks that a GPU runs at once; 0: not known
    blocks: int  # the same of decode attention
    runner: Runner  # of routed experts
    padding: int  # rows that each expert's tokens are padded by
    latents: float  # of decode attention that multiplies latents with every head
    bf16_peak: float


def rates(
    llm: Llm,
    gpu: GpuModel,
    backend: str | None = None,
    *,
    kv_dtype_bytes: float | None = None,
    deepep: bool = False,
) -> Rates:
    """The rates of one GPU for this LLM's number formats and attention backend.

    Weights without a product of their width on this GPU compute at the bf16 rate.
    kv_dtype_bytes: None takes what the checkpoint says. deepep: it brings tokens to experts.
    Source: GpuModel, and the tables above.
    """
    kind = generation(gpu.name)
    share = EFFICIENCIES[kind]
    name = backend or default_attention_backend(gpu.name)
    if llm.attention == "mla" and name == "trtllm_mha":
        name = "trtllm_mla"
    kernel = attention_kernel(name, gpu.name)
    attention = gpu.bf16_flops * share.attention
    form = expert_format(llm, gpu)
    weight_only = form == "bf16" and llm.expert_bytes < 1
    runner = expert_runner(gpu.name, form, weight_only=weight_only, deepep=deepep)
    return Rates(
        gemm=1 / sum(part / dense_flops(gpu, f) for f, part in dense_formats(llm, gpu).items()),
        experts=peak_flops(gpu, form) * expert_share(kind, form, runner),
        attention=attention * _prefill_share(kernel, llm),
        memory=gpu.bandwidth_bytes_per_s * share.memory,
        kv=gpu.bandwidth_bytes_per_s * _kv_share(kernel, kv_dtype_bytes or llm.kv_dtype_bytes),
        latency_s=kernel.decode_latency_s,
        cached_weight=kernel.cached_weight,
        cached_tokens=kernel.cached_tokens,
        skipped=kernel.skipped,
        row_s=kernel.row_s,
        split_s=kernel.split_s,
        verify=attention * (kernel.verify or 0.0),
        verify_block=kernel.verify_block // (2 if llm.head_dim > WIDE_HEAD else 1),
        verify_blocks=SMS.get(kind, 0),
        blocks=SMS.get(kind, 0) if kernel.has_waves else 0,
        runner=runner,
        padding=expert_padding(runner, form),
        latents=min(gpu.bf16_flops * LATENT_SHARE, LATENT_FLOPS),
        bf16_peak=gpu.bf16_flops,
    )


def dense_flops(gpu: GpuModel, form: Format) -> float:
    """FLOP/s that large dense products of a format reach."""
    share = EFFICIENCIES[generation(gpu.name)]
    return peak_flops(gpu, form) * {"bf16": share.bf16, "fp8": share.fp8, "fp4": share.fp4}[form]


def _prefill_share(kernel: AttentionKernel, llm: Llm) -> float:
    is_wide = llm.head_dim > WIDE_HEAD
    return kernel.wide_prefill if is_wide and kernel.wide_prefill else kernel.prefill


def _kv_share(kernel: AttentionKernel, kv_dtype_bytes: float) -> float:
    narrow = kernel.decode_memory_fp8 if kv_dtype_bytes < 2 else None
    return narrow or kernel.decode_memory
