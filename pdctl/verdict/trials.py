"""One layout tried in the simulator: the requests it is tried on, and what it does with them.

Every figure of a plan comes from one sample of requests, drawn once and played faster or slower,
so that a rate asked about and a rate found by search are answered by the same run.
"""

import math
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from pdctl.perf_model.intervals import ErrorInterval, Errors
from pdctl.perf_model.metrics import percentiles, quantile
from pdctl.perf_model.records import Fleet, Outcome, Parallelism, Role
from pdctl.perf_model.simulator.kv import Prefixes
from pdctl.perf_model.simulator.replay import Quota
from pdctl.perf_model.simulator.simulate import find_prefixes, simulate, simulate_within
from pdctl.verdict.closed_form import (
    Demand,
    Scored,
    capacity_rps,
    ceiling_rps,
    demand_of,
    pace_of,
)
from pdctl.verdict.records import Arm
from pdctl.workload.arrivals import head, once_a_second, pick
from pdctl.workload.records import Mix, Requests, Slo, longest_request

TURNOVERS = 2.5  # times the requests in flight at the highest rate: what a sample holds at least
LEAST_REQUESTS = 1000  # in a sample of equal requests; heavy tails need more to be seen
LEAST_MISSES = 20  # that an SLO of the last percent must be able to see
MOST_REQUESTS = 16_000  # drawn, or of a trace that is short and played over again
FEW_REQUESTS = 1500  # of a long trace, in a row: they show where to look
MOST_WITHOUT_SLO = 4000  # where only keeping up is asked for
QUEUE_SAMPLES = 200
SETTLED = (0.4, 0.9)  # of a drawn sample in order of arrival: batches are full, none runs dry
GROWTH = 0.04  # of the time that passes: waits that grow faster never stop growing


@dataclass(frozen=True)
class Sample:
    """The requests every layout is tried on, arriving once a second in the mean.

    first, last: those that count, first <= place < last; the others fill and empty the engines.
    prefixes: which prompts share leading blocks, found once for all runs. wanted: how many
    requests it was made for. num_different: requests before it plays them over again.
    demand: that of their mean; None: unknown.
    """

    requests: Requests
    first: int
    last: int
    prefixes: Prefixes | None
    seed: int
    wanted: int
    num_different: int
    demand: Demand | None = None

    @property
    def is_whole(self) -> bool:
        """True if it is a trace, played as it is."""
        return self.first == 0

    def serves(self, num: int) -> bool:
        """True if the sample for `num` requests of the same workload would be this one."""
        return num == self.wanted or (self.is_whole and num <= len(self.requests))

    def at(self, rate_rps: float) -> Requests:
        """The same requests at another rate."""
        times = array("d", [time / rate_rps for time in self.requests.arrival_s])
        return replace(self.requests, arrival_s=times)

    def most_rps(self, fleet: Fleet) -> float:
        """A rate that a layout cannot keep up with, though this sample may be too short to show it.

        Engines that take in all requests before they are full let none of them wait.
        """
        return math.inf if self.demand is None else ceiling_rps(fleet, self.demand)


def num_requests(fleets: Sequence[Scored], demand: Demand, slo: Slo) -> int:
    """Enough requests to fill the engines and see a steady state: a power of two times the least.

    The same for every rate asked about: it counts the requests in flight near each layout's own
    highest rate, by Little's law in closed form.
    """
    least = max(
        LEAST_REQUESTS * math.sqrt(demand.spread), 2 * LEAST_MISSES / max(1 - slo.attainment, 1e-3)
    )
    most = max((_in_flight(s, demand, slo) for s in fleets), default=0.0)
    wanted = max(least, TURNOVERS * most)
    doublings = math.ceil(math.log2(wanted / LEAST_REQUESTS))
    top = MOST_REQUESTS if slo.is_given else MOST_WITHOUT_SLO
    return min(LEAST_REQUESTS << max(doublings, 0), top)


def _in_flight(scored: Scored, demand: Demand, slo: Slo) -> float:
    top = scored.capacity_rps or capacity_rps(scored.fleet, demand, Slo()) / 3
    paces = ((rate, pace_of(scored.fleet, demand, rate)) for rate in (0.95 * top, 0.7 * top))
    for rate, pace in paces:
        if pace is not None:
            return rate * (pace.ttft_s + demand.osl * pace.tpot_s)
    return 0.0


def sample_of(mix: Mix, num: int, *, max_context: int | None, seed: int) -> Sample:
    """The requests to try layouts on: a trace's own, or `num` drawn ones.

    A trace with times that is long enough is played as it is and counts whole; a shorter one is
    played over again, and then, as with drawn requests, only the middle counts. Requests longer
    than the context are left out: every layout refuses them.
    """
    mix = without_too_long(mix, max_context)
    requests = mix.requests
    if requests is None or not mix.has_arrivals:
        drawn = once_a_second(_evenly(mix, num), num=num, seed=seed, max_context=max_context)
        return _sample(drawn, mix, seed, num, is_whole=False)
    if len(requests) >= num:
        whole = once_a_second(mix, num=len(requests), seed=seed)
        return _sample(whole, mix, seed, num, is_whole=True)
    rounds = math.ceil(num / len(requests))
    again = once_a_second(mix, num=rounds * len(requests), seed=seed)
    return replace(_sample(again, mix, seed, num, is_whole=False), num_different=len(requests))


def _sample(requests: Requests, mix: Mix, seed: int, wanted: int, *, is_whole: bool) -> Sample:
    # a trace read at another rate must give the very same times: they are rounded
    times = array("d", [round(time, 6) for time in requests.arrival_s])
    fixed = replace(requests, arrival_s=times)
    num = len(fixed)
    first, last = (0, num) if is_whole else (int(SETTLED[0] * num), int(SETTLED[1] * num))
    demand = _mean_demand(fixed, mix)
    return Sample(fixed, first, last, find_prefixes(fixed), seed, wanted, num, demand)


def _mean_demand(requests: Requests, mix: Mix) -> Demand | None:
    """The demand of the mean request; in a trace the answers to long prompts have own lengths."""
    demand = demand_of(mix)
    if demand is None:
        return None
    read = sum(osl * (isl + osl / 2) for isl, osl in zip(requests.isl, requests.osl, strict=True))
    num, written = len(requests), max(sum(requests.osl), 1)
    isl, known = sum(requests.isl) / num, demand.cached / demand.isl
    fresh = max(isl * (1 - known), 1.0)
    return replace(
        demand, fresh=fresh, cached=isl - fresh, osl=max(written / num, 1.0), context=read / written
    )


def _evenly(mix: Mix, num: int) -> Mix:
    """Requests from all over a file of lengths that is longer than needed."""
    requests = mix.requests
    if requests is None:
        return mix
    nothing = replace(requests, arrival_s=[0.0] * len(requests))
    if len(requests) > num:
        nothing = pick(nothing, [i * len(requests) // num for i in range(num)])
    return replace(mix, requests=nothing)


def without_too_long(mix: Mix, max_context: int | None) -> Mix:
    """The mix without recorded requests longer than the context: every layout refuses them."""
    requests = mix.requests
    if requests is None or max_context is None:
        return mix
    kept = [i for i, tokens in enumerate(requests.isl) if tokens < longest_request(max_context)]
    if len(kept) == len(requests) or not kept:
        return mix
    return replace(mix, requests=pick(requests, kept))


@dataclass(frozen=True)
class Run:
    """A layout's results for the counted requests of a sample; not a number: rejected.

    keeps_up: False where the waits grew as long as requests came.
    """

    ttft_s: Sequence[float]
    tpot_s: Sequence[float]
    keeps_up: bool
    # attainment by (TTFT, TPOT): a search asks about the same service levels many times
    _shares: dict[tuple[float, float], float] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    # by a level of the one, in order: the other of requests that met it. A forecast moves one level
    _ordered: dict[tuple[str, float], list[float] | None] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def attainment(self, slo: Slo) -> float:
        """The share of the requests that met every service level; 0 where the queue never ends."""
        if not self.keeps_up or not self.ttft_s:
            return 0.0
        levels = slo.ttft_s or math.inf, slo.tpot_s or math.inf
        if levels not in self._shares:
            self._shares[levels] = self._num_within(*levels) / len(self.ttft_s)
        return self._shares[levels]

    def _num_within(self, ttft_s: float, tpot_s: float) -> int:
        times = self.ttft_s, self.tpot_s
        for of, level, moved, (kept, other) in (
            ("tpot", tpot_s, ttft_s, (times[1], times[0])),
            ("ttft", ttft_s, tpot_s, times),
        ):
            if (of, level) in self._ordered:
                ordered = self._ordered[of, level]
                if ordered is None:
                    ordered = sorted(y for x, y in zip(kept, other, strict=True) if x <= level)
                    self._ordered[of, level] = ordered
                return bisect_right(ordered, moved)
        self._ordered["tpot", tpot_s] = self._ordered["ttft", ttft_s] = None  # once: not worth it
        pairs = zip(*times, strict=True)
        return sum(ttft <= ttft_s and tpot <= tpot_s for ttft, tpot in pairs)

    def slack(self, slo: Slo, errors: Errors) -> float:
        """The part of the likely error by which all times may grow with the SLOs still met.

        1: they are met with the longest likely times; 0: only as predicted; below 0: missed.
        """
        if not self.keeps_up or not self.ttft_s:
            return -math.inf
        pairs = zip(self.ttft_s, self.tpot_s, strict=True)
        parts = sorted(
            (
                min(_part(ttft, slo.ttft_s, errors.ttft), _part(tpot, slo.tpot_s, errors.tpot))
                for ttft, tpot in pairs
            ),
            reverse=True,
        )
        needed = math.ceil(slo.attainment * len(parts) - 1e-9)
        return parts[max(needed, 1) - 1]

    def meets(self, slo: Slo) -> bool:
        """True if it keeps up, and enough requests met the service levels, where there are any."""
        if not slo.is_given:
            return self.keeps_up
        return self.keeps_up and self.attainment(slo) >= slo.attainment - 1e-9


def _part(time_s: float, level_s: float | None, error: ErrorInterval) -> float:
    """The power of an interval's upper factor that brings a time up to its SLO."""
    if math.isnan(time_s):
        return -math.inf
    if level_s is None or time_s <= 0:
        return math.inf
    return math.log(level_s / time_s) / math.log(error.high)


@dataclass
class Trials:
    """Runs of layouts on one sample, each made once.

    few: the same on a part of a large sample, to see cheaply where to look.
    """

    sample: Sample
    few: "Trials | None" = None
    runs: dict[tuple[Fleet, float], Run] = field(default_factory=dict)
    lost: dict[tuple[Fleet, float], list[Slo]] = field(default_factory=dict)
    num_runs: int = 0

    def meets(self, fleet: Fleet, rate_rps: float, slo: Slo) -> bool:
        """True if a layout meets the service levels at a rate. A run that cannot is cut short."""
        key = (fleet, rate_rps)
        if rate_rps > self.sample.most_rps(fleet):
            return False
        if key not in self.runs and (
            any(_is_looser(known, slo) for known in self.lost.get(key, ()))
            or not self._run_within(key, slo)
        ):
            return False
        return self.runs[key].meets(slo)

    def run(self, fleet: Fleet, rate_rps: float) -> Run:
        """The whole run of a layout at a rate."""
        key = (fleet, rate_rps)
        if key not in self.runs:
            self.num_runs += 1
            self.runs[key] = run_of(fleet, self.outcome(fleet, rate_rps), self.sample, rate_rps)
        return self.runs[key]

    def outcome(self, fleet: Fleet, rate_rps: float, *, queues: bool = False) -> Outcome:
        """The simulator's own answer, not kept."""
        sample, requests = self.sample, self.sample.at(rate_rps)
        span = requests.arrival_s[-1]
        every = max(span / QUEUE_SAMPLES, 1e-3) if queues else None
        return simulate(
            fleet, requests, seed=sample.seed, prefixes=sample.prefixes, sample_every_s=every
        )

    def _run_within(self, key: tuple[Fleet, float], slo: Slo) -> bool:
        fleet, rate_rps = key
        sample = self.sample
        self.num_runs += 1
        outcome = simulate_within(
            fleet, sample.at(rate_rps), quota(sample, slo), seed=sample.seed,
            prefixes=sample.prefixes,
        )  # fmt: skip
        if outcome is None:
            self.lost.setdefault(key, []).append(slo)
            return False
        self.runs[key] = run_of(fleet, outcome, sample, rate_rps)
        return True


def trials_on(sample: Sample) -> Trials:
    """Trials on a sample, and on a part of it where that saves much and tells enough.

    Drawn requests are as few as fill the engines: a part of them would not.
    """
    if not sample.is_whole or len(sample.requests) <= 2 * FEW_REQUESTS:
        return Trials(sample)
    part = head(sample.requests, FEW_REQUESTS)
    few = replace(
        sample,
        requests=part,
        last=FEW_REQUESTS,
        prefixes=find_prefixes(part),
        wanted=FEW_REQUESTS,
        num_different=FEW_REQUESTS,
    )
    return Trials(sample, Trials(few))


def sample_size(trials: Trials) -> int:
    """Requests of a sample, those that do not count included."""
    return len(trials.sample.requests)


def quota(sample: Sample, slo: Slo) -> Quota:
    """The misses that leave a run no chance; without service levels nothing can be missed."""
    num = sample.last - sample.first
    share = slo.attainment if slo.is_given else 0.0
    most = math.floor(num * (1 - share) + 1e-6)
    return Quota(slo.ttft_s, slo.tpot_s, sample.first, sample.last, most)


def _is_looser(one: Slo, other: Slo) -> bool:
    """True if every run that misses `one` also misses `other`."""
    pairs = ((one.ttft_s, other.ttft_s), (one.tpot_s, other.tpot_s))
    return one.attainment <= other.attainment and all(
        (a or math.inf) >= (b or math.inf) for a, b in pairs
    )


def run_of(fleet: Fleet, outcome: Outcome, sample: Sample, rate_rps: float) -> Run:
    """The part of a fleet's outcome that counts, at the rate at which all requests came."""
    part = slice(sample.first, sample.last)
    is_kept = keeps_up(outcome) and rate_rps <= sample.most_rps(fleet)
    return Run(known_or_nan(outcome.ttft_s[part]), known_or_nan(outcome.tpot_s[part]), is_kept)


def known_or_nan(times: Sequence[float | None]) -> Sequence[float]:
    """Times with not-a-number for requests that were rejected."""
    return array("d", [math.nan if t is None else t for t in times])


def keeps_up(outcome: Outcome) -> bool:
    """True if the waits stop growing: those of the last tenth against those before the middle.

    Source: above capacity μ a queue delays the request that comes at t by (r/μ − 1)·t.
    Ignores: bursts at the very end of a trace, which look the same.
    """
    num = len(outcome.ttft_s)
    if num < 50:
        return any(t is not None for t in outcome.ttft_s)
    early, late = (
        _mean(outcome.ttft_s[num * 3 // 10 : num // 2]),
        _mean(outcome.ttft_s[-num // 10 :]),
    )
    if early is None or late is None:
        return early is not None
    times = outcome.arrival_s
    return late - early <= GROWTH * 0.55 * (times[-1] - times[0])


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def try_layout(
    trials: Trials, fleet: Fleet, rate_rps: float, slo: Slo, *, queues: bool = False
) -> Arm:
    """A layout at a rate, with all that a verdict shows of it.

    queues: also sample queue lengths. Times are unknown where it cannot keep up: a queue that
    grows for ever has no percentile.
    """
    outcome = trials.outcome(fleet, rate_rps, queues=queues)
    return arm_of(fleet, outcome, trials.sample, rate_rps, slo)


def arm_of(fleet: Fleet, outcome: Outcome, sample: Sample, rate_rps: float, slo: Slo) -> Arm:
    """The part of an outcome that a verdict keeps."""
    part = slice(sample.first, sample.last)
    return arm_of_run(fleet, outcome, run_of(fleet, outcome, sample, rate_rps), part, rate_rps, slo)


def arm_of_run(
    fleet: Fleet, outcome: Outcome, run: Run, part: slice, rate_rps: float, slo: Slo
) -> Arm:
    """The part of an outcome that a verdict keeps, of which the requests in `part` count.

    run: what these requests met. rate_rps: at which all requests came.
    """
    bare = unpredicted(fleet)
    if all(t is None for t in outcome.e2e_s):
        why = "rejects every request: longer than its KV cache or context"
        return replace(bare, infeasible=why, attainment=0.0, goodput_rps=0.0)
    share = run.attainment(slo) if slo.is_given else None
    served = outcome.output_tokens / len(outcome.ttft_s) * rate_rps
    arm = replace(
        bare,
        keeps_up=run.keeps_up,
        meets=run.meets(slo),
        attainment=share,
        goodput_rps=rate_rps * (share if share is not None else float(run.keeps_up)),
        kv_usage=dict(outcome.kv_usage_peak),
        queues=tuple(outcome.queues),
    )
    if not run.keeps_up:
        return arm
    columns = [outcome.ttft_s[part], outcome.tpot_s[part], outcome.e2e_s[part]]
    ttft, tpot, e2e = ([t for t in column if t is not None] for column in columns)
    return replace(
        arm,
        ttft_s=percentiles(ttft),
        tpot_s=percentiles(tpot),
        e2e_s=percentiles(e2e),
        ttft_at_share_s=quantile(ttft, slo.attainment),
        tpot_at_share_s=quantile(tpot, slo.attainment),
        tokens_per_s_per_gpu=served / fleet.num_gpus,
    )


def unpredicted(fleet: Fleet) -> Arm:
    """An arm of which nothing is known but its engines."""
    return Arm(fleet.counts, fleet.num_gpus, parallelism_of(fleet))


def parallelism_of(fleet: Fleet) -> dict[Role, Parallelism]:
    """Parallelism by role, for the roles a fleet has."""
    roles: tuple[Role, ...] = ("colocated", "prefill", "decode")
    engines = {role: getattr(fleet, role) for role in roles}
    return {role: engine.parallelism for role, engine in engines.items() if engine}
