"""A first layout of each arm, before anything is simulated, and the rate to compare them at."""

from dataclasses import dataclass

from pdctl.perf_model.records import Fleet
from pdctl.verdict.capacity import Demand
from pdctl.verdict.layouts import Engines, colocated_fleets, pd_fleets
from pdctl.verdict.records import Question
from pdctl.verdict.scores import knee_rps, pace_of
from pdctl.verdict.sizing import quarter
from pdctl.workload.records import Slo

ASSUMED_USE = 0.7  # of what the better arm carries, where nobody says at which rate
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
        return knee_rps(fleet, demand, question.slo)

    splits = [fleet for pair in pairs for fleet in pair]
    return Picks(
        max(together, key=knee) if together else None, max(splits, key=knee) if splits else None
    )


def compared_rate(question: Question, picks: Picks, demand: Demand) -> tuple[float, bool]:
    """The rate at which both arms are compared, and whether the user asked for it.

    Without a rate or a concurrency: 70 % of what the better arm carries in closed form.
    """
    workload, fleets = question.workload, list(picks.fleets().values())
    if workload.rate_rps is not None:
        return workload.rate_rps, True
    if workload.concurrency is not None:
        return max(_rate_of(f, demand, workload.concurrency) for f in fleets), True
    knee = max(knee_rps(fleet, demand, question.slo) for fleet in fleets)
    if knee > 0:
        return ASSUMED_USE * knee, False
    return LIGHT_USE * max(knee_rps(fleet, demand, Slo()) for fleet in fleets), False


def _rate_of(fleet: Fleet, demand: Demand, concurrency: float) -> float:
    """Requests per second when so many are always in flight: Little's law, by bisection."""
    low, high = 1e-6, knee_rps(fleet, demand, Slo())
    for _ in range(30):
        middle = (low + high) / 2
        pace = pace_of(fleet, demand, middle)
        stay = pace.ttft_s + demand.osl * pace.tpot_s if pace else float("inf")
        low, high = (middle, high) if middle * stay <= concurrency else (low, middle)
    return low


def _quarter(splits: tuple[Fleet, ...]) -> Fleet:
    total = splits[0].num_prefill + splits[0].num_decode
    want = quarter(total).prefill
    return min(splits, key=lambda fleet: abs(fleet.num_prefill - (want or 1)))
