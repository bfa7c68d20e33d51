"""The requests that `pdctl rehearse` plays: a trace given, those of a plan, or a public trace."""

from dataclasses import dataclass, replace
from pathlib import Path

from pdctl.commands.progress import say
from pdctl.commands.trace_input import read_given_trace, say_workload
from pdctl.deployment.records import PlannedFor
from pdctl.errors import InvalidInput
from pdctl.paths import profiles_dir
from pdctl.perf_model.records import Fleet
from pdctl.verdict.closed_loop import LEAST_PER_CLIENT, LEAST_REQUESTS, REQUESTS_PER_CLIENT
from pdctl.workload.arrivals import head, make_requests, pick
from pdctl.workload.describe import drawn_lengths, workload_from_lengths, workload_from_trace
from pdctl.workload.records import Requests, Trace, Workload

TRACE = "traces/conversation-40s.jsonl"
ENOUGH = 300  # requests: over fewer, luck moves a median by a third
LEAST_DRAWN, MOST_DRAWN = 10, 2_000
# Longer spans are played faster, and what the processes themselves take grows with the speed
LONGEST_S = 75.0


@dataclass(frozen=True)
class Played:
    """Requests to play. clients: of a closed loop; None: they arrive at their times.

    source: their origin in words.
    """

    requests: Requests
    workload: Workload
    source: str
    clients: int | None = None


def requests_to_play(
    trace: Path | None,
    planned: PlannedFor | None,
    *,
    duration_s: float,
    time_unit: str,
    no_input: bool,
) -> Played:
    """The first `duration_s` of a trace, of the planned requests, or of a public trace.

    trace, time_unit: the options. planned: None without a plan.
    Raises InvalidInput for a trace that cannot be read or has no arrival times and no rate.
    """
    if trace is None and planned is not None and planned.trace is not None:
        return _of_trace(planned, duration_s, no_input=no_input)
    if trace is None and planned is not None and planned.isl is not None:
        return _drawn(planned, duration_s)
    path = trace or profiles_dir() / TRACE
    read = read_given_trace(path, time_unit=time_unit, no_input=no_input)
    if not read.has_arrivals:
        raise InvalidInput(
            f"{path.name} has lengths but no arrival times.", hint="--trace with timestamps"
        )
    if trace is None:
        return _beginning(read, path.name, None, duration_s, "a public trace")
    played = _beginning(read, path.name, None, duration_s, path.name)
    say_workload(played.workload)
    return played


def _of_trace(planned: PlannedFor, duration_s: float, *, no_input: bool) -> Played:
    path = Path(planned.trace or "")
    read = read_given_trace(
        path,
        time_unit=planned.time_unit or "",
        skip_bad=planned.skip_bad,
        osl=None if planned.osl is None else round(planned.osl),
        no_input=no_input,
    )
    source = f"the requests of {path.name}"
    if planned.concurrency is not None:
        return _for_clients(workload_from_trace(read, str(path)), planned, source)
    if not read.has_arrivals:
        return _at_a_rate(workload_from_trace(read, str(path)), planned, duration_s, source)
    played = _beginning(read, str(path), planned.rate, duration_s, path.name)
    return replace(played, source=f"the first of {len(read.requests):,} in {path.name}")


def _beginning(
    read: Trace, origin: str, rate_rps: float | None, duration_s: float, source: str
) -> Played:
    whole = workload_from_trace(read, origin, rate_rps=rate_rps).requests or read.requests
    start_s = whole.arrival_s[0]
    num = sum(at_s - start_s <= duration_s for at_s in whole.arrival_s)
    requests = head(whole, max(num, 1))
    workload = workload_from_trace(replace(read, requests=requests), origin)
    return Played(requests, workload, source)


def _drawn(planned: PlannedFor, duration_s: float) -> Played:
    workload = workload_from_lengths(
        isl=planned.isl,
        osl=planned.osl,
        rate_rps=planned.rate,
        concurrency=planned.concurrency,
        prefix_hit=planned.prefix_hit,
        isl_cv=planned.isl_cv,
        osl_cv=planned.osl_cv,
    )
    source = drawn_lengths(workload) or ""
    if planned.concurrency is not None:
        return _for_clients(workload, planned, source)
    return _at_a_rate(workload, planned, duration_s, source)


def _at_a_rate(workload: Workload, planned: PlannedFor, duration_s: float, source: str) -> Played:
    """Poisson arrivals, as in the plan."""
    if planned.rate is None or workload.osl is None:
        raise InvalidInput(
            "The plan has no rate at which requests could be played.",
            hint="pdctl plan with --rate or --concurrency, or rehearse --trace FILE",
        )
    enough = min(ENOUGH, round(planned.rate * LONGEST_S))
    num = min(MOST_DRAWN, max(LEAST_DRAWN, enough, round(planned.rate * duration_s)))
    requests = make_requests(workload, num=num, rate_rps=planned.rate, seed=planned.seed)
    return Played(requests, workload, source)


def _for_clients(workload: Workload, planned: PlannedFor, source: str) -> Played:
    """As many requests per client as the plan was simulated with: all begin in one burst."""
    clients = round(planned.concurrency or 1)
    num = max(LEAST_REQUESTS, min(REQUESTS_PER_CLIENT * clients, MOST_DRAWN))
    num = max(num, LEAST_PER_CLIENT * clients)
    requests = make_requests(workload, num=num, rate_rps=1.0, seed=planned.seed)
    return Played(requests, workload, source, clients)


def without_refused(played: Played, fleet: Fleet) -> Played:
    """Without the requests that SGLang would refuse; says how many there were."""
    engine = fleet.colocated or fleet.prefill
    longest = engine.max_context if engine else 0
    requests = played.requests
    places = [i for i, n in enumerate(requests.isl) if n + requests.osl[i] < longest]
    num_dropped = len(requests) - len(places)
    if not places:
        raise InvalidInput(
            f"All {num_dropped} requests exceed the context of {longest:,} tokens.",
            hint="another model, or --trace with shorter requests",
        )
    if not num_dropped:
        return played
    which = "1 request that exceeds" if num_dropped == 1 else f"{num_dropped} requests that exceed"
    say(f"Left out {which} the context of {longest:,} tokens")
    return replace(played, requests=pick(requests, places))
