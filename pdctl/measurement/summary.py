"""A load in figures. Pure."""

from collections import Counter
from collections.abc import Sequence

from pdctl.measurement.records import LoadResult, LoadSummary, Sent
from pdctl.measurement.window import COOL_DOWN, WARM_UP, window
from pdctl.perf_model.metrics import is_good, percentiles
from pdctl.workload.records import Slo

LATE_S = 0.010  # the generator's own lateness p99 from which its figures are not to be trusted


def summary(
    result: LoadResult,
    slo: Slo | None = None,
    *,
    warm_up: float = WARM_UP,
    cool_down: float = COOL_DOWN,
) -> LoadSummary:
    """What a load came to, without its first and last requests.

    warm_up, cool_down: see window.
    Ignores: that requests inside the window met some outside of it.
    """
    start_s, end_s = window([one.intended_s for one in result.sent], warm_up, cool_down)
    inside = [one for one in result.sent if start_s <= one.intended_s <= end_s]
    whole = [one for one in inside if one.error is None]
    span_s = _span(inside, start_s, end_s)
    lateness_s = percentiles(one.lateness_s for one in inside)
    tokens = sum(len(one.token_s) for one in whole)
    good = _num_good(inside, slo)
    all_tokens = sum(len(one.token_s) for one in result.sent)
    return LoadSummary(
        window_s=(start_s, end_s),
        num_requests=len(inside),
        num_failed=sum(one.error is not None for one in inside),
        num_truncated=sum(one.is_truncated for one in inside),
        errors=dict(Counter(one.error for one in inside if one.error).most_common()),
        ttft_s=percentiles(one.ttft_s for one in whole),
        tpot_s=percentiles(one.tpot_s for one in whole),
        itl_s=percentiles(gap for one in whole for gap in gaps_s(one)),
        e2e_s=percentiles(one.e2e_s for one in whole),
        lateness_s=lateness_s,
        requests_per_s=len(whole) / span_s if span_s > 0 else 0.0,
        input_tokens_per_s=sum(one.isl for one in whole) / span_s if span_s > 0 else 0.0,
        output_tokens_per_s=tokens / span_s if span_s > 0 else 0.0,
        cached_share=_cached_share(whole),
        attainment=good / len(inside) if good is not None and inside else None,
        goodput_rps=good / span_s if good is not None and span_s > 0 else None,
        cpu_s_per_token=result.cpu_s / all_tokens if all_tokens else None,
        is_generator_late=bool(lateness_s and lateness_s.p99 > LATE_S),
    )


def gaps_s(one: Sent) -> list[float]:
    """Times between tokens. Tokens that came together share the gap before them equally."""
    gaps: list[float] = []
    pending = 0
    last_s = one.token_s[0] if one.token_s else 0.0
    for at_s in one.token_s[1:]:
        if at_s == last_s and gaps:
            pending += 1
            continue
        if pending:
            _share_last(gaps, pending)
            pending = 0
        gaps.append(at_s - last_s)
        last_s = at_s
    if pending:
        _share_last(gaps, pending)
    return gaps


def _share_last(gaps: list[float], extra: int) -> None:
    share = gaps.pop() / (extra + 1)
    gaps.extend([share] * (extra + 1))


def _span(inside: Sequence[Sent], start_s: float, end_s: float) -> float:
    """The window's length; where it is one instant, until the last answer."""
    if end_s > start_s:
        return end_s - start_s
    return max((one.end_s for one in inside), default=start_s) - start_s


def _num_good(inside: Sequence[Sent], slo: Slo | None) -> int | None:
    """Requests that met the service levels; one that failed or was cut short did not."""
    if slo is None or not slo.is_given:
        return None
    return sum(one.is_whole and is_good(one.ttft_s, one.tpot_s, slo) for one in inside)


def _cached_share(whole: Sequence[Sent]) -> float | None:
    known = [one for one in whole if one.cached_tokens is not None]
    tokens = sum(one.isl for one in known)
    return sum(one.cached_tokens or 0 for one in known) / tokens if tokens else None
