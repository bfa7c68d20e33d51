"""Rates and percentiles from an engine's counters between two scrapes. Pure."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from itertools import pairwise

from pdctl.status.records import CounterSample, EngineSample, Histogram


def is_reset(earlier: CounterSample, later: CounterSample) -> bool:
    """True if a counter fell in between: the engine was restarted."""
    for one in fields(CounterSample):
        before, after = getattr(earlier, one.name), getattr(later, one.name)
        if isinstance(before, tuple) and isinstance(after, tuple):
            before, after = before[-1][1], after[-1][1]
        if before is not None and after is not None and after < before:
            return True
    return False


def histogram_delta(earlier: Histogram | None, later: Histogram | None) -> Histogram | None:
    """The observations in between; None if unknown, after a restart or with other buckets."""
    if later is None or earlier is None:
        return None
    if [bound for bound, _ in earlier] != [bound for bound, _ in later]:
        return None
    pairs = zip(earlier, later, strict=True)
    delta = tuple((bound, after - before) for (_, before), (bound, after) in pairs)
    return None if any(count < 0 for _, count in delta) else delta


def merge_histograms(histograms: Iterable[Histogram | None]) -> Histogram | None:
    """The sum of histograms with equal buckets; skips those that differ from the first."""
    merged: dict[float, float] = {}
    for histogram in histograms:
        if histogram and (not merged or {bound for bound, _ in histogram} == merged.keys()):
            for bound, count in histogram:
                merged[bound] = merged.get(bound, 0.0) + count
    return tuple(sorted(merged.items())) if merged else None


def bucket_quantile(histogram: Histogram | None, share: float) -> float | None:
    """The value below which `share` of the observations lie; None without any.

    Source: linear inside a bucket, as Prometheus' histogram_quantile; in the last, open bucket
    its lower bound. In the first bucket its upper bound: nothing is known of the values below it.
    """
    total = histogram[-1][1] if histogram else 0.0
    if histogram is None or total <= 0:
        return None
    wanted, low, below = share * total, 0.0, 0.0
    for bound, count in histogram:
        if count >= wanted:
            if math.isinf(bound) or count == below:
                return low
            if (bound, count) == histogram[0]:
                return bound
            return low + (bound - low) * (wanted - below) / (count - below)
        low, below = bound, count
    return low


def num_above(histogram: Histogram | None, limit: float) -> float:
    """The number of observations above a limit; 0 without any.

    Source: linear inside a bucket, as Prometheus' histogram_quantile; a limit in the last, open
    bucket leaves that bucket below it.
    """
    low, below, total = 0.0, 0.0, histogram[-1][1] if histogram else 0.0
    for bound, count in histogram or ():
        if limit <= bound:
            inside = 0.0 if math.isinf(bound) else (limit - low) / (bound - low)
            under = count if math.isinf(bound) else below + (count - below) * inside
            return total - under
        low, below = bound, count
    return 0.0


def first_bound(histogram: Histogram | None) -> float | None:
    """Upper bound of the first bucket: a quantile equal to it lies somewhere below."""
    return histogram[0][0] if histogram else None


def with_rates(
    sample: EngineSample, earlier: CounterSample, later: CounterSample, elapsed_s: float
) -> EngineSample:
    """`sample` with the rates and percentiles between two scrapes `elapsed_s` apart.

    Token rates count computed prompt tokens for a prefill engine and output tokens for others. ITL
    comes from the engine's histogram, else from the mean of its decode steps. A restart in between
    leaves `sample` as it is.
    """
    if elapsed_s <= 0 or is_reset(earlier, later):
        return sample
    ttft = histogram_delta(earlier.ttft, later.ttft)
    itl = histogram_delta(earlier.itl, later.itl)
    return replace(
        sample,
        tokens_per_s=_tokens_per_s(sample, earlier, later, elapsed_s),
        busy_share=_busy_share(earlier, later, elapsed_s),
        ttft_p50_s=bucket_quantile(ttft, 0.5),
        ttft_p99_s=bucket_quantile(ttft, 0.99),
        ttft_bound_s=first_bound(ttft),
        itl_p50_s=bucket_quantile(itl, 0.5) or mean_itl_s(earlier, later),
        itl_p99_s=bucket_quantile(itl, 0.99),
        itl_bound_s=first_bound(itl),
        prefill_s_per_token=_prefill_s_per_token(earlier, later),
    )


def without_old_speed(sample: EngineSample) -> EngineSample:
    """`sample` without the speed of its last KV transfer, which SGLang keeps, if none runs."""
    sends = sample.tokens_per_s != 0 or sample.inflight
    return sample if sends else replace(sample, transfer_gb_per_s=None)


def delta(earlier: float | None, later: float | None) -> float | None:
    """The rise of a counter; None if it is unknown or was reset."""
    if earlier is None or later is None or later < earlier:
        return None
    return later - earlier


def rises(totals: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The rise of a counter and the seconds it took, between each two readings (time, total).

    A counter that fell has started over: the time around that is left out.
    """
    return [
        (after - before, after_s - before_s)
        for (before_s, before), (after_s, after) in pairwise(totals)
        if after >= before
    ]


def per_second(found: Sequence[tuple[float, float]]) -> float | None:
    """The mean rate of such rises; None if they took no time."""
    elapsed_s = sum(seconds for _, seconds in found)
    return sum(num for num, _ in found) / elapsed_s if elapsed_s > 0 else None


def mean_itl_s(earlier: CounterSample, later: CounterSample) -> float | None:
    """Mean time between two output tokens of a request, from sums over decode steps.

    A step with b requests takes t seconds and yields g tokens, so the mean is Σ b·t / Σ g.
    """
    waited = delta(earlier.decode_bt, later.decode_bt)
    tokens = delta(earlier.decode_g, later.decode_g)
    return waited / tokens if waited is not None and tokens else None


def _tokens_per_s(
    sample: EngineSample, earlier: CounterSample, later: CounterSample, elapsed_s: float
) -> float | None:
    if sample.role == "prefill":
        tokens = delta(earlier.prefill_tokens, later.prefill_tokens)
        return None if tokens is None else tokens / elapsed_s
    tokens = delta(earlier.decode_g, later.decode_g)
    return sample.tokens_per_s if tokens is None else tokens / elapsed_s


def _busy_share(earlier: CounterSample, later: CounterSample, elapsed_s: float) -> float | None:
    busy = delta(earlier.prefill_busy_s, later.prefill_busy_s)
    return None if busy is None else min(1.0, busy / elapsed_s)


def _prefill_s_per_token(earlier: CounterSample, later: CounterSample) -> float | None:
    busy = delta(earlier.prefill_busy_s, later.prefill_busy_s)
    tokens = delta(earlier.prefill_tokens, later.prefill_tokens)
    return busy / tokens if busy and tokens else None
