"""Without service levels: the fastest layouts of both arms at a rate, and rates with other answers.

A rate is told only when the whole question, with all layouts searched again, has another answer
there and 5 % beyond.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from pdctl.verdict.capacity import Candidate, CapacitySearch
from pdctl.verdict.flips import BEYOND, OUTWARD, rounded_away
from pdctl.verdict.judge import by_latency
from pdctl.verdict.records import Arm, Choice, Flip
from pdctl.verdict.search import Contest, ParallelMap, find_capacities, one_by_one
from pdctl.verdict.trials import sample_size, try_layout

AS_FAST = 1.05  # times the best mean latency: among such layouts the highest rate decides
LEAP = 1.4  # from one rate that is forecast to the next
FARTHEST = 4.0  # times the rate asked about
NEAR = 1.1  # so near together, two rates need no other between them
MOST_REQUESTS = 2000  # in a sample: beyond, such a rate costs more than the answer itself


@dataclass(frozen=True)
class Fastest:
    """The layouts of both arms at a rate, best first; what the best carry; the answer."""

    tried: Mapping[str, Sequence[Arm]]
    capacities: dict[str, float]
    choice: Choice


def fastest_at(contest: Contest, rate_rps: float, spread: ParallelMap = one_by_one) -> Fastest:
    """The whole question at a rate, without service levels."""
    tried = fastest_layouts(contest, rate_rps, spread)
    capacities = find_capacities(contest, spread)
    best = {name: replace(arms[0], capacity_rps=capacities[name]) for name, arms in tried.items()}
    return Fastest(tried, capacities, _choice(contest, best))


def _choice(contest: Contest, arms: Mapping[str, Arm]) -> Choice:
    if len(arms) == 2:
        return by_latency(arms["colocated"], arms["pd"], contest.margins)
    return "pd" if "pd" in arms else "colocated"


def fastest_layouts(
    contest: Contest, rate_rps: float, spread: ParallelMap = one_by_one
) -> dict[str, list[Arm]]:
    """Without service levels: all entrants of both arms at a rate, best first."""
    jobs = [(name, c) for name, found in contest.entrants.items() for c in found]
    slo, trials = contest.slo, contest.trials
    tried = spread(
        lambda job: try_layout(trials, job[1].fleet, rate_rps, slo),
        jobs,
        cost_s=contest.run_cost_s,
    )
    sides: dict[str, list[tuple[Candidate, Arm]]] = {}
    for (name, candidate), arm in zip(jobs, tried, strict=True):
        sides.setdefault(name, []).append((candidate, arm))
    for name, pairs in sides.items():
        best = _fastest(pairs)
        order = [best, *(pair for pair in pairs if pair is not best)]
        contest.searches[name, slo] = CapacitySearch(trials, [best[0]], slo)
        sides[name] = order
    return {name: [arm for _, arm in pairs] for name, pairs in sides.items()}


def _fastest(pairs: Sequence[tuple[Candidate, Arm]]) -> tuple[Candidate, Arm]:
    """The lowest mean latency of those that keep up; of nearly equal ones what carries most."""
    latency = {id(arm): arm.e2e_s.mean for _, arm in pairs if arm.e2e_s is not None}
    if not latency:
        return max(pairs, key=lambda pair: pair[0].free_rps)
    limit = min(latency.values()) * AS_FAST
    near = [pair for pair in pairs if latency.get(id(pair[1]), limit + 1) <= limit]
    return max(near, key=lambda pair: pair[0].free_rps)


def latency_flip(contest: Contest, found: Fastest, rate_rps: float, direction: int) -> Flip | None:
    """The nearest rate in a direction (1 up, -1 down) with another answer, asked again.

    None too where runs take too many requests. found: the answer at the rate itself.
    """
    if sample_size(contest.trials) > MOST_REQUESTS:
        return None
    own = replace(contest, searches=dict(contest.searches))
    base, carried = found.choice, max(found.capacities.values())

    def is_other(rate: float) -> bool:
        return _forecast(own, found, rate) != base

    for place in _turns(rate_rps, direction, carried, is_other):
        value = rounded_away(place, rate_rps, direction)
        if value is None or value * BEYOND > carried:
            continue
        to = _asked(contest, value)
        if to != base and _asked(contest, value * BEYOND**direction) == to:
            return Flip("rate_rps", base, to, value, rate_rps, is_met=True)
    return None


def _asked(contest: Contest, rate_rps: float) -> Choice:
    return fastest_at(replace(contest, searches={}), rate_rps).choice


def _forecast(contest: Contest, found: Fastest, rate_rps: float) -> Choice:
    """The answer if the layouts of the question itself stayed the best."""
    arms = {
        name: replace(
            try_layout(contest.trials, contest.best(name), rate_rps, contest.slo),
            capacity_rps=found.capacities[name],
        )
        for name in contest.entrants
    }
    return _choice(contest, arms)


def _turns(
    rate_rps: float, direction: int, carried: float, is_other: Callable[[float], bool]
) -> Iterator[float]:
    """Rates to ask about, where the forecast turns; the nearest first."""
    same, other = rate_rps, rate_rps * LEAP**direction
    least, most = rate_rps / FARTHEST, min(carried, rate_rps * FARTHEST)
    while least <= other <= most and not is_other(other):
        same, other = other, other * LEAP**direction
    if not least <= other <= most:
        return
    while max(same, other) > NEAR * min(same, other):
        middle = (same * other) ** 0.5
        same, other = (same, middle) if is_other(middle) else (middle, other)
    yield from (other * factor**direction for factor in OUTWARD)
