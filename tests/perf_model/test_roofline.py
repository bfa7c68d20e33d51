"""Step times from the roofline: what grows with what, and how near to what was published."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdctl.errors import InvalidInput
from pdctl.inspection.records import Cluster, Llm
from pdctl.perf_model.fitting.fit import predicted_s
from pdctl.perf_model.records import Measurement, Parallelism, StepTimes
from pdctl.perf_model.roofline import step_times
from pdctl.perf_model.simulator.steps import decode_step_s, pairs, prefill_floor_s, prefill_s
from tests.perf_model.shapes import ONE, cluster, fp8, gpu, llm

RDMA400 = 50e9


def prompt_s(times: StepTimes, tokens: int, chunk: int = 8192) -> float:
    starts = range(0, tokens, chunk)
    return (
        times.request_s
        + times.prefill_start_s
        + sum(
            prefill_s(times, min(chunk, tokens - h), pairs(min(chunk, tokens - h), h))
            for h in starts
        )
    )


def test_prompts_take_what_they_took_on_an_h200_within_thirty_percent() -> None:
    # Llama-3.1-8B bf16, SGLang 0.5.15, triton attention, one stream: client's TTFT
    times = step_times(llm("llama-3.1-8b"), cluster(), ONE, "colocated", attention_backend="triton")
    measured = {256: 0.017, 1024: 0.044, 4096: 0.114, 8192: 0.264, 16384: 0.723}
    for tokens, seconds in measured.items():
        assert prompt_s(times, tokens) == pytest.approx(seconds, rel=0.30), tokens


def test_a_short_moe_prompt_takes_what_it_took_on_an_h200_within_thirty_percent() -> None:
    times = step_times(
        llm("qwen3-30b-a3b"), cluster(), ONE, "colocated", attention_backend="triton"
    )
    assert prompt_s(times, 256) == pytest.approx(0.029, rel=0.30)


@pytest.mark.parametrize(
    ("name", "batch", "context", "seconds"),
    [
        ("llama-3.1-8b", 1, 4130, 6.402e-3),
        ("llama-3.1-8b", 1, 32034, 16.77e-3),
        ("llama-3.1-8b", 32, 1120, 6.369e-3),
        ("llama-3.1-8b", 128, 1312, 14.429e-3),
        ("qwen3-30b-a3b", 1, 16418, 13.048e-3),
        ("qwen3-30b-a3b", 8, 1072, 9.333e-3),
        ("qwen3-30b-a3b", 64, 1184, 20.512e-3),
    ],
)
def test_decode_steps_take_what_they_took_on_an_h200_within_a_fifth(
    name: str, batch: int, context: int, seconds: float
) -> None:
    """One H200, SGLang 0.5.15, triton attention, dummy weights; median of 64 steps a point."""
    times = step_times(llm(name), cluster(), ONE, "colocated", attention_backend="triton")
    assert decode_step_s(times, batch, batch * context) == pytest.approx(seconds, rel=0.20)


@pytest.mark.parametrize(
    ("backend", "new", "cached", "seconds"),
    [
        ("triton", 1024, 4096, 47.25e-3),
        ("triton", 512, 16384, 58.25e-3),
        ("fa3", 1024, 32768, 64.98e-3),
        ("fa3", 512, 16384, 29.66e-3),
        ("fa3", 2048, 32768, 116.87e-3),
    ],
)
def test_few_new_tokens_read_a_cached_prefix_as_well(
    backend: str, new: int, cached: int, seconds: float
) -> None:
    """Two H200, SGLang 0.5.15: prompts after a cached prefix, alone on an engine."""
    times = step_times(llm("llama-3.1-8b"), cluster(), ONE, "colocated", attention_backend=backend)
    asked = Measurement("prefill", seconds, new_tokens=new, cached_tokens=cached)
    assert predicted_s(times, asked) == pytest.approx(seconds, rel=0.20)


def test_another_attention_backend_changes_attention_alone() -> None:
    triton, fa3 = (
        step_times(llm("llama-3.1-8b"), cluster(), ONE, "colocated", attention_backend=backend)
        for backend in ("triton", None)
    )
    assert fa3.prefill_pair_s < triton.prefill_pair_s
    assert fa3.decode_latency_s < triton.decode_latency_s
    assert fa3.decode_context_s < triton.decode_context_s
    others = ("prefill_token_s", "decode_base_s", "transfer_token_s")
    assert all(getattr(fa3, name) == getattr(triton, name) for name in others)


def test_tensor_parallelism_divides_work_and_adds_communication() -> None:
    shape = llm("llama-3.1-70b")
    one, four = (step_times(shape, cluster(), Parallelism(tp=n), "prefill") for n in (1, 4))
    assert four.prefill_token_s == pytest.approx(one.prefill_token_s / 4)
    assert 0 == one.prefill_row_s < four.prefill_row_s < four.prefill_token_s
    assert four.decode_context_s == pytest.approx(one.decode_context_s / 4)
    assert four.prefill_base_s > one.prefill_base_s


def test_pcie_makes_tensor_parallelism_dearer_than_nvlink() -> None:
    shape, tp4 = llm("llama-3.1-70b"), Parallelism(tp=4)
    plain = replace(cluster(), gpu=replace(gpu("H200"), peer_bytes_per_s=None))
    over_pcie, over_nvlink = (step_times(shape, c, tp4, "decode") for c in (plain, cluster()))
    assert over_pcie.decode_base_s > over_nvlink.decode_base_s + 80 * 2 * 10e-6
    took, quick = (t.prefill_token_s + t.prefill_row_s for t in (over_pcie, over_nvlink))
    assert took > 1.3 * quick


def test_tensor_parallelism_across_nodes_pays_for_rdma() -> None:
    shape = llm("llama-3.1-70b")
    wide = step_times(shape, cluster(nodes=2, rdma=RDMA400), Parallelism(tp=16), "decode")
    inside = step_times(shape, cluster(nodes=2, rdma=RDMA400), Parallelism(tp=8), "decode")
    assert wide.decode_request_s > 4 * (inside.decode_request_s - 15e-6)


def test_mla_cache_is_read_whole_by_each_rank_unless_attention_is_data_parallel() -> None:
    shape = llm("deepseek-v3")
    tp8, dp8 = (
        step_times(shape, cluster(), p, "decode")
        for p in (Parallelism(tp=8), Parallelism(tp=8, dp=8))
    )
    assert dp8.decode_context_s < tp8.decode_context_s / 2


def test_a_moe_reads_experts_by_coverage_and_a_dense_llm_everything_at_once() -> None:
    moe = step_times(llm("qwen3-30b-a3b"), cluster(), ONE, "decode")
    dense = step_times(llm("llama-3.1-8b"), cluster(), ONE, "decode")
    assert dense.decode_weight_s == 0
    assert dense.expert_share == 1
    assert moe.expert_share == 8 / 128
    assert decode_step_s(moe, 32, 32) > 3 * decode_step_s(moe, 1, 1)
    assert decode_step_s(dense, 32, 32) < 1.5 * decode_step_s(dense, 1, 1)


def test_verify_batches_touch_more_experts_and_multiply_rows_but_not_kv() -> None:
    shape = llm("qwen3-235b-a22b")
    plain, verify = (
        step_times(shape, cluster(), Parallelism(tp=8), "decode", verify_tokens=n) for n in (1, 4)
    )
    # 4 tokens at batch 32 touch 128 of 128 experts where one touches 112
    assert 128 * (1 - (1 - verify.expert_share) ** 32) == pytest.approx(128, abs=0.5)
    assert verify.decode_context_s == plain.decode_context_s
    assert verify.decode_request_s == pytest.approx(4 * plain.decode_request_s)
    assert verify.decode_base_s > plain.decode_base_s


def test_two_batch_overlap_hides_communication() -> None:
    wide, h100 = Parallelism(tp=32, dp=32, ep=32), cluster("H100", 4, RDMA400)
    plain, overlapped = (
        step_times(
            llm("deepseek-v3"), h100, wide, "prefill", two_batch_overlap=flag, all_to_all=True
        )
        for flag in (False, True)
    )
    slow, quick = (t.prefill_token_s + t.prefill_row_s for t in (plain, overlapped))
    assert 0.4 * slow < quick < 0.8 * slow


def test_low_latency_dispatch_serves_decode_and_normal_mode_serves_prefill() -> None:
    wide, h100 = Parallelism(tp=32, dp=32, ep=32), cluster("H100", 4, RDMA400)
    colocated, decode = (
        step_times(llm("deepseek-v3"), h100, wide, role, all_to_all=True)
        for role in ("colocated", "decode")
    )
    assert colocated.decode_base_s > decode.decode_base_s
    assert colocated.prefill_token_s == decode.prefill_token_s


def test_without_all_to_all_every_gpu_gets_every_token() -> None:
    wide, h100 = Parallelism(tp=32, dp=32, ep=32), cluster("H100", 4, RDMA400)
    gathered, sent = (
        step_times(llm("deepseek-v3"), h100, wide, "decode", all_to_all=flag)
        for flag in (False, True)
    )
    # each of 61 layers' gather and scatter moves 2·31/32·7168 values of 2 bytes a token at 40 GB/s
    moved_s = 61 * 2 * 31 / 32 * 7168 * 2 / 40e9
    assert gathered.decode_request_s == pytest.approx(moved_s, rel=0.1)
    assert sent.decode_request_s < gathered.decode_request_s / 5
    narrow = Parallelism(tp=8, ep=8)  # one attention group: nobody has tokens to send
    one, same = (
        step_times(llm("deepseek-v3"), h100, narrow, "decode", all_to_all=flag)
        for flag in (False, True)
    )
    assert one == same


def test_a_pipeline_splits_prefill_into_stages_and_decode_into_microbatches() -> None:
    shape, two = llm("llama-3.1-70b"), cluster(nodes=2, rdma=RDMA400)
    flat = step_times(shape, two, Parallelism(tp=8), "colocated")
    piped = step_times(shape, two, Parallelism(tp=8, pp=2), "colocated")
    assert piped.stages == 2
    assert piped.prefill_token_s == pytest.approx(flat.prefill_token_s / 2, rel=0.1)
    assert decode_step_s(piped, 1, 1000) >= decode_step_s(flat, 1, 1000)
    assert piped.decode_context_s == pytest.approx(flat.decode_context_s / 2)


def test_sliding_layers_read_their_window_and_no_more() -> None:
    shape = llm("gpt-oss-120b")
    layers = tuple(
        replace(layer, mixers=tuple(replace(m, kind="full", window=None) for m in layer.mixers))
        for layer in shape.layers
    )
    full = replace(shape, sliding_window=None, num_sliding_layers=0, layers=layers)
    windowed, whole = (step_times(s, cluster(), ONE, "decode") for s in (shape, full))
    assert windowed.decode_context_s == pytest.approx(whole.decode_context_s / 2)
    assert windowed.prefill_pair_s == pytest.approx(whole.prefill_pair_s / 2)
    assert windowed.decode_request_s > whole.decode_request_s


def test_an_eager_prefill_engine_has_a_floor_and_one_with_graphs_a_lower_one() -> None:
    eager, graphs = (
        step_times(llm("qwen3-30b-a3b"), cluster(), ONE, "prefill", prefill_graphs=flag)
        for flag in (False, True)
    )
    # SGLang 0.5.15 on H200: 39 ms above the 29 of a graph at 256 tokens
    assert prompt_s(eager, 256) == pytest.approx(0.068, rel=0.20)
    assert prefill_floor_s(graphs) < prefill_floor_s(eager) / 4


def test_graphs_cover_each_ranks_batch() -> None:
    h100 = cluster("H100", 4, RDMA400)
    wide = step_times(llm("deepseek-v3"), h100, Parallelism(tp=32, dp=32, ep=32), "decode")
    assert wide.decode_graph_batch == 32 * 512
    none = step_times(llm("deepseek-v3"), h100, Parallelism(tp=8), "decode", decode_graphs=False)
    assert decode_step_s(none, 1, 1) == none.eager_s


def test_weight_only_quantisation_reads_less_but_computes_no_faster() -> None:
    shape = llm("qwen3-32b")
    int4 = replace(shape, linear_bytes=0.55)
    plain, quantised = (step_times(s, cluster(), ONE, "colocated") for s in (shape, int4))
    assert quantised.prefill_token_s == plain.prefill_token_s
    assert quantised.decode_base_s < plain.decode_base_s / 2
    assert step_times(fp8(shape), cluster(), ONE, "prefill").prefill_token_s < plain.prefill_token_s


def test_every_coefficient_is_a_time_on_every_gpu() -> None:
    for name in ("A100", "L40S", "RTX-4090", "H20", "B200", "GB200", "MI300X", "A10"):
        for shape in ("llama-3.1-8b", "gpt-oss-20b", "deepseek-v3", "mixtral-8x7b"):
            times = step_times(llm(shape), cluster(name), Parallelism(tp=8), "colocated")
            values = [v for k, v in vars(times).items() if k.endswith("_s")]
            assert all(0 <= v < 1 for v in values), (name, shape)
            assert times.prefill_token_s > 0


def test_a_cut_that_does_not_divide_the_heads_is_refused() -> None:
    with pytest.raises(InvalidInput, match="does not divide"):
        step_times(llm("llama-3.1-8b"), cluster(), Parallelism(tp=3), "prefill")


@given(
    name=st.sampled_from(["llama-3.1-8b", "qwen3-30b-a3b", "deepseek-v3", "gpt-oss-120b"]),
    tokens=st.integers(1, 16384),
    cached=st.integers(0, 100_000),
    batch=st.integers(1, 2000),
    context=st.integers(1, 100_000),
)
def test_more_work_never_takes_less_time(
    name: str, tokens: int, cached: int, batch: int, context: int
) -> None:
    times = step_times(llm(name), cluster(), Parallelism(tp=8), "colocated")
    prefill = prefill_s(times, tokens, pairs(tokens, cached))
    assert prefill <= prefill_s(times, tokens + 1, pairs(tokens + 1, cached))
    assert prefill <= prefill_s(times, tokens, pairs(tokens, cached + 1))
    decode = decode_step_s(times, batch, batch * context)
    assert decode <= decode_step_s(times, batch, batch * context + 1)
    # waves of thread blocks break the law for more requests, in the model and on H200
    even = replace(times, decode_wave_batch=0.0)
    decode = decode_step_s(even, batch, batch * context)
    assert decode <= decode_step_s(even, batch + 1, (batch + 1) * context)


@given(
    name=st.sampled_from(["llama-3.1-70b", "qwen3-235b-a22b", "deepseek-v3"]),
    tp=st.sampled_from([1, 2, 4]),
    gpu_name=st.sampled_from(["H100", "H200", "B200", "L40S"]),
)
def test_twice_the_gpus_never_more_than_halve_a_prefill(name: str, tp: int, gpu_name: str) -> None:
    few, many = (
        step_times(llm(name), cluster(gpu_name), Parallelism(tp=n), "prefill") for n in (tp, 2 * tp)
    )
    slow, fast = (prefill_s(t, 8192, pairs(8192)) for t in (few, many))
    assert fast >= slow / 2
    assert many.prefill_pair_s == pytest.approx(few.prefill_pair_s / 2)


def published_cluster(name: str) -> Cluster:
    return cluster(name, 16, RDMA400)


WIDE32, WIDE72, WIDE128 = (Parallelism(tp=n, dp=n, ep=n) for n in (32, 72, 128))
Case = tuple[str, str, str, Parallelism, int, int, float]
# source, LLM, GPU, parallelism, tokens of a step per GPU, prompt, published tokens/s per GPU
PREFILL: list[Case] = [
    ("InferSim, Qwen3-30B-A3B on H20", "qwen3-30b-a3b", "H20", ONE, 16384, 4096, 16594),
    ("InferSim, Qwen3-8B-FP8 on H20", "qwen3-8b fp8", "H20", ONE, 16384, 4096, 15061),
    ("DeepSeek profile-data, EP32", "deepseek-v3", "H800", WIDE32, 16384, 4096, 7839),
    ("LMSYS 96 H100, EP32", "deepseek-v3", "H100", WIDE32, 16384, 2000, 52300 / 8),
]
# source, LLM, GPU, parallelism, batch per GPU, context, published tokens/s per GPU
DECODE: list[Case] = [
    ("InferSim, Qwen3-30B-A3B on H20", "qwen3-30b-a3b", "H20", Parallelism(tp=4), 100, 5120, 2749),
    ("InferSim, Qwen3-8B-FP8 on H20", "qwen3-8b fp8", "H20", ONE, 64, 5120, 2682),
    ("DeepSeek profile-data, EP128", "deepseek-v3", "H800", WIDE128, 128, 4989, 2324),
    ("LMSYS 96 H100, EP72", "deepseek-v3", "H100", WIDE72, 256, 2870, 22282 / 8),
]


def shape_of(name: str) -> Llm:
    return fp8(llm(name.split()[0])) if name.endswith(" fp8") else llm(name)


@pytest.mark.parametrize("case", PREFILL, ids=lambda case: case[0])
def test_prefill_rates_are_within_a_quarter_of_published_ones(case: Case) -> None:
    _, name, gpu_name, parallelism, tokens, isl, published = case
    times = step_times(
        shape_of(name),
        published_cluster(gpu_name),
        parallelism,
        "prefill",
        two_batch_overlap=True,
        all_to_all=True,
    )
    total = tokens * parallelism.tp
    rate = tokens / prefill_s(times, total, total / isl * pairs(isl))
    assert rate == pytest.approx(published, rel=0.25)


@pytest.mark.parametrize("case", DECODE, ids=lambda case: case[0])
def test_decode_rates_are_within_a_quarter_of_published_ones(case: Case) -> None:
    _, name, gpu_name, parallelism, per_gpu, context, published = case
    times = step_times(
        shape_of(name), published_cluster(gpu_name), parallelism, "decode", all_to_all=True
    )
    batch = per_gpu * parallelism.tp
    rate = per_gpu / decode_step_s(times, batch, batch * context)
    # DeepSeek's own engine hides shared experts and all-to-all behind a second micro-batch, which
    # SGLang does not by default: predicted 25 % too slow
    hides_more = case[0] == "DeepSeek profile-data, EP128"
    assert rate == pytest.approx(published, rel=0.30 if hides_more else 0.25)


# source, LLM, GPU, batch, mean context, measured seconds of a step
DECODE_STEPS: list[tuple[str, str, str, int, int, float]] = [
    # 6144 + 2048 tokens in 16.7 s, SGLang 0.4.6
    ("Qwen3 speed benchmark", "qwen3-30b-a3b", "H20", 1, 7168, 7.9e-3),
    ("silybench decode-128-1024", "qwen3-8b", "H100", 396, 640, 396 / 13322),
    ("silybench decode-128-1024, FP8", "qwen3-8b fp8", "H100", 472, 640, 472 / 15103),
    ("silybench balanced-2048-2048", "qwen3-8b", "H100", 40, 3072, 40 / 2815),
    ("vllm#23151", "qwen3-30b-a3b", "H100", 10, 2560, 13.18e-3),
]


@pytest.mark.parametrize("case", DECODE_STEPS, ids=lambda case: case[0])
def test_decode_steps_are_within_a_fifth_of_published_ones(
    case: tuple[str, str, str, int, int, float],
) -> None:
    _, name, gpu_name, batch, context, seconds = case
    times = step_times(shape_of(name), cluster(gpu_name), ONE, "decode")
    assert decode_step_s(times, batch, batch * context) == pytest.approx(seconds, rel=0.20)
