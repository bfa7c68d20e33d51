"""What two arms did with the same requests. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from pdctl.measurement.bootstrap import Interval, interval
from pdctl.measurement.compare import Compared
from pdctl.measurement.records import Forecast, LoadResult, Sent
from pdctl.measurement.summary import summary
from pdctl.measurement.window import window
from pdctl.perf_model.metrics import is_good, percentiles
from pdctl.perf_model.records import Outcome
from pdctl.workload.records import Slo

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
