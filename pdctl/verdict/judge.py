"""From what the rules lean to and what the arms did, to a choice. Shared by verdict and flips."""

from dataclasses import dataclass
from typing import Literal

from pdctl.perf_model.efficiencies import generation
from pdctl.perf_model.profiles import ROOFLINE_BAND
from pdctl.verdict.records import Choice
from pdctl.verdict.rules import Lean

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
    if _dominates([theirs / max(ours, 1e-12) for theirs, ours in pairs], band):
        return "pd"
    if _dominates([ours / max(theirs, 1e-12) for theirs, ours in pairs], band):
        return "colocated"
    return "too_close"


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


def _gain(lean: Lean, colocated: Side, pd: Side) -> float:
    """The rate of the arm that the rules lean to over the other's; 1 where neither carries any."""
    ours, theirs = colocated.knee_rps, pd.knee_rps
    if lean == "pd":
        ours, theirs = theirs, ours
    return ours / theirs if theirs > 0 else 1.0
