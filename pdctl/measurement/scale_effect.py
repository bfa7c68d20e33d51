"""Predict what other numbers of engines would do to the traffic of a running deployment."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pdctl.errors import PdctlError
from pdctl.measurement.calibration.engine_client import facts_of_engines
from pdctl.measurement.prediction import running_fleet
from pdctl.perf_model.metrics import percentiles
from pdctl.perf_model.records import Fleet
from pdctl.perf_model.simulator.simulate import simulate
from pdctl.status.observed_workload import watch_workload
from pdctl.status.records import Target
from pdctl.workload.arrivals import make_requests
from pdctl.workload.records import Requests, Workload

SIMULATED_S = 60.0  # of the traffic that was watched
LEAST_REQUESTS, MOST_REQUESTS = 200, 4000
SEED = 0


@dataclass(frozen=True)
class TailLatencies:
    """Predicted 99th percentiles in seconds. None: no request was answered."""

    ttft_p99_s: float | None
    tpot_p99_s: float | None


@dataclass(frozen=True)
class ScaleEffect:
    """Latencies before and after a change, for traffic like that of the last `watched_s`.

    basis: the profile of the step times, or "roofline".
    """

    rate_rps: float
    watched_s: float
    basis: str
    before: TailLatencies
    after: TailLatencies


def scale_effect(
    targets: Sequence[Target],
    counts: tuple[int, int, int],
    *,
    policy: str,
    watch_s: float,
    tell: Callable[[float], None],
) -> ScaleEffect | str:
    """The prediction for `counts` engines (colocated, prefill, decode), or why there is none.

    Watches the engines' counters for `watch_s` and simulates that traffic on both layouts.
    Ignores: the change itself, bursts, lengths that differ from their mean.
    """
    try:
        facts = asyncio.run(facts_of_engines([target.url for target in targets]))
        running = running_fleet(facts, policy)
        if isinstance(running, str):
            return running
        workload = watch_workload(targets, watch_s, tell)
    except PdctlError as problem:
        return problem.message
    after = resized(running.fleet, counts)
    return _compared(running.fleet, after, workload, watch_s, running.basis)


def resized(fleet: Fleet, counts: tuple[int, int, int]) -> Fleet:
    """The same engines in other numbers: colocated, prefill, decode."""
    colocated, prefill, decode = counts
    return replace(fleet, num_colocated=colocated, num_prefill=prefill, num_decode=decode)


def _compared(
    before: Fleet, after: Fleet, workload: Workload, watched_s: float, basis: str
) -> ScaleEffect:
    rate = workload.rate_rps or 0.0
    num = round(min(MOST_REQUESTS, max(LEAST_REQUESTS, rate * SIMULATED_S)))
    requests = make_requests(workload, num=num, rate_rps=rate, seed=SEED)
    return ScaleEffect(
        rate_rps=rate,
        watched_s=watched_s,
        basis=basis,
        before=_latencies(before, requests),
        after=_latencies(after, requests),
    )


def _latencies(fleet: Fleet, requests: Requests) -> TailLatencies:
    outcome = simulate(fleet, requests)
    ttft, tpot = percentiles(outcome.ttft_s), percentiles(outcome.tpot_s)
    return TailLatencies(ttft.p99 if ttft else None, tpot.p99 if tpot else None)
