"""What must hold of any replay: queueing laws, conservation, determinism, edge cases."""

from dataclasses import replace
from random import Random

import pytest

from pdctl.perf_model.metrics import percentiles
from pdctl.perf_model.records import Fleet, Outcome
from pdctl.perf_model.simulator.fleets import ColocatedFleet
from pdctl.perf_model.simulator.job import Shared, SimulationBroken, TokenTimes
from pdctl.perf_model.simulator.simulate import find_prefixes, simulate
from pdctl.workload.records import Requests
from tests.perf_model.fleets import (
    RICH,
    colocated,
    engine,
    equal_outcomes,
    random_requests,
    requests,
    split,
)

FLEETS = [
    pytest.param(colocated(engine(times=RICH), num=3), id="3C"),
    pytest.param(
        split(engine("prefill", times=RICH), engine("decode", times=RICH), 2, 2), id="2P2D"
    ),
]


def conversations(count: int, *, seed: int) -> Requests:
    """Turns that repeat and extend earlier prompts, in blocks of 64 tokens, at once after them."""
    rng = Random(seed)
    asked = random_requests(count, seed=seed, rate_rps=15.0)
    histories: list[tuple[int, ...]] = [()]
    blocks, isl, fresh = [], [], 0
    for _ in range(count):
        length = rng.randrange(1, 12)
        run = (*rng.choice(histories[-20:]), *range(fresh, fresh + length))
        fresh += length
        histories.append(run)
        blocks.append(run)
        isl.append(len(run) * 64 - rng.randrange(64))
    return replace(asked, isl=isl, blocks=blocks, block_tokens=64)


def mean_s(values: object) -> float:
    found = percentiles(values)  # type: ignore[arg-type]
    assert found is not None
    return found.mean


def test_one_prompt_per_batch_and_one_token_is_an_m_d_1_queue() -> None:
    """Mean wait is ρ·D/(2(1−ρ)). 5 % covers the noise of 20,000 arrivals at ρ = 0.7."""
    service_s = 0.001 + 1000 * 1e-5
    rng = Random(1)
    now, rows = 0.0, []
    for _ in range(20_000):
        now += rng.expovariate(0.7 / service_s)
        rows.append((now, 1000, 1))
    outcome = simulate(colocated(engine(chunk=1000)), requests(*rows))
    wait_s = mean_s(outcome.ttft_s) - service_s
    assert wait_s == pytest.approx(0.7 * service_s / (2 * 0.3), rel=0.05)


@pytest.mark.parametrize("fleet", FLEETS)
@pytest.mark.parametrize("policy", ["random", "round_robin", "power_of_two", "cache_aware"])
def test_the_same_seed_gives_the_same_outcome(fleet: Fleet, policy: str) -> None:
    fleet = replace(fleet, policy=policy)  # type: ignore[arg-type]
    asked = conversations(120, seed=3)
    first = simulate(fleet, asked, seed=9)
    assert first == simulate(fleet, asked, seed=9, prefixes=find_prefixes(asked))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("fleet", FLEETS)
def test_requests_and_kv_come_out_again_when_kv_is_short(fleet: Fleet, seed: int) -> None:
    """The simulator itself checks conservation whenever an engine is idle and at the end."""
    kv = 5000 + 1000 * seed
    if fleet.colocated:
        fleet = replace(fleet, colocated=replace(fleet.colocated, kv_capacity_tokens=kv))
    else:
        assert fleet.prefill is not None
        assert fleet.decode is not None
        fleet = replace(
            fleet,
            prefill=replace(fleet.prefill, kv_capacity_tokens=kv),
            decode=replace(fleet.decode, kv_capacity_tokens=kv, reserved_decode_tokens=16),
        )
    asked = conversations(150, seed=seed)
    outcome = simulate(fleet, asked)
    done = [value for value in outcome.e2e_s if value is not None]
    assert len(done) + outcome.num_rejected == len(asked)
    assert all(0 <= peak <= 1 for peak in outcome.kv_usage_peak.values())


def test_retraction_takes_the_shortest_output_and_gives_it_back_later() -> None:
    # 40 tokens of KV: two prompts of 10 grow until neither has room, the younger gives way
    model = engine(kv=40, chunk=64)
    outcome = simulate(colocated(model), requests((0.0, 10, 26), (0.05, 10, 14)))
    assert outcome.num_retracted == 0  # the second waits: admission charges it all its output
    crowd = [(0.001 * n, 10, 200) for n in range(30)]
    outcome = simulate(colocated(engine(kv=1500, chunk=64)), requests(*crowd))
    assert outcome.num_retracted > 0
    assert outcome.num_rejected == 0


def test_a_decode_engine_retracts_and_resumes_without_prefill() -> None:
    crowd = [(0.001 * n, 10, 200) for n in range(30)]
    decode = engine("decode", kv=1500, reserved=8)
    outcome = simulate(split(decode=decode), requests(*crowd))
    assert outcome.num_retracted > 0
    assert outcome.output_tokens == 30 * 200


@pytest.mark.parametrize("fleet", FLEETS)
def test_more_engines_make_nothing_slower(fleet: Fleet) -> None:
    asked = random_requests(400, seed=2, rate_rps=60.0)
    twice = replace(
        fleet,
        num_colocated=2 * fleet.num_colocated,
        num_prefill=2 * fleet.num_prefill,
        num_decode=2 * fleet.num_decode,
    )
    assert mean_s(simulate(twice, asked).e2e_s) < mean_s(simulate(fleet, asked).e2e_s)


@pytest.mark.parametrize("fleet", FLEETS)
def test_slower_steps_make_no_mean_faster(fleet: Fleet) -> None:
    slow = replace(RICH, decode_base_s=0.02, prefill_token_s=2e-5)
    asked = random_requests(200, seed=2, rate_rps=20.0)

    def with_times(outcome_fleet: Fleet) -> Outcome:
        changed = {
            name: replace(model, times=slow)
            for name in ("colocated", "prefill", "decode")
            if (model := getattr(outcome_fleet, name)) is not None
        }
        return simulate(replace(outcome_fleet, **changed), asked)

    assert mean_s(with_times(fleet).e2e_s) > mean_s(simulate(fleet, asked).e2e_s)


@pytest.mark.parametrize("fleet", FLEETS)
@pytest.mark.parametrize(
    "rows",
    [
        pytest.param([(0.0, 500, 20)], id="one request"),
        pytest.param([(0.0, 500, 20)] * 50, id="all at the same instant"),
        pytest.param([(0.01 * n, 500, 1) for n in range(50)], id="OSL 1"),
        pytest.param([(0.0, 1, 1)], id="one token in, one out"),
    ],
)
def test_edges_of_a_workload(fleet: Fleet, rows: list[tuple[float, int, int]]) -> None:
    outcome = simulate(fleet, requests(*rows))
    assert outcome.num_rejected == 0
    assert all(ttft is not None and ttft > 0 for ttft in outcome.ttft_s)
    assert outcome.output_tokens == sum(osl for _, _, osl in rows)
    if rows[0][2] == 1:
        assert set(outcome.tpot_s) == {0.0}


def test_no_requests_give_an_empty_outcome() -> None:
    outcome = simulate(colocated(), Requests([], [], []))
    assert (list(outcome.ttft_s), outcome.span_s) == ([], 0.0)


def test_prompts_beyond_the_context_are_rejected_by_both_arms() -> None:
    rows = [(0.0, 300_000, 4), (0.1, 100, 4)]
    for fleet in (colocated(), split()):
        outcome = simulate(fleet, requests(*rows))
        assert (outcome.num_rejected, outcome.ttft_s[0], outcome.tpot_s[0]) == (1, None, None)


def test_a_shared_prompt_is_prefilled_once() -> None:
    asked = replace(requests((0.0, 1024, 1), (1.0, 1024, 1)), blocks=[(1, 2)] * 2, block_tokens=512)
    outcome = simulate(colocated(), asked)
    # all but the last token is in the cache: 1 ms + 10 µs
    assert outcome.ttft_s[1] == pytest.approx(0.00101)


def test_finer_steps_move_no_percentile_by_one_percent() -> None:
    for fleet in (p.values[0] for p in FLEETS):
        asked = random_requests(300, seed=4, rate_rps=30.0, osl=200)
        coarse = simulate(fleet, asked)  # type: ignore[arg-type]
        fine = simulate(fleet, asked, max_decode_steps_per_event=3)  # type: ignore[arg-type]
        equal_outcomes(coarse, fine)


def test_queue_samples_see_what_waits_where() -> None:
    asked = requests(*[(0.0, 4000, 50)] * 40)
    outcome = simulate(split(), asked, sample_every_s=0.1)
    first, later = outcome.queues[1], outcome.queues[-1]
    assert first.waiting + first.bootstrap + first.transfer > 20
    assert first.waiting + first.running + first.inflight + first.transfer >= 40 - 5
    assert (later.waiting, later.transfer, later.prealloc) == (0, 0, 0)


def test_lost_kv_would_be_noticed() -> None:
    fleet = ColocatedFleet(
        colocated(), engine(), jobs=[], arrival_s=[], shared=Shared(TokenTimes(0)), seed=0
    )
    fleet.engines[0].kv.private = 7
    with pytest.raises(SimulationBroken, match="still holds"):
        fleet.check()
