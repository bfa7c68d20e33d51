"""The mean figures of a workload: lengths, burstiness, prefix reuse. Pure."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from pdctl.errors import InvalidInput
from pdctl.units import format_count, format_span, parse_latency_s, positive
from pdctl.workload.arrivals import at_rate, mean_rate_rps
from pdctl.workload.records import Burstiness, Lengths, Requests, Slo, Trace, TraceFacts, Workload


def parse_slo(ttft: str | None, tpot: str | None, attainment: float = 0.9) -> Slo:
    """The SLO of `--ttft 1s --tpot 30ms --attainment 0.9`; None or "" is not given.

    Raises InvalidInput naming the flag of a value that is not positive and finite, that has no
    unit, or of an attainment that is not above 0 and at most 1.
    """
    if not 0 < attainment <= 1:
        raise InvalidInput(
            f"--attainment is a share above 0 and at most 1, not {attainment:g}.",
            hint="--attainment 0.9",
        )
    return Slo(
        ttft_s=parse_latency_s(ttft, flag="--ttft") if ttft else None,
        tpot_s=parse_latency_s(tpot, flag="--tpot") if tpot else None,
        attainment=attainment,
    )


SHORT_PROMPT_TOKENS = 1000  # "under 1K"
LONG_PROMPT_TOKENS = 4000  # "from 4K"
MOST_SPREAD = 10.0
_NORMAL_P90 = 1.2816
_NORMAL_P99 = 2.3263
_MOST_UNUSED = 6  # names of columns in one line
_BIN_S = 60.0
_LEAST_BINS = 5  # fewer minutes say nothing about how uneven the arrivals are


@dataclass(frozen=True)
class LengthSpread:
    """Standard deviation over mean of prompt and output lengths."""

    isl_cv: float
    osl_cv: float


# How lengths spread whose mean is all that --isl and --osl say.
# Source: conversation_trace.jsonl of Mooncake (FAST'25), 12,031 requests, as docs/traces.md has it.
DEFAULT_SPREAD = LengthSpread(1.31, 0.73)


def workload_from_trace(trace: Trace, origin: str, *, rate_rps: float | None = None) -> Workload:
    """The workload of a trace; `rate_rps` replaces its own rate, keeping its pattern.

    A file of lengths only has a rate only if one is given, and then Poisson arrivals.
    Raises InvalidInput when `rate_rps` is not positive and finite.
    """
    requests = trace.requests
    if rate_rps is not None:
        requests = at_rate(requests, positive(rate_rps, flag="--rate"))
    return Workload(
        isl=describe_lengths(requests.isl),
        osl=describe_lengths(requests.osl),
        rate_rps=rate_rps or (mean_rate_rps(requests) if trace.has_arrivals else None),
        concurrency=None,
        prefix_hit=prefix_reuse(requests),
        burstiness=burstiness(requests.arrival_s) if trace.has_arrivals else None,
        requests=requests,
        origin=origin,
        columns=trace.columns,
        skipped_lines=trace.skipped_lines,
        has_arrivals=trace.has_arrivals,
        trace=facts_of(trace),
    )


def facts_of(trace: Trace) -> TraceFacts:
    """The facts that every output gives about the file of the requests."""
    times = trace.requests.arrival_s
    return TraceFacts(
        num_requests=len(trace.requests),
        span_s=times[-1] - times[0] if trace.has_arrivals else None,
        columns=trace.columns,
        time_unit=trace.time_unit,
        unused_columns=trace.unused_columns,
        num_broken=trace.num_broken,
        num_failed=trace.num_failed,
        num_aborted=trace.num_aborted,
        notes=trace.notes,
        is_unit_given=trace.is_unit_given,
        filled_osl=trace.filled_osl,
    )


def read_line(facts: TraceFacts) -> str:
    """Read 12,031 requests over 59 min 59 s (timestamp in ms, input_length, output_length)."""
    noun = "request" if facts.num_requests == 1 else "requests"
    over = f" over {format_span(facts.span_s)}" if facts.span_s else ""
    if facts.span_s == 0 and facts.num_requests > 1:
        over = ", all at one instant"
    text = f"Read {facts.num_requests:,} {noun}{over} ({', '.join(facts.columns)})"
    left_out = (
        (facts.num_aborted, "aborted"),
        (facts.num_failed, "without output"),
        (facts.num_broken, "broken lines" if facts.num_broken > 1 else "broken line"),
    )
    counted = [f"{count:,} {what}" for count, what in left_out if count]
    text += f"; left out: {', '.join(counted)}" if counted else ""
    unused = ", ".join(facts.unused_columns[:_MOST_UNUSED])
    more = len(facts.unused_columns) - _MOST_UNUSED
    unused += f" and {more} more" if more > 0 else ""
    return text + (f"; not used: {unused}" if unused else "")


def workload_from_lengths(
    *,
    isl: float | None,
    osl: float | None,
    rate_rps: float | None = None,
    concurrency: float | None = None,
    prefix_hit: float | None = None,
    isl_cv: float | None = None,
    osl_cv: float | None = None,
    max_context: float | None = None,
) -> Workload:
    """The workload of `--isl --osl --rate --concurrency --prefix-hit`.

    Args: mean lengths in tokens, prefix_hit as a share 0..1; None is unknown. isl_cv, osl_cv:
    standard deviation over mean of the lengths, which are log-normal, 0 for equal ones; None:
    DEFAULT_SPREAD, or less where a hundredth of the requests would exceed max_context.
    Raises InvalidInput naming the flag of a value that is negative, zero (except prefix_hit and
    the spreads), infinite or not a number.
    """
    room = math.inf if max_context is None else max_context
    cvs = (
        _spread(isl_cv, _within(DEFAULT_SPREAD.isl_cv, isl, room), "--isl-cv"),
        _spread(osl_cv, _within(DEFAULT_SPREAD.osl_cv, osl, room - (isl or 0)), "--osl-cv"),
    )
    is_narrowed = (isl_cv is None and isl is not None and cvs[0] < DEFAULT_SPREAD.isl_cv) or (
        osl_cv is None and osl is not None and cvs[1] < DEFAULT_SPREAD.osl_cv
    )
    given = ((rate_rps, "--rate"), (concurrency, "--concurrency"))
    for value, flag in given:
        if value is not None:
            positive(value, flag=flag)
    if prefix_hit is not None and not 0 <= prefix_hit <= 1:
        raise InvalidInput(
            f"--prefix-hit is a share from 0 to 1, not {prefix_hit:g}.", hint="--prefix-hit 0.4"
        )
    return Workload(
        isl=None if isl is None else _lengths_around(isl, cvs[0], "--isl"),
        osl=None if osl is None else _lengths_around(osl, cvs[1], "--osl"),
        rate_rps=rate_rps,
        concurrency=concurrency,
        prefix_hit=prefix_hit,
        burstiness=None,
        requests=None,
        origin="flags",
        narrowed_to=int(room) if is_narrowed else None,
    )


def _spread(cv: float | None, usual: float, flag: str) -> float:
    if cv is None:
        return usual
    if not 0 <= cv <= MOST_SPREAD:
        raise InvalidInput(
            f"{flag} is the standard deviation of a length over its mean, 0 to {MOST_SPREAD:g}, "
            f"not {cv:g}.",
            hint=f"{flag} 1, or {flag} 0 for equal lengths",
        )
    return cv


def _within(cv: float, tokens: float | None, most: float) -> float:
    """The spread, or the one whose 99th percentile is `most` tokens where that is less."""
    if not tokens or not 0 < tokens < most < math.inf:
        return cv
    rest = _NORMAL_P99**2 - 2 * math.log(most / tokens)
    if rest <= 0:
        return cv
    sigma = _NORMAL_P99 - math.sqrt(rest)
    return min(cv, math.floor(100 * math.sqrt(math.expm1(sigma**2))) / 100)


def _lengths_around(tokens: float, cv: float, flag: str) -> Lengths:
    """Log-normal lengths around a mean; all equal for a cv of 0, and for single tokens."""
    positive(tokens, flag=flag)
    if tokens < 1:
        raise InvalidInput(f"{flag} must be at least 1 token, not {tokens:g}.", hint=f"{flag} 1000")
    if cv == 0 or tokens == 1:
        return _equal(tokens)
    sigma = math.sqrt(math.log1p(cv**2))
    middle = math.log(tokens) - sigma**2 / 2

    def share_below(limit: float) -> float:
        return (1 + math.erf((math.log(limit) - middle) / sigma / math.sqrt(2))) / 2

    return Lengths(
        mean=tokens,
        p50=math.exp(middle),
        p90=math.exp(middle + _NORMAL_P90 * sigma),
        p99=math.exp(middle + _NORMAL_P99 * sigma),
        cv=cv,
        share_under_1k=share_below(SHORT_PROMPT_TOKENS),
        share_from_4k=1 - share_below(LONG_PROMPT_TOKENS),
    )


def workload_data(workload: Workload) -> dict[str, object]:
    """A workload as --json prints it: means and spreads, and how a file was read."""
    return {
        "origin": workload.origin,
        "isl": asdict(workload.isl) if workload.isl else None,
        "osl": asdict(workload.osl) if workload.osl else None,
        "rate_rps": workload.rate_rps,
        "concurrency": workload.concurrency,
        "prefix_hit": workload.prefix_hit,
        "narrowed_to": workload.narrowed_to,
        "burstiness": asdict(workload.burstiness) if workload.burstiness else None,
        "trace": asdict(workload.trace) if workload.trace else None,
        "text": read_line(workload.trace) if workload.trace else drawn_line(workload),
    }


def drawn_line(workload: Workload) -> str | None:
    """A sentence on how lengths are drawn around their means; None: unknown or recorded."""
    if workload.trace is not None or (said := drawn_lengths(workload)) is None:
        return None
    isl, osl = workload.isl, workload.osl
    is_spread = bool(isl and isl.cv or osl and osl.cv)
    how = "Log-normal; --isl-cv 0 --osl-cv 0 makes all lengths equal." if is_spread else ""
    if workload.narrowed_to is not None:
        usual = f"{DEFAULT_SPREAD.isl_cv:g} and {DEFAULT_SPREAD.osl_cv:g}"
        how = (
            f"They spread less than usual (CV {usual}), to fit the model's context of "
            f"{format_count(workload.narrowed_to)} tokens. {how}"
        ).rstrip()
    return f"Drawn requests: {said}. {how}".rstrip()


def drawn_lengths(workload: Workload) -> str | None:
    """Mean lengths and their spread in words; None where one is unknown."""
    if workload.isl is None or workload.osl is None:
        return None
    return ", ".join(
        f"{name} {format_count(round(lengths.mean))} {'token' if lengths.mean == 1 else 'tokens'} "
        + (f"on average (CV {lengths.cv:g})" if lengths.cv else "each")
        for name, lengths in (("prompts", workload.isl), ("outputs", workload.osl))
    )


def _equal(tokens: float) -> Lengths:
    return Lengths(
        mean=tokens,
        p50=tokens,
        p90=tokens,
        p99=tokens,
        cv=0.0,
        share_under_1k=float(tokens < SHORT_PROMPT_TOKENS),
        share_from_4k=float(tokens >= LONG_PROMPT_TOKENS),
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
        share_under_1k=sum(value < SHORT_PROMPT_TOKENS for value in ordered) / len(ordered),
        share_from_4k=sum(value >= LONG_PROMPT_TOKENS for value in ordered) / len(ordered),
    )


def _quantile(ordered: Sequence[int], share: float) -> float:
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def burstiness(arrival_s: Sequence[float]) -> Burstiness | None:
    """The unevenness of sorted arrivals, from counts per full minute; None below five minutes.

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
