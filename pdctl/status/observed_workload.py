"""Describe the workload of a running deployment from its counters: lengths, rate, cached share."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pdctl.errors import EngineFailed, InvalidInput
from pdctl.perf_model.records import Role
from pdctl.status.rates import delta
from pdctl.status.records import CounterSample, Target
from pdctl.status.scrape import EngineScraper
from pdctl.units import format_number_of
from pdctl.workload.describe import workload_from_lengths
from pdctl.workload.records import Workload

LEAST_REQUESTS = 20  # fewer do not describe a workload
TELL_EVERY_S = 1.0
METRICS_WITHIN_S = 5.0


@dataclass(frozen=True)
class RouterCounters:
    """The counters of one engine at the beginning and the end of a period."""

    role: Role
    before: CounterSample
    after: CounterSample


def watch_workload(
    targets: Sequence[Target], window_s: float, tell: Callable[[float], None]
) -> Workload:
    """Read the engines' metrics, wait for `window_s`, and read them again.

    tell: called with the seconds waited so far.
    Raises EngineFailed if an engine has no metrics or was restarted; InvalidInput if there are no
    engines or too few requests finished.
    """
    if not targets:
        raise InvalidInput("The router lists no engines.", hint="pdctl status --router URL")
    scrapers = [EngineScraper(target) for target in targets]
    try:
        began = time.monotonic()
        before = [_metrics(one) for one in scrapers]
        while (waited_s := time.monotonic() - began) < window_s:
            tell(waited_s)
            time.sleep(min(TELL_EVERY_S, window_s - waited_s))
        after = [_metrics(one) for one in scrapers]
    finally:
        for one in scrapers:
            one.close()
    elapsed_s = after[0][0] - before[0][0]
    pairs = zip(targets, before, after, strict=True)
    counted = [RouterCounters(target.role, first[1], last[1]) for target, first, last in pairs]
    return workload_between(counted, elapsed_s)


def workload_between(counted: Sequence[RouterCounters], elapsed_s: float) -> Workload:
    """The mean lengths, cached share and rate of the requests that finished in `elapsed_s`.

    Prefill and colocated engines count prompts; decode and colocated engines count output.
    Raises InvalidInput below LEAST_REQUESTS; EngineFailed if a counter is missing or was reset.
    Source: SGLang's num_requests_total, counted when a request ends, and realtime_tokens_total.
    Ignores: the distribution of lengths, requests in progress at either end.
    """
    taking = [one for one in counted if one.role != "decode"]
    making = [one for one in counted if one.role != "prefill"]
    requests = _sum(taking, "requests")
    if requests < LEAST_REQUESTS:
        finished = f"Only {format_number_of(requests, 'request')}" if requests else "No request"
        raise InvalidInput(
            f"{finished} finished in {elapsed_s:.0f} s; "
            f"at least {LEAST_REQUESTS} are needed to describe a workload.",
            hint="--window 5min, while clients send requests",
            code="too_little_seen",
        )
    fresh = _sum(taking, "prefill_tokens")
    cached = sum(delta(c.before.cached_tokens, c.after.cached_tokens) or 0.0 for c in taking)
    made = _sum(making, "decode_tokens")
    seen = workload_from_lengths(
        isl=(fresh + cached) / requests,
        osl=made / requests + 1,  # the first token comes from prefill
        rate_rps=requests / elapsed_s,
        prefix_hit=cached / (fresh + cached) if fresh + cached else None,
    )
    return replace(seen, origin="live")


def _sum(counted: Sequence[RouterCounters], name: str) -> float:
    # a counter has no line before its first count: it is 0 if another engine has the line
    missing = 0.0 if any(getattr(c.after, name) is not None for c in counted) else None
    ends = [(getattr(c.before, name), getattr(c.after, name)) for c in counted]
    grown = [delta(*(missing if end is None else end for end in pair)) for pair in ends]
    known = [one for one in grown if one is not None]
    if len(known) < len(grown):
        raise EngineFailed(
            f"{len(grown) - len(known)} of {len(grown)} engines do not count {name}, or were "
            "restarted while pdctl watched them.",
            hint="run it again; pdctl status shows restarts",
            code="counters_lost",
        )
    return sum(known)


def _metrics(scraper: EngineScraper) -> tuple[float, CounterSample]:
    found = scraper.read_metrics(METRICS_WITHIN_S)
    if found is None:
        raise EngineFailed(
            f"{scraper.target.url} has no /metrics.",
            hint="start SGLang with --enable-metrics (pdctl up does); if it has an API key, pass "
            "--api-key-file",
            code="no_metrics",
        )
    return found
