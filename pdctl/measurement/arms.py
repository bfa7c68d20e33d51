"""What two arms did with the same requests, and which one wins. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from pdctl.measurement.bootstrap import Interval, Statistic, difference, interval
from pdctl.measurement.compare import Compared
from pdctl.measurement.records import LoadResult, Sent
from pdctl.measurement.summary import summary
from pdctl.perf_model.metrics import is_good, percentiles
from pdctl.perf_model.records import Outcome
from pdctl.workload.records import Slo

ArmName = Literal["colocated", "pd", "target"]
Winner = Literal["colocated", "pd", "too_close", "neither", "unsure", "one_arm"]
WARM_UP, COOL_DOWN = 0.1, 0.05
QUANTILES = ("p50", "p90", "p99")


@dataclass(frozen=True)
class Played:
    """One load on one arm. predicted: of the same requests at the same times, None: not known.

    drift: sentences on how the engines' own counters differ from the profile.
    """

    arm: ArmName
    repeat: int
    rate_rps: float | None
    result: LoadResult
    predicted: Outcome | None = None
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
class Ruling:
    """Which arm wins. by: the figure it rests on; margin: PD less colocated."""

    winner: Winner
    by: str
    margin: Interval | None
    text: str


@dataclass(frozen=True)
class _Row:
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
    if slo.is_given and all(_meets(arm, slo) for arm in whole.values()) and _is_zero(margin):
        text = "Both arms meet the service levels here; --find-knee tells which sustains more."
        return Ruling("too_close", by, margin, text)
    if margin is None or _is_zero(margin):
        text = f"Too close to call: {by} of PD less colocated is {_span(margin, by)}."
        return Ruling("too_close", by, margin, text)
    pd_is_better = (margin.value > 0) == (by == "goodput")
    winner: Winner = "pd" if pd_is_better else "colocated"
    return Ruling(winner, by, margin, _won(winner, whole["colocated"], whole["pd"], by, margin))


def rows_of(played: Sequence[Played], slo: Slo) -> list[_Row]:
    """The requests inside the windows of some loads, in order."""
    return [_row(one, slo) for load in played for one in inside(load.result)]


def inside(result: LoadResult) -> list[Sent]:
    """The requests between warm-up and cool-down."""
    if not result.sent:
        return []
    first = min(s.intended_s for s in result.sent)
    last = max(s.intended_s for s in result.sent)
    start_s, end_s = first + WARM_UP * (last - first), last - COOL_DOWN * (last - first)
    return [one for one in result.sent if start_s <= one.intended_s <= end_s]


def _row(one: Sent, slo: Slo) -> _Row:
    if one.error is not None:
        return _Row(None, None, None, good=False)
    good = one.is_whole and is_good(one.ttft_s, one.tpot_s, slo)
    return _Row(one.ttft_s, one.tpot_s, one.e2e_s, good)


def _quantity(rows: Sequence[_Row], name: str) -> Quantity | None:
    found = [interval(len(rows), partial(_percentile, rows, name, q)) for q in QUANTILES]
    if any(one is None for one in found):
        return None
    return Quantity(*(one for one in found if one is not None))


def _percentile(rows: Sequence[_Row], name: str, q: str, indices: Sequence[int]) -> float | None:
    found = percentiles(getattr(rows[i], name) for i in indices)
    return None if found is None else float(getattr(found, q))


def _share_good(rows: Sequence[_Row], indices: Sequence[int]) -> float | None:
    return sum(rows[i].good for i in indices) / len(indices) if indices else None


def _goodput_of(rows: Sequence[_Row], span_s: float, indices: Sequence[int]) -> float | None:
    return sum(rows[i].good for i in indices) / span_s if span_s > 0 else None


def _goodput(rows: Sequence[_Row], span_s: float) -> Interval | None:
    return interval(len(rows), partial(_goodput_of, rows, span_s))


def _mean_e2e(rows: Sequence[_Row], indices: Sequence[int]) -> float | None:
    known = [e for i in indices if (e := rows[i].e2e_s) is not None]
    return sum(known) / len(known) if known else None


def _margin(played: Sequence[Played], slo: Slo) -> tuple[Interval | None, str]:
    sides: list[tuple[int, Statistic]] = []
    for name in ("pd", "colocated"):
        loads = [one for one in played if one.arm == name]
        rows = rows_of(loads, slo)
        span_s = sum(b - a for a, b in (summary(one.result).window_s for one in loads))
        statistic: Statistic = (
            partial(_goodput_of, rows, span_s) if slo.is_given else partial(_mean_e2e, rows)
        )
        sides.append((len(rows), statistic))
    return difference(
        sides[0], sides[1]
    ), "goodput" if slo.is_given else "mean time to the last token"


def _figures(
    played: Sequence[Played], rows: Sequence[_Row], slo: Slo, span_s: float
) -> tuple[Compared, ...]:
    """Prediction beside measurement, over all loads."""
    known = [one for one in played if one.predicted is not None]
    if not known or len(known) < len(played):
        return ()
    figures = []
    for name in ("ttft", "tpot", "e2e"):
        ours = percentiles(v for one in known for v in _predicted(one, f"{name}_s"))
        seen = percentiles(getattr(row, f"{name}_s") for row in rows)
        for q in ("p50", "p90"):
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


def _meets(arm: ArmResult, slo: Slo) -> bool:
    return arm.attainment is not None and arm.attainment.value >= slo.attainment


def _is_zero(margin: Interval | None) -> bool:
    return margin is None or margin.low <= 0 <= margin.high


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _span(margin: Interval | None, by: str) -> str:
    if margin is None:
        return "unknown"
    unit = "req/s" if by == "goodput" else "s"
    return f"{margin.value:+.2f} {unit} ({margin.low:+.2f} to {margin.high:+.2f})"


def _won(winner: Winner, colocated: ArmResult, pd: ArmResult, by: str, margin: Interval) -> str:
    name, layout = ("PD", pd.layout) if winner == "pd" else ("Colocated", colocated.layout)
    return f"{name} {layout} wins: {by} of PD less colocated is {_span(margin, by)}."


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
