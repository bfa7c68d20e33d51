"""What a running deployment is asked for: lengths, rate and cached share, from its counters."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pdctl.errors import EngineFailed, InvalidInput
from pdctl.perf_model.records import Role
from pdctl.status.rates import delta
from pdctl.status.records import CounterSample, Target
from pdctl.status.scrape import EngineScraper
from pdctl.workload.describe import workload_from_lengths
from pdctl.workload.records import Workload

LEAST_REQUESTS = 20  # fewer say little of the next ones
TELL_EVERY_S = 1.0
METRICS_WITHIN_S = 5.0


@dataclass(frozen=True)
class RouterCounters:
    """What one engine counted between two looks."""

    role: Role
    before: CounterSample
    after: CounterSample


def watch_workload(
    targets: Sequence[Target], window_s: float, tell: Callable[[float], None]
) -> Workload:
    """Look at the engines' metrics, wait, and look again. tell: seconds waited so far.

    Raises EngineFailed where an engine gives no metrics or began to count anew, InvalidInput where
    there are no engines or too little came.
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
    """The mean lengths, the cached share and the rate of what engines counted in `elapsed_s`.

    Prefill and colocated engines count prompts, decode and colocated ones output.
    Raises InvalidInput below LEAST_REQUESTS, EngineFailed where a counter is missing or fell.
    Source: SGLang's num_requests_total, counted when a request ends, and realtime_tokens_total.
    Ignores: how lengths are distributed, requests that were under way at either end.
    """
    taking = [one for one in counted if one.role != "decode"]
    making = [one for one in counted if one.role != "prefill"]
    requests = _sum(taking, "requests")
    if requests < LEAST_REQUESTS:
        raise InvalidInput(
            f"Only {requests:.0f} requests ended in {elapsed_s:.0f} s; "
            f"{LEAST_REQUESTS} say something of a workload.",
            hint="a longer --window",
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
    # a counter has no line until it first counts: nothing, where another engine has it
    missing = 0.0 if any(getattr(c.after, name) is not None for c in counted) else None
    ends = [(getattr(c.before, name), getattr(c.after, name)) for c in counted]
    grown = [delta(*(missing if end is None else end for end in pair)) for pair in ends]
    known = [one for one in grown if one is not None]
    if len(known) < len(grown):
        raise EngineFailed(
            f"{len(grown) - len(known)} of {len(grown)} engines do not count {name}, or were "
            "restarted while they were looked at.",
            hint="once more; pdctl status shows restarts",
            code="counters_lost",
        )
    return sum(known)


def _metrics(scraper: EngineScraper) -> tuple[float, CounterSample]:
    found = scraper.read_metrics(METRICS_WITHIN_S)
    if found is None:
        raise EngineFailed(
            f"{scraper.target.url} gives no /metrics.",
            hint="SGLang has them with --enable-metrics (pdctl up sets it); of one with a key: "
            "--api-key-file",
            code="no_metrics",
        )
    return found
