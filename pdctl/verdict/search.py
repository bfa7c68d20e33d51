"""Every layout the GPUs hold: ranked once in closed form, the best of them simulated.

With service levels the layout of an arm is the one with the highest capacity, whatever rate was
asked about. Without any it is the fastest of those that keep up at the rate.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Protocol, TypeVar

from pdctl.perf_model.intervals import Errors
from pdctl.perf_model.records import EngineModel, Fleet
from pdctl.verdict.capacity import Candidate, CapacitySearch
from pdctl.verdict.closed_form import ASSUMED_USE, Demand, Scored, capacity_rps, excess, pace_of
from pdctl.verdict.judge import (
    Known,
    Margins,
    any_carries,
    by_capacity,
    exceeds,
    margins_of,
    provenance_of,
    slo_if_fast,
    slo_if_slow,
)
from pdctl.verdict.layouts import Engines, colocated_fleets, engines_that_fit, gpu_budget, pd_fleets
from pdctl.verdict.records import Arm, Choice, Interval, Provenance, Question, Site
from pdctl.verdict.rules import quarter
from pdctl.verdict.trials import Run, Trials, num_requests, sample_of, trials_on, unpredicted
from pdctl.workload.records import Mix, Slo

T = TypeVar("T")
R = TypeVar("R")

MAX_REPLAYED = 9  # splits that replay a trace: those best in closed form
MAX_DRAWN = 4  # splits that serve drawn requests, where all are to be done in a moment
FINALISTS = 2  # colocated parallelisms that the simulator compares
PROMISING = 0.5  # of the best closed-form capacity: a split below it is not simulated
CLOSE = 0.85  # of the best closed-form capacity: below it a parallelism is not simulated
MAX_RIVALS = 2  # of the simplest split of a share
SAME = 0.95  # of the best closed-form capacity: as good as the best
LIGHT_USE = 0.05  # of what a layout can do at all: there its latencies are those of an idle one
NEAR_FLOOR = 0.5  # of a capacity: an arm that is not sure of it is near its least latency
REQUEST_COST_S = 2e-5  # of simulating one request, to decide whether processes pay


class ParallelMap(Protocol):
    """Runs a function over items; results in order. cost_s: a guess of one item's CPU time."""

    def __call__(self, work: Callable[[T], R], items: Sequence[T], *, cost_s: float) -> list[R]: ...


def one_by_one(work: Callable[[T], R], items: Sequence[T], *, cost_s: float) -> list[R]:
    """The ParallelMap without processes."""
    return [work(item) for item in items]


def site_of(question: Question) -> Site:
    """The site of a question. Neither its rate nor its SLOs nor its price changes the layouts."""
    mix = Mix(**{field.name: getattr(question.workload, field.name) for field in fields(Mix)})
    site = {field.name: getattr(question, field.name) for field in fields(Site)}
    return Site(**{**site, "workload": mix})


@dataclass
class Contest:
    """The layouts of both arms that are worth simulating, best first, and what they are tried on.

    It knows no rate: what it finds holds whatever rate is asked about. all_splits: for the sweep,
    from fewest to most prefill GPUs.
    """

    site: Site
    slo: Slo
    engines: Engines
    demand: Demand
    entrants: Mapping[str, tuple[Candidate, ...]]
    all_splits: tuple[Candidate, ...]
    trials: Trials
    provenance: Provenance
    searches: dict[tuple[str, Slo], CapacitySearch] = field(default_factory=dict)

    def search(self, arm: str, slo: Slo | None = None) -> CapacitySearch:
        """The search for an arm's capacity, as far as it has come.

        slo: others than the question's: roughly, and of splits only the best under the question's.
        """
        key = arm, slo or self.slo
        if key not in self.searches:
            is_rough = key[1] != self.slo
            entrants = self.entrants.get(arm, ())
            if is_rough and arm == "pd":
                entrants = tuple(c for c in entrants if c.fleet == self.best(arm))
            self.searches[key] = CapacitySearch(self.trials, entrants, key[1], is_rough=is_rough)
        return self.searches[key]

    @property
    def fleets(self) -> dict[str, Fleet]:
        """The best layout of each arm, as far as the searches have come."""
        return {name: self.best(name) for name in self.entrants}

    def best(self, arm: str) -> Fleet:
        """An arm's best layout, as far as its search has come."""
        return self.search(arm).best or self.entrants[arm][0].fleet

    @property
    def is_searched(self) -> bool:
        """True if the capacity of every arm is known."""
        keys = [(name, self.slo) for name in self.entrants]
        return all(key in self.searches and self.searches[key].is_done for key in keys)

    @property
    def slow_slo(self) -> Slo:
        """The SLOs that tell what an arm carries with the longest likely times."""
        return slo_if_slow(self.slo, self.provenance.errors)

    def interval(self, arm: str) -> Interval:
        """The rates that an arm carries with the longest and with the shortest likely times."""
        errors, carried = self.provenance.errors, self.search(arm).finish()
        fast = self.about(arm, slo_if_fast(self.slo, errors))
        return Interval(self.least(arm), max(fast, carried) * errors.rate.high)

    def least(self, arm: str) -> float:
        """The rate that an arm carries with the longest likely times."""
        carried = self.search(arm).finish()
        return min(self.about(arm, self.slow_slo), carried) * self.provenance.errors.rate.low

    def surely_carries(self, arm: str, rate_rps: float) -> bool:
        """True if `least` is a rate or more; learns no more than that takes."""
        if not any_carries([self.search(arm)], rate_rps):
            return False
        if self.trials.few is not None:
            return self.least(arm) >= rate_rps
        enough = rate_rps / self.provenance.errors.rate.low
        return all(any_carries([self.search(arm, slo)], enough) for slo in (self.slow_slo, None))

    def about(self, arm: str, slo: Slo) -> float:
        """An arm's capacity under other SLOs, by a part of the requests unless it is known."""
        base, search = self.search(arm), self.search(arm, slo)
        if search.is_done or base.rough_rps <= 0:
            return search.finish()
        return search.rough_rps * base.finish() / base.rough_rps

    def is_near_floor(self, arm: str) -> bool:
        """True if `least` is far below the capacity; learns no more of it than that takes."""
        carried, low = self.search(arm).finish(), self.provenance.errors.rate.low
        if self.trials.few is not None:
            return self.least(arm) < NEAR_FLOOR * carried
        slow = self.search(arm, self.slow_slo)
        return low < NEAR_FLOOR or exceeds(Known(carried), low / NEAR_FLOOR, slow)

    def slack(self, arm: str, rate_rps: float) -> float:
        """The slack of an arm's best layout at a rate, see Run.slack."""
        self.search(arm).finish()
        errors = self.provenance.errors
        return self.trials.run(self.best(arm), rate_rps / errors.rate.low).slack(self.slo, errors)

    @property
    def margins(self) -> Margins:
        """The factors by which figures of the arms must differ."""
        return margins_of(self.provenance.errors)

    @property
    def extremes(self) -> tuple[Slo, Slo]:
        return self.slow_slo, slo_if_fast(self.slo, self.provenance.errors)

    @property
    def run_cost_s(self) -> float:
        """A guess of the CPU time of one run."""
        return len(self.trials.sample.requests) * REQUEST_COST_S


def contest_of(
    site: Site,
    slo: Slo,
    engines: Engines,
    demand: Demand,
    *,
    seed: int = 0,
    earlier: Trials | None = None,
) -> Contest:
    """The contest between the arms of a question.

    earlier: trials of the same workload, to go on with where the sample is the same.
    """
    together = ranked(colocated_fleets(site, engines), demand, slo)
    splits = ranked(
        [f for p in engines.prefill for d in engines.decode for f in pd_fleets(site, p, d)],
        demand,
        slo,
    )
    has_times = site.workload.requests is not None and site.workload.has_arrivals
    alone = [s for s in together[:FINALISTS] if is_close(s, together[0], CLOSE)]
    split = best_shares(splits, MAX_REPLAYED if has_times else MAX_DRAWN)
    hopeful = [s for s in split if is_close(s, split[0], PROMISING)]
    leading = [s.fleet for s in (*alone[:1], *hopeful[:1])]
    provenance = provenance_of(site, leading)
    num = _enough_requests(leading, demand, slo, provenance.errors)
    if earlier is not None and earlier.sample.serves(num):
        trials = earlier
    else:
        context = site.llm.max_context
        trials = trials_on(sample_of(site.workload, num, max_context=context, seed=seed))
    tried = (*hopeful, *_rivals(splits, hopeful, demand))
    arms = {"colocated": _candidates(alone, demand), "pd": _candidates(tried, demand)}
    return Contest(
        site=site,
        slo=slo,
        engines=engines,
        demand=demand,
        entrants={name: found for name, found in arms.items() if found},
        all_splits=tuple(sorted(_candidates(split, demand), key=lambda c: prefill_share(c.fleet))),
        trials=trials,
        provenance=provenance,
    )


def _enough_requests(fleets: Sequence[Fleet], demand: Demand, slo: Slo, errors: Errors) -> int:
    """Requests that show a steady state, also at rates carried with the shortest likely times."""
    fast = slo_if_fast(slo, errors)
    return max(
        num_requests([Scored(f, capacity_rps(f, demand, levels)) for f in fleets], demand, levels)
        for levels in (slo, fast)
    )


def _candidates(ranked: Sequence[Scored], demand: Demand) -> tuple[Candidate, ...]:
    return tuple(
        Candidate(s.fleet, s.capacity_rps, capacity_rps(s.fleet, demand, Slo())) for s in ranked
    )


def ranked(fleets: Sequence[Fleet], demand: Demand, slo: Slo) -> list[Scored]:
    """Best first, in closed form, at no rate in particular.

    Layouts that never meet the service levels come last: those nearest to them when idle first,
    and of the ones about as near those that do most without any.
    """
    scored = [Scored(fleet, capacity_rps(fleet, demand, slo)) for fleet in fleets]
    free = {s.fleet: capacity_rps(s.fleet, demand, Slo()) for s in scored if s.capacity_rps <= 0}
    off = {f: excess(pace_of(f, demand, LIGHT_USE * top), slo) for f, top in free.items()}
    near = min(off.values(), default=0.0) / SAME

    def key(scored: Scored) -> tuple[float, ...]:
        fleet, top = scored.fleet, scored.capacity_rps
        return (0.0, -max(off[fleet], near), free[fleet]) if top <= 0 else (top, 0.0, 0.0)

    return sorted(scored, key=key, reverse=True)


def is_close(one: Scored, best: Scored, share: float) -> bool:
    return one.capacity_rps >= share * best.capacity_rps


def best_shares(ranked: Sequence[Scored], most: int) -> list[Scored]:
    """The best split of each share of prefill GPUs, of at most so many shares; best first."""
    shares: dict[float, list[Scored]] = {}
    for scored in ranked:
        shares.setdefault(prefill_share(scored.fleet), []).append(scored)
    return [_simplest(group) for group in list(shares.values())[:most]]


def _rivals(ranked: Sequence[Scored], chosen: Sequence[Scored], demand: Demand) -> list[Scored]:
    """Layouts of the same shares, as good in closed form; they win if they carry more simulated.

    As good within the SLOs, or without any: closed forms add a long wait to a long prompt, and so
    find too little in many small prefill engines.
    """
    found: dict[Fleet, Scored] = {}
    for one in chosen:
        group = [s for s in ranked if prefill_share(s.fleet) == prefill_share(one.fleet)]
        free = [capacity_rps(s.fleet, demand, Slo()) if s.capacity_rps else 0.0 for s in group]
        as_good = [s for s in group if is_close(s, group[0], SAME)]
        roomy = [s for s, top in zip(group, free, strict=True) if top and top >= SAME * max(free)]
        for near in (as_good, roomy):
            found |= {s.fleet: s for s in [s for s in near if s is not one][:MAX_RIVALS]}
    return list(found.values())


def _simplest(ranked: Sequence[Scored]) -> Scored:
    """Layouts about as good as the best: engines alike in both roles first, then small ones."""

    def simplicity(scored: Scored) -> tuple[bool, int]:
        prefill, decode = _engines(scored.fleet)
        alike = prefill.parallelism == decode.parallelism
        return alike, -prefill.parallelism.num_gpus - decode.parallelism.num_gpus

    return max((s for s in ranked if is_close(s, ranked[0], SAME)), key=simplicity)


def prefill_share(fleet: Fleet) -> float:
    prefill, _ = _engines(fleet)
    return round(fleet.num_prefill * prefill.parallelism.num_gpus / fleet.num_gpus, 3)


def _engines(fleet: Fleet) -> tuple[EngineModel, EngineModel]:
    assert fleet.prefill is not None
    assert fleet.decode is not None
    return fleet.prefill, fleet.decode


def find_capacities(contest: Contest, spread: ParallelMap = one_by_one) -> dict[str, float]:
    """The capacity of each arm and its interval; the arms on two processors where it pays."""
    arms = list(contest.entrants)
    trials = contest.trials

    def work(arm: str) -> tuple[dict[Slo, CapacitySearch], dict[tuple[Fleet, float], Run]]:
        contest.search(arm).finish()
        contest.interval(arm)
        slos = {contest.slo, *contest.extremes}
        kept = {slo: replace_trials(contest.search(arm, slo), None) for slo in slos}
        return kept, {k: run for k, run in trials.runs.items() if k not in before}

    before = set(trials.runs)
    found = spread(work, arms, cost_s=10 * contest.run_cost_s)
    for arm, (searches, runs) in zip(arms, found, strict=True):
        trials.runs.update(runs)
        for slo, search in searches.items():
            contest.searches[arm, slo] = replace_trials(search, trials)
    return {arm: contest.search(arm).rate_rps for arm in arms}


def whole_choice(contest: Contest, rate_rps: float | None) -> Choice:
    """The verdict on what both arms carry, with SLOs; the searches go as far as that takes."""
    names = set(contest.entrants)
    if len(names) < 2:
        return "pd" if "pd" in names else "colocated"
    colocated, pd = contest.search("colocated"), contest.search("pd")
    if rate_rps is not None and _is_enough(contest, rate_rps):
        return "colocated"
    return by_capacity(colocated, pd, 0.0, rate_rps, contest.margins)


def _is_enough(contest: Contest, rate_rps: float) -> bool:
    """True if colocated carries a rate even with the longest likely times.

    Near the least latency it is enough to meet the SLOs there as surely as a split does.
    """
    if contest.surely_carries("colocated", rate_rps):
        return True
    if not any_carries([contest.search("colocated")], rate_rps):
        return False
    if not contest.is_near_floor("colocated"):
        return False
    return contest.slack("colocated", rate_rps) >= contest.slack("pd", rate_rps)


def replace_trials(search: CapacitySearch, trials: Trials | None) -> CapacitySearch:
    """The search without its trials, to send it to another process, or with them again."""
    search.trials = trials  # type: ignore[assignment]
    return search


def sweep_of(contest: Contest, arms: Mapping[str, Arm], others: Sequence[Arm] = ()) -> list[Arm]:
    """Every split considered, with its capacity: simulated where it won, else a closed form.

    Closed forms are scaled to agree with the simulation of the best split, and bounded by it.
    """
    best = arms.get("pd")
    if best is None:
        return []
    tried = {_key(arm): arm for arm in others}
    entrants = {_key(unpredicted(one.fleet)): one for one in contest.entrants["pd"]}
    own = entrants.get(_key(best))
    share = prefill_share(own.fleet) if own else None
    guess = own.guess_rps if own else 0.0
    scale = best.capacity_rps / guess if best.capacity_rps and guess else 1.0
    most = math.inf if best.capacity_rps is None else best.capacity_rps
    found = []
    for candidate in contest.all_splits:
        bare = unpredicted(candidate.fleet)
        if _key(bare) == _key(best) or prefill_share(candidate.fleet) == share:
            found.append(best)
            continue
        arm = tried.get(_key(bare), bare)
        estimate = min(candidate.guess_rps * scale, most)
        found.append(replace(arm, estimate_rps=_two_digits_down(estimate)))
    return found


def _two_digits_down(value: float) -> float:
    if value <= 0:
        return 0.0
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return float(f"{math.floor(value / unit + 1e-9) * unit:.2g}")


def _key(arm: Arm) -> tuple[object, ...]:
    return (arm.layout, *arm.parallelism.items())


def usual_rate(contest: Contest, capacities: Mapping[str, float]) -> float:
    """The rate at which both arms are compared where nobody asked for one.

    70 % of what the better arm carries; where neither carries any, one that no layout notices.
    """
    firsts = [found[0] for found in contest.entrants.values()]
    top = max(capacities.values(), default=0.0)
    return ASSUMED_USE * top if top > 0 else LIGHT_USE * max(c.free_rps for c in firsts)


def free_capacities(contest: Contest) -> dict[str, float]:
    """The best layout's capacity, by arm, in closed form."""
    return {name: found[0].guess_rps for name, found in contest.entrants.items()}


GPU_SHARE_STEPS = 12  # at most so many numbers of GPUs are tried
NODE_GPUS = 8  # with fewer, engines may be too small for a proportion to hold


def gpus_needed(contest: Contest, arm: str, rate_rps: float, capacity: float) -> int | None:
    """The fewest GPUs with which an arm meets the service levels at a rate; None: unknown.

    Up to the GPUs there are, simulated; beyond, in proportion to what these carry, or a whole node
    where these are fewer.
    """
    budget = gpu_budget(contest.site)
    is_short = capacity < rate_rps and not _carries(contest, arm, rate_rps)
    if is_short and budget < NODE_GPUS:
        node = _on_a_node(contest)
        return gpus_needed(node, arm, rate_rps, node.search(arm).finish())
    if capacity <= 0:
        return None
    if is_short:
        unit = min(c.fleet.num_gpus // c.fleet.num_engines for c in contest.entrants[arm])
        return -int(-budget * rate_rps / capacity // unit) * unit
    guess = max(1, round(budget * rate_rps / capacity))
    low, high = 0, budget  # too few, and enough
    at, leap = min(guess, budget - 1), max(1, budget // 16)
    for _ in range(GPU_SHARE_STEPS):
        if high - low <= 1:
            break
        at = min(max(at, low + 1), high - 1)
        if _do(contest, arm, at, rate_rps):
            high, at = at, at - leap
        else:
            low, at = at, at + leap
        leap *= 2
        if low and high < budget:
            at = (low + high) // 2
    return high


def _on_a_node(contest: Contest) -> Contest:
    """The contest on the GPUs of one node, with engines of any size that fits it."""
    cluster = contest.site.cluster.with_equal_nodes(1, NODE_GPUS)
    site = replace(contest.site, cluster=cluster, total=None, max_gpus=None)
    engines = engines_that_fit(site)
    return contest_of(site, contest.slo, engines, contest.demand, seed=contest.trials.sample.seed)


def _carries(contest: Contest, arm: str, rate_rps: float) -> bool:
    """True if an arm's layout meets the service levels at a rate a little above its capacity."""
    best = contest.search(arm).best
    return best is not None and contest.trials.meets(best, rate_rps, contest.slo)


def _do(contest: Contest, arm: str, gpus: int, rate_rps: float) -> bool:
    """True if so many GPUs would do, in the best few layouts of an arm."""
    slo, trials = contest.slo, contest.trials
    layouts = ranked(smaller_fleets(contest, arm, gpus), contest.demand, slo)
    return any(trials.meets(s.fleet, rate_rps, slo) for s in layouts[:FINALISTS])


def smaller_fleets(contest: Contest, arm: str, gpus: int) -> list[Fleet]:
    """Layouts of an arm on some of the GPUs, of the engines in the contest and the smallest."""
    site = replace(contest.site, max_gpus=gpus, total=None)
    fleets = [c.fleet for c in contest.entrants[arm]]
    engines = contest.engines
    if arm == "colocated":
        usable = _distinct([f.colocated for f in fleets], engines.colocated[:1])
        return list(colocated_fleets(site, replace(engines, colocated=usable)))
    prefill = _distinct([f.prefill for f in fleets], engines.prefill[:1])
    decode = _distinct([f.decode for f in fleets], engines.decode[:1])
    return [f for p in prefill for d in decode for f in pd_fleets(site, p, d)]


def _distinct(
    used: Sequence[EngineModel | None], smallest: Sequence[EngineModel]
) -> tuple[EngineModel, ...]:
    return tuple(dict.fromkeys(e for e in (*used, *smallest) if e is not None))


def first_fleets(site: Site, engines: Engines) -> dict[str, Fleet]:
    """Without lengths: the smallest engines, and a quarter of them for prefill."""
    together = colocated_fleets(site, engines)
    pairs = [pd_fleets(site, p, d) for p in engines.prefill for d in engines.decode]
    split = next((pair for pair in pairs if pair), None)
    found = {"colocated": together[0]} if together else {}
    return {**found, "pd": _quarter(split)} if split else found


def _quarter(splits: tuple[Fleet, ...]) -> Fleet:
    total = splits[0].num_engines
    want = quarter(total).prefill
    return min(splits, key=lambda fleet: abs(fleet.num_prefill - (want or 1)))
