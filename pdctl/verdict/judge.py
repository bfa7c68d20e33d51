"""From what both arms carry to a choice. The verdict and its flips are judged by the same rules."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from pdctl.inspection.records import Llm
from pdctl.perf_model.intervals import Case, Errors, errors_of, model_kind, slow_host
from pdctl.perf_model.records import EngineModel, Fleet, Profile
from pdctl.perf_model.releases import why_unknown
from pdctl.perf_model.residuals import region_of
from pdctl.verdict.records import Arm, Choice, Interval, Lean, Provenance, Site
from pdctl.workload.records import Slo

Confidence = Literal["high", "medium", "low"]

SURE_WIDTH = 0.15  # half-width of what layouts carry: up to here a verdict may be called sure
UNSURE_WIDTH = 0.5  # beyond, it is a guess whatever decides
USUAL_PROMPT = 1024.0  # tokens, where lengths are unknown
LIGHTEST_RPS = 1e-9  # any rate at all


def provenance_of(
    site: Site,
    fleets: Iterable[Fleet] = (),
    running: float = math.inf,
    *,
    closed: bool = False,
) -> Provenance:
    """The source of the figures about a site, and their likely error.

    fleets: what the figures are about. running: requests at once in an engine; without it,
    engines as full as they are at a capacity. closed: of a closed loop of clients.
    """
    profile, cluster = site.profile, site.cluster
    engines = [e for f in fleets for e in (f.colocated, f.prefill, f.decode) if e is not None]
    sizes = [engine.parallelism.num_gpus for engine in engines]
    case = Case(
        kind=model_kind(site.llm),
        gpu=cluster.gpu.name,
        fitted=profile is not None,
        region=region_of(running),
        spans_hosts=max(sizes, default=1) > cluster.gpus_per_node,
        fit_error=profile.left_out_error if profile else 0.0,
        slow_host=_slow_host(site, engines),
        llm=site.llm.name,
        simulated=profile is not None and profile.engine == "simulated",
        relative=profile is not None and not _is_of(profile, site.llm),
        closed=closed,
    )
    if profile is None:
        return Provenance("roofline", None, errors_of(case))
    return Provenance("fitted" if case.tuned else "relative", profile.id, errors_of(case))


def _is_of(profile: Profile, llm: Llm) -> bool:
    """True if a profile was measured with this LLM, and often enough to know its own error."""
    return profile.llm == llm.name and len(profile.measurements) > len(profile.factors)


def _slow_host(site: Site, engines: Iterable[EngineModel]) -> float:
    """Times as long the site's prompts take where the host launches kernels slowly."""
    lengths, profile = site.workload.isl, site.profile
    prompt = float(lengths.p50) if lengths is not None else USUAL_PROMPT
    is_known = profile is not None and "eager_s" in profile.factors
    times = [engine.times for engine in engines if engine.role != "decode"]
    return max((slow_host(t, prompt, is_known=is_known) for t in times), default=1.0)


@dataclass(frozen=True)
class Margins:
    """Factors by which a comparison of two figures must be clear.

    ratio: what one arm carries over what the other does. ttft, tpot: one arm's time over the
    other's.
    """

    ratio: float
    ttft: float
    tpot: float

    def widened(self, factor: float) -> "Margins":
        """The margin for what layouts carry, times a factor."""
        return replace(self, ratio=self.ratio * factor)


def margins_of(errors: Errors) -> Margins:
    """The margins that the intervals of ratios ask for."""
    return Margins(errors.rate_ratio.high, errors.ttft_ratio.high, errors.tpot_ratio.high)


def slo_if_slow(slo: Slo, errors: Errors) -> Slo:
    """The SLOs that a layout has to meet as predicted, to meet `slo` with the longest likely times.

    A layout whose times are f times as long meets the SLOs where the predicted one meets 1/f of
    them. Ignores: that TTFT and TPOT are unlikely to be off by the most together.
    """
    return _scaled(slo, 1 / errors.ttft.high, 1 / errors.tpot.high)


def slo_if_fast(slo: Slo, errors: Errors) -> Slo:
    """As slo_if_slow, with the shortest likely times."""
    return _scaled(slo, 1 / errors.ttft.low, 1 / errors.tpot.low)


def _scaled(slo: Slo, ttft: float, tpot: float) -> Slo:
    return replace(
        slo,
        ttft_s=slo.ttft_s and slo.ttft_s * ttft,
        tpot_s=slo.tpot_s and slo.tpot_s * tpot,
    )


class Capacity(Protocol):
    """The highest rate of an arm, known as exactly as anybody has asked for so far."""

    def bounds(self) -> tuple[float, float]:
        """The bounds of the rate; equal once it is known."""
        ...

    def narrow(self) -> None:
        """Learn more of it."""
        ...


@dataclass(frozen=True)
class Known:
    """A capacity that is known."""

    rate_rps: float

    def bounds(self) -> tuple[float, float]:
        return self.rate_rps, self.rate_rps

    def narrow(self) -> None:
        raise AssertionError("there is no more to learn")


def exceeds(one: Capacity, factor: float, other: Capacity) -> bool:
    """True if one > factor · other. Learns no more about either than the comparison takes."""
    while True:
        (low, high), (least, most) = one.bounds(), other.bounds()
        if low > factor * most:
            return True
        if high <= factor * least:
            return False
        (one if _spread(low, high) >= _spread(least, most) else other).narrow()


def _spread(low: float, high: float) -> float:
    return high / max(low, 1e-12) if high > low else 0.0


def by_capacity(
    colocated: Capacity,
    pd: Capacity,
    least_rps: float,
    rate_rps: float | None,
    margins: Margins,
) -> Choice:
    """The arm that clearly carries more; colocated where it carries the rate in any case.

    Where neither carries the rate, the one that carries more is named, by however little.
    least_rps: what colocated carries at least, by its interval; being simpler, it is enough when
    that is the rate. rate_rps: None when nobody asked for a rate. margins: an arm wins when it
    carries more by the ratio's margin.
    """
    if not any_carries((colocated, pd), rate_rps):
        return "pd" if exceeds(pd, 1.0, colocated) else "colocated"
    if rate_rps is not None and least_rps >= rate_rps:
        return "colocated"
    if exceeds(pd, margins.ratio, colocated):
        return "pd"
    return "colocated" if exceeds(colocated, margins.ratio, pd) else "too_close"


def any_carries(arms: Iterable[Capacity], rate_rps: float | None) -> bool:
    """True if some arm carries the rate; without a rate, any rate at all."""
    asked = Known(rate_rps or LIGHTEST_RPS)
    return any(not exceeds(asked, 1.0, arm) for arm in arms)


def by_latency(colocated: Arm, pd: Arm, margins: Margins) -> Choice:
    """Without SLOs: the arm that is clearly better at something and worse at nothing."""
    carried = colocated.capacity_rps or 0.0, pd.capacity_rps or 0.0
    if pd.ttft_s is None or pd.tpot_s is None:
        is_pd = colocated.ttft_s is None and carried[1] > carried[0]
        return "pd" if is_pd else "colocated"
    if colocated.ttft_s is None or colocated.tpot_s is None:
        return "pd"
    pairs = (
        (colocated.ttft_s.p90, pd.ttft_s.p90, margins.ttft),
        (colocated.tpot_s.p90, pd.tpot_s.p90, margins.tpot),
        (carried[1], carried[0], margins.ratio),
    )
    if _dominates([(_over(theirs, ours), margin) for theirs, ours, margin in pairs]):
        return "pd"
    if _dominates([(_over(ours, theirs), margin) for theirs, ours, margin in pairs]):
        return "colocated"
    return "too_close"


def _over(one: float, other: float) -> float:
    """Their ratio; 1 for equal ones, also where both are 0, as TPOTs of one-token answers are."""
    return 1.0 if one == other else one / max(other, 1e-12)


def _dominates(gains: list[tuple[float, float]]) -> bool:
    """Better by its margin in something, and nowhere worse by even half of one."""
    is_ahead = any(gain > margin for gain, margin in gains)
    return is_ahead and all(gain > 1 / math.sqrt(margin) for gain, margin in gains)


def settled_choice(evidence: Choice, lean: Lean, *, is_anchored: bool) -> Choice:
    """The choice that the evidence supports; at a load nobody asked about, only if the rules agree.

    Where the evidence is within its interval the rules do not decide: it is too close.
    """
    return evidence if is_anchored or lean == evidence else "too_close"


def confidence_of(
    choice: Choice, lean: Lean, errors: Errors, *, is_anchored: bool = True
) -> Confidence:
    """The confidence in a choice, from the width of its intervals and the rules."""
    if choice == "too_close" or not is_anchored or lean not in (choice, "mixed"):
        return "low"
    if errors.rate.half_width > UNSURE_WIDTH:
        return "low"
    return "high" if lean == choice and errors.rate.half_width <= SURE_WIDTH else "medium"


def confidence_of_no(arms: Iterable[Arm], rate_rps: float | None, errors: Errors) -> Confidence:
    """The confidence that no arm carries the rate, from the highest capacity that any may have."""
    highest = max((a.intervals["capacity_rps"].high for a in arms if a.intervals), default=0.0)
    if rate_rps is None or highest >= rate_rps:
        return "low"
    return "high" if errors.rate.half_width <= SURE_WIDTH else "medium"


def with_intervals(arm: Arm, errors: Errors, carried: Interval | None = None) -> Arm:
    """The arm with the interval of each figure it has. carried: that of its capacity."""
    factors = {
        "ttft_at_share_s": errors.ttft,
        "tpot_at_share_s": errors.tpot,
        "throughput_rps": errors.rate,
    }
    known = {name: value for name in factors if (value := getattr(arm, name)) is not None}
    intervals = {
        name: Interval(value * factors[name].low, value * factors[name].high)
        for name, value in known.items()
    }
    if carried is not None:
        intervals["capacity_rps"] = carried
    return replace(arm, intervals=intervals)


def running_on_each(arm: Arm, rate_rps: float) -> float:
    """Requests at once on each engine that decodes, by Little's law; infinite where unknown."""
    if arm.e2e_s is None:
        return math.inf
    return rate_rps * arm.e2e_s.mean / (arm.counts.get("decode") or arm.num_engines)


def sure(site: Site, confidence: Confidence) -> Confidence:
    """`confidence`, but "low" where the LLM's figures are guessed, "high" of no unknown release."""
    if site.llm.guesses:
        return "low"
    return "medium" if confidence == "high" and why_unknown(site.release) else confidence
