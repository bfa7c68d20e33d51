"""Every layout the GPUs hold: ranked in closed form, the best simulated, the knee of each arm."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from pdctl.perf_model.metrics import attainment, percentiles
from pdctl.perf_model.records import EngineModel, Fleet
from pdctl.perf_model.simulator.simulate import find_prefixes, simulate
from pdctl.verdict.closed_form import ASSUMED_USE, Demand, Scored, capacity_rps, preference, score
from pdctl.verdict.closed_loop import client_requests, clients_of, estimated_rps, try_clients
from pdctl.verdict.layouts import Engines, colocated_fleets, fixed_engine, pd_fleets, routing_policy
from pdctl.verdict.records import Arm, Question, Verdict
from pdctl.verdict.rules import quarter
from pdctl.verdict.trials import (
    all_requests,
    has_times,
    num_requests,
    parallelism_of,
    simulated_knee_rps,
    some_requests,
    try_layout,
    without_too_long,
)
from pdctl.workload.arrivals import make_requests
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


class ParallelMap(Protocol):
    """Runs a function over items; results in order. cost_s: a guess of one item's CPU time."""

    def __call__(self, work: Callable[[T], R], items: Sequence[T], *, cost_s: float) -> list[R]: ...


def one_by_one(work: Callable[[T], R], items: Sequence[T], *, cost_s: float) -> list[R]:
    """The Spread without processes."""
    return [work(item) for item in items]


Tried = tuple[Scored, Arm]  # a layout in closed form and as simulated


@dataclass(frozen=True)
class Findings:
    """Both arms as simulated at `rate_rps`, their closed-form scores, and every split tried.

    knee_scales: simulated over closed-form knee, of the layouts whose knee was simulated.
    """

    rate_rps: float
    arms: dict[str, Arm]
    scored: dict[str, Scored]
    sweep: tuple[Arm, ...]
    knee_scales: Mapping[str, float]


@dataclass(frozen=True)
class _Search:
    question: Question
    demand: Demand
    rate_rps: float
    spread: ParallelMap

    def ranked(self, fleets: Sequence[Fleet]) -> list[Scored]:
        """Best first, in closed form."""
        scored = [score(f, self.demand, self.question.slo, self.rate_of(f)) for f in fleets]
        return sorted(scored, key=self.preference, reverse=True)

    @property
    def clients(self) -> int | None:
        return clients_of(self.question)

    def rate_of(self, fleet: Fleet) -> float:
        """The rate asked about; in a closed loop each layout has its own."""
        if self.clients is None:
            return self.rate_rps
        return estimated_rps(fleet, self.demand, self.clients)

    def preference(self, scored: Scored) -> tuple[float, ...]:
        return preference(scored, self.demand, self.question.slo)

    def simulate(
        self, entrants: Sequence[Scored], requests: Requests, *, queues: bool = False
    ) -> list[Arm]:
        slo, seed, drawn = self.question.slo, self.question.seed, not has_times(self.question)
        prefixes, clients = find_prefixes(requests), self.clients

        def one(scored: Scored) -> Arm:
            if clients is not None:
                return try_clients(
                    scored.fleet,
                    requests,
                    slo,
                    clients,
                    seed=seed,
                    queues=queues,
                    prefixes=prefixes,
                )
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
        if self.clients is not None:
            return False  # clients wait, so no queue grows for ever
        return capacity_rps(scored.fleet, self.demand, Slo()) < HOPELESS * self.rate_rps

    def better(self, arm: Arm, scored: Scored) -> tuple[float, ...]:
        """Larger is better: what the simulator says first, the closed form among equals."""
        if arm.infeasible or arm.e2e_s is None:
            return (-1.0,)
        if not self.question.slo.is_given:
            keeps_up = self.clients is not None or scored.knee_rps >= self.rate_rps
            return (float(keeps_up), -arm.e2e_s.mean)
        return (round(arm.attainment or 0.0, 2), *self.preference(scored))

    def meets(self, arm: Arm) -> bool:
        """Whether enough requests met the SLOs at the rate asked about."""
        slo = self.question.slo
        return slo.is_given and (arm.attainment or 0.0) >= slo.attainment

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
    spread: ParallelMap = one_by_one,
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
        MAX_REPLAYED if has_times(question) or run.clients is not None else MAX_DRAWN,
    )
    hopeful = [s for s in splits if not run.is_hopeless(s)] or splits
    entrants = [*alone, *hopeful]
    if run.clients is not None:
        requests = client_requests(run.question, demand, run.clients)
    else:
        requests = all_requests(run.question, demand, rate_rps, entrants)
    progress(f"simulating {len(entrants)} layouts")
    tried = run.simulate(entrants, requests, queues=queues)
    pairs = list(zip(entrants, tried, strict=True))
    sides = {"colocated": pairs[: len(alone)], "pd": pairs[len(alone) :]}
    if run.clients is not None:
        return _best_for_clients(run, sides, splits)
    finalists = {name: _finalists(run, side) for name, side in sides.items() if side}
    finals = [scored for final in finalists.values() for scored, _ in final]
    knees = _knees(run, finals)
    best = {name: _highest(run, final, knees) for name, final in finalists.items()}
    by_fleet = {scored.fleet: arm for scored, arm in pairs}
    sweep = [(s, by_fleet.get(s.fleet) or _untried(s.fleet)) for s in splits]
    return Findings(
        rate_rps,
        {name: arm for name, (_, arm) in best.items()},
        {name: scored for name, (scored, _) in best.items()},
        tuple(_with_rates(run, sweep, knees, best.get("pd"))),
        {
            scored.fleet.layout: _consistent(run, arm, knees[scored.fleet]) / scored.knee_rps
            for final in finalists.values()
            for scored, arm in final
            if scored.knee_rps
        },
    )


def _best_for_clients(
    run: _Search, sides: Mapping[str, Sequence[Tried]], splits: Sequence[Scored]
) -> Findings:
    """The best arms of a closed loop, each at its own throughput; no highest rate is sought."""
    best = {
        name: max(side, key=lambda pair: run.better(pair[1], pair[0]))
        for name, side in sides.items()
        if side
    }
    by_fleet = {scored.fleet: arm for side in sides.values() for scored, arm in side}
    rates = [arm.throughput_rps or 0.0 for _, arm in best.values()]
    return Findings(
        max(rates),
        {name: arm for name, (_, arm) in best.items()},
        {name: scored for name, (scored, _) in best.items()},
        tuple(by_fleet.get(s.fleet) or _untried(s.fleet) for s in splits),
        {},
    )


def _untried(fleet: Fleet) -> Arm:
    return Arm(fleet.layout, fleet.num_gpus, parallelism_of(fleet))


def _with_rates(
    run: _Search,
    sweep: Sequence[Tried],
    knees: Mapping[Fleet, float],
    best: Tried | None,
) -> list[Arm]:
    """The sweep with a highest rate each: simulated, or closed forms scaled to agree at `best`.

    Where the run at the rate asked about says otherwise, it is right.
    """
    closed, simulated = (best[0].knee_rps, best[1].knee_rps) if best else (0.0, 0.0)
    scale = simulated / closed if simulated and closed else 1.0
    return [
        replace(
            arm,
            knee_rps=_consistent(run, arm, knees.get(scored.fleet, scored.knee_rps * scale)),
        )
        for scored, arm in sweep
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


def _finalists(run: _Search, side: Sequence[Tried]) -> list[Tried]:
    """Of one arm: the best at the rate asked about, and on a trace the closed form's favourite.

    Drawn requests it knows well enough. Without SLOs, of those nearly as fast as the best the one
    that carries most.
    """
    first = max(side, key=lambda pair: run.better(pair[1], pair[0]))
    near = [pair for pair in side if run.as_fast(pair[1], first[1], pair[0])]
    if near:
        return [max(near, key=lambda pair: pair[0].knee_rps)]
    if not has_times(run.question):
        return [first]
    enough = [pair for pair in side if run.meets(pair[1])]
    rival = max(enough, key=lambda pair: pair[0].knee_rps, default=first)
    return [first] if rival is first else [first, rival]


def _highest(run: _Search, finalists: Sequence[Tried], knees: Mapping[Fleet, float]) -> Tried:
    rated = [
        (scored, replace(arm, knee_rps=_consistent(run, arm, knees[scored.fleet])))
        for scored, arm in finalists
    ]
    return max(rated, key=lambda pair: pair[1].knee_rps or 0.0)


def _knees(run: _Search, finalists: Sequence[Scored]) -> dict[Fleet, float]:
    """The highest rate of each: simulated where there are SLOs and it takes but a moment."""
    slo, seed = run.question.slo, run.question.seed

    def sample_size(scored: Scored) -> int:
        rate = scored.knee_rps or run.rate_rps
        return num_requests(run.question, run.demand, rate, scored, KNEE_TURNOVERS)

    def knee(scored: Scored) -> float:
        num = sample_size(scored)
        if not slo.is_given or num > MOST_FOR_KNEES:
            return scored.knee_rps
        guess = scored.knee_rps or run.rate_rps
        requests = some_requests(run.question, num, guess)
        return simulated_knee_rps(scored.fleet, requests, slo, guess, seed=seed)

    most = max(map(sample_size, finalists)) if slo.is_given else 0
    found = run.spread(knee, list(finalists), cost_s=most * KNEE_RUNS * REQUEST_COST_S)
    return dict(zip((scored.fleet for scored in finalists), found, strict=True))


def _consistent(run: _Search, arm: Arm, knee_rps: float) -> float:
    """A knee that agrees with the longer run at the rate asked about: met there, or missed."""
    if arm.attainment is None:
        return knee_rps
    if arm.attainment >= run.question.slo.attainment:
        return max(knee_rps, run.rate_rps)
    return min(knee_rps, run.rate_rps)


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
    question: Question, verdict: Verdict, *, spread: ParallelMap = one_by_one
) -> dict[str, tuple[RatePoint, ...]]:
    """Goodput against rate for both arms, from short simulated runs; empty without lengths."""
    knees = [arm.knee_rps for arm in verdict.arms.values() if arm.knee_rps]
    if not knees or question.workload.isl is None or question.workload.osl is None:
        return {}
    top = TOP * max(*knees, verdict.rate_rps or 0.0)
    rates = [top * (i + 1) / NUM_RATES for i in range(NUM_RATES)]
    asked = without_too_long(question)
    fleets = {name: arm_fleet(question, arm) for name, arm in verdict.arms.items()}
    jobs = [(name, rate) for name in fleets for rate in rates]
    points = spread(
        lambda job: _point(asked, fleets[job[0]], job[1]), jobs, cost_s=NUM_REQUESTS * 2e-5
    )
    return {
        name: tuple(p for (other, _), p in zip(jobs, points, strict=True) if other == name)
        for name in fleets
    }


def arm_fleet(question: Question, arm: Arm) -> Fleet:
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


LIGHT_USE = 0.05  # where no layout meets the SLOs: what is nearest is seen at light load


@dataclass(frozen=True)
class Picks:
    """One fleet of each arm; None: the GPUs hold none."""

    colocated: Fleet | None
    pd: Fleet | None

    def fleets(self) -> dict[str, Fleet]:
        both = {"colocated": self.colocated, "pd": self.pd}
        return {name: fleet for name, fleet in both.items() if fleet is not None}


def first_picks(question: Question, engines: Engines, demand: Demand | None) -> Picks:
    """The best layouts in closed form; without lengths the smallest engines, a quarter prefill."""
    together = colocated_fleets(question, engines)
    pairs = [pd_fleets(question, p, d) for p in engines.prefill for d in engines.decode]
    pairs = [pair for pair in pairs if pair]
    if demand is None:
        return Picks(together[0] if together else None, _quarter(pairs[0]) if pairs else None)

    def knee(fleet: Fleet) -> float:
        return capacity_rps(fleet, demand, question.slo)

    splits = [fleet for pair in pairs for fleet in pair]
    return Picks(
        max(together, key=knee) if together else None, max(splits, key=knee) if splits else None
    )


def compared_rate(question: Question, picks: Picks, demand: Demand) -> tuple[float, bool]:
    """The rate at which both arms are compared, and whether the user asked for it.

    Of a closed loop: an estimate to prune by. Without a rate or clients: 70 % of what the better
    arm carries in closed form.
    """
    workload, fleets = question.workload, list(picks.fleets().values())
    if workload.concurrency is not None:
        return max(estimated_rps(f, demand, workload.concurrency) for f in fleets), True
    if workload.rate_rps is not None:
        return workload.rate_rps, True
    knee = max(capacity_rps(fleet, demand, question.slo) for fleet in fleets)
    if knee > 0:
        return ASSUMED_USE * knee, False
    return LIGHT_USE * max(capacity_rps(fleet, demand, Slo()) for fleet in fleets), False


def _quarter(splits: tuple[Fleet, ...]) -> Fleet:
    total = splits[0].num_prefill + splits[0].num_decode
    want = quarter(total).prefill
    return min(splits, key=lambda fleet: abs(fleet.num_prefill - (want or 1)))
