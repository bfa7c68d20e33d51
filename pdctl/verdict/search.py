"""Every layout the GPUs hold: ranked in closed form, the best simulated, the knee of each arm."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from pdctl.perf_model.records import Fleet
from pdctl.perf_model.simulator import find_prefixes
from pdctl.verdict.capacity import Demand
from pdctl.verdict.layouts import Engines, colocated_fleets, pd_fleets
from pdctl.verdict.records import Arm, Question
from pdctl.verdict.samples import (
    all_requests,
    has_times,
    num_requests,
    some_requests,
    without_too_long,
)
from pdctl.verdict.scores import Scored, knee_rps, preference, score
from pdctl.verdict.trial import parallelism_of, simulated_knee_rps, try_layout
from pdctl.workload.records import Requests, Slo

T = TypeVar("T")
R = TypeVar("R")

MAX_REPLAYED = 9  # splits that replay a trace: those best in closed form
MAX_DRAWN = 4  # splits that serve drawn requests, where all are to be done in a moment
FINALISTS = 2  # colocated parallelisms that the simulator compares
CLOSE = 0.85  # of the best closed-form score: below it a parallelism is not simulated
SAME = 0.95  # of the best closed-form score: as good as the best
AS_FAST = 1.05  # times the best mean latency: among such layouts the highest rate decides
HOPELESS = 0.75  # of the rate asked about: a split that carries less only builds a queue
MOST_FOR_KNEES = 8000  # beyond so many requests a knee is left to the closed form
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
        slo, seed, drawn = self.question.slo, self.question.seed, not has_times(self.question)
        prefixes = find_prefixes(requests)

        def one(scored: Scored) -> Arm:
            return try_layout(
                scored.fleet,
                requests,
                slo,
                seed=seed,
                queues=queues,
                drawn=drawn,
                prefixes=prefixes,
            )

        return self.spread(one, entrants, cost_s=len(requests) * REQUEST_COST_S)

    def is_hopeless(self, scored: Scored) -> bool:
        """Whether it cannot keep up by far, whatever latency is allowed; in closed form."""
        return knee_rps(scored.fleet, self.demand, Slo()) < HOPELESS * self.rate_rps

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
        MAX_REPLAYED if has_times(question) else MAX_DRAWN,
    )
    hopeful = [s for s in splits if not run.is_hopeless(s)] or splits
    entrants = [*alone, *hopeful]
    requests = all_requests(run.question, demand, rate_rps, entrants)
    progress(f"simulating {len(entrants)} layouts")
    tried = run.simulate(entrants, requests, queues=queues)
    chosen = _choose(run, len(alone), entrants, tried)
    arms, scored = _with_knees(run, {k: (tried[i], entrants[i]) for k, i in chosen.items()})
    by_fleet = dict(zip((s.fleet for s in entrants), tried, strict=True))
    sweep = [by_fleet.get(s.fleet) or _untried(s.fleet) for s in splits]
    rated = _with_rates(run, sweep, splits, arms.get("pd"), scored.get("pd"))
    return Findings(rate_rps, arms, scored, tuple(rated))


def _untried(fleet: Fleet) -> Arm:
    return Arm(fleet.layout, fleet.num_gpus, parallelism_of(fleet))


def _with_rates(
    run: _Search,
    sweep: Sequence[Arm],
    splits: Sequence[Scored],
    best: Arm | None,
    scored: Scored | None,
) -> list[Arm]:
    """The sweep with a highest rate each: closed forms, scaled to agree at the chosen split.

    Where the run at the rate asked about says otherwise, it is right.
    """
    scale = 1.0
    if best is not None and scored is not None and best.knee_rps and scored.knee_rps:
        scale = best.knee_rps / scored.knee_rps
    return [
        replace(arm, knee_rps=_consistent(run, arm, split.knee_rps * scale))
        for arm, split in zip(sweep, splits, strict=True)
    ]


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
        requests = some_requests(run.question, num, guess)
        return simulated_knee_rps(scored.fleet, requests, slo, guess, seed=seed)

    scored = {name: pair[1] for name, pair in chosen.items()}
    nums = {
        s.fleet.layout: num_requests(
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
