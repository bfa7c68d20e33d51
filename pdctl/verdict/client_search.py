"""Every layout the GPUs hold for clients in a closed loop, the best of them simulated."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from pdctl.perf_model.records import Fleet
from pdctl.perf_model.simulator.simulate import find_prefixes
from pdctl.verdict.closed_form import Demand, Scored
from pdctl.verdict.closed_loop import client_requests, estimated_rps, try_clients
from pdctl.verdict.layouts import Engines, colocated_fleets, pd_fleets
from pdctl.verdict.records import Arm, Question
from pdctl.verdict.search import (
    CLOSE,
    FINALISTS,
    MAX_REPLAYED,
    REQUEST_COST_S,
    ParallelMap,
    best_shares,
    is_close,
    prefill_share,
    ranked,
)

Tried = tuple[Scored, Arm]


@dataclass(frozen=True)
class ClientArms:
    """The best layout of each arm for the clients, and all splits that were considered."""

    arms: dict[str, Arm]
    fleets: dict[str, Fleet]
    sweep: tuple[Arm, ...]

    @property
    def throughput_rps(self) -> float:
        """Answers per second of the better arm."""
        return max(arm.throughput_rps or 0.0 for arm in self.arms.values())


def search_for_clients(
    question: Question,
    engines: Engines,
    demand: Demand,
    clients: int,
    *,
    spread: ParallelMap,
    progress: Callable[[str], None],
    queues: bool,
) -> ClientArms:
    """The best layout of each arm, each at its own throughput; no highest rate is sought.

    Closed forms rank all layouts and keep the best of each prefill share; the simulator decides
    among those. queues: keep queue lengths over time with the arms.
    """
    together = _ranked(question, colocated_fleets(question, engines), demand, clients)
    pairs = [(p, d) for p in engines.prefill for d in engines.decode]
    splits = _ranked(
        question, [f for p, d in pairs for f in pd_fleets(question, p, d)], demand, clients
    )
    alone = [s for s in together[:FINALISTS] if is_close(s, together[0], CLOSE)]
    split = best_shares(splits, MAX_REPLAYED)
    entrants = [*alone, *split]
    progress(f"simulating {len(entrants)} layouts")
    requests = client_requests(question, demand, clients)
    prefixes, slo, seed = find_prefixes(requests), question.slo, question.seed
    tried = spread(
        lambda s: try_clients(
            s.fleet, requests, slo, clients, seed=seed, queues=queues, prefixes=prefixes
        ),
        entrants,
        cost_s=len(requests) * REQUEST_COST_S,
    )
    done = list(zip(entrants, tried, strict=True))
    return _found(question, {"colocated": done[: len(alone)], "pd": done[len(alone) :]})


def _ranked(
    question: Question, fleets: Sequence[Fleet], demand: Demand, clients: int
) -> list[Scored]:
    """Best first, in closed form: by capacity within the SLOs, without SLOs by throughput."""
    if question.slo.is_given:
        return ranked(fleets, demand, question.slo)
    rates = [estimated_rps(fleet, demand, clients) for fleet in fleets]
    scored = [Scored(fleet, rate) for fleet, rate in zip(fleets, rates, strict=True)]
    return sorted(scored, key=lambda s: s.capacity_rps, reverse=True)


def _found(question: Question, sides: Mapping[str, Sequence[Tried]]) -> ClientArms:
    best = {
        name: max(side, key=lambda pair: _merit(question, pair))
        for name, side in sides.items()
        if side
    }
    splits = sorted(sides["pd"], key=lambda pair: prefill_share(pair[0].fleet))
    return ClientArms(
        {name: arm for name, (_, arm) in best.items()},
        {name: scored.fleet for name, (scored, _) in best.items()},
        tuple(replace(arm, queues=()) for _, arm in splits),
    )


def _merit(question: Question, tried: Tried) -> tuple[float, ...]:
    """Larger is better: what the simulator says first, the closed form among equals."""
    scored, arm = tried
    if arm.infeasible or arm.e2e_s is None:
        return (-1.0,)
    if not question.slo.is_given:
        return (1.0, -arm.e2e_s.mean)
    return (round(arm.attainment or 0.0, 2), scored.capacity_rps)
