"""Evaluating StepTimes: closed forms, floors and limits."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pdctl.perf_model.records import StepTimes
from pdctl.perf_model.simulator.decode_batch import DecodeRun
from pdctl.perf_model.simulator.job import Job
from pdctl.perf_model.simulator.scheduling import ratio_after
from pdctl.perf_model.simulator.steps import (
    DecodeCosts,
    coverage,
    decode_constant_s,
    decode_step_s,
    graph_rows,
    mixed_step_s,
    pairs,
    pairs_of,
    prefill_s,
    prefill_step_s,
    smooth_max,
    waves,
    weighted_pairs,
)
from tests.perf_model.fleets import PLAIN, RICH


@pytest.mark.parametrize(
    "times",
    [
        pytest.param(PLAIN, id="no weights"),
        pytest.param(RICH, id="dense"),
        pytest.param(replace(RICH, prefill_expert_share=0.05), id="experts"),
    ],
)
@pytest.mark.parametrize("tokens", [1, 100, 8192])
def test_prefill_costs_what_steps_says(times: StepTimes, tokens: int) -> None:
    pairs = tokens * (5000 + tokens / 2)
    assert prefill_step_s(times)(tokens, pairs) == pytest.approx(prefill_s(times, tokens, pairs))


@pytest.mark.parametrize("times", [PLAIN, RICH])
def test_pairs_are_counted_as_steps_counts_them(times: StepTimes) -> None:
    for tokens, done in ((1, 0), (1, 5000), (200, 5000), (8192, 0), (8192, 5000)):
        assert pairs_of(times)(tokens, done) == pytest.approx(weighted_pairs(times, tokens, done))


@pytest.mark.parametrize("batch", [1, 7, 300])
def test_a_planned_run_of_decode_steps_costs_what_steps_says(batch: int) -> None:
    run = DecodeRun(DecodeCosts(RICH), 1.0)
    run.join([Job(n, 1000, 50, ()) for n in range(batch)])
    context = run.context
    while run.steps < 50:
        before, start_s = run.steps, run.last_token_s
        run.plan(start_s, 50)
        count = run.planned
        end_s = run.start_of(count)
        first = context + batch * (before + 1)
        expected = sum(decode_step_s(RICH, batch, first + n * batch) for n in range(count))
        assert end_s - start_s == pytest.approx(expected)
        run.last_token_s, run.planned, run.steps = end_s, 0, before + count
        run.context += count * batch


@pytest.mark.parametrize("accept_length", [1.0, 2.0])
def test_running_requests_promise_a_share_of_what_each_may_still_ask_for(
    accept_length: float,
) -> None:
    run = DecodeRun(DecodeCosts(RICH), accept_length)
    run.join([Job(n, 100, osl, ()) for n, osl in enumerate((50, 4000, 4096, 5000, 20_000))])
    while run.running:
        left = [(end - run.steps) * accept_length for end, _, _ in run.running]
        whole = sum(min(tokens, 4096) for tokens in left)
        assert run.promised() == pytest.approx(whole * ratio_after(0.7, run.steps))
        if len(left) == 2:
            run.retract(lambda num: num == 2, lambda job, made: None)
        run.plan(run.last_token_s, 700)
        run.settle()
    assert run.promised() == 0.0


def test_a_step_is_found_by_the_time_it_starts() -> None:
    run = DecodeRun(DecodeCosts(RICH), 1.0)
    run.join([Job(0, 1000, 500, ())])
    run.plan(3.0, 500)
    seconds = decode_step_s(RICH, 1, 1001)
    assert run.start_of(1) == pytest.approx(3.0 + seconds)
    for step in (0, 1, 2, 57, run.planned - 1):
        start_s = run.start_of(step)
        assert run.step_at(start_s) == step
        assert run.step_at(start_s - 1e-7) == step
        assert run.step_at(start_s + 1e-7) == min(step + 1, run.planned - 1)


TIMES = StepTimes(
    prefill_base_s=0.010,
    prefill_token_s=20e-6,
    prefill_pair_s=1e-9,
    decode_base_s=0.004,
    decode_weight_s=0.010,
    decode_request_s=10e-6,
    decode_latency_s=100e-9,
    decode_context_s=30e-9,
    decode_compute_s=20e-6,
    transfer_base_s=0.002,
    transfer_token_s=2e-6,
    expert_share=0.0625,
    eager_s=0.05,
    decode_graph_batch=256,
)


def test_a_prefill_step_is_base_plus_tokens_plus_pairs() -> None:
    assert prefill_s(TIMES, 1000, pairs(1000)) == pytest.approx(0.010 + 0.020 + 0.0005)


def test_a_cached_prefix_saves_its_tokens_but_is_attended_to() -> None:
    assert pairs(100, 1000) == 100 * 1050
    whole = prefill_s(TIMES, 1100, pairs(1100))
    hit = prefill_s(TIMES, 100, pairs(100, 1000))
    assert hit == pytest.approx(0.010 + 0.002 + 0.000105)
    assert hit < whole


def test_chunks_of_a_prompt_see_the_same_pairs_as_the_whole() -> None:
    chunks = [(8192, 0), (8192, 8192), (3616, 16384)]
    assert sum(pairs(e, h) for e, h in chunks) == pairs(20000)


def test_a_prefill_without_graphs_takes_at_least_its_launches() -> None:
    eager = replace(TIMES, prefill_graphs=False, eager_s=0.06)
    assert prefill_s(eager, 256, pairs(256)) == 0.06
    assert prefill_s(replace(eager, prefill_graphs=True), 256, pairs(256)) < 0.06
    assert prefill_s(replace(eager, stages=2), 256, pairs(256)) < 0.06, "each stage has half of it"


def test_few_tokens_of_a_moe_read_only_the_experts_they_touch() -> None:
    times = replace(TIMES, prefill_weight_s=0.1, prefill_expert_share=0.0625, prefill_token_s=0.0)
    assert prefill_s(times, 1, 0) == pytest.approx(0.010 + 0.1 * 0.0625)
    assert prefill_s(times, 4096, 0) == pytest.approx(0.110)


def test_coverage_is_the_expected_share_of_experts() -> None:
    # Qwen3-235B, 8 of 128: 52, 112, 126 and 128 experts at batches 8, 32, 64 and 128
    assert [round(128 * coverage(8 / 128, n)) for n in (8, 32, 64)] == [52, 112, 126]
    # DeepSeek-V3, 8 of 256
    assert [round(256 * coverage(8 / 256, n)) for n in (8, 32, 64, 128)] == [57, 163, 222, 252]
    assert coverage(1.0, 1) == 1.0


def test_a_single_long_sequence_is_bound_by_latency_and_a_batch_by_bandwidth() -> None:
    single = decode_step_s(TIMES, 1, 10_000) - decode_step_s(TIMES, 1, 0)
    batch = decode_step_s(TIMES, 64, 640_000) - decode_step_s(TIMES, 64, 0)
    assert single == pytest.approx(100e-9 * 10_000, rel=0.01)
    assert batch == pytest.approx(30e-9 * 640_000, rel=0.01)


def test_a_batch_beyond_the_graphs_runs_eager() -> None:
    assert decode_step_s(TIMES, 256, 0) < 0.05 == decode_step_s(TIMES, 257, 0)


def test_a_huge_batch_is_bound_by_compute() -> None:
    times = replace(TIMES, decode_compute_s=1e-3, eager_s=0.0)
    assert decode_step_s(times, 4096, 0) == pytest.approx(4.096, rel=0.05)


def test_products_of_a_batch_hide_behind_the_weights_they_need() -> None:
    times = replace(TIMES, decode_dense_s=0.004, decode_weight_s=0.0, decode_compute_s=0.0)
    times = replace(times, decode_base_s=times.decode_base_s + 0.004)
    small = decode_step_s(replace(times, decode_compute_s=20e-6), 16, 0)
    assert small == pytest.approx(decode_step_s(times, 16, 0), rel=1e-4)
    equal = decode_step_s(replace(times, decode_compute_s=20e-6), 200, 0)
    assert equal == pytest.approx(decode_step_s(times, 200, 0) + 0.004 * (2**0.25 - 1))


def test_nothing_to_decode_takes_no_time() -> None:
    assert decode_step_s(TIMES, 0, 0) == 0.0


def test_a_mixed_step_adds_the_rows_attention_to_the_prefill() -> None:
    plain = prefill_s(TIMES, 1000 + 8, pairs(1000))
    mixed = mixed_step_s(TIMES, 1000, pairs(1000), 8, 8000)
    assert mixed_step_s(TIMES, 1000, pairs(1000), 0, 0) == prefill_s(TIMES, 1000, pairs(1000))
    assert plain < mixed < plain + decode_step_s(TIMES, 8, 8000)


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_the_smooth_maximum_lies_between_maximum_and_a_fifth_above(x: float, y: float) -> None:
    assert max(x, y) <= smooth_max(x, y) <= 1.19 * max(x, y) + 1e-12
    assert smooth_max(x, y) == smooth_max(y, x)


@pytest.mark.parametrize(
    ("batch", "blocks"),
    [
        # 132 SMs and 8 KV heads: 16.5 requests a wave; blocks in SMs, parts of a sequence counted
        (1, 8 * 15),
        (5, 40 * 3),
        (8, 64 * 2),
        (16, 128),
    ],
)
def test_thread_blocks_that_fit_one_wave_take_next_to_no_longer(batch: int, blocks: int) -> None:
    share = blocks / 132
    assert waves(16.5, batch) == pytest.approx((1 + share**1.5) / 2 / share)
    assert waves(16.5, batch) < 1.03


def test_blocks_beyond_a_wave_cost_half_of_another_wave() -> None:
    # 17 requests are 136 blocks, of which 4 run in a second wave
    assert waves(16.5, 17) == pytest.approx((1 + (1 + (4 / 132) ** 1.5) / 2) / (136 / 132))
    # 9 requests in two parts each: 144 blocks
    assert waves(16.5, 9) == pytest.approx((1 + (1 + (12 / 132) ** 1.5) / 2) / (144 / 132))
    assert waves(16.5, 33) == 1.0  # two full ones
    assert waves(0.0, 17) == 1.0  # a kernel without such waves


@given(st.integers(1, 4096), st.sampled_from([4.0, 16.5, 33.0, 132.0]))
def test_waves_cost_at_most_half_as_much_again_and_less_the_more_there_are(
    batch: int, wave_batch: float
) -> None:
    excess = waves(wave_batch, batch) - 1
    assert -1e-9 <= excess <= 0.5
    assert excess <= max(0.5, wave_batch / batch)


def test_a_batch_padded_to_the_next_graph_costs_what_all_its_rows_cost() -> None:
    times = replace(TIMES, expert_share=0.1, decode_graph_batch=64, decode_compute_s=0.0)
    for batch, rows in ((8, 8), (9, 12), (12, 12), (17, 24), (24, 24), (65, 65)):
        expected = times.decode_weight_s * coverage(times.expert_share, rows)
        rest = times.decode_base_s + times.decode_request_s * rows
        assert decode_constant_s(times, batch) == pytest.approx(rest + expected), batch


@pytest.mark.parametrize(
    ("batch", "rows"),
    [(1, 1), (3, 4), (7.5, 8), (13, 16), (17, 24), (256, 256), (257, 272), (512, 512), (513, 544)],
)
def test_graphs_have_the_sizes_that_sglang_captures(batch: float, rows: int) -> None:
    assert graph_rows(batch) == rows
