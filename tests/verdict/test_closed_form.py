import math
from dataclasses import replace

import pytest

from pdctl.perf_model.metrics import percentiles
from pdctl.perf_model.records import Fleet
from pdctl.perf_model.simulator.simulate import simulate
from pdctl.verdict.closed_form import (
    Pace,
    capacity_rps,
    ceiling_rps,
    colocated_pace,
    colocated_rps,
    decode_rps,
    demand_of,
    link_rps,
    max_batch,
    pace_of,
    pd_pace,
    prefill_alone_s,
    prefill_packed_s,
    prefill_rps,
    prefill_shared_s,
    prefill_tokens_per_s,
    running_requests,
    step_s,
    tpot_at,
)
from pdctl.workload.arrivals import make_requests
from pdctl.workload.records import Slo
from tests.verdict.examples import TIMES, engine, equal_lengths

FAST = replace(TIMES, decode_context_s=1e-7)
ENGINE = engine(times=FAST)
PREFILL, DECODE = engine("prefill", times=FAST), engine("decode", times=FAST)

WORKLOAD = equal_lengths(isl=2000, osl=200)
DEMAND = demand_of(WORKLOAD)
assert DEMAND is not None
SPLIT = Fleet(prefill=PREFILL, decode=DECODE, num_prefill=1, num_decode=2)
ALONE = Fleet(colocated=ENGINE, num_colocated=1)


def simulated(fleet: Fleet, rate: float) -> tuple[float, float]:
    """Mean TTFT and TPOT of 600 requests."""
    outcome = simulate(fleet, make_requests(WORKLOAD, num=600, rate_rps=rate, seed=1), seed=1)
    ttft, tpot = percentiles(outcome.ttft_s), percentiles(outcome.tpot_s)
    assert ttft is not None
    assert tpot is not None
    return ttft.mean, tpot.mean


@pytest.mark.parametrize("fleet", [ALONE, SPLIT], ids=["colocated", "split"])
@pytest.mark.parametrize("rate", [0.5, 1.5, 2.5])
def test_closed_forms_are_near_the_simulator_below_saturation(fleet: Fleet, rate: float) -> None:
    assert DEMAND is not None
    pace = pace_of(fleet, DEMAND, rate)
    assert pace is not None
    ttft, tpot = simulated(fleet, rate)
    assert pace.ttft_s == pytest.approx(ttft, rel=0.3)
    assert pace.tpot_s == pytest.approx(tpot, rel=0.2)


def test_prefill_stalls_the_decode_of_a_colocated_engine_and_not_of_a_split() -> None:
    assert DEMAND is not None
    together = colocated_pace(ENGINE, DEMAND, 2.5)
    apart = pd_pace(PREFILL, DECODE, (1, 1), DEMAND, 2.5)
    assert isinstance(together, Pace)
    assert isinstance(apart, Pace)
    assert together.tpot_s > 1.8 * apart.tpot_s


def test_there_is_no_pace_beyond_what_an_engine_carries() -> None:
    assert DEMAND is not None
    assert colocated_pace(ENGINE, DEMAND, 5.0) is None
    assert pd_pace(PREFILL, DECODE, (1, 9), DEMAND, 5.0) is None


def test_the_slower_pool_bounds_a_split() -> None:
    assert DEMAND is not None
    slo = Slo(ttft_s=2.0, tpot_s=0.05)
    one, two = (
        capacity_rps(replace(SPLIT, num_prefill=p, num_decode=4), DEMAND, slo) for p in (1, 2)
    )
    assert two == pytest.approx(2 * one)


def test_the_link_bounds_a_split_whose_prompts_are_cached() -> None:
    cached = equal_lengths(isl=100, osl=10, prefix_hit=0.99)
    demand = demand_of(cached)
    assert demand is not None
    # what the cache held, and the one new token: two transfers of 1 ms, and 100 tokens of 1 µs
    assert link_rps(PREFILL, demand) == pytest.approx(0.95 / 0.0021)
    assert capacity_rps(SPLIT, demand, Slo()) == link_rps(PREFILL, demand)
    assert pace_of(SPLIT, demand, 1.01 * link_rps(PREFILL, demand)) is None
    requests = make_requests(cached, num=600, rate_rps=2000.0, seed=1)
    outcome = simulate(SPLIT, requests, seed=1)
    ends = sorted(
        t + took for t, took in zip(requests.arrival_s, outcome.e2e_s, strict=True) if took
    )
    assert 400 / (ends[500] - ends[100]) == pytest.approx(1 / 0.0021, rel=0.1)


@pytest.mark.parametrize("fleet", [SPLIT, ALONE])
@pytest.mark.parametrize("osl", [1, 10, 200])
def test_no_fleet_does_more_than_its_ceiling(fleet: Fleet, osl: int) -> None:
    workload = equal_lengths(isl=2000, osl=osl)
    demand = demand_of(workload)
    assert demand is not None
    requests = make_requests(workload, num=4000, rate_rps=1000.0, seed=1)
    outcome = simulate(fleet, requests, seed=1)
    ends = sorted(
        t + took for t, took in zip(requests.arrival_s, outcome.e2e_s, strict=True) if took
    )
    served = 2000 / (ends[3000] - ends[1000])
    assert 0.4 * ceiling_rps(fleet, demand) < served < ceiling_rps(fleet, demand)


def test_a_tighter_tpot_lowers_what_a_colocated_engine_carries() -> None:
    assert DEMAND is not None
    rates = [colocated_rps(ENGINE, DEMAND, Slo(tpot_s=t)) for t in (0.011, 0.03, 0.1)]
    assert rates[0] < rates[1] < rates[2]


@pytest.mark.parametrize("isl", [1, 500, 2000, 8000])
def test_answers_of_one_token_are_bound_by_prefill_alone(isl: int) -> None:
    demand = demand_of(equal_lengths(isl=isl, osl=1))
    assert demand is not None
    strict, loose = Slo(3.0, 1e-6), Slo(3.0)
    together = capacity_rps(ALONE, demand, strict)
    assert together == capacity_rps(ALONE, demand, loose) > 0
    assert capacity_rps(SPLIT, demand, strict) == capacity_rps(SPLIT, demand, loose)
    # one engine of each kind prefills at the same rate, but the split has to move KV first
    assert together >= capacity_rps(SPLIT, demand, strict) * 0.95


def test_the_tpot_of_one_token_is_zero_and_that_of_two_is_not() -> None:
    paces = []
    for osl in (1, 2):
        demand = demand_of(equal_lengths(isl=500, osl=osl))
        assert demand is not None
        paces += [pace_of(fleet, demand, 1.0) for fleet in (ALONE, SPLIT)]
    assert [pace is not None and pace.tpot_p90_s > 0 for pace in paces] == [
        False,
        False,
        True,
        True,
    ]


def test_a_tenth_of_longer_answers_does_not_bind_the_ninetieth_percentile() -> None:
    workload = equal_lengths(isl=500, osl=1)
    assert workload.osl is not None
    mostly = replace(workload, osl=replace(workload.osl, mean=30.0, p90=1.0, p99=500.0))
    demand = demand_of(mostly)
    assert demand is not None
    assert not demand.has_tpot
    assert capacity_rps(ALONE, demand, Slo(3.0, 1e-6)) == capacity_rps(ALONE, demand, Slo(3.0))


def demand(isl: float = 4000, osl: float = 100, hit: float | None = None):  # type: ignore[no-untyped-def]
    made = demand_of(equal_lengths(isl=isl, osl=osl, prefix_hit=hit))
    assert made is not None
    return made


def test_unknown_lengths_ask_for_nothing_that_could_be_computed() -> None:
    assert demand_of(equal_lengths(isl=100, osl=None)) is None


def test_a_cached_prefix_is_read_and_not_computed() -> None:
    asked = demand(4000, 100, 0.75)
    assert (asked.fresh, asked.cached) == (1000, 3000)
    assert asked.pairs == pytest.approx(1000 * (3000 + 500))
    assert asked.context == 4050


def test_a_prompt_alone_takes_its_tokens_and_more_prompts_share_a_step() -> None:
    assert prefill_alone_s(engine(), demand()) == pytest.approx(0.4)
    assert prefill_packed_s(engine(), demand()) == pytest.approx(0.4)
    assert prefill_tokens_per_s(engine(), demand()) == pytest.approx(10_000)


def test_sharing_a_step_saves_its_fixed_cost() -> None:
    slow_start = engine(times=TIMES.__class__(**{**vars(TIMES), "prefill_base_s": 0.4}))
    short = demand(1000)
    assert prefill_shared_s(slow_start, short, rate_rps=0.1) == pytest.approx(0.5)
    assert prefill_shared_s(slow_start, short, rate_rps=100) == pytest.approx(0.15)


def test_a_step_reads_the_context_of_all_its_requests() -> None:
    assert step_s(engine(), demand(), 10) == pytest.approx(0.01 + 10 * 4050e-6)


def test_speculative_tokens_shorten_the_time_per_token() -> None:
    plain, drafted = engine(), engine(verify_tokens=4, accept_length=2.5)
    assert tpot_at(drafted, demand(), 8) == pytest.approx(tpot_at(plain, demand(), 8) / 2.5)


def test_kv_and_the_limit_of_running_requests_bound_a_batch() -> None:
    assert max_batch(engine(), demand()) == pytest.approx(1_000_000 / 4050)
    assert max_batch(engine("decode"), demand()) == pytest.approx(1_000_000 / 4562)
    assert max_batch(engine(max_running_requests=48), demand()) == 48
    assert max_batch(engine(kv_capacity_tokens=0), demand()) == 0


def test_the_decode_rate_at_an_slo_is_littles_law_at_the_batch_that_just_meets_it() -> None:
    rate = decode_rps(engine("decode"), demand(), 0.0505)  # 10 requests: 10 + 40.5 ms
    assert rate == pytest.approx(0.92 * 10 / (100 * 0.0505), rel=0.01)


def test_no_rate_meets_an_slo_below_one_request_alone() -> None:
    assert decode_rps(engine("decode"), demand(), 0.005) == 0
    assert prefill_rps(engine("prefill"), demand(), Slo(ttft_s=0.3)) == 0


def test_a_wider_ttft_lets_the_prefill_engine_be_busier() -> None:
    rates = [prefill_rps(engine("prefill"), demand(), Slo(ttft_s=t)) for t in (0.5, 1.0, 4.0)]
    assert rates == sorted(rates)
    assert rates[-1] < 1 / 0.4


def test_the_running_batch_is_its_own_fixed_point() -> None:
    batch = running_requests(engine(), demand(), 150.0)
    assert batch is not None
    assert batch == pytest.approx(150 * tpot_at(engine(), demand(), batch), rel=0.02)


def test_more_tokens_per_second_than_the_engine_makes_is_no_batch() -> None:
    assert running_requests(engine(), demand(), 1e6) is None
    assert math.isfinite(max_batch(engine(), demand()))
