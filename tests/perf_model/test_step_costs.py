"""The simulator's inner loop costs what steps.py says."""

from dataclasses import replace

import pytest

from pdctl.perf_model.decode_run import DecodeRun
from pdctl.perf_model.jobs import Job
from pdctl.perf_model.records import StepTimes
from pdctl.perf_model.step_costs import DecodeCosts, pairs_of, prefill_cost
from pdctl.perf_model.steps import decode_span_s, decode_step_s, prefill_s, weighted_pairs
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
    assert prefill_cost(times)(tokens, pairs) == pytest.approx(prefill_s(times, tokens, pairs))


@pytest.mark.parametrize("times", [PLAIN, RICH])
def test_pairs_are_counted_as_steps_counts_them(times: StepTimes) -> None:
    for tokens, done in ((1, 0), (1, 5000), (200, 5000), (8192, 0), (8192, 5000)):
        assert pairs_of(times)(tokens, done) == pytest.approx(weighted_pairs(times, tokens, done))


@pytest.mark.parametrize("batch", [1, 7, 300])
def test_a_planned_run_of_decode_steps_costs_what_steps_says(batch: int) -> None:
    run = DecodeRun(DecodeCosts(RICH), 1.0, {})
    run.join([Job(n, 1000, 50, ()) for n in range(batch)], 0.0)
    context = run.context
    while run.steps < 50:
        before, start_s = run.steps, run.last_token_s
        run.plan(start_s, 50)
        count = run.planned
        end_s = run.start_of(count)
        expected = decode_span_s(RICH, batch, context + batch * (before + 1), count)
        assert end_s - start_s == pytest.approx(expected)
        run.last_token_s, run.planned, run.steps = end_s, 0, before + count
        run.context += count * batch


def test_a_step_is_found_by_the_time_it_starts() -> None:
    run = DecodeRun(DecodeCosts(RICH), 1.0, {})
    run.join([Job(0, 1000, 500, ())], 0.0)
    run.plan(3.0, 500)
    seconds = decode_step_s(RICH, 1, 1001)
    assert run.start_of(1) == pytest.approx(3.0 + seconds)
    for step in (0, 1, 2, 57, run.planned - 1):
        start_s = run.start_of(step)
        assert run.step_at(start_s) == step
        assert run.step_at(start_s - 1e-7) == step
        assert run.step_at(start_s + 1e-7) == min(step + 1, run.planned - 1)
