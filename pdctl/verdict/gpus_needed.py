"""The fewest GPUs with which an arm meets the service levels at a rate."""

from collections.abc import Sequence
from dataclasses import replace

from pdctl.perf_model.records import EngineModel, Fleet
from pdctl.verdict.layouts import colocated_fleets, engines_that_fit, gpu_budget, pd_fleets
from pdctl.verdict.search import FINALISTS, Contest, contest_of, ranked

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
    cluster = replace(contest.site.cluster, num_nodes=1, gpus_per_node=NODE_GPUS)
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
