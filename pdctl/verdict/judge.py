"""From what both arms carry to a choice. The verdict and its flips are judged by the same rules."""

from dataclasses import dataclass
from typing import Literal, Protocol

from pdctl.inspection.records import Llm
from pdctl.perf_model.fitting.profiles import ROOFLINE_BAND, error_band
from pdctl.perf_model.hardware import generation
from pdctl.verdict.records import Arm, Choice, Lean, Provenance, Site

DecidedBy = Literal["rules", "evidence", "feasibility"]
Confidence = Literal["high", "medium", "low"]

ASSUMED_BAND = 0.50  # efficiencies assumed: AIConfigurator, on measured ones, is off by up to 65 %
ASSUMED_GENERATIONS = ("ampere", "ada", "cdna", "cdna4", "other")  # see perf_model/hardware.py


def roofline_band(gpu_name: str) -> float:
    """Relative error band of a roofline: wider where the GPU's efficiencies are assumed."""
    return ASSUMED_BAND if generation(gpu_name) in ASSUMED_GENERATIONS else ROOFLINE_BAND


def provenance_of(site: Site) -> Provenance:
    """Where the step times of a site's engines come from, and how far they may be off."""
    profile = site.profile
    if profile is None:
        return Provenance("roofline", None, roofline_band(site.cluster.gpu.name))
    return Provenance("fitted", profile.id, error_band(profile, site.llm))


class Capacity(Protocol):
    """The highest rate of an arm, known as exactly as anybody has asked for so far."""

    def bounds(self) -> tuple[float, float]:
        """What the rate is at least and at most; equal once it is known."""
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
    """Whether one > factor · other; learns no more of either than that takes."""
    while True:
        (low, high), (least, most) = one.bounds(), other.bounds()
        if low > factor * most:
            return True
        if high <= factor * least:
            return False
        (one if _spread(low, high) >= _spread(least, most) else other).narrow()


def _spread(low: float, high: float) -> float:
    return high / max(low, 1e-12) if high > low else 0.0


def by_capacity(colocated: Capacity, pd: Capacity, rate_rps: float | None, band: float) -> Choice:
    """The arm that clearly carries more; colocated where it carries the rate with room to spare.

    rate_rps: None when nobody asked for a rate. band: the error of the step times; an arm wins
    when it carries more by so much, and colocated, being simpler, is enough when it carries the
    rate by so much.
    """
    if rate_rps is not None and not exceeds(Known(rate_rps * (1 + band)), 1.0, colocated):
        return "colocated"
    if exceeds(pd, 1 + band, colocated):
        return "pd"
    return "colocated" if exceeds(colocated, 1 + band, pd) else "too_close"


def by_latency(colocated: Arm, pd: Arm, band: float) -> Choice:
    """Without SLOs: the arm that is clearly better at something and worse at nothing."""
    if pd.ttft_s is None or pd.tpot_s is None:
        return "too_close" if colocated.ttft_s is None else "colocated"
    if colocated.ttft_s is None or colocated.tpot_s is None:
        return "pd"
    pairs = (
        (colocated.ttft_s.p90, pd.ttft_s.p90),
        (colocated.tpot_s.p90, pd.tpot_s.p90),
        (pd.capacity_rps or 0.0, colocated.capacity_rps or 0.0),
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


def settled_choice(evidence: Choice, lean: Lean, *, is_anchored: bool) -> Choice:
    """What the evidence says; at a load nobody asked about only where the rules agree.

    Where the evidence is within its error band the rules do not decide: it is too close.
    """
    return evidence if is_anchored or lean == evidence else "too_close"


def confidence_of(
    choice: Choice,
    lean: Lean,
    *,
    band: float,
    is_anchored: bool,
    rate_rps: float | None,
    capacities: tuple[float, float] | None,
) -> Confidence:
    """How sure a choice is. capacities: of colocated and PD, where there are SLOs."""
    if choice == "too_close" or not is_anchored or lean not in (choice, "mixed"):
        return "low"
    if capacities and rate_rps is not None and choice == "colocated":
        colocated, pd = capacities
        if pd > colocated * (1 + band) and colocated < rate_rps * (1 + 2 * band):
            return "low"  # it carries the rate by little, and a split would carry clearly more
    return "high" if lean == choice and band < ROOFLINE_BAND else "medium"


def sure(llm: Llm, confidence: Confidence) -> Confidence:
    """`confidence`, or "low" where the figures of the LLM rest on a guess."""
    return "low" if llm.guesses else confidence
