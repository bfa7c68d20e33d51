"""From what the rules lean to and what the arms did, to a choice. Shared by verdict and flips."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from pdctl.inspection.records import Llm
from pdctl.perf_model.fitting.profiles import ROOFLINE_BAND
from pdctl.perf_model.hardware import generation
from pdctl.perf_model.records import Fleet
from pdctl.verdict.closed_form import (
    ASSUMED_USE,
    Demand,
    Scored,
    demand_of,
    load_estimate,
    preference,
    score,
)
from pdctl.verdict.records import Arm, Choice, Flip, Question
from pdctl.verdict.rules import Lean, apply_rules, lean
from pdctl.workload.records import Lengths

DecidedBy = Literal["rules", "evidence", "feasibility"]
Confidence = Literal["high", "medium", "low"]

ASSUMED_BAND = 0.50  # efficiencies assumed: AIConfigurator, on measured ones, is off by up to 65 %
# of a simulated knee; over ten seeds its standard deviation is 2 to 4 %
SEED_SPREAD = 0.05
ASSUMED_GENERATIONS = ("ampere", "ada", "cdna", "other")  # see perf_model/efficiencies.py


@dataclass(frozen=True)
class Side:
    """What one arm does. knee_rps: highest rate, within the SLO where one is given.

    ttft_s and tpot_s: 90th percentiles at the rate asked about; None: it does not carry it.
    """

    knee_rps: float
    ttft_s: float | None
    tpot_s: float | None


@dataclass(frozen=True)
class Ruling:
    """A choice, who made it and how sure it is."""

    choice: Choice
    decided_by: DecidedBy
    confidence: Confidence
    evidence: Choice  # what the arms alone say


def roofline_band(gpu_name: str) -> float:
    """Relative error band of a roofline: wider where the GPU's efficiencies are assumed."""
    return ASSUMED_BAND if generation(gpu_name) in ASSUMED_GENERATIONS else ROOFLINE_BAND


def judge(
    lean: Lean, colocated: Side, pd: Side, *, rate_rps: float | None, has_slo: bool, band: float
) -> Ruling:
    """Which arm, given where the rules lean and what both arms do.

    Evidence decides when it clears its error band; otherwise rules that lean clearly do;
    otherwise it is too close. rate_rps: None when nobody asked for a rate.
    """
    if has_slo:
        evidence = _by_goodput(colocated.knee_rps, pd.knee_rps, rate_rps, band)
    else:
        evidence = _by_dominance(colocated, pd, band)
    anchored = has_slo or rate_rps is not None  # else it rests on a load nobody asked about
    if evidence != "too_close" and (anchored or lean == evidence):
        barely = has_slo and _barely_suffices(evidence, colocated, pd, rate_rps, band)
        weak = barely or not anchored
        return Ruling(evidence, "evidence", _confidence(evidence, lean, band, weak), evidence)
    gain = _gain(lean, colocated, pd)
    if lean == "mixed" or evidence != "too_close" or gain < 1 - SEED_SPREAD:
        return Ruling("too_close", "evidence", "low", evidence)
    return Ruling(lean, "rules", "medium" if gain >= 1 else "low", evidence)


def _by_goodput(colocated: float, pd: float, rate_rps: float | None, band: float) -> Choice:
    """Colocated when it holds the rate asked about with the band to spare: it is simpler."""
    if rate_rps is not None and colocated >= rate_rps * (1 + band):
        return "colocated"
    if pd > colocated * (1 + band):
        return "pd"
    return "colocated" if colocated > pd * (1 + band) else "too_close"


def _by_dominance(colocated: Side, pd: Side, band: float) -> Choice:
    """Without SLOs: the arm that is clearly better at something and worse at nothing."""
    if pd.ttft_s is None or pd.tpot_s is None:
        return "too_close" if colocated.ttft_s is None else "colocated"
    if colocated.ttft_s is None or colocated.tpot_s is None:
        return "pd"
    pairs = (
        (colocated.ttft_s, pd.ttft_s),
        (colocated.tpot_s, pd.tpot_s),
        (pd.knee_rps, colocated.knee_rps),
    )
    if _dominates([_over(theirs, ours) for theirs, ours in pairs], band):
        return "pd"
    if _dominates([_over(ours, theirs) for theirs, ours in pairs], band):
        return "colocated"
    return "too_close"


def _over(one: float, other: float) -> float:
    """Their ratio; 1 for equal ones, also where both are 0, as TPOTs of one-token answers are."""
    return 1.0 if one == other else one / max(other, 1e-12)


def _dominates(gains: list[float], band: float) -> bool:
    """Better by the band in something, and nowhere worse by even half of it."""
    return max(gains) > 1 + band and min(gains) > 1 / (1 + band / 2)


def _barely_suffices(
    evidence: Choice, colocated: Side, pd: Side, rate_rps: float | None, band: float
) -> bool:
    """Whether colocated holds the rate by little while a split would carry clearly more."""
    if evidence != "colocated" or rate_rps is None:
        return False
    more = pd.knee_rps > colocated.knee_rps * (1 + band)
    return more and colocated.knee_rps < rate_rps * (1 + 2 * band)


def _confidence(evidence: Choice, lean: Lean, band: float, weak: bool) -> Confidence:
    if weak or lean not in (evidence, "mixed"):
        return "low"
    return "high" if lean == evidence and band < ROOFLINE_BAND else "medium"


def sure(llm: Llm, confidence: Confidence) -> Confidence:
    """`confidence`, or "low" where the figures of the LLM rest on a guess."""
    return "low" if llm.guesses else confidence


def _gain(lean: Lean, colocated: Side, pd: Side) -> float:
    """The rate of the arm that the rules lean to over the other's; 1 where neither carries any."""
    ours, theirs = colocated.knee_rps, pd.knee_rps
    if lean == "pd":
        ours, theirs = theirs, ours
    return ours / theirs if theirs > 0 else 1.0


STEPS = (1.25, 1.6, 2.0, 3.0, 4.0, 8.0)  # tried up and down from the value asked about
HALVINGS = 6
LEAST, MOST = 0.2, 5.0  # a closed form is scaled by so much to agree with the simulator


@dataclass(frozen=True)
class Scale:
    """Simulated over closed-form figures of one arm."""

    knee: float = 1.0
    ttft: float = 1.0
    tpot: float = 1.0


@dataclass(frozen=True)
class Point:
    """A question reduced to what the closed forms need: both arms' engines, and a rate.

    rate_rps: None when nobody asked for one. scales: what makes the closed forms agree with
    the simulator here, by arm; knee_scales: by layout, where known. kv_known: whether the link
    between engines is.
    """

    question: Question
    colocated: Fleet
    pd: Fleet
    rate_rps: float | None
    band: float
    scales: Mapping[str, Scale] = field(default_factory=dict)
    knee_scales: Mapping[str, float] = field(default_factory=dict)
    kv_known: bool = True


def find_flips(point: Point, verdict: Choice) -> tuple[Flip, ...]:
    """The nearest change of the verdict along each input, up and down.

    Nothing where the closed forms do not reproduce the verdict itself.
    Source: bisection of the closed forms of capacity.py.
    """
    base = closed_choice(point)
    if base != verdict:
        return ()
    found = (
        _nearest(point, base, axis, direction) for axis in _axes(point) for direction in (1, -1)
    )
    return tuple(flip for flip in found if flip is not None)


def closed_choice(point: Point) -> Choice:
    """The verdict at a point, in closed form."""
    question = point.question
    demand = demand_of(question.workload)
    assert demand is not None
    slo, rate = question.slo, point.rate_rps
    splits = _splits(point.pd)
    if rate is None:
        free = [score(f, demand, slo, 0.0).knee_rps for f in (point.colocated, *splits)]
        rate = ASSUMED_USE * max(free) or 0.1
    colocated = _scaled_score(point, "colocated", point.colocated, demand, rate)
    pd = max(
        (_scaled_score(point, "pd", f, demand, rate) for f in splits),
        key=lambda s: preference(s, demand, slo),
    )
    fleet = pd.fleet
    assert fleet.prefill is not None
    assert fleet.decode is not None
    load = load_estimate(fleet.prefill, fleet.decode, fleet.num_decode, demand, rate)
    if not point.kv_known:
        load = replace(load, kv_move_s=None)
    leaning = lean(apply_rules(question.llm, question.cluster, question.workload, load))
    ruling = judge(
        leaning,
        _side(colocated, point.scales.get("colocated", Scale())),
        _side(pd, point.scales.get("pd", Scale())),
        rate_rps=point.rate_rps,
        has_slo=slo.is_given,
        band=point.band,
    )
    return ruling.choice


def _scaled_score(point: Point, arm: str, fleet: Fleet, demand: Demand, rate_rps: float) -> Scored:
    """A layout's closed-form figures with its highest rate as the simulator would have it."""
    scored = score(fleet, demand, point.question.slo, rate_rps)
    scale = point.knee_scales.get(fleet.layout, point.scales.get(arm, Scale()).knee)
    return replace(scored, knee_rps=scored.knee_rps * min(max(scale, LEAST), MOST))


def scale_of(arm: Arm, scored: Scored) -> Scale:
    """What turns an arm's closed-form figures into its simulated ones; within a factor of 5."""
    pace = scored.pace
    knee = _ratio(arm.knee_rps, scored.knee_rps)
    if pace is None or arm.ttft_s is None or arm.tpot_s is None:
        return Scale(knee)
    return Scale(
        knee, _ratio(arm.ttft_s.p90, pace.ttft_p90_s), _ratio(arm.tpot_s.p90, pace.tpot_p90_s)
    )


def _ratio(simulated: float | None, closed: float) -> float:
    if simulated is None or closed <= 0:
        return 1.0
    return min(max(simulated / closed, LEAST), MOST)


def _side(scored: Scored, scale: Scale) -> Side:
    pace = scored.pace
    return Side(
        knee_rps=scored.knee_rps,
        ttft_s=pace.ttft_p90_s * scale.ttft if pace else None,
        tpot_s=pace.tpot_p90_s * scale.tpot if pace else None,
    )


def _splits(fleet: Fleet) -> list[Fleet]:
    """All splits of a fleet's engines over its two roles, where both have engines of one size."""
    assert fleet.prefill is not None
    assert fleet.decode is not None
    total = fleet.num_prefill + fleet.num_decode
    if fleet.prefill.parallelism.num_gpus != fleet.decode.parallelism.num_gpus:
        return [fleet]
    return [replace(fleet, num_prefill=p, num_decode=total - p) for p in range(1, total)]


@dataclass(frozen=True)
class _Axis:
    what: str
    value: float
    move: Callable[[Point, float], Point]
    whole: bool = False


def _axes(point: Point) -> Iterator[_Axis]:
    slo, workload = point.question.slo, point.question.workload
    if slo.tpot_s is not None:
        yield _Axis("tpot_s", slo.tpot_s, lambda p, x: _with_slo(p, tpot_s=x))
    if slo.ttft_s is not None:
        yield _Axis("ttft_s", slo.ttft_s, lambda p, x: _with_slo(p, ttft_s=x))
    if point.rate_rps is not None:
        yield _Axis("rate_rps", point.rate_rps, lambda p, x: replace(p, rate_rps=x))
    if workload.isl is not None:
        yield _Axis("isl", workload.isl.mean, _with_isl)
    total = point.pd.num_prefill + point.pd.num_decode
    if len({f.num_gpus for f in (point.pd, point.colocated)}) == 1 and len(_splits(point.pd)) > 1:
        yield _Axis("total", total, _with_total, whole=True)


def _nearest(point: Point, base: Choice, axis: _Axis, direction: int) -> Flip | None:
    """The first value in a direction with another verdict; the opposite one rather than a tie."""
    inside, tie = axis.value, None
    for step in STEPS:
        value = axis.value * step**direction
        if axis.whole and round(value) < 2:
            break
        choice = _choice_at(point, axis, value)
        if choice == base:
            inside = value
            continue
        flip = _narrowed(point, base, axis, inside, value)
        if flip.to != "too_close" or base == "too_close":
            return flip
        tie = tie or flip
        if choice != "too_close":
            return replace(flip, to=choice, at=_rounded(axis, value))
    return tie


def _narrowed(point: Point, base: Choice, axis: _Axis, inside: float, outside: float) -> Flip:
    to = _choice_at(point, axis, outside)
    for _ in range(HALVINGS):
        middle = (inside * outside) ** 0.5
        choice = _choice_at(point, axis, middle)
        if choice == base:
            inside = middle
        else:
            outside, to = middle, choice
    return Flip(axis.what, base, to, _rounded(axis, outside), axis.value)


def _choice_at(point: Point, axis: _Axis, value: float) -> Choice:
    return closed_choice(axis.move(point, round(value) if axis.whole else value))


def _rounded(axis: _Axis, value: float) -> float:
    return round(value) if axis.whole else float(f"{value:.2g}")


def _with_slo(point: Point, **changes: float) -> Point:
    slo = replace(point.question.slo, **changes)
    return replace(point, question=replace(point.question, slo=slo))


def _with_isl(point: Point, mean: float) -> Point:
    workload = point.question.workload
    assert workload.isl is not None
    scaled = replace(workload, isl=_scaled(workload.isl, mean / workload.isl.mean))
    return replace(point, question=replace(point.question, workload=scaled))


def _scaled(lengths: Lengths, factor: float) -> Lengths:
    return replace(
        lengths,
        mean=lengths.mean * factor,
        p50=lengths.p50 * factor,
        p90=lengths.p90 * factor,
        p99=lengths.p99 * factor,
    )


def _with_total(point: Point, total: float) -> Point:
    """The same engines, `total` of them, on as many nodes as they need."""
    before = point.pd.num_prefill + point.pd.num_decode
    fleet = replace(point.pd, num_prefill=1, num_decode=int(total) - 1)
    share = total / before
    alone = replace(
        point.colocated, num_colocated=max(1, round(point.colocated.num_colocated * share))
    )
    cluster = point.question.cluster
    nodes = -(-fleet.num_gpus // cluster.gpus_per_node)
    question = replace(point.question, cluster=replace(cluster, num_nodes=nodes))
    return replace(point, question=question, pd=fleet, colocated=alone)
