"""Questions about clients in a closed loop: the best layouts, and numbers with other answers.

A forecast plays the two layouts that won with other numbers of clients. A number is told only when
the whole question, with all layouts searched again, has that answer there and 5 % beyond.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pdctl.perf_model.records import Fleet
from pdctl.perf_model.simulator.simulate import find_prefixes
from pdctl.units import format_number_of
from pdctl.verdict.closed_form import Demand, Scored
from pdctl.verdict.closed_loop import (
    client_requests,
    clients_of,
    estimated_rps,
    judge_clients,
    meets,
    try_clients,
)
from pdctl.verdict.flips import BEYOND
from pdctl.verdict.judge import provenance_of
from pdctl.verdict.layouts import Engines, colocated_fleets, pd_fleets
from pdctl.verdict.records import Arm, Choice, Flip, Provenance, Question
from pdctl.verdict.search import (
    CLOSE,
    FINALISTS,
    MAX_REPLAYED,
    REQUEST_COST_S,
    ParallelMap,
    best_shares,
    is_close,
    one_by_one,
    prefill_share,
    ranked,
)

LEAP = 1.4  # from one number of clients that is forecast to the next
FARTHEST = 4.0  # times the number asked about
MOST_COST_S = 1.2  # of asking the whole question once; beyond, no number is sought

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
    progress(f"simulating {format_number_of(len(entrants), 'layout')}")
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
    """Larger is better: what the simulator says first, the closed form among equals.

    Of layouts that meet the SLOs the one with most good requests per second, as arms are compared;
    of those that do not, the one that comes nearest.
    """
    scored, arm = tried
    if arm.infeasible or arm.e2e_s is None:
        return (-1.0,)
    if not question.slo.is_given:
        return (1.0, -arm.e2e_s.mean)
    if meets(arm, question.slo):
        return (2.0, arm.goodput_rps or 0.0, scored.capacity_rps)
    return (1.0, round(arm.attainment or 0.0, 2), scored.capacity_rps)


@dataclass(frozen=True)
class Answer:
    """An answer to a question about clients. is_met: some layout meets the SLOs."""

    choice: Choice
    is_met: bool


@dataclass
class ClientAsker:
    """Asks a question about other numbers of clients. found: its own layouts."""

    question: Question
    engines: Engines
    demand: Demand
    found: ClientArms
    known: dict[int, Answer] = field(default_factory=dict)

    def __call__(self, clients: int) -> Answer:
        """The answer of the whole question."""
        if clients not in self.known:
            asked = _with_clients(self.question, clients)
            found = search_for_clients(
                asked, self.engines, self.demand, clients,
                spread=one_by_one, progress=lambda _: None, queues=False,
            )  # fmt: skip
            self.known[clients] = self._judged(asked, found.arms, found.fleets)
        return self.known[clients]

    def forecast(self, clients: int) -> Answer:
        """The answer if the layouts of the question itself stayed the best."""
        asked = _with_clients(self.question, clients)
        requests = client_requests(asked, self.demand, clients)
        fleets = self.found.fleets
        arms = {
            name: try_clients(fleet, requests, asked.slo, clients, seed=asked.seed, queues=False)
            for name, fleet in fleets.items()
        }
        return self._judged(asked, arms, fleets)

    def _judged(
        self, asked: Question, arms: Mapping[str, Arm], fleets: Mapping[str, Fleet]
    ) -> Answer:
        is_met = any(meets(arm, asked.slo) for arm in arms.values())
        if len(arms) < 2:
            return Answer("pd" if "pd" in arms else "colocated", is_met)
        errors = provenance_for(asked, arms, fleets).errors
        return Answer(judge_clients("mixed", arms, asked.slo, errors).choice, is_met)

    @property
    def cost_s(self) -> float:
        """A guess of the CPU time of asking the question itself once."""
        clients = clients_of(self.question.workload.concurrency) or 1
        layouts = len(self.found.sweep) + 1
        return len(client_requests(self.question, self.demand, clients)) * layouts * REQUEST_COST_S


def provenance_for(
    question: Question, arms: Mapping[str, Arm], fleets: Mapping[str, Fleet]
) -> Provenance:
    """The source of the figures, for engines as full as the clients can make them."""
    clients = clients_of(question.workload.concurrency) or 1
    fullest = max(clients / arm.num_engines for arm in arms.values())
    return provenance_of(question, fleets.values(), fullest, closed=True)


def _with_clients(question: Question, clients: int) -> Question:
    return replace(question, workload=replace(question.workload, concurrency=float(clients)))


def client_flip(asker: ClientAsker, base: Choice, direction: int) -> Flip | None:
    """The nearest number of clients in a direction (1 up, -1 down) with another answer."""
    clients = clients_of(asker.question.workload.concurrency) or 1

    def is_other(num: int) -> bool:
        return asker.forecast(num).choice != base

    for value in _turns(clients, direction, is_other):
        told = asker(value)
        beyond = max(1, round(value * BEYOND**direction))
        if told.choice != base and asker(beyond).choice == told.choice:
            return Flip("concurrency", base, told.choice, value, clients, told.is_met)
    return None


def most_clients(asker: ClientAsker) -> int | None:
    """The most clients, fewer than asked about, for which some layout meets the SLOs."""
    clients = clients_of(asker.question.workload.concurrency) or 1
    if not asker.question.slo.is_given:
        return None
    least = 1 if asker.forecast(1).is_met else clients
    for value in _turns(clients, -1, lambda num: asker.forecast(num).is_met, least):
        if asker(value).is_met:
            return value
    return None


def _turns(
    clients: int, direction: int, is_other: Callable[[int], bool], least: int = 1
) -> Iterator[int]:
    """Numbers of clients to ask about, where the forecast turns; the nearest first.

    least: below it nothing is looked at.
    """
    same, other = clients, _first_other(clients, direction, is_other, least)
    if other is None:
        return
    while abs(other - same) > max(1, 0.05 * same):
        middle = (same + other) // 2
        same, other = (same, middle) if is_other(middle) else (middle, other)
    yield from dict.fromkeys(
        _two_digits(round(other * factor**direction), direction) for factor in (1.0, 1.12)
    )


def _first_other(
    clients: int, direction: int, is_other: Callable[[int], bool], least: int
) -> int | None:
    most, num = round(clients * FARTHEST), clients
    while least < num if direction < 0 else num < most:
        num = round(num * LEAP) + 1 if direction > 0 else max(least, int(num / LEAP))
        if is_other(num):
            return num
    return None


def _two_digits(num: int, direction: int) -> int:
    """A number of clients in two digits, rounded away from the one asked about."""
    unit = 1
    while num >= 100 * unit:
        unit *= 10
    return max(1, -(-num // unit) * unit if direction > 0 else num // unit * unit)
