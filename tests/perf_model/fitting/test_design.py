"""Choice of the next step: the most information per second about the least certain step."""

from dataclasses import replace

import pytest

from pdctl.perf_model.fitting.design import (
    EngineLimits,
    choose_steps,
    coefficients,
    decode_grid,
    elasticities,
    mixed_grid,
    prefill_grid,
    seeds,
    transfer_grid,
)
from pdctl.perf_model.fitting.fit import predicted_s
from pdctl.perf_model.records import Measurement
from tests.perf_model.measured import roofline

LIMITS = EngineLimits(chunk=8192, max_running=256, kv_tokens=400_000, max_context=40_000)
TIMES = roofline("llama-3.1-8b")
GRID = prefill_grid(LIMITS) + decode_grid(LIMITS)


def uncertainty(taken: list[Measurement]) -> float:
    return choose_steps(
        GRID, taken, TIMES, spreads={}, cost_s=lambda m: 1.0, tolerance=1.0
    ).uncertainty


def test_no_prompt_takes_more_than_one_step_and_no_batch_more_than_the_engine_holds() -> None:
    for step in prefill_grid(LIMITS):
        assert step.batch * step.new_tokens <= LIMITS.chunk
        assert step.cached_tokens + step.new_tokens < LIMITS.max_context
    for step in decode_grid(LIMITS):
        assert step.batch <= LIMITS.max_running
        assert step.context < LIMITS.kv_tokens


def test_a_small_engine_is_asked_only_for_what_it_can_do() -> None:
    tiny = EngineLimits(
        chunk=4096, max_running=8, kv_tokens=8192, max_context=2048, prefix_cache=False
    )
    assert max(m.new_tokens for m in prefill_grid(tiny)) <= 2040
    assert {m.cached_tokens for m in prefill_grid(tiny)} == {0}
    assert max(m.batch for m in decode_grid(tiny)) == 8
    assert mixed_grid(tiny) == ()
    assert max(m.new_tokens for m in transfer_grid(tiny)) <= 2040


def test_mixed_steps_are_measured_where_the_engine_mixes() -> None:
    mixing = replace(LIMITS, mixed_chunk=True)
    assert {m.kind for m in mixed_grid(mixing)} == {"mixed"}
    assert all(m.new_tokens + m.batch <= LIMITS.chunk for m in mixed_grid(mixing))


@pytest.mark.parametrize("name", ["llama-3.1-8b", "qwen3-30b-a3b"])
def test_elasticities_of_a_step_sum_to_one(name: str) -> None:
    times = roofline(name)
    for step in GRID:
        beside = ("request_s", "prefill_start_s", "decode_dense_s", "decode_compute_s")
        seconds = [n for n in (*coefficients(GRID, times), *beside) if n.endswith("_s")]
        names = tuple(dict.fromkeys(seconds))
        assert sum(elasticities(times, names, step)) == pytest.approx(1.0, abs=2e-3)


def test_the_seeds_span_every_kind_of_step() -> None:
    chosen = seeds(GRID)
    assert len(chosen) < 20
    assert {m.kind for m in chosen} == {"prefill", "decode"}
    assert max(m.batch for m in chosen) == 256
    assert max(m.cached_tokens for m in chosen) == 32768


def test_a_measurement_makes_no_step_less_certain() -> None:
    taken: list[Measurement] = []
    before = uncertainty(taken)
    for step in GRID[::9]:
        taken.append(replace(step, seconds=predicted_s(TIMES, step)))
        now = uncertainty(taken)
        assert now <= before + 1e-9
        before = now


@pytest.mark.slow
def test_the_steps_chosen_help_the_least_certain_one_more_than_others_at_the_same_cost() -> None:
    taken = [replace(m, seconds=predicted_s(TIMES, m)) for m in seeds(GRID)]
    choice = choose_steps(
        GRID, taken, TIMES, spreads={}, cost_s=lambda m: 1.0, tolerance=0.001, count=1
    )
    best = uncertainty([*taken, *choice.steps])
    others = [uncertainty([*taken, m]) for m in GRID[::7]]
    assert best <= min(others) + 5e-3


def test_a_dear_step_gives_way_to_cheap_ones_that_tell_the_same() -> None:
    def dear(step: Measurement) -> float:
        return 1000.0 if step.context > 50_000 or step.cached_tokens > 10_000 else 1.0

    choice = choose_steps(GRID, [], TIMES, spreads={}, cost_s=dear, tolerance=0.001, count=4)
    assert all(dear(step) == 1.0 for step in choice.steps)


def test_nothing_more_is_chosen_when_every_step_is_certain_enough() -> None:
    taken = [replace(m, seconds=predicted_s(TIMES, m)) for m in GRID] * 10
    choice = choose_steps(GRID, taken, TIMES, spreads={}, cost_s=lambda m: 1.0, tolerance=0.01)
    assert choice.steps == ()
    assert choice.uncertainty < 0.01
