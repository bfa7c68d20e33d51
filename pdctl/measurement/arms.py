"""What two arms did with the same requests. Pure."""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from pdctl.measurement.compare import Compared
from pdctl.measurement.results import Forecast, LoadResult, Sent, summary, window
from pdctl.perf_model.metrics import is_good, percentiles
from pdctl.perf_model.records import Outcome
from pdctl.workload.records import Slo

RESAMPLES = 400
LEVEL = 0.95

Statistic = Callable[[Sequence[int]], float | None]


@dataclass(frozen=True)
class Interval:
    """A figure and where it lies with 95 % confidence."""

    value: float
    low: float
    high: float

    def __sub__(self, other: "Interval") -> float:
        return self.value - other.value


def interval(num: int, statistic: Statistic, *, seed: int = 0) -> Interval | None:
    """The interval of a statistic over `num` observations in time order.

    statistic: of a list of indices, repeats allowed. None: it has no value.
    Source: circular block bootstrap (Politis and Romano, 1992): requests that follow one another
    share queues, so blocks of sqrt(num) are drawn, not single ones.
    """
    value = statistic(range(num)) if num else None
    if value is None:
        return None
    drawn = [v for v in resampled(num, statistic, seed=seed) if v is not None]
    if not drawn:
        return Interval(value, value, value)
    drawn.sort()
    return Interval(value, _quantile(drawn, (1 - LEVEL) / 2), _quantile(drawn, (1 + LEVEL) / 2))


def difference(
    first: tuple[int, Statistic], second: tuple[int, Statistic], *, seed: int = 0
) -> Interval | None:
    """The interval of first − second, two statistics of independent observations."""
    values = [statistic(range(num)) if num else None for num, statistic in (first, second)]
    if values[0] is None or values[1] is None:
        return None
    pairs = zip(resampled(*first, seed=seed), resampled(*second, seed=seed + 1), strict=True)
    drawn = sorted(a - b for a, b in pairs if a is not None and b is not None)
    value = values[0] - values[1]
    if not drawn:
        return Interval(value, value, value)
    return Interval(value, _quantile(drawn, (1 - LEVEL) / 2), _quantile(drawn, (1 + LEVEL) / 2))


def resampled(num: int, statistic: Statistic, *, seed: int = 0) -> list[float | None]:
    """The statistic of RESAMPLES resamplings of `num` observations."""
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


WIDER = 1.6
MAX_LOADS = 6
CLOSE = 1.12  # a bracket this narrow is a knee


def next_rate(tried: Sequence[tuple[float, bool]], start_rps: float) -> float | None:
    """The rate to measure next, from (rate, whether it held) so far; None: the knee is found.

    First widens from `start_rps` until one holds and one does not, then halves geometrically.
    """
    if not tried:
        return start_rps
    held = [rate for rate, holds in tried if holds]
    broke = [rate for rate, holds in tried if not holds and rate > max(held, default=0.0)]
    if len(tried) >= MAX_LOADS or (held and broke and min(broke) / max(held) <= CLOSE):
        return None
    if not held:
        return min(broke) / WIDER**2
    if not broke:
        return max(held) * WIDER
    return float((max(held) * min(broke)) ** 0.5)


def measured_capacity_rps(tried: Sequence[tuple[float, bool]]) -> float | None:
    """The highest rate that held; None: none did."""
    return max((rate for rate, holds in tried if holds), default=None)


ArmName = Literal["colocated", "pd", "target"]
QUANTILES = ("p50", "p90", "p99")


@dataclass(frozen=True)
class Played:
    """One load on one arm. predicted: of the same requests at the same times, None: not known.

    forecast: what was said of it before it began, None: nothing. drift: sentences on how the
    engines' own counters differ from the profile.
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
    """A distribution over requests: seconds by quantile, each with its interval."""

    p50: Interval
    p90: Interval
    p99: Interval


@dataclass(frozen=True)
class ArmResult:
    """One arm over all its loads. problem: why it has none, or not all."""

    name: ArmName
    layout: str
    num_gpus: int
    num_requests: int
    num_failed: int
    num_truncated: int
    ttft_s: Quantity | None
    tpot_s: Quantity | None
    e2e_s: Quantity | None
    attainment: Interval | None
    goodput_rps: Interval | None
    output_tokens_per_s: float
    figures: tuple[Compared, ...]
    knee_rps: float | None = None
    errors: tuple[str, ...] = ()
    drift: tuple[str, ...] = ()
    lateness_p99_s: float | None = None
    is_generator_late: bool = False
    problem: str = ""


@dataclass(frozen=True)
class Row:
    """One request inside its load's window, as far as figures need it."""

    ttft_s: float | None
    tpot_s: float | None
    e2e_s: float | None
    good: bool


def arm_result(
    name: ArmName,
    layout: str,
    num_gpus: int,
    played: Sequence[Played],
    slo: Slo,
    *,
    knee_rps: float | None = None,
    problem: str = "",
) -> ArmResult:
    """The figures of one arm, its loads taken together."""
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
        attainment=interval(len(rows), partial(_share_good, rows)) if given else None,
        goodput_rps=_goodput(rows, span_s) if given else None,
        output_tokens_per_s=_mean([s.output_tokens_per_s for s in summaries]),
        figures=_figures(played, rows, slo, span_s),
        knee_rps=knee_rps,
        errors=tuple(dict.fromkeys(e for s in summaries for e in s.errors)),
        drift=tuple(dict.fromkeys(line for one in played for line in one.drift)),
        lateness_p99_s=max(late, default=None),
        is_generator_late=any(s.is_generator_late for s in summaries),
        problem=problem,
    )


def rows_of(played: Sequence[Played], slo: Slo) -> list[Row]:
    """The requests inside the windows of some loads, in order."""
    return [_row(one, slo) for load in played for one in inside(load.result)]


def inside(result: LoadResult) -> list[Sent]:
    """The requests between warm-up and cool-down."""
    start_s, end_s = window([one.intended_s for one in result.sent])
    return [one for one in result.sent if start_s <= one.intended_s <= end_s]


def _row(one: Sent, slo: Slo) -> Row:
    if one.error is not None:
        return Row(None, None, None, good=False)
    good = one.is_whole and is_good(one.ttft_s, one.tpot_s, slo)
    return Row(one.ttft_s, one.tpot_s, one.e2e_s, good)


def _quantity(rows: Sequence[Row], name: str) -> Quantity | None:
    found = [interval(len(rows), partial(_percentile, rows, name, q)) for q in QUANTILES]
    if any(one is None for one in found):
        return None
    return Quantity(*(one for one in found if one is not None))


def _percentile(rows: Sequence[Row], name: str, q: str, indices: Sequence[int]) -> float | None:
    found = percentiles(getattr(rows[i], name) for i in indices)
    return None if found is None else float(getattr(found, q))


def _share_good(rows: Sequence[Row], indices: Sequence[int]) -> float | None:
    return sum(rows[i].good for i in indices) / len(indices) if indices else None


def goodput_of(rows: Sequence[Row], span_s: float, indices: Sequence[int]) -> float | None:
    return sum(rows[i].good for i in indices) / span_s if span_s > 0 else None


def _goodput(rows: Sequence[Row], span_s: float) -> Interval | None:
    return interval(len(rows), partial(goodput_of, rows, span_s))


def mean_e2e(rows: Sequence[Row], indices: Sequence[int]) -> float | None:
    known = [e for i in indices if (e := rows[i].e2e_s) is not None]
    return sum(known) / len(known) if known else None


def _figures(
    played: Sequence[Played], rows: Sequence[Row], slo: Slo, span_s: float
) -> tuple[Compared, ...]:
    """Prediction beside measurement, over all loads."""
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


def _places_inside(one: Played) -> list[int]:
    chosen = {id(sent) for sent in inside(one.result)}
    return [n for n, sent in enumerate(one.result.sent) if id(sent) in chosen]


def _predicted(one: Played, name: str) -> list[float | None]:
    assert one.predicted is not None
    column = getattr(one.predicted, name)
    return [column[n] for n in _places_inside(one)]


def _num_predicted_good(one: Played, slo: Slo) -> int:
    pairs = zip(_predicted(one, "ttft_s"), _predicted(one, "tpot_s"), strict=True)
    return sum(is_good(ttft_s, tpot_s, slo) for ttft_s, tpot_s in pairs)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


Winner = Literal["colocated", "pd", "too_close", "neither", "unsure", "one_arm"]


@dataclass(frozen=True)
class ArmComparison:
    """Which arm wins. by: the figure it rests on; margin: PD less colocated."""

    winner: Winner
    by: str
    margin: Interval | None
    text: str


def rule(arms: Sequence[ArmResult], played: Sequence[Played], slo: Slo) -> ArmComparison:
    """Which arm wins on what was measured?

    With service levels: the one with more goodput. Without: the one whose requests end sooner.
    Only where 95 % of resamplings agree on the sign.
    """
    whole = {arm.name: arm for arm in arms if arm.num_requests}
    if "colocated" not in whole or "pd" not in whole:
        return ArmComparison("one_arm", "", None, _of_one(arms, slo))
    if any(arm.is_generator_late for arm in whole.values()):
        text = "The load generator was the bottleneck: its requests went out late. No verdict."
        return ArmComparison("unsure", "", None, text)
    margin, by = _margin(played, slo)
    if slo.is_given and not any(_meets(arm, slo) for arm in whole.values()):
        return ArmComparison("neither", by, margin, _neither(whole.values(), slo))
    if (sustained := _by_knee(whole["colocated"], whole["pd"])) is not None:
        return sustained
    if slo.is_given and all(_meets(arm, slo) for arm in whole.values()) and _is_zero(margin):
        text = "Both arms meet the service levels here; --find-knee tells which sustains more."
        return ArmComparison("too_close", by, margin, text)
    if margin is None or _is_zero(margin):
        text = f"Too close to call: PD's {by}, less colocated's, is {_span(margin, by)}."
        return ArmComparison("too_close", by, margin, text)
    pd_is_better = (margin.value > 0) == (by == "goodput")
    winner: Winner = "pd" if pd_is_better else "colocated"
    return ArmComparison(
        winner, by, margin, _won(winner, whole["colocated"], whole["pd"], by, margin)
    )


def _by_knee(colocated: ArmResult, pd: ArmResult) -> ArmComparison | None:
    """Where the rates that both sustain were searched: the arm with clearly the higher one."""
    if not colocated.knee_rps or not pd.knee_rps:
        return None
    by, words = "sustained rate", f"{pd.knee_rps:.3g} req/s of PD against {colocated.knee_rps:.3g}"
    if max(colocated.knee_rps, pd.knee_rps) / min(colocated.knee_rps, pd.knee_rps) < CLOSE:
        return ArmComparison("too_close", by, None, f"Too close to call: they sustain {words}.")
    winner: Winner = "pd" if pd.knee_rps > colocated.knee_rps else "colocated"
    name = f"PD {pd.layout}" if winner == "pd" else f"Colocated {colocated.layout}"
    return ArmComparison(winner, by, None, f"{name} wins: at the service levels, {words}.")


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
