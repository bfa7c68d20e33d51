"""Flips: the nearest value of each input with another verdict, confirmed by asking again.

A forecast says where to look: service levels are read off runs that are there, other inputs come
from closed forms. From there the search goes back towards the value asked about, as long as the
answer stays another one. A flip is told only when the whole question, asked at that value and 5 %
beyond, has the other answer both times, by the search and judgement of `decide`.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Protocol

from pdctl.perf_model.intervals import Errors
from pdctl.perf_model.records import Fleet
from pdctl.verdict.capacity import ABOVE, rung_below, rung_rps
from pdctl.verdict.closed_form import capacity_rps, demand_of
from pdctl.verdict.judge import Known, any_carries, by_capacity, margins_of, slo_if_slow
from pdctl.verdict.layouts import engines_that_fit, gpu_budget
from pdctl.verdict.records import Choice, Flip, Question, Site
from pdctl.verdict.search import Contest, contest_of, site_of, whole_choice
from pdctl.verdict.trials import Run, Trials, sample_size
from pdctl.workload.records import Lengths, Slo, longest_request

FINE = 1.03  # between the values that a forecast is made for
STRIDE = 4  # of them at a time, until one beyond has another answer
STEPS = 72  # of them at most: 8 times the value asked about
OUTWARD = (1.0, 1.12)  # times the value forecast: tried until one holds
NEAR = 1.09  # times a value with the same answer: so near to one a flip is looked for
LESS_NEAR = 1.12  # the same where every value takes runs of its own
CANDIDATES = 3  # values in a direction that are asked about together with what lies beyond
BEYOND = 1.05  # there the answer must be the same
LIGHT = (0.5, 0.1)  # of what colocated carries, where it is nowhere sure to meet the SLOs
CLEARLY = 1.03  # a forecast counts when it clears its threshold by so much
LEAST, MOST = 0.2, 5.0  # a closed form is scaled by so much to agree with the simulator
MOST_REQUESTS = 4000  # in a sample: beyond, runs that only show where to look cost too much
SPOTS = (0.45, 0.6, 0.8, 1.0, 1.25)  # of an arm's capacity: where a forecast looks at its runs


class Ask(Protocol):
    """Asks other questions.

    is_met: by any layout. surmise: by a part of the requests; None: no layout meets the SLOs.
    is_costly: asking takes many requests.
    """

    @property
    def is_costly(self) -> bool: ...

    def __call__(self, question: Question) -> Choice: ...

    def is_met(self, question: Question) -> bool: ...

    def surmise(self, question: Question) -> Choice | None: ...


@dataclass(frozen=True)
class Axis:
    """One input that may change. moved: the question with another value of it. near: see NEAR."""

    what: str
    value: float
    moved: Callable[[Question, float], Question]
    most: float = math.inf
    is_whole: bool = False
    near: float = NEAR


def axes_of(question: Question, num_requests: int) -> Iterator[Axis]:
    """The inputs of a question that can be asked otherwise by a flag.

    Other lengths and numbers of engines share no runs with the question; they are left out where
    a run takes many requests.
    """
    slo, workload = question.slo, question.workload
    if not slo.is_given:
        return
    if workload.rate_rps is not None:
        yield Axis("rate_rps", workload.rate_rps, _with_rate)
    if slo.tpot_s is not None:
        yield Axis("tpot_s", slo.tpot_s, lambda q, x: replace(q, slo=replace(q.slo, tpot_s=x)))
    if slo.ttft_s is not None:
        yield Axis("ttft_s", slo.ttft_s, lambda q, x: replace(q, slo=replace(q.slo, ttft_s=x)))
    if workload.requests is not None or num_requests > MOST_REQUESTS:
        return
    if workload.isl is not None:
        yield Axis("isl", workload.isl.mean, _with_isl, _longest_prompt(question), near=LESS_NEAR)
    if most := _most_engines(site_of(question)):
        total = question.total or most
        yield Axis("total", total, lambda q, x: replace(q, total=int(x)), most, is_whole=True)


def _longest_prompt(question: Question) -> float:
    """The longest mean prompt for which one BEYOND it is not refused as too long."""
    context, osl = question.llm.max_context, question.workload.osl
    if context is None or osl is None:
        return math.inf
    return (longest_request(context) - osl.mean) / BEYOND


def _with_rate(question: Question, rate_rps: float) -> Question:
    return replace(question, workload=replace(question.workload, rate_rps=rate_rps))


def _with_isl(question: Question, mean: float) -> Question:
    isl = question.workload.isl
    assert isl is not None
    factor = mean / isl.mean
    scaled: Lengths = replace(
        isl,
        mean=mean,
        p50=isl.p50 * factor,
        p90=isl.p90 * factor,
        p99=isl.p99 * factor,
    )
    return replace(question, workload=replace(question.workload, isl=scaled))


def _most_engines(site: Site) -> int:
    """The most engines --total can ask for; 0 where engines may have any size."""
    sizes = {shape.num_gpus for shape in site.parallelism.values()}
    if len(sizes) != 1 or len(site.parallelism) != 3:
        return 0
    return gpu_budget(replace(site, total=None)) // sizes.pop()


@dataclass(frozen=True)
class FlipForecast:
    """Each arm's likely capacity under other service levels, lengths or numbers of engines.

    runs: of each arm's best layout at rates around its capacity, at which service levels can be
    read off; none where runs take too many requests, and then closed forms tell. They may be of a
    part of the requests: `scales` makes them agree with the simulation, as closed_scales do with
    closed forms. errors: of the figures. enough_rps, carried_rps: up to there
    colocated is enough by itself, and carries the requests.
    """

    question: Question
    closed_scales: Mapping[str, float]
    fleets: Mapping[str, Fleet]
    runs: Mapping[str, Sequence[tuple[float, Run]]]
    scales: Mapping[str, float]
    errors: Errors
    enough_rps: float
    carried_rps: float

    def answers(self, axis: Axis, value: float, factors: Sequence[float]) -> set[Choice | None]:
        """The answers at a value of an axis, with the margins wider by each factor.

        None: no layout meets the SLOs.
        """
        asked = axis.moved(self.question, value)
        slow = replace(asked, slo=slo_if_slow(asked.slo, self.errors))
        colocated, pd = (Known(self._capacity(arm, axis, asked)) for arm in ("colocated", "pd"))
        least = self.errors.rate.low * min(
            self._capacity("colocated", axis, slow), colocated.rate_rps
        )
        margins, rate = margins_of(self.errors), asked.workload.rate_rps

        def answer(factor: float) -> Choice | None:
            if not any_carries((colocated, pd), rate and rate * factor):
                return None
            return by_capacity(colocated, pd, least / factor, rate, margins.widened(factor))

        return {answer(factor) for factor in factors}

    def _capacity(self, name: str, axis: Axis, asked: Question) -> float:
        if axis.what not in ("tpot_s", "ttft_s") or not self.runs:
            return self._closed(name, asked)
        seen = self.scales[name] * read_off(self.runs[name], asked.slo)
        if any(run.meets(asked.slo) for _, run in self.runs[name][:1]):
            return seen
        return min(seen, self._closed(name, asked))

    def _closed(self, name: str, asked: Question) -> float:
        demand = demand_of(site_of(asked).workload)
        assert demand is not None
        size = (asked.total or 1) / (self.question.total or asked.total or 1)
        closed = capacity_rps(self.fleets[name], demand, asked.slo)
        return size * self.closed_scales[name] * closed


def forecast_of(
    question: Question, contest: Contest, capacities: Mapping[str, float]
) -> FlipForecast:
    """A forecast for a question whose capacities are known."""
    trials, slo = contest.trials.few or contest.trials, contest.slo
    fleets = contest.fleets
    runs: dict[str, list[tuple[float, Run]]] = {}
    if sample_size(trials) <= MOST_REQUESTS:
        runs = {name: _runs(trials, fleet, capacities[name]) for name, fleet in fleets.items()}
    closed = {name: capacity_rps(f, contest.demand, slo) for name, f in fleets.items()}
    return FlipForecast(
        question=question,
        closed_scales={name: _scale(capacities[name], closed[name]) for name in fleets},
        fleets=fleets,
        runs=runs,
        scales={name: _scale(capacities[name], read_off(runs[name], slo)) for name in runs},
        errors=contest.provenance.errors,
        enough_rps=contest.least("colocated"),
        carried_rps=capacities["colocated"],
    )


def _runs(trials: Trials, fleet: Fleet, capacity: float) -> list[tuple[float, Run]]:
    if capacity <= 0:
        return []
    rates = [rung_rps(rung_below(capacity * spot)) for spot in SPOTS]
    return [(rate, trials.run(fleet, rate)) for rate in rates]


def read_off(runs: Sequence[tuple[float, Run]], slo: Slo) -> float:
    """The capacity under service levels, between the rates of some runs; 0 without runs."""
    before: tuple[float, float] | None = None
    for rate, run in runs:
        share = run.attainment(slo)
        if share < slo.attainment:
            if before is None:
                return rate * 0.7
            part = (before[1] - slo.attainment) / max(before[1] - share, 1e-9)
            return before[0] * math.exp(part * math.log(rate / before[0]))
        before = (rate, share)
    return before[0] * 1.2 if before else 0.0


def _scale(simulated: float, closed: float) -> float:
    return min(max(simulated / closed, LEAST), MOST) if simulated > 0 and closed > 0 else 1.0


def find_flip(
    base: Choice, axis: Axis, direction: int, forecast: FlipForecast, ask: Ask
) -> Flip | None:
    """The nearest value in a direction (1 up, -1 down) with another answer, asked again.

    base: the answer to the question itself. None too where no layout meets its SLOs.
    """
    if not ask.is_met(forecast.question):
        return None
    for value in islice(_turned(base, axis, direction, forecast, ask), CANDIDATES):
        values = _with_beyond(axis, value, direction)
        at, *beyond = (axis.moved(forecast.question, one) for one in values)
        is_met = ask.is_met(at)
        if is_met and (ask(at) == base or any(ask(one) != ask(at) for one in beyond)):
            continue
        if is_met or not any(ask.is_met(one) for one in beyond):
            return Flip(axis.what, base, ask(at), value, axis.value, is_met)
    return None


def _with_beyond(axis: Axis, value: float, direction: int) -> list[float]:
    """The value and one a little beyond, where that can be asked."""
    if not axis.is_whole:
        return [value, value * BEYOND**direction]
    beyond = value + direction
    return [value, beyond] if 2 <= beyond <= axis.most else [value]


def _turned(
    base: Choice, axis: Axis, direction: int, forecast: FlipForecast, ask: Ask
) -> Iterator[float]:
    """Values that seem to have another answer than `base`, the nearest first, then safer ones.

    Where asking is costly, the forecast alone looks for them and a surmise confirms it. That no
    layout meets the SLOs takes the most runs to be sure of: it is not looked for there.
    """
    is_rough = ask.is_costly and axis.what != "rate_rps"

    def asked(value: float) -> Question:
        return axis.moved(forecast.question, value)

    def is_other(value: float) -> bool:
        if is_rough:
            return forecast.answers(axis, value, (1.0,)).isdisjoint({base, None})
        return not ask.is_met(asked(value)) or ask(asked(value)) != base

    same = axis.value
    for place in _places(axis, direction, forecast):
        value = _rounded(axis, place, direction)
        if value is None or value > axis.most or (value - same) * direction <= 0:
            continue
        if is_other(value):
            near = _nearest(axis, same, value, is_other)[: 1 if is_rough else 2]
            for found in dict.fromkeys((*near, value)):
                if not is_rough or ask.surmise(asked(found)) not in (base, None):
                    yield found
        same = value


def _rounded(axis: Axis, value: float, direction: int) -> float | None:
    return float(round(value)) if axis.is_whole else rounded_away(value, axis.value, direction)


def _nearest(
    axis: Axis, same: float, other: float, is_other: Callable[[float], bool]
) -> list[float]:
    """Values with another answer on the way back from one of them to one without; nearest first.

    A forecast is seldom far off: the first two steps back are short, and each further one is twice
    the one before, until one leads too far; from there on the middle is tried.
    """
    direction, step, found = 1 if other > same else -1, axis.near, [other]
    while (ratio := (other / same) ** direction) > axis.near:
        value = _between(axis, same, other / min(step, math.sqrt(ratio)) ** direction, other)
        if value is None:
            break
        if is_other(value):
            other, step = value, axis.near if len(found) < 2 else step**2
            found.insert(0, value)
        else:
            same, step = value, math.inf
    return found


def _between(axis: Axis, same: float, value: float, other: float) -> float | None:
    """The value in as few digits as keep it between two others; None: there is none."""
    direction = 1 if other > same else -1
    rounded = [_away(value, digits, direction) for digits in (2, 3)]
    if axis.is_whole:
        rounded = [float(round(value)), float(math.floor(value)), float(math.ceil(value))]
    return next((x for x in rounded if min(same, other) < x < max(same, other)), None)


def _places(axis: Axis, direction: int, forecast: FlipForecast) -> Iterator[float]:
    """Values at which to ask, the nearest first."""
    if axis.what == "rate_rps":
        yield from _rates(direction, forecast)
        return
    base = forecast.answers(axis, axis.value, (1.0,))

    def is_other(value: float) -> bool:
        return not base & forecast.answers(axis, value, (CLEARLY, 1 / CLEARLY))

    if axis.is_whole:
        most = axis.most if direction > 0 else 2
        values = range(int(axis.value) + direction, int(most) + direction, direction)
        yield from [float(n) for n in values if is_other(n)][:2]
        return
    fine = [axis.value * FINE ** (direction * step) for step in range(1, STEPS + 1)]
    far = next((i for i in range(STRIDE, STEPS + 1, STRIDE) if is_other(fine[i - 1])), None)
    if far is not None:
        nearest = next(value for value in fine[far - STRIDE : far] if is_other(value))
        yield from (nearest * factor**direction for factor in OUTWARD)


def _rates(direction: int, forecast: FlipForecast) -> Iterator[float]:
    """Rates beside which colocated is enough, or carries them at all."""
    if forecast.enough_rps > 0:
        yield from (forecast.enough_rps * factor**direction for factor in (1.0, 1.005, 1.02))
    elif direction > 0 and forecast.carried_rps > 0:
        yield forecast.carried_rps * BEYOND
    elif forecast.carried_rps > 0:
        yield from (forecast.carried_rps * share for share in LIGHT)


def rounded_away(value: float, asked: float, direction: int) -> float | None:
    """Two digits, away from the value asked about; three where two are not enough to differ."""
    rounded = (_away(value, digits, direction) for digits in (2, 3))
    return next((x for x in rounded if (x - asked) * direction > 0), None)


def _away(value: float, digits: int, direction: int) -> float:
    unit = 10.0 ** (math.floor(math.log10(value)) - digits + 1)
    steps = value / unit
    whole = math.ceil(steps - 1e-9) if direction > 0 else math.floor(steps + 1e-9)
    return float(f"{whole * unit:.{digits}g}")


@dataclass
class Asker:
    """Asks questions that differ a little from one that was answered by a contest.

    contests: those asked before.
    """

    question: Question
    contest: Contest
    contests: dict[object, Contest] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.contests[_key(self.question)] = self.contest

    @property
    def is_costly(self) -> bool:
        """True if a part of the requests tells enough to see where asking is worth while."""
        return self.contest.trials.few is not None

    def surmise(self, question: Question) -> Choice | None:
        """The likely answer by a part of the requests, corrected by what all of them changed."""
        own, rate_rps = self._contest(question), question.workload.rate_rps
        if own is None:
            return None
        scales = {arm: self._rough_scale(arm) for arm in ("colocated", "pd")}
        found = {arm: Known(scales[arm] * own.search(arm).rough_rps) for arm in scales}
        if not any_carries(found.values(), rate_rps):
            return None
        slow = own.search("colocated", own.slow_slo).rough_rps
        least = scales["colocated"] * slow * own.provenance.errors.rate.low
        return by_capacity(found["colocated"], found["pd"], least, rate_rps, own.margins)

    def _rough_scale(self, arm: str) -> float:
        known = self.contest.search(arm)
        return _scale(known.rate_rps, known.rough_rps)

    def __call__(self, question: Question) -> Choice:
        """The verdict of the whole question, as `decide` comes to it."""
        own = self._contest(question)
        if own is None:
            return "too_close"
        return whole_choice(own, question.workload.rate_rps)

    def is_met(self, question: Question) -> bool:
        """True if some layout meets the SLOs at the rate of the question."""
        own, rate_rps = self._contest(question), question.workload.rate_rps
        if own is None:
            return False
        if any_carries([own.search(arm) for arm in own.entrants], rate_rps):
            return True
        return rate_rps is not None and any(_meets(own, arm, rate_rps) for arm in own.entrants)

    def _contest(self, question: Question) -> Contest | None:
        key = _key(question)
        if key not in self.contests:
            made = self._made(site_of(question), question.slo)
            if made is None:
                return None
            self.contests[key] = made
        return self.contests[key]

    def _made(self, site: Site, slo: Slo) -> Contest | None:
        base = self.contest
        demand = demand_of(site.workload)
        if demand is None:
            return None
        is_same = site.workload.isl == base.site.workload.isl
        has_same = is_same and site.total == base.site.total
        engines = base.engines if has_same else engines_that_fit(site, base.engines)
        earlier = base.trials if is_same else None
        seed = self.question.seed
        contest = contest_of(site, slo, engines, demand, seed=seed, earlier=earlier)
        return contest if contest.entrants else None


def _meets(contest: Contest, arm: str, rate_rps: float) -> bool:
    """True if an arm meets the SLOs at a rate above its capacity, as luck may have it."""
    search = contest.search(arm)
    if search.bounds()[1] * ABOVE >= rate_rps:
        search.finish()  # near its capacity it matters which of its layouts is the best
    return contest.trials.meets(contest.best(arm), rate_rps, contest.slo)


def _key(question: Question) -> object:
    """A key that tells contests of one workload and model apart; the rate is not part of it."""
    isl = question.workload.isl
    return question.slo, isl.mean if isl else None, question.total
