"""Which of two measured arms wins, and how surely. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from pdctl.measurement.arms import ArmResult, Played, goodput_of, mean_e2e, rows_of
from pdctl.measurement.bootstrap import Interval, Statistic, difference
from pdctl.measurement.knee import CLOSE
from pdctl.measurement.summary import summary
from pdctl.workload.records import Slo

Winner = Literal["colocated", "pd", "too_close", "neither", "unsure", "one_arm"]


@dataclass(frozen=True)
class Ruling:
    """Which arm wins. by: the figure it rests on; margin: PD less colocated."""

    winner: Winner
    by: str
    margin: Interval | None
    text: str


def rule(arms: Sequence[ArmResult], played: Sequence[Played], slo: Slo) -> Ruling:
    """Which arm wins on what was measured?

    With service levels: the one with more goodput. Without: the one whose requests end sooner.
    Only where 95 % of resamplings agree on the sign.
    """
    whole = {arm.name: arm for arm in arms if arm.num_requests}
    if "colocated" not in whole or "pd" not in whole:
        return Ruling("one_arm", "", None, _of_one(arms, slo))
    if any(arm.is_generator_late for arm in whole.values()):
        text = "The load generator was the bottleneck: its requests went out late. No verdict."
        return Ruling("unsure", "", None, text)
    margin, by = _margin(played, slo)
    if slo.is_given and not any(_meets(arm, slo) for arm in whole.values()):
        return Ruling("neither", by, margin, _neither(whole.values(), slo))
    if (sustained := _by_knee(whole["colocated"], whole["pd"])) is not None:
        return sustained
    if slo.is_given and all(_meets(arm, slo) for arm in whole.values()) and _is_zero(margin):
        text = "Both arms meet the service levels here; --find-knee tells which sustains more."
        return Ruling("too_close", by, margin, text)
    if margin is None or _is_zero(margin):
        text = f"Too close to call: PD's {by}, less colocated's, is {_span(margin, by)}."
        return Ruling("too_close", by, margin, text)
    pd_is_better = (margin.value > 0) == (by == "goodput")
    winner: Winner = "pd" if pd_is_better else "colocated"
    return Ruling(winner, by, margin, _won(winner, whole["colocated"], whole["pd"], by, margin))


def _by_knee(colocated: ArmResult, pd: ArmResult) -> Ruling | None:
    """Where the rates that both sustain were searched: the arm with clearly the higher one."""
    if not colocated.knee_rps or not pd.knee_rps:
        return None
    by, words = "sustained rate", f"{pd.knee_rps:.3g} req/s of PD against {colocated.knee_rps:.3g}"
    if max(colocated.knee_rps, pd.knee_rps) / min(colocated.knee_rps, pd.knee_rps) < CLOSE:
        return Ruling("too_close", by, None, f"Too close to call: they sustain {words}.")
    winner: Winner = "pd" if pd.knee_rps > colocated.knee_rps else "colocated"
    name = f"PD {pd.layout}" if winner == "pd" else f"Colocated {colocated.layout}"
    return Ruling(winner, by, None, f"{name} wins: at the service levels, {words}.")


def _margin(played: Sequence[Played], slo: Slo) -> tuple[Interval | None, str]:
    sides: list[tuple[int, Statistic]] = []
    for name in ("pd", "colocated"):
        loads = [one for one in played if one.arm == name]
        rows = rows_of(loads, slo)
        span_s = sum(b - a for a, b in (summary(one.result).window_s for one in loads))
        statistic: Statistic = (
            partial(goodput_of, rows, span_s) if slo.is_given else partial(mean_e2e, rows)
        )
        sides.append((len(rows), statistic))
    return difference(
        sides[0], sides[1]
    ), "goodput" if slo.is_given else "mean time to the last token"


def _meets(arm: ArmResult, slo: Slo) -> bool:
    return arm.attainment is not None and arm.attainment.value >= slo.attainment


def _is_zero(margin: Interval | None) -> bool:
    return margin is None or margin.low <= 0 <= margin.high


def _span(margin: Interval | None, by: str) -> str:
    if margin is None:
        return "unknown"
    unit = "req/s" if by == "goodput" else "s"
    return f"{margin.value:+.2f} {unit} ({margin.low:+.2f} to {margin.high:+.2f})"


def _won(winner: Winner, colocated: ArmResult, pd: ArmResult, by: str, margin: Interval) -> str:
    name, layout = ("PD", pd.layout) if winner == "pd" else ("Colocated", colocated.layout)
    by_much, low, high = abs(margin.value), *sorted((abs(margin.low), abs(margin.high)))
    if by == "goodput":
        return f"{name} {layout} wins by {by_much:.2f} req/s of goodput ({low:.2f} to {high:.2f})."
    return f"{name} {layout} wins: {by} is {by_much:.2f} s less ({low:.2f} to {high:.2f})."


def _neither(arms: Iterable[ArmResult], slo: Slo) -> str:
    parts = [
        f"{arm.layout} {arm.attainment.value * 100:.0f} %"
        for arm in arms
        if arm.attainment is not None
    ]
    wanted = f"{slo.attainment * 100:.0f} %"
    return f"Neither arm meets the service levels for {wanted} of requests: {', '.join(parts)}."


def _of_one(arms: Sequence[ArmResult], slo: Slo) -> str:
    alive = [arm for arm in arms if arm.num_requests]
    if not alive:
        return "Nothing was measured."
    arm = alive[0]
    if arm.attainment is None:
        return f"Only {arm.layout} was measured."
    word = "meets" if _meets(arm, slo) else "misses"
    return (
        f"Only {arm.layout} was measured; it {word} the service levels "
        f"({arm.attainment.value * 100:.0f} % of requests)."
    )
