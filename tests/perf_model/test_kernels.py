"""Kernels of a layer, counted in profiles of decode steps and timed beside their bytes.

Source: tests/data/gpu/steps.jsonl, one request, SGLang 0.5.17 with Triton's attention on H200; the
times are what docs/log.md leaves of a step for its layers.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pdctl.inspection.llm import read_llm
from pdctl.inspection.records import Llm
from pdctl.perf_model.formats import quantises
from pdctl.perf_model.hardware import EXPERT_EFFICIENCIES, expert_padding
from pdctl.perf_model.kernels import num_kernels, replayed_s
from pdctl.perf_model.releases import kernel_times
from pdctl.perf_model.roofline import step_times
from pdctl.perf_model.simulator.steps import prefill_s
from tests.gpu.shapes import GEMMA3_12B
from tests.perf_model.shapes import ONE, cluster, gpu, llm

STEPS = Path(__file__).parents[1] / "data" / "gpu" / "steps.jsonl"
OUTSIDE = 24  # kernels of a step outside its layers

# kind in steps.jsonl: bundled model, layers of its start (None: all)
COUNTED = {
    "bf16": ("qwen3-8b", None),
    "fp8": ("qwen3-8b-fp8", None),
    "v3": ("deepseek-v3", 6),
    "next": ("qwen3-next-80b-a3b", 12),
}
# Kernels of a layer that are not counted: norms of q and k and the second pass of Triton's
# attention; in bf16 also two split-K sums of cuBLAS
NOT_COUNTED = {"bf16": 4, "fp8": 2, "v3": 0, "next": 0}
# µs of a layer beside bytes and FLOPs; docs/log.md, "Constants these runs suggest"
TIMED = {"bf16": (28, 30), "fp8": (44, 48), "v3": (85, 93), "next": (44, 61)}


def start_of(kind: str) -> Llm:
    """The LLM of one kind, cut to the layers that were measured."""
    name, layers = COUNTED[kind]
    found = llm(name)
    if layers is None:
        return found
    return replace(found, num_layers=layers, layers=found.layers[:layers])


def profiled(kind: str) -> int:
    """Kernels of the decode step of one request in the profile."""
    for line in STEPS.read_text().splitlines():
        row = json.loads(line)
        if row["kind"] == kind and "kernels" in row:
            return int(row["kernels"]["decode-1"]["count"])
    raise AssertionError(f"no profile of {kind}")


@pytest.mark.parametrize("kind", COUNTED)
def test_the_count_is_that_of_a_profile(kind: str) -> None:
    cut = start_of(kind)
    counted = num_kernels(cut, runner="triton", dynamic=quantises(cut, gpu("H200")))
    counted += NOT_COUNTED[kind] * cut.num_layers + OUTSIDE
    assert counted == pytest.approx(profiled(kind), rel=0.02)


@pytest.mark.parametrize("kind", TIMED)
def test_times_are_near_what_the_measured_steps_leave(kind: str) -> None:
    cut = start_of(kind)
    replayed = replayed_s(cut, runner="triton", dynamic=quantises(cut, gpu("H200")))
    low, high = (1e-6 * cut.num_layers * us for us in TIMED[kind])
    assert low * 0.85 <= replayed <= high * 1.05


def test_plain_norms_of_gemma_3_are_counted(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(GEMMA3_12B))
    gemma = read_llm(str(tmp_path))
    second_pass_and_split_k = 3
    counted = num_kernels(gemma, runner="triton", dynamic=False)
    counted += second_pass_and_split_k * gemma.num_layers + OUTSIDE
    assert counted == pytest.approx(profiled("gemma-b"), rel=0.02)


def test_an_older_release_takes_longer_for_the_same_kernels() -> None:
    dense = llm("qwen3-8b")
    before, now = (
        replayed_s(dense, runner="triton", dynamic=False, release=release)
        for release in ("0.5.9", "0.5.15")
    )
    assert 1.2 < before / now < 1.5
    assert kernel_times("0.6.0") == kernel_times(None)  # newer than was read: as the newest


def test_weight_only_formats_quantise_nothing() -> None:
    narrow = llm("qwen3-8b-fp8")
    quantised, plain = (
        num_kernels(narrow, runner="triton", dynamic=dynamic) for dynamic in (True, False)
    )
    assert quantised - plain == 4 * narrow.num_layers


@pytest.mark.parametrize(
    ("tokens_an_expert", "measured"), [(80, 0.18), (384, 0.28)], ids=["qwen3-next", "v2-lite"]
)
def test_padded_blocks_explain_the_rate_of_experts_with_few_tokens(
    tokens_an_expert: int, measured: float
) -> None:
    """Shares of H200's bf16 peak of fused_moe_kernel at 4,096 tokens (docs/log.md)."""
    peak = EXPERT_EFFICIENCIES["hopper", "bf16", "triton"]
    padded = tokens_an_expert + expert_padding("triton", "bf16")
    assert peak * tokens_an_expert / padded == pytest.approx(measured, rel=0.15)


def test_padding_counts_only_experts_that_a_prompt_touches() -> None:
    times = step_times(llm("qwen3-next-80b-a3b"), cluster("H200"), ONE, "colocated")
    assert times.prefill_padding == pytest.approx(64 * 512 / 10)
    unpadded = replace(times, prefill_padding=0.0)
    few, many = (prefill_s(times, n, 0) - prefill_s(unpadded, n, 0) for n in (16, 8192))
    assert 0 <= few < many / 3
    assert step_times(llm("qwen3-8b"), cluster("H200"), ONE, "colocated").prefill_padding == 0
