"""Every layout the GPUs hold: ranked in closed form, the best simulated, the knee of each arm."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from pdctl.perf_model.records import Fleet
from pdctl.verdict.capacity import Demand
from pdctl.verdict.layouts import Engines, colocated_fleets, pd_fleets
from pdctl.verdict.records import Arm, Question
from pdctl.verdict.scores import Scored, preference, score
from pdctl.verdict.trial import simulated_knee_rps, try_layout
from pdctl.workload.arrivals import head, make_requests
from pdctl.workload.records import Requests

T = TypeVar("T")
R = TypeVar("R")

MAX_SWEEP = 15  # splits simulated; beyond it the ones around the best
FINALISTS = 3  # parallelisms per arm that the simulator compares
CLOSE = 0.8  # of the best closed-form score: below it a parallelism is not simulated
LEAST_REQUESTS = 200
MOST_REQUESTS = 1500
TURNOVERS = 2.5  # a reduced run lasts so many times the requests in flight
REQUEST_COST_S = 2e-5  # of simulating one request, to decide whether processes pay


class Spread(Protocol):
    """Runs a function over items; results in order. cost_s: a guess of one item's CPU time."""

    def __call__(self, work: Callable[[T], R], items: Sequence[T], *, cost_s: float) -> list[R]: ...


def one_by_one(work: Callable[[T], R], items: Sequence[T], *, cost_s: float) -> list[R]:
    """The Spread without processes."""
    return [work(item) for item in items]


@dataclass(frozen=True)
class Findings:
    """Both arms as simulated at `rate_rps`, their closed-form scores, and every split tried."""

    rate_rps: float
    arms: dict[str, Arm]
    scored: dict[str, Scored]
    sweep: tuple[Arm, ...]


@dataclass(frozen=True)
class _Search:
    question: Question
    demand: Demand
    rate_rps: float
    spread: Spread

    def ranked(self, fleets: Sequence[Fleet]) -> list[Scored]:
        """Best first, in closed form."""
        scored = [score(f, self.demand, self.question.slo, self.rate_rps) for f in fleets]
        return sorted(scored, key=self.preference, reverse=True)

    def preference(self, scored: Scored) -> tuple[float, ...]:
        return preference(scored, self.demand, self.question.slo)

    def simulate(
        self, entrants: Sequence[Scored], requests: Requests, *, queues: bool = False
    ) -> list[Arm]:
        slo, seed = self.question.slo, self.question.seed
        return self.spread(
            lambda s: try_layout(s.fleet, requests, slo, seed=seed, queues=queues),
            entrants,
            cost_s=len(requests) * REQUEST_COST_S,
        )

    def better(self, arm: Arm, scored: Scored) -> tuple[float, ...]:
        """Larger is better: what the simulator says first, the closed form among equals."""
        if arm.infeasible or arm.e2e_s is None:
            return (-1.0,)
        if not self.question.slo.is_given:
            return (0.0, -arm.e2e_s.mean)
        return (round(arm.attainment or 0.0, 2), *self.preference(scored))


def search(
    question: Question,
    engines: Engines,
    demand: Demand,
    rate_rps: float,
    *,
    spread: Spread = one_by_one,
    progress: Callable[[str], None] = lambda _: None,
) -> Findings:
    """The best layout of each arm at `rate_rps`, and every split of the chosen parallelisms.

    Closed forms rank all layouts; the simulator decides among the parallelisms close to the
    best and among their splits. Knees come from shorter simulated runs.
    """
    run = _Search(question, demand, rate_rps, spread)
    colocated = run.ranked(colocated_fleets(question, engines))
    pairs = [run.ranked(pd_fleets(question, p, d)) for p in engines.prefill for d in engines.decode]
    pairs = sorted((p for p in pairs if p), key=lambda p: run.preference(p[0]), reverse=True)
    few = reduced_requests(question, demand, rate_rps, [*colocated[:1], *(p[0] for p in pairs[:1])])
    alone = _finalist(run, [[s] for s in colocated], few)
    splits = _window(_finalist(run, pairs, few), question.total)
    entrants = [*alone, *splits]
    requests = question.workload.requests if _has_times(question) else None
    progress(f"simulating {len(entrants)} layouts")
    tried = run.simulate(entrants, requests or few, queues=True)
    chosen = _choose(run, len(alone), entrants, tried)
    arms, scored = _with_knees(run, {k: (tried[i], entrants[i]) for k, i in chosen.items()}, few)
    return Findings(rate_rps, arms, scored, tuple(tried[len(alone) :]))


def reduced_requests(
    question: Question, demand: Demand, rate_rps: float, best: Sequence[Scored]
) -> Requests:
    """Requests enough for queues and batches to settle: a few turnovers of those in flight."""
    paces = [s.pace for s in best if s.pace]
    stay = max((p.ttft_s + demand.osl * p.tpot_s for p in paces), default=10.0)
    num = math.ceil(min(max(TURNOVERS * rate_rps * stay, LEAST_REQUESTS), MOST_REQUESTS))
    if _has_times(question) and question.workload.requests is not None:
        return head(question.workload.requests, max(num, LEAST_REQUESTS))
    return make_requests(question.workload, num=num, rate_rps=rate_rps, seed=question.seed)


def _has_times(question: Question) -> bool:
    """Whether the workload is a trace that is to be replayed as it is."""
    return question.workload.requests is not None and question.workload.rate_rps is not None


def _finalist(run: _Search, groups: Sequence[Sequence[Scored]], few: Requests) -> Sequence[Scored]:
    """The group whose best layout does best in a short simulation; groups are ranked."""
    if not groups:
        return ()
    close = [g for g in groups[:FINALISTS] if _close(run, g[0], groups[0][0])]
    if len(close) == 1:
        return close[0]
    arms = run.simulate([g[0] for g in close], few)
    return max(zip(close, arms, strict=True), key=lambda x: run.better(x[1], x[0][0]))[0]


def _close(run: _Search, one: Scored, best: Scored) -> bool:
    if run.question.slo.is_given:
        return one.knee_rps >= CLOSE * best.knee_rps
    ours, theirs = run.preference(one), run.preference(best)
    return ours[0] == theirs[0] and abs(ours[-1] - theirs[-1]) <= (1 - CLOSE) * abs(theirs[-1])


def _window(splits: Sequence[Scored], total: int | None) -> list[Scored]:
    """Splits in order of prefill engines; of very many, those around the closed-form best."""
    if not splits:
        return []
    ordered = sorted(splits, key=lambda s: s.fleet.num_prefill)
    at = ordered.index(splits[0])
    first = min(max(at - MAX_SWEEP // 2, 0), max(len(ordered) - MAX_SWEEP, 0))
    return ordered[first : first + MAX_SWEEP]


def _choose(
    run: _Search, num_colocated: int, entrants: Sequence[Scored], tried: Sequence[Arm]
) -> dict[str, int]:
    """Index of the best entrant of each arm."""

    def rank(i: int) -> tuple[float, ...]:
        return run.better(tried[i], entrants[i])

    sides = {"colocated": range(num_colocated), "pd": range(num_colocated, len(entrants))}
    return {name: max(side, key=rank) for name, side in sides.items() if len(side)}


def _with_knees(
    run: _Search, chosen: dict[str, tuple[Arm, Scored]], few: Requests
) -> tuple[dict[str, Arm], dict[str, Scored]]:
    slo, seed = run.question.slo, run.question.seed

    def knee(scored: Scored) -> float:
        if not slo.is_given:
            return scored.knee_rps
        guess = scored.knee_rps or run.rate_rps
        return simulated_knee_rps(scored.fleet, few, slo, guess, seed=seed)

    scored = {name: pair[1] for name, pair in chosen.items()}
    cost = len(few) * REQUEST_COST_S * 7
    knees = run.spread(knee, list(scored.values()), cost_s=cost)
    arms = {
        name: replace(pair[0], knee_rps=knees[i]) for i, (name, pair) in enumerate(chosen.items())
    }
    return arms, scored
