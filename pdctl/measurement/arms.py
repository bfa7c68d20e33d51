"""Compare two arms that received the same requests. Pure."""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, TypeVar

from pdctl.measurement.compare import Compared
from pdctl.measurement.results import Forecast, LoadResult, Sent, summary, window
from pdctl.perf_model.metrics import is_good, percentiles
from pdctl.perf_model.records import Outcome
from pdctl.workload.records import Slo

RESAMPLES = 400
LEVEL = 0.95
WIDEN_BY = 1.6
MAX_LOADS = 6
CLOSE_RATES = 1.12  # rates closer than this ratio count as equal
QUANTILES = ("p50", "p90", "p99")

Drawn = TypeVar("Drawn")
Statistic = Callable[[Sequence[int]], float | None]
ArmName = Literal["colocated", "pd", "target"]
Winner = Literal["colocated", "pd", "too_close", "neither", "unsure", "one_arm"]


@dataclass(frozen=True)
class ConfidenceInterval:
    """A figure with its 95 % confidence interval."""

    value: float
    low: float
    high: float

    def __sub__(self, other: "ConfidenceInterval") -> float:
        return self.value - other.value


def confidence_interval(
    num: int, statistic: Statistic, *, seed: int = 0
) -> ConfidenceInterval | None:
    """Confidence interval of a statistic over `num` observations in time order.

    statistic: a function of a list of indices, which may repeat. None: it has no value.
    Source: circular block bootstrap (Politis and Romano, 1992). Successive requests share queues,
    so it draws blocks of sqrt(num) requests, not single ones.
    """
    value = statistic(range(num)) if num else None
    if value is None:
        return None
    return _interval(value, (v for v in resampled(num, statistic, seed=seed) if v is not None))


def difference(
    first: tuple[int, Statistic], second: tuple[int, Statistic], *, seed: int = 0
) -> ConfidenceInterval | None:
    """Confidence interval of first − second, for two statistics of independent observations."""
    values = [statistic(range(num)) if num else None for num, statistic in (first, second)]
    if values[0] is None or values[1] is None:
        return None
    pairs = zip(resampled(*first, seed=seed), resampled(*second, seed=seed + 1), strict=True)
    drawn = (a - b for a, b in pairs if a is not None and b is not None)
    return _interval(values[0] - values[1], drawn)


def _interval(value: float, drawn: Iterable[float]) -> ConfidenceInterval:
    """The interval around `value` that holds 95 % of what was drawn."""
    ordered = sorted(drawn)
    if not ordered:
        return ConfidenceInterval(value, value, value)
    return ConfidenceInterval(
        value, _quantile(ordered, (1 - LEVEL) / 2), _quantile(ordered, (1 + LEVEL) / 2)
    )


def resampled(
    num: int, statistic: Callable[[Sequence[int]], Drawn], *, seed: int = 0
) -> list[Drawn]:
    """The statistic of each of RESAMPLES resamplings of `num` observations."""
    dice = random.Random(seed)
    length = max(1, round(num**0.5))
    blocks = -(-num // length)
    found = []
    for _ in range(RESAMPLES):
        starts = [dice.randrange(num) for _ in range(blocks)]
        indices = [(start + k) % num for start in starts for k in range(length)]
        found.append(statistic(indices[:num]))
    return found


def _quantile(ordered: Sequence[float], share: float) -> float:
    at = share * (len(ordered) - 1)
    low = int(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


def next_rate(tried: Sequence[tuple[float, bool]], start_rps: float) -> float | None:
    """The next rate to measure, given (rate, whether it held) so far. None: the search is over.

    Widens from `start_rps` until one rate holds and one does not, then bisects geometrically.
    """
    if not tried:
        return start_rps
    held = [rate for rate, holds in tried if holds]
    broke = [rate for rate, holds in tried if not holds and rate > max(held, default=0.0)]
    if len(tried) >= MAX_LOADS or (held and broke and min(broke) / max(held) <= CLOSE_RATES):
        return None
    if not held:
        return min(broke) / WIDEN_BY**2
    if not broke:
        return max(held) * WIDEN_BY
    return float((max(held) * min(broke)) ** 0.5)


def measured_capacity_rps(tried: Sequence[tuple[float, bool]]) -> float | None:
    """The highest rate that held. None if none did."""
    return max((rate for rate, holds in tried if holds), default=None)


@dataclass(frozen=True)
class ArmLoad:
    """One load on one arm. None: unknown.

    predicted: a simulation of the same requests at the same times. forecast: the prediction made
    before the load began. drift: sentences about engines whose counters differ from the profile.
    """

    arm: ArmName
    repeat: int
    rate_rps: float | None
    result: LoadResult
    predicted: Outcome | None = None
    forecast: Forecast | None = None
    drift: tuple[str, ...] = ()


@dataclass(frozen=True)
class Quantity:
    """A distribution over requests: quantiles in seconds, each with its confidence interval."""

    p50: ConfidenceInterval
    p90: ConfidenceInterval
    p99: ConfidenceInterval


@dataclass(frozen=True)
class ArmResult:
    """One arm over all its loads. problem: the reason why loads are missing."""

    name: ArmName
    layout: str
    num_gpus: int
    num_requests: int
    num_failed: int
    num_truncated: int
    ttft_s: Quantity | None
    tpot_s: Quantity | None
    e2e_s: Quantity | None
    attainment: ConfidenceInterval | None
    goodput_rps: ConfidenceInterval | None
    output_tokens_per_s: float
    figures: tuple[Compared, ...]
    capacity_rps: float | None = None
    errors: tuple[str, ...] = ()
    drift: tuple[str, ...] = ()
    lateness_p99_s: float | None = None
    is_generator_late: bool = False
    problem: str = ""


@dataclass(frozen=True)
class RequestFigures:
    """Latencies of one request inside its load's window."""

    ttft_s: float | None
    tpot_s: float | None
    e2e_s: float | None
    good: bool


def arm_result(
    name: ArmName,
    layout: str,
    num_gpus: int,
    played: Sequence[ArmLoad],
    slo: Slo,
    *,
    capacity_rps: float | None = None,
    problem: str = "",
) -> ArmResult:
    """Figures of one arm over all its loads."""
    rows = rows_of(played, slo)
    summaries = [summary(one.result, slo) for one in played]
    span_s = sum(s.window_s[1] - s.window_s[0] for s in summaries)
    late = [s.lateness_s.p99 for s in summaries if s.lateness_s]
    given = slo.is_given and bool(rows)
    return ArmResult(
        name=name,
        layout=layout,
        num_gpus=num_gpus,
        num_requests=len(rows),
        num_failed=sum(s.num_failed for s in summaries),
        num_truncated=sum(s.num_truncated for s in summaries),
        ttft_s=_quantity(rows, "ttft_s"),
        tpot_s=_quantity(rows, "tpot_s"),
        e2e_s=_quantity(rows, "e2e_s"),
        attainment=confidence_interval(len(rows), partial(_share_good, rows)) if given else None,
        goodput_rps=_goodput(rows, span_s) if given else None,
        output_tokens_per_s=_mean([s.output_tokens_per_s for s in summaries]),
        figures=_figures(played, rows, slo, span_s),
        capacity_rps=capacity_rps,
        errors=tuple(dict.fromkeys(e for s in summaries for e in s.errors)),
        drift=tuple(dict.fromkeys(line for one in played for line in one.drift)),
        lateness_p99_s=max(late, default=None),
        is_generator_late=any(s.is_generator_late for s in summaries),
        problem=problem,
    )


def rows_of(played: Sequence[ArmLoad], slo: Slo) -> list[RequestFigures]:
    """The requests inside the windows of these loads, in order."""
    return [_row(one, slo) for load in played for one in inside(load.result)]


def inside(result: LoadResult) -> list[Sent]:
    """The requests between warm-up and cool-down."""
    start_s, end_s = window([one.intended_s for one in result.sent])
    return [one for one in result.sent if start_s <= one.intended_s <= end_s]


def _row(one: Sent, slo: Slo) -> RequestFigures:
    if one.error is not None:
        return RequestFigures(None, None, None, good=False)
    good = one.is_whole and is_good(one.ttft_s, one.tpot_s, slo)
    return RequestFigures(one.ttft_s, one.tpot_s, one.e2e_s, good)


def _quantity(rows: Sequence[RequestFigures], name: str) -> Quantity | None:
    """The intervals of all quantiles, from the same resamplings."""
    values = [getattr(row, name) for row in rows]
    whole = percentiles(values)
    if whole is None:
        return None
    of_drawn = resampled(len(rows), lambda indices: percentiles(values[i] for i in indices))
    drawn = [one for one in of_drawn if one is not None]
    return Quantity(
        *(_interval(getattr(whole, q), (getattr(one, q) for one in drawn)) for q in QUANTILES)
    )


def _share_good(rows: Sequence[RequestFigures], indices: Sequence[int]) -> float | None:
    return sum(rows[i].good for i in indices) / len(indices) if indices else None


def goodput_of(
    rows: Sequence[RequestFigures], span_s: float, indices: Sequence[int]
) -> float | None:
    return sum(rows[i].good for i in indices) / span_s if span_s > 0 else None


def _goodput(rows: Sequence[RequestFigures], span_s: float) -> ConfidenceInterval | None:
    return confidence_interval(len(rows), partial(goodput_of, rows, span_s))


def mean_e2e(rows: Sequence[RequestFigures], indices: Sequence[int]) -> float | None:
    known = [e for i in indices if (e := rows[i].e2e_s) is not None]
    return sum(known) / len(known) if known else None


def _figures(
    played: Sequence[ArmLoad], rows: Sequence[RequestFigures], slo: Slo, span_s: float
) -> tuple[Compared, ...]:
    """Predicted figures beside measured ones, over all loads."""
    known = [one for one in played if one.predicted is not None]
    if not known or len(known) < len(played):
        return ()
    figures = []
    for name in ("ttft", "tpot", "e2e"):
        ours = percentiles(v for one in known for v in _predicted(one, f"{name}_s"))
        seen = percentiles(getattr(row, f"{name}_s") for row in rows)
        for q in QUANTILES:
            predicted = getattr(ours, q) if ours else None
            measured = getattr(seen, q) if seen else None
            figures.append(Compared(f"{name} {q}", "s", predicted, measured))
    if slo.is_given and span_s > 0:
        good = sum(_num_predicted_good(one, slo) for one in known)
        measured = sum(row.good for row in rows) / span_s
        figures.append(Compared("goodput", "requests/s", good / span_s, measured))
    return tuple(figures)


def _places_inside(one: ArmLoad) -> list[int]:
    ids = {id(sent) for sent in inside(one.result)}
    return [n for n, sent in enumerate(one.result.sent) if id(sent) in ids]


def _predicted(one: ArmLoad, name: str) -> list[float | None]:
    assert one.predicted is not None
    column = getattr(one.predicted, name)
    return [column[n] for n in _places_inside(one)]


def _num_predicted_good(one: ArmLoad, slo: Slo) -> int:
    pairs = zip(_predicted(one, "ttft_s"), _predicted(one, "tpot_s"), strict=True)
    return sum(is_good(ttft_s, tpot_s, slo) for ttft_s, tpot_s in pairs)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


@dataclass(frozen=True)
class ArmComparison:
    """The verdict on two arms. by: the figure that decides. margin: PD minus colocated."""

    winner: Winner
    by: str
    margin: ConfidenceInterval | None
    text: str


def compare_arms(arms: Sequence[ArmResult], played: Sequence[ArmLoad], slo: Slo) -> ArmComparison:
    """Decide which arm wins.

    With SLOs, the arm with more goodput wins; without, the arm with the shorter mean time to the
    last token. Declares a winner only if 95 % of resamplings agree on the sign.
    """
    whole = {arm.name: arm for arm in arms if arm.num_requests}
    if "colocated" not in whole or "pd" not in whole:
        return ArmComparison("one_arm", "", None, _of_one(arms, slo))
    if any(arm.is_generator_late for arm in whole.values()):
        text = "No verdict: the load generator was too slow and sent its requests late."
        return ArmComparison("unsure", "", None, text)
    margin, by = _margin(played, slo)
    if slo.is_given and not any(_meets(arm, slo) for arm in whole.values()):
        return ArmComparison("neither", by, margin, _neither(whole.values(), slo))
    if (sustained := _by_capacity(whole["colocated"], whole["pd"])) is not None:
        return sustained
    if slo.is_given and all(_meets(arm, slo) for arm in whole.values()) and _is_zero(margin):
        text = "Both arms meet the SLOs at this rate; --find-knee finds which sustains more."
        return ArmComparison("too_close", by, margin, text)
    if margin is None or _is_zero(margin):
        text = f"Too close to call: PD minus colocated {by} is {_span(margin, by)}."
        return ArmComparison("too_close", by, margin, text)
    pd_is_better = (margin.value > 0) == (by == "goodput")
    winner: Winner = "pd" if pd_is_better else "colocated"
    return ArmComparison(
        winner, by, margin, _won(winner, whole["colocated"], whole["pd"], by, margin)
    )


def _by_capacity(colocated: ArmResult, pd: ArmResult) -> ArmComparison | None:
    """Compare the highest rates that the arms sustain. None unless both were searched for."""
    ours, theirs = colocated.capacity_rps, pd.capacity_rps
    if not ours or not theirs:
        return None
    by = "capacity"
    if max(ours, theirs) / min(ours, theirs) < CLOSE_RATES:
        text = f"Too close to call: PD sustains {theirs:.3g} req/s, colocated {ours:.3g}."
        return ArmComparison("too_close", by, None, text)
    winner: Winner = "pd" if theirs > ours else "colocated"
    name = f"PD {pd.layout}" if winner == "pd" else f"Colocated {colocated.layout}"
    high, low = max(ours, theirs), min(ours, theirs)
    text = f"{name} wins: within the SLOs it sustains {high:.3g} req/s, the other arm {low:.3g}."
    return ArmComparison(winner, by, None, text)


def _margin(played: Sequence[ArmLoad], slo: Slo) -> tuple[ConfidenceInterval | None, str]:
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


def _is_zero(margin: ConfidenceInterval | None) -> bool:
    return margin is None or margin.low <= 0 <= margin.high


def _span(margin: ConfidenceInterval | None, by: str) -> str:
    if margin is None:
        return "unknown"
    unit = "req/s" if by == "goodput" else "s"
    return f"{margin.value:+.2f} {unit} ({margin.low:+.2f} to {margin.high:+.2f})"


def _won(
    winner: Winner, colocated: ArmResult, pd: ArmResult, by: str, margin: ConfidenceInterval
) -> str:
    name, layout = ("PD", pd.layout) if winner == "pd" else ("Colocated", colocated.layout)
    by_much, low, high = abs(margin.value), *sorted((abs(margin.low), abs(margin.high)))
    if by == "goodput":
        return f"{name} {layout} wins by {by_much:.2f} req/s of goodput ({low:.2f} to {high:.2f})."
    return f"{name} {layout} wins: its {by} is {by_much:.2f} s less ({low:.2f} to {high:.2f})."


def _neither(arms: Iterable[ArmResult], slo: Slo) -> str:
    parts = [
        f"{arm.layout} {arm.attainment.value * 100:.0f} %"
        for arm in arms
        if arm.attainment is not None
    ]
    wanted = f"{slo.attainment * 100:.0f} %"
    return f"Neither arm meets the SLOs for {wanted} of requests: {', '.join(parts)}."


def _of_one(arms: Sequence[ArmResult], slo: Slo) -> str:
    alive = [arm for arm in arms if arm.num_requests]
    if not alive:
        return "Nothing was measured."
    arm = alive[0]
    if arm.attainment is None:
        return f"Only {arm.layout} was measured."
    verb = "meets" if _meets(arm, slo) else "misses"
    share = f"{arm.attainment.value * 100:.0f} %"
    return f"Only {arm.layout} was measured; it {verb} the SLOs ({share} of requests meet them)."
