"""Goodput and latencies of both arms against the rate, for the report."""

from collections.abc import Mapping
from dataclasses import dataclass

from pdctl.perf_model.records import EngineModel, Fleet
from pdctl.verdict.closed_form import demand_of
from pdctl.verdict.layouts import engines_that_fit, fixed_engine, routing_policy
from pdctl.verdict.records import Arm, Question, Site
from pdctl.verdict.search import ParallelMap, contest_of, site_of
from pdctl.verdict.trials import try_layout

NUM_RATES = 8
TOP = 1.5  # times the higher capacity: how far the curves go


@dataclass(frozen=True)
class RatePoint:
    """One arm at one offered rate. good_rps: requests per second that meet every SLO."""

    offered_rps: float
    good_rps: float
    ttft_p90_s: float | None
    tpot_p90_s: float | None


def rate_curves(
    question: Question, arms: Mapping[str, Arm], rate_rps: float | None, spread: ParallelMap
) -> dict[str, tuple[RatePoint, ...]]:
    """Goodput against rate for both arms, by the runs that the capacities are found with."""
    demand = demand_of(question.workload)
    tops = [arm.capacity_rps for arm in arms.values() if arm.capacity_rps]
    if not tops or demand is None:
        return {}
    top = TOP * max(*tops, rate_rps or 0.0)
    rates = [top * (i + 1) / NUM_RATES for i in range(NUM_RATES)]
    site = site_of(question)
    contest = contest_of(site, question.slo, engines_that_fit(site), demand, seed=question.seed)
    fleets = {name: arm_fleet(site, arm) for name, arm in arms.items()}
    jobs = [(name, rate) for name in fleets for rate in rates]

    def point(job: tuple[str, float]) -> RatePoint:
        arm = try_layout(contest.trials, fleets[job[0]], job[1], question.slo)
        ttft, tpot = arm.ttft_s, arm.tpot_s
        return RatePoint(
            job[1], arm.goodput_rps or 0.0, ttft.p90 if ttft else None, tpot.p90 if tpot else None
        )

    points = spread(point, jobs, cost_s=contest.run_cost_s)
    return {
        name: tuple(p for (other, _), p in zip(jobs, points, strict=True) if other == name)
        for name in fleets
    }


def arm_fleet(site: Site, arm: Arm) -> Fleet:
    """The fleet an arm describes. Raises ValueError if one of its engines does not fit."""
    engines: dict[str, EngineModel | None] = {"colocated": None, "prefill": None, "decode": None}
    for role, shape in arm.parallelism.items():
        engines[role] = fixed_engine(site, role, shape)
        if engines[role] is None:
            raise ValueError(f"{arm.layout} does not fit")
    return Fleet(
        colocated=engines["colocated"],
        prefill=engines["prefill"],
        decode=engines["decode"],
        num_colocated=arm.counts.get("colocated", 0),
        num_prefill=arm.counts.get("prefill", 0),
        num_decode=arm.counts.get("decode", 0),
        policy=routing_policy(site, is_split="colocated" not in arm.counts),
    )
