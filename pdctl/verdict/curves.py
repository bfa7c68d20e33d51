"""How both arms fare as the rate rises: the curves of the report."""

from dataclasses import dataclass

from pdctl.perf_model.metrics import attainment, percentiles
from pdctl.perf_model.records import EngineModel, Fleet
from pdctl.perf_model.simulator import simulate
from pdctl.verdict.layouts import fixed_engine, routing_policy
from pdctl.verdict.records import Arm, Question, Verdict
from pdctl.verdict.samples import without_too_long
from pdctl.verdict.search import Spread, one_by_one
from pdctl.workload.arrivals import make_requests

NUM_RATES = 8
TOP = 1.5  # times the higher knee: how far the curves go
NUM_REQUESTS = 1000


@dataclass(frozen=True)
class RatePoint:
    """One arm at one offered rate. good_rps: requests per second that meet every SLO."""

    offered_rps: float
    good_rps: float
    ttft_p90_s: float | None
    tpot_p90_s: float | None


def rate_curves(
    question: Question, verdict: Verdict, *, spread: Spread = one_by_one
) -> dict[str, tuple[RatePoint, ...]]:
    """Goodput against rate for both arms, from short simulated runs; empty without lengths."""
    knees = [arm.knee_rps for arm in verdict.arms.values() if arm.knee_rps]
    if not knees or question.workload.isl is None or question.workload.osl is None:
        return {}
    top = TOP * max(*knees, verdict.rate_rps or 0.0)
    rates = [top * (i + 1) / NUM_RATES for i in range(NUM_RATES)]
    asked = without_too_long(question)
    fleets = {name: fleet_of(question, arm) for name, arm in verdict.arms.items()}
    jobs = [(name, rate) for name in fleets for rate in rates]
    points = spread(
        lambda job: _point(asked, fleets[job[0]], job[1]), jobs, cost_s=NUM_REQUESTS * 2e-5
    )
    return {
        name: tuple(p for (other, _), p in zip(jobs, points, strict=True) if other == name)
        for name in fleets
    }


def fleet_of(question: Question, arm: Arm) -> Fleet:
    """The fleet an arm describes. Raises ValueError if one of its engines does not fit."""
    engines: dict[str, EngineModel | None] = {"colocated": None, "prefill": None, "decode": None}
    for role, shape in arm.parallelism.items():
        engines[role] = fixed_engine(question, role, shape)
        if engines[role] is None:
            raise ValueError(f"{arm.layout} does not fit")
    first, second = arm.num_engines
    split = engines["colocated"] is None
    return Fleet(
        colocated=engines["colocated"],
        prefill=engines["prefill"],
        decode=engines["decode"],
        num_colocated=0 if split else first,
        num_prefill=first if split else 0,
        num_decode=second if split else 0,
        policy=routing_policy(question, is_split=split),
    )


def _point(question: Question, fleet: Fleet, rate_rps: float) -> RatePoint:
    requests = make_requests(
        question.workload, num=NUM_REQUESTS, rate_rps=rate_rps, seed=question.seed
    )
    outcome = simulate(fleet, requests, seed=question.seed)
    ttft, tpot = percentiles(outcome.ttft_s), percentiles(outcome.tpot_s)
    return RatePoint(
        rate_rps,
        rate_rps * attainment(outcome, question.slo),
        ttft.p90 if ttft else None,
        tpot.p90 if tpot else None,
    )
