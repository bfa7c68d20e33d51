"""The event-to-event simulator equals the token-by-token one to the microsecond."""

from dataclasses import replace

import pytest

from pdctl.perf_model.records import Outcome
from pdctl.perf_model.simulator.simulate import simulate
from tests.perf_model.fleets import RICH, colocated, engine, equal_outcomes, random_requests, split
from tests.perf_model.simulator.reference import Item, items, run_colocated, run_split


def agrees(outcome: Outcome, reference: list[Item]) -> None:
    for index, item in enumerate(reference):
        # the reference begins where a request reaches the scheduler
        ttft_s, e2e_s = item.ttft + RICH.request_s, item.e2e + RICH.request_s
        assert outcome.ttft_s[index] == pytest.approx(ttft_s, abs=1e-6), f"TTFT of {index}"
        assert outcome.e2e_s[index] == pytest.approx(e2e_s, abs=1e-6), f"e2e of {index}"


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("kv", "running", "chunk", "rate_rps"),
    [
        (1_000_000, 1000, 8192, 5.0),
        (1_000_000, 1000, 8192, 30.0),
        (1_000_000, 4, 8192, 10.0),
        (1_000_000, 1000, 256, 8.0),
        (9_500, 1000, 1024, 8.0),
    ],
)
def test_a_colocated_engine_token_by_token(
    seed: int, kv: int, running: int, chunk: int, rate_rps: float
) -> None:
    model = engine(times=RICH, kv=kv, running=running, chunk=chunk)
    asked = random_requests(120, seed=seed, rate_rps=rate_rps)
    reference = items(asked)
    run_colocated(model, reference)
    outcome = simulate(colocated(model), asked)
    assert outcome.num_retracted == 0
    agrees(outcome, reference)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("kv", "running", "chunk", "rate_rps"),
    [
        (1_000_000, 1000, 8192, 5.0),
        (1_000_000, 1000, 8192, 40.0),
        (1_000_000, 1000, 256, 20.0),
        (7_000, 1000, 1024, 15.0),
        (1_000_000, 40, 1024, 40.0),
        (1_000_000, 4, 1024, 10.0),
        (20_000, 1000, 1024, 15.0),
    ],
)
def test_a_split_pair_token_by_token(
    seed: int, kv: int, running: int, chunk: int, rate_rps: float
) -> None:
    prefill = engine("prefill", times=RICH, chunk=chunk)
    decode = engine("decode", times=RICH, kv=kv, running=running)
    asked = random_requests(120, seed=seed, rate_rps=rate_rps)
    reference = items(asked)
    run_split(prefill, decode, reference)
    outcome = simulate(split(prefill, decode), asked)
    agrees(outcome, reference)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("chunk", "rate_rps"), [(1024, 5.0), (1024, 20.0), (256, 8.0)])
def test_a_colocated_engine_without_prefill_graphs_token_by_token(
    seed: int, chunk: int, rate_rps: float
) -> None:
    model = engine(times=replace(RICH, prefill_graphs=False, eager_s=0.009), chunk=chunk)
    asked = random_requests(120, seed=seed, rate_rps=rate_rps)
    reference = items(asked)
    run_colocated(model, reference)
    agrees(simulate(colocated(model), asked), reference)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("rate_rps", [5.0, 20.0, 40.0])
def test_a_split_pair_without_prefill_graphs_token_by_token(seed: int, rate_rps: float) -> None:
    eager = replace(RICH, prefill_graphs=False, eager_s=0.009)
    prefill, decode = engine("prefill", times=eager, chunk=1024), engine("decode", times=RICH)
    asked = random_requests(120, seed=seed, rate_rps=rate_rps)
    reference = items(asked)
    run_split(prefill, decode, reference)
    agrees(simulate(split(prefill, decode), asked), reference)


@pytest.mark.parametrize("fleet", [colocated(engine(times=RICH, kv=6000)), split()])
def test_cutting_decode_into_single_steps_changes_nothing(fleet: object) -> None:
    asked = random_requests(150, seed=5, rate_rps=20.0)
    whole = simulate(fleet, asked)  # type: ignore[arg-type]
    cut = simulate(fleet, asked, max_decode_steps_per_event=1)  # type: ignore[arg-type]
    equal_outcomes(whole, cut)
    assert whole.num_retracted == cut.num_retracted
