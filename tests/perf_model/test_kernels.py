"""Kernels of a layer, counted in profiles of decode steps and timed beside their bytes.

Source: tests/data/gpu/steps.jsonl, one request, SGLang 0.5.17 with Triton's attention on H200; the
times are what docs/log.md leaves of a step for its layers.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pdctl.inspection.llm import read_llm
from pdctl.inspection.records import Llm
from pdctl.perf_model.formats import quantises
from pdctl.perf_model.hardware import EXPERT_EFFICIENCIES, expert_padding, rates
from pdctl.perf_model.kernels import (
    LAUNCH_S,
    SCAN_PIECE,
    TRITON_LAUNCH_S,
    num_kernels,
    pieces_s,
    replayed_s,
)
from pdctl.perf_model.mixing import state_rows_s
from pdctl.perf_model.records import Parallelism, Serving, StepTimes
from pdctl.perf_model.releases import kernel_times
from pdctl.perf_model.roofline import step_times
from pdctl.perf_model.simulator.steps import (
    decode_slope_s,
    decode_step_s,
    pairs,
    prefill_s,
    prefill_step_s,
    weighted_pairs,
)
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
    kept = found.layers[:layers]
    states = sum(mixer.kind == "state" for layer in kept for mixer in layer.mixers)
    return replace(found, num_layers=layers, layers=kept, num_state_layers=states)


def profile(kind: str, step: str) -> dict[str, Any]:
    """Kernels of one step in the profile of a kind."""
    for line in STEPS.read_text().splitlines():
        row = json.loads(line)
        if row["kind"] == kind and "kernels" in row:
            found: dict[str, Any] = row["kernels"][step]
            return found
    raise AssertionError(f"no profile of {kind}")


def profiled(kind: str) -> int:
    """Kernels of the decode step of one request in the profile."""
    return int(profile(kind, "decode-1")["count"])


def traced_s(kind: str, *names: str) -> float:
    """Seconds of all kernels whose names begin so, in a prefill step of 4,096 tokens."""
    rows = profile(kind, "prefill-4096")["kernels"]
    return 1e-6 * sum(float(total) for name, _, total in rows if name.startswith(names))


def triton(shape: Llm, **changes: Any) -> StepTimes:
    """Step times of one H200 with Triton's attention."""
    return step_times(
        shape, cluster("H200"), ONE, "colocated", attention_backend="triton", **changes
    )


@pytest.fixture
def gemma(tmp_path: Path) -> Llm:
    (tmp_path / "config.json").write_text(json.dumps(GEMMA3_12B))
    return read_llm(str(tmp_path))


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


def test_plain_norms_of_gemma_3_are_counted(gemma: Llm) -> None:
    second_pass_and_split_k = 3
    counted = num_kernels(gemma, runner="triton", dynamic=False)
    counted += second_pass_and_split_k * gemma.num_layers + OUTSIDE
    assert counted == pytest.approx(profiled("gemma-b"), rel=0.02)


def test_attention_dp_launches_six_kernels_more_a_layer_unless_deepep_sends_the_tokens() -> None:
    model, gpus = llm("deepseek-v3"), cluster()
    alone, ranks, sent = (
        step_times(model, gpus, parallelism, "colocated", serving=serving).eager_s
        for parallelism, serving in (
            (Parallelism(tp=2), Serving()),
            (Parallelism(tp=2, dp=2), Serving()),
            (Parallelism(tp=2, dp=2, ep=2), Serving(all_to_all=True)),
        )
    )
    assert ranks - alone == pytest.approx(model.num_layers * (4 * LAUNCH_S + 2 * TRITON_LAUNCH_S))
    assert sent < ranks


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


def test_attention_of_heads_wider_than_128_takes_what_a_trace_says() -> None:
    cut = start_of("next")
    predicted = triton(cut).prefill_pair_s * pairs(4096)
    assert predicted == pytest.approx(traced_s("next", "_fwd_kernel"), rel=0.05)


def test_windows_save_nothing_in_prefill_with_triton(gemma: Llm) -> None:
    windowed = triton(gemma)
    inside_s = windowed.prefill_row_s - triton(replace(gemma, sliding_window=1)).prefill_row_s
    predicted = windowed.prefill_pair_s * pairs(4096) + inside_s * 4096
    assert predicted == pytest.approx(traced_s("gemma-b", "_fwd_kernel"), rel=0.1)


def test_a_window_skips_a_cached_prefix_at_once(gemma: Llm) -> None:
    """A second chunk costs what the first does and attention of the 8 full layers to the prefix."""
    times = triton(gemma)
    first, second = (prefill_s(times, 8192, weighted_pairs(times, 8192, h)) for h in (0, 8192))
    assert second - first == pytest.approx(0.128, rel=0.15)  # measured: 702 − 575 ms


def test_rows_of_gated_delta_nets_move_as_often_as_in_a_trace() -> None:
    cut = start_of("next")
    predicted = 4096 * state_rows_s(cut, rates(cut, gpu("H200")), ONE)
    splits = ("fused_qkvzba_split", "fused_qkv_split", "layer_norm_gated")
    copies_s = 9 * 15e-6
    assert predicted == pytest.approx(traced_s("next", *splits) + copies_s, rel=0.1)


def test_a_prefill_step_waits_for_mixers_that_its_graphs_leave_out() -> None:
    cut = start_of("next")
    times = triton(cut, prefill_graphs=True)
    traced = profile("next", "prefill-256")["kernels"]
    launched = [
        "_causal_conv1d_fwd", "fused_qkv_split", "fused_gdn_gating", "chunk_local_cumsum",
        "chunk_gated_delta_rule_fwd_kkt", "recompute_w_u", "chunk_gated_delta_rule_fwd_kernel_h",
        "chunk_fwd_kernel_o",
    ]  # fmt: skip
    assert [n for name, n, _ in traced for one in launched if name.startswith(one)] == [9] * 8
    assert len(launched) + 2 == SCAN_PIECE.triton  # and two l2 norms
    prepared_s = (32 + 15) * 50e-6
    launched_s = prepared_s + 9 * 1.35e-3
    assert times.prefill_pieces_s == pieces_s(cut, "colocated") == pytest.approx(launched_s)
    assert prefill_s(replace(times, prefill_weight_s=0.0), 1, 1) == times.prefill_pieces_s
    assert triton(llm("qwen3-8b")).prefill_pieces_s == 0


@pytest.mark.parametrize(
    ("batch", "context", "measured"),
    [(1, 550, 7.76), (4, 550, 7.96), (16, 550, 12.2), (32, 550, 17.6)]
    + [(2, 550, 7.893), (8, 550, 9.36), (24, 550, 14.85), (8, 2040, 15.53)],
)
def test_verify_steps_attend_with_the_kernel_of_prefill(
    batch: int, context: int, measured: float
) -> None:
    """Milliseconds of Llama-3.1-8B with EAGLE on H200, 0.5.17 (docs/log.md)."""
    times = triton(llm("llama-3.1-8b"), verify_tokens=4, release="0.5.17")
    assert 1e3 * decode_step_s(times, batch, batch * context) == pytest.approx(measured, rel=0.02)


def test_verify_steps_with_ngrams_launch_what_graphs_leave_out() -> None:
    times = triton(llm("llama-3.1-8b"), verify_tokens=8, ngram=True, release="0.5.17")
    assert 1e3 * decode_step_s(times, 4, 4 * 612) == pytest.approx(8.77, rel=0.05)


def test_a_multiprocessor_verifies_one_request_and_head_at_a_time() -> None:
    """26.8 µs a layer at 256 tokens and 284.2 at 4,096, in traces of one request."""
    times = triton(llm("llama-3.1-8b"), verify_tokens=4)
    a_token_s = (284.2e-6 - 26.8e-6) / (4096 - 256)
    assert decode_slope_s(times, 1) / 32 == pytest.approx(a_token_s, rel=0.02)
    four, five, eight = (b * decode_slope_s(times, b) for b in (4, 5, 8))
    assert five == pytest.approx(2 * four)
    assert eight == pytest.approx(2 * four)


def test_prompts_are_padded_to_their_prefill_graph() -> None:
    sizes = (256, 512, 1024)
    bare = triton(llm("llama-3.1-8b"), prefill_graphs=True)
    times = replace(bare, prefill_sizes=sizes)
    assert [prefill_s(times, n, 0) for n in (400, 512)] == [prefill_s(bare, 512, 0)] * 2
    assert prefill_s(times, 1025, 0) == prefill_s(bare, 1025, 0)
    assert prefill_step_s(times)(400, 0) == prefill_s(times, 400, 0)
    eager = replace(bare, prefill_graphs=False)
    assert prefill_s(replace(eager, prefill_sizes=sizes), 400, 0) == prefill_s(eager, 400, 0)
