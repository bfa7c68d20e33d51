"""Every layout the GPUs hold: ranked in closed form, the best simulated, the knee of each arm."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from pdctl.perf_model.records import Fleet
from pdctl.verdict.capacity import Demand
from pdctl.verdict.layouts import Engines, colocated_fleets, pd_fleets
from pdctl.verdict.records import Arm, Question
from pdctl.verdict.scores import Scored, pace_of, preference, score
from pdctl.verdict.trial import simulated_knee_rps, try_layout
from pdctl.workload.arrivals import head, make_requests
from pdctl.workload.records import Requests

T = TypeVar("T")
R = TypeVar("R")

MAX_REPLAYED = 9  # splits that replay a trace: those best in closed form
MAX_DRAWN = 4  # splits that serve drawn requests, where all are to be done in a moment
FINALISTS = 2  # colocated parallelisms that the simulator compares
CLOSE = 0.85  # of the best closed-form score: below it a parallelism is not simulated
SAME = 0.95  # of the best closed-form score: as good as the best
AS_FAST = 1.05  # times the best mean latency: among such layouts the highest rate decides
LEAST_REQUESTS = 200
MOST_REQUESTS = 10_000
MOST_FOR_KNEES = 8000  # beyond so many requests a knee is left to the closed form
TURNOVERS = 1.8  # a drawn run has so many times the requests in flight
KNEE_TURNOVERS = 2.5  # the same, while the highest rate is sought: shorter runs flatter it
KNEE_RUNS = 5  # about so many
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
        slo, seed, drawn = self.question.slo, self.question.seed, not _has_times(self.question)
        return self.spread(
            lambda s: try_layout(s.fleet, requests, slo, seed=seed, queues=queues, drawn=drawn),
            entrants,
            cost_s=len(requests) * REQUEST_COST_S,
        )

    def better(self, arm: Arm, scored: Scored) -> tuple[float, ...]:
        """Larger is better: what the simulator says first, the closed form among equals."""
        if arm.infeasible or arm.e2e_s is None:
            return (-1.0,)
        if not self.question.slo.is_given:
            return (float(scored.knee_rps >= self.rate_rps), -arm.e2e_s.mean)
        return (round(arm.attainment or 0.0, 2), *self.preference(scored))

    def as_fast(self, arm: Arm, best: Arm, scored: Scored) -> bool:
        """Whether an arm that keeps up has nearly the best mean latency; without SLOs only."""
        if self.question.slo.is_given or arm.e2e_s is None or best.e2e_s is None:
            return False
        keeps_up = scored.knee_rps >= self.rate_rps
        return keeps_up and arm.e2e_s.mean <= best.e2e_s.mean * AS_FAST


def search(
    question: Question,
    engines: Engines,
    demand: Demand,
    rate_rps: float,
    *,
    spread: Spread = one_by_one,
    progress: Callable[[str], None] = lambda _: None,
    queues: bool = False,
) -> Findings:
    """The best layout of each arm at `rate_rps`, and a sweep over the splits of the GPUs.

    Closed forms rank all layouts and keep the best of each prefill share; the simulator
    decides among those. Knees come from shorter simulated runs.
    """
    run = _Search(without_too_long(question), demand, rate_rps, spread)
    together = run.ranked(colocated_fleets(question, engines))
    alone = _close_to_best(run, together)
    splits = _entrants(
        run,
        [f for p in engines.prefill for d in engines.decode for f in pd_fleets(question, p, d)],
        MAX_REPLAYED if _has_times(question) else MAX_DRAWN,
    )
    entrants = [*alone, *splits]
    requests = _all_requests(run, [*alone, *splits])
    progress(f"simulating {len(entrants)} layouts")
    tried = run.simulate(entrants, requests, queues=queues)
    chosen = _choose(run, len(alone), entrants, tried)
    arms, scored = _with_knees(run, {k: (tried[i], entrants[i]) for k, i in chosen.items()})
    sweep = _with_rates(tried[len(alone) :], splits, arms.get("pd"), scored.get("pd"))
    return Findings(rate_rps, arms, scored, tuple(sweep))


def _with_rates(
    tried: Sequence[Arm], splits: Sequence[Scored], best: Arm | None, scored: Scored | None
) -> list[Arm]:
    """The sweep with a highest rate each: closed forms, scaled to agree at the chosen split."""
    scale = 1.0
    if best is not None and scored is not None and best.knee_rps and scored.knee_rps:
        scale = best.knee_rps / scored.knee_rps
    return [replace(a, knee_rps=s.knee_rps * scale) for a, s in zip(tried, splits, strict=True)]


def _num_requests(
    question: Question, demand: Demand, rate_rps: float, scored: Scored, turnovers: float
) -> int:
    """Enough for queues and batches to settle: a few turnovers of the requests in flight."""
    rates = (rate_rps * 0.95, scored.knee_rps * 0.9, scored.knee_rps * 0.6)
    paces = (pace_of(scored.fleet, demand, rate) for rate in rates if 0 < rate <= rate_rps)
    pace = next((p for p in paces if p), None)
    stay = pace.ttft_s + demand.osl * pace.tpot_s if pace else 30.0
    least = LEAST_REQUESTS * demand.spread**2  # heavy tails need more to be seen
    return math.ceil(min(max(turnovers * rate_rps * stay, least), MOST_REQUESTS))


def _some_requests(question: Question, num: int, rate_rps: float) -> Requests:
    """The first requests of a trace that is replayed, else requests drawn from the workload."""
    if _has_times(question) and question.workload.requests is not None:
        return head(question.workload.requests, num)
    return make_requests(question.workload, num=num, rate_rps=rate_rps, seed=question.seed)


def _all_requests(run: _Search, entrants: Sequence[Scored]) -> Requests:
    """What the entrants are compared on: the whole trace, or as many requests as settle."""
    question = run.question
    if _has_times(question) and question.workload.requests is not None:
        return question.workload.requests
    carrying = [s for s in entrants if s.pace][:2]
    nums = [_num_requests(question, run.demand, run.rate_rps, s, TURNOVERS) for s in carrying]
    num = max(nums, default=5 * LEAST_REQUESTS)
    return make_requests(question.workload, num=num, rate_rps=run.rate_rps, seed=question.seed)


def without_too_long(question: Question) -> Question:
    """The question without the trace's requests that exceed the LLM's context.

    Every layout refuses them; counting them as missed SLOs would hide what the layouts do.
    """
    workload, context = question.workload, question.llm.max_context
    requests = workload.requests
    if requests is None or context is None:
        return question
    kept = [i for i, tokens in enumerate(requests.isl) if tokens + 1 < context]
    if len(kept) == len(requests) or not kept:
        return question
    return replace(question, workload=replace(workload, requests=_taken(requests, kept)))


def _taken(requests: Requests, kept: Sequence[int]) -> Requests:
    return replace(
        requests,
        arrival_s=[requests.arrival_s[i] for i in kept],
        isl=[requests.isl[i] for i in kept],
        osl=[requests.osl[i] for i in kept],
        blocks=None if requests.blocks is None else [requests.blocks[i] for i in kept],
    )


def _has_times(question: Question) -> bool:
    """Whether the workload is a trace that is to be replayed as it is."""
    return question.workload.requests is not None and question.workload.rate_rps is not None


def _close_to_best(run: _Search, ranked: Sequence[Scored]) -> list[Scored]:
    """The best parallelisms by the closed form, as far as it cannot tell them apart."""
    return [s for s in ranked[:FINALISTS] if _close(run, s, ranked[0], CLOSE)]


def _close(run: _Search, one: Scored, best: Scored, share: float) -> bool:
    if run.question.slo.is_given:
        return one.knee_rps >= share * best.knee_rps
    ours, theirs = run.preference(one), run.preference(best)
    return ours[0] == theirs[0] and abs(ours[-1] - theirs[-1]) <= (1 - share) * abs(theirs[-1])


def _entrants(run: _Search, splits: Sequence[Fleet], most: int) -> list[Scored]:
    """Splits to simulate, from fewest to most prefill GPUs: the best of each share of them.

    Of more than `most` shares the best ones.
    """
    shares: dict[float, list[Scored]] = {}
    for scored in run.ranked(splits):
        shares.setdefault(_prefill_share(scored.fleet), []).append(scored)
    best = [_simplest(run, group) for group in list(shares.values())[:most]]
    return sorted(best, key=lambda s: _prefill_share(s.fleet))


def _simplest(run: _Search, ranked: Sequence[Scored]) -> Scored:
    """Of the layouts about as good as the best: engines alike in both roles, then small ones."""

    def simplicity(scored: Scored) -> tuple[bool, int]:
        prefill, decode = scored.fleet.prefill, scored.fleet.decode
        assert prefill is not None
        assert decode is not None
        alike = prefill.parallelism == decode.parallelism
        return alike, -prefill.parallelism.num_gpus - decode.parallelism.num_gpus

    return max((s for s in ranked if _close(run, s, ranked[0], SAME)), key=simplicity)


def _prefill_share(fleet: Fleet) -> float:
    assert fleet.prefill is not None
    return round(fleet.num_prefill * fleet.prefill.parallelism.num_gpus / fleet.num_gpus, 3)


def _choose(
    run: _Search, num_colocated: int, entrants: Sequence[Scored], tried: Sequence[Arm]
) -> dict[str, int]:
    """Index of the best entrant of each arm."""

    def best(side: range) -> int:
        first = max(side, key=lambda i: run.better(tried[i], entrants[i]))
        near = [i for i in side if run.as_fast(tried[i], tried[first], entrants[i])]
        return max(near, key=lambda i: entrants[i].knee_rps) if near else first

    sides = {"colocated": range(num_colocated), "pd": range(num_colocated, len(entrants))}
    return {name: best(side) for name, side in sides.items() if len(side)}


def _with_knees(
    run: _Search, chosen: dict[str, tuple[Arm, Scored]]
) -> tuple[dict[str, Arm], dict[str, Scored]]:
    slo, seed = run.question.slo, run.question.seed

    def knee(scored: Scored) -> float:
        num = nums[scored.fleet.layout]
        if not slo.is_given or num > MOST_FOR_KNEES:
            return scored.knee_rps
        guess = scored.knee_rps or run.rate_rps
        requests = _some_requests(run.question, num, guess)
        return simulated_knee_rps(scored.fleet, requests, slo, guess, seed=seed)

    scored = {name: pair[1] for name, pair in chosen.items()}
    nums = {
        s.fleet.layout: _num_requests(
            run.question, run.demand, s.knee_rps or run.rate_rps, s, KNEE_TURNOVERS
        )
        for s in scored.values()
    }
    cost = max(nums.values(), default=0) * KNEE_RUNS * REQUEST_COST_S if slo.is_given else 0.0
    knees = run.spread(knee, list(scored.values()), cost_s=cost)
    arms = {
        name: replace(pair[0], knee_rps=_consistent(run, pair[0], knees[i]))
        for i, (name, pair) in enumerate(chosen.items())
    }
    return arms, scored


def _consistent(run: _Search, arm: Arm, knee_rps: float) -> float:
    """A knee that agrees with the longer run at the rate asked about: met there, or missed."""
    if arm.attainment is None:
        return knee_rps
    if arm.attainment >= run.question.slo.attainment:
        return max(knee_rps, run.rate_rps)
    return min(knee_rps, run.rate_rps)
