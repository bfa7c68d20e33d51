"""Summaries of a simulated or measured run: percentiles, attainment, goodput."""

from collections.abc import Iterable

from pdctl.perf_model.records import Outcome, Percentiles
from pdctl.workload.records import Slo


def percentiles(values: Iterable[float | None]) -> Percentiles | None:
    """Mean, p50, p90 and p99 of the values that are known; None if none is.

    Source: linear interpolation between order statistics, as numpy's default.
    """
    known = sorted(value for value in values if value is not None)
    if not known:
        return None
    return Percentiles(
        sum(known) / len(known), *(_interpolated(known, q) for q in (0.5, 0.9, 0.99))
    )


def quantile(values: Iterable[float | None], share: float) -> float | None:
    """The value that `share` of the known values do not exceed; None if none is known."""
    known = sorted(value for value in values if value is not None)
    return _interpolated(known, share) if known else None


def is_good(ttft_s: float | None, tpot_s: float | None, slo: Slo) -> bool:
    """True if one request met every service level given; a rejected one (no TTFT) did not.

    tpot_s: None or 0 for an answer of one token, which meets any TPOT.
    """
    if ttft_s is None:
        return False
    if slo.ttft_s is not None and ttft_s > slo.ttft_s:
        return False
    return slo.tpot_s is None or tpot_s is None or tpot_s <= slo.tpot_s


def num_good(outcome: Outcome, slo: Slo) -> int:
    """The number of requests that met every service level."""
    pairs = zip(outcome.ttft_s, outcome.tpot_s, strict=True)
    return sum(is_good(ttft_s, tpot_s, slo) for ttft_s, tpot_s in pairs)


def attainment(outcome: Outcome, slo: Slo) -> float:
    """The share of all requests, rejected ones included, that met every service level."""
    return num_good(outcome, slo) / len(outcome.ttft_s) if outcome.ttft_s else 0.0


def goodput_rps(outcome: Outcome, slo: Slo) -> float:
    """Good requests per second over the run, from first arrival to last token."""
    return num_good(outcome, slo) / outcome.span_s if outcome.span_s > 0 else 0.0


def _interpolated(ordered: list[float], q: float) -> float:
    at = q * (len(ordered) - 1)
    low = int(at)
    if low + 1 >= len(ordered):
        return ordered[-1]
    return ordered[low] + (ordered[low + 1] - ordered[low]) * (at - low)
