"""The closed forms against the simulator, on engines whose every step has a round time."""

from dataclasses import replace

import pytest

from pdctl.perf_model.metrics import percentiles
from pdctl.perf_model.records import Fleet
from pdctl.perf_model.simulator import simulate
from pdctl.verdict.capacity import demand_of
from pdctl.verdict.pace import Pace, colocated_pace, colocated_rps, pd_pace
from pdctl.verdict.scores import knee_rps, pace_of
from pdctl.workload.arrivals import make_requests
from pdctl.workload.describe import workload_from_lengths
from pdctl.workload.records import Slo
from tests.verdict.examples import TIMES, engine

FAST = replace(TIMES, decode_context_s=1e-7)
ENGINE = engine(times=FAST)
PREFILL, DECODE = engine("prefill", times=FAST), engine("decode", times=FAST)

WORKLOAD = workload_from_lengths(isl=2000, osl=200)
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
    one, two = (knee_rps(replace(SPLIT, num_prefill=p, num_decode=4), DEMAND, slo) for p in (1, 2))
    assert two == pytest.approx(2 * one)


def test_a_tighter_tpot_lowers_what_a_colocated_engine_carries() -> None:
    assert DEMAND is not None
    rates = [colocated_rps(ENGINE, DEMAND, Slo(tpot_s=t)) for t in (0.011, 0.03, 0.1)]
    assert rates[0] < rates[1] < rates[2]
