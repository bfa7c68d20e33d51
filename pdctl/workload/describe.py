"""What a workload is in the mean: lengths, burstiness, prefix reuse. Pure."""

import math
from collections import Counter
from collections.abc import Sequence

from pdctl.errors import InvalidInput
from pdctl.units import parse_duration_s, positive
from pdctl.workload.arrivals import at_rate, mean_rate_rps
from pdctl.workload.records import Burstiness, Lengths, Requests, Slo, Trace, Workload


def parse_slo(ttft: str | None, tpot: str | None, attainment: float = 0.9) -> Slo:
    """The SLO of `--ttft 1s --tpot 30ms --attainment 0.9`.

    A bare number counts in seconds for TTFT and in milliseconds for TPOT.
    Raises InvalidInput naming the flag of a value that is not positive and finite, or of an
    attainment that is not above 0 and at most 1.
    """
    if not 0 < attainment <= 1:
        raise InvalidInput(
            f"--attainment is a share above 0 and at most 1, not {attainment:g}.",
            hint="--attainment 0.9",
        )
    return Slo(
        ttft_s=None if ttft is None else parse_duration_s(ttft, flag="--ttft"),
        tpot_s=None if tpot is None else parse_duration_s(tpot, flag="--tpot", bare_unit="ms"),
        attainment=attainment,
    )


SHORT_TOKENS = 1024  # "under 1K"
LONG_TOKENS = 4096  # "from 4K"
_BIN_S = 60.0
_LEAST_BINS = 5  # fewer minutes say nothing about how uneven the arrivals are


def workload_from_trace(trace: Trace, origin: str, *, rate_rps: float | None = None) -> Workload:
    """What a trace asks for; `rate_rps` replaces its own rate, keeping its pattern.

    A file of lengths only has a rate only if one is given, and then Poisson arrivals.
    Raises InvalidInput when `rate_rps` is not positive and finite.
    """
    requests = trace.requests
    if rate_rps is not None:
        requests = at_rate(requests, positive(rate_rps, flag="--rate"))
    known = trace.has_arrivals or rate_rps is not None
    return Workload(
        isl=describe_lengths(requests.isl),
        osl=describe_lengths(requests.osl),
        rate_rps=mean_rate_rps(requests) if known else None,
        concurrency=None,
        prefix_hit=prefix_reuse(requests),
        burstiness=burstiness(requests.arrival_s) if trace.has_arrivals else None,
        requests=requests,
        origin=origin,
        columns=trace.columns,
        skipped_lines=trace.skipped_lines,
        has_arrivals=trace.has_arrivals,
    )


def workload_from_lengths(
    *,
    isl: float | None,
    osl: float | None,
    rate_rps: float | None = None,
    concurrency: float | None = None,
    prefix_hit: float | None = None,
) -> Workload:
    """What `--isl --osl --rate --concurrency --prefix-hit` ask for: constant lengths.

    Args: lengths in tokens, prefix_hit as a share 0..1. None is unknown.
    Raises InvalidInput naming the flag of a value that is negative, zero (except prefix_hit),
    infinite or not a number.
    """
    given = ((rate_rps, "--rate"), (concurrency, "--concurrency"))
    for value, flag in given:
        if value is not None:
            positive(value, flag=flag)
    if prefix_hit is not None and not 0 <= prefix_hit <= 1:
        raise InvalidInput(
            f"--prefix-hit is a share from 0 to 1, not {prefix_hit:g}.", hint="--prefix-hit 0.4"
        )
    return Workload(
        isl=None if isl is None else _constant(isl, "--isl"),
        osl=None if osl is None else _constant(osl, "--osl"),
        rate_rps=rate_rps,
        concurrency=concurrency,
        prefix_hit=prefix_hit,
        burstiness=None,
        requests=None,
        origin="flags",
    )


def _constant(tokens: float, flag: str) -> Lengths:
    positive(tokens, flag=flag)
    if tokens < 1:
        raise InvalidInput(f"{flag} must be at least 1 token, not {tokens:g}.", hint=f"{flag} 1000")
    return Lengths(
        mean=tokens,
        p50=tokens,
        p90=tokens,
        p99=tokens,
        cv=0.0,
        share_under_1k=float(tokens < SHORT_TOKENS),
        share_from_4k=float(tokens >= LONG_TOKENS),
    )


def describe_lengths(tokens: Sequence[int]) -> Lengths:
    """The distribution of lengths in tokens; percentiles interpolate between neighbours.

    Raises ValueError when there are none.
    """
    if not tokens:
        raise ValueError("no lengths to describe")
    ordered = sorted(tokens)
    mean = sum(ordered) / len(ordered)
    variance = sum((value - mean) ** 2 for value in ordered) / len(ordered)
    return Lengths(
        mean=mean,
        p50=_quantile(ordered, 0.50),
        p90=_quantile(ordered, 0.90),
        p99=_quantile(ordered, 0.99),
        cv=math.sqrt(variance) / mean if mean else 0.0,
        share_under_1k=sum(value < SHORT_TOKENS for value in ordered) / len(ordered),
        share_from_4k=sum(value >= LONG_TOKENS for value in ordered) / len(ordered),
    )


def _quantile(ordered: Sequence[int], share: float) -> float:
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def burstiness(arrival_s: Sequence[float]) -> Burstiness | None:
    """How uneven sorted arrivals are, from counts per full minute; None below five minutes.

    Source: variance over mean of counts is the index of dispersion (Cox and Lewis, 1966).
    Ignores: the last minute, unless full; patterns slower than the trace is long.
    """
    bins = int((arrival_s[-1] - arrival_s[0]) // _BIN_S) if arrival_s else 0
    if bins < _LEAST_BINS:
        return None
    # minutes without arrivals are not stored: one mistaken time can make billions of them
    minutes = (int((time - arrival_s[0]) // _BIN_S) for time in arrival_s)
    counts = Counter(minute for minute in minutes if minute < bins)
    mean = sum(counts.values()) / bins
    squares = sum((count - mean) ** 2 for count in counts.values())
    variance = (squares + (bins - len(counts)) * mean**2) / bins
    return Burstiness(dispersion=variance / mean, peak_over_mean=max(counts.values()) / mean)


def prefix_reuse(requests: Requests) -> float | None:
    """The share of prompt tokens whose blocks an earlier prompt began with; None: unknown.

    Source: Mooncake (FAST'25) counts reuse the same way, with blocks of 512 tokens.
    Ignores: eviction (the cache is unlimited), time (a prompt is cached when it arrives), and
    that an engine computes a prompt's last token anyway.
    """
    if requests.blocks is None:
        return None
    seen: set[int] = set()
    hit_tokens = 0
    for ids, tokens in zip(requests.blocks, requests.isl, strict=True):
        if seen.issuperset(ids):
            known = len(ids)
        else:
            known = next(i for i, block in enumerate(ids) if block not in seen)
        hit_tokens += min(known * requests.block_tokens, tokens)
        seen.update(ids)
    total = sum(requests.isl)
    return hit_tokens / total if total else None
