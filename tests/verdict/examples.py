"""A small fleet with round step times, and questions built from it."""

import re
from dataclasses import replace
from typing import Any

from pdctl.inspection.cluster import parse_gpus
from pdctl.inspection.llm import read_llm
from pdctl.perf_model.intervals import ErrorInterval, Errors
from pdctl.perf_model.records import EngineModel, Parallelism, Percentiles, Role, StepTimes
from pdctl.verdict.records import Arm, Question
from pdctl.workload.describe import workload_from_lengths
from pdctl.workload.records import Slo, Workload

# 100 µs per prompt token, 10 ms per decode step and 1 µs per token of context
TIMES = StepTimes(
    prefill_base_s=0.0,
    prefill_token_s=1e-4,
    prefill_pair_s=0.0,
    decode_base_s=0.01,
    decode_weight_s=0.0,
    decode_request_s=0.0,
    decode_latency_s=0.0,
    decode_context_s=1e-6,
    decode_compute_s=0.0,
    transfer_base_s=0.001,
    transfer_token_s=1e-6,
)


def equal_lengths(**flags: float | None) -> Workload:
    """What --isl, --osl and other flags ask for, every request as long as the mean."""
    lengths = {"isl": None, "osl": None, **flags, "isl_cv": 0, "osl_cv": 0}
    return workload_from_lengths(**lengths)


def engine(role: Role = "colocated", **changes: Any) -> EngineModel:
    """An engine with TIMES, 1,000,000 tokens of KV and chunks of 8,000 tokens."""
    model = EngineModel(
        role=role,
        parallelism=Parallelism(),
        times=TIMES,
        kv_capacity_tokens=1_000_000,
        max_running_requests=4096,
        chunked_prefill_size=8000,
        max_context=131_072,
    )
    return replace(model, **changes)


def question(
    model: str = "llama-3.1-8b",
    gpus: str = "8xH200",
    *,
    isl: float | None = 4000,
    osl: float | None = 300,
    rate: float | None = None,
    slo: Slo | None = None,
    **changes: Any,
) -> Question:
    """A question about a bundled model; changes: further fields of Question."""
    workload = workload_from_lengths(isl=isl, osl=osl, rate_rps=rate)
    asked = Question(read_llm(model), parse_gpus(gpus), workload, slo=slo or Slo())
    return replace(asked, **changes)


def counts_in(layout: str) -> dict[Role, int]:
    """Engines by role of "8C" or "2P6D"."""
    roles: tuple[Role, ...] = ("colocated",) if layout.endswith("C") else ("prefill", "decode")
    return dict(zip(roles, map(int, re.findall(r"\d+", layout)), strict=True))


def arm(layout: str = "8C", **changes: Any) -> Arm:
    """An arm with plausible figures."""
    counts = counts_in(layout)
    times = Percentiles(0.5, 0.4, 0.9, 1.2)
    made = Arm(
        counts=counts,
        num_gpus=8,
        parallelism=dict.fromkeys(counts, Parallelism()),
        ttft_s=times,
        tpot_s=Percentiles(0.02, 0.018, 0.03, 0.05),
        e2e_s=Percentiles(5.0, 4.0, 9.0, 12.0),
        ttft_at_share_s=0.9,
        tpot_at_share_s=0.03,
        goodput_rps=3.0,
        attainment=0.95,
        keeps_up=True,
        meets=True,
        capacity_rps=4.0,
        tokens_per_s_per_gpu=100.0,
        kv_usage=dict.fromkeys(counts, 0.5),
    )
    return replace(made, **changes)


def errors(width: float = 0.25) -> Errors:
    """The same interval for every figure."""
    one = ErrorInterval(1 / (1 + width), 1 + width, "made up", 40, 4)
    return Errors(one, one, one, one, one, one)
