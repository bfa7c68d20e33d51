"""Run one load on one serving arm: predict it, play it, watch the engines."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace

import aiohttp

from pdctl.engines.clients.api_key import authorization
from pdctl.errors import EngineFailed, PdctlError
from pdctl.inspection.records import Cluster, Llm
from pdctl.measurement.arms import ArmLoad, ArmName
from pdctl.measurement.calibration.engine_client import Probed, probe_load
from pdctl.measurement.compare import as_played, windowed
from pdctl.measurement.engine_facts import EngineFacts
from pdctl.measurement.load import OnProgress, run_load, token_ids_for
from pdctl.measurement.prediction import fleet_of_engines
from pdctl.measurement.results import Connections, Forecast, LoadResult, Sent
from pdctl.perf_model.fitting.profiles import error_band
from pdctl.perf_model.metrics import percentiles
from pdctl.perf_model.records import Fleet, Outcome, Profile
from pdctl.perf_model.simulator.simulate import simulate, simulate_clients
from pdctl.status.drift import LiveSteps, drift, sentence
from pdctl.status.pages import EngineCounters
from pdctl.workload.arrivals import head
from pdctl.workload.records import Requests

WATCH_EVERY_S = 0.5
WARM_REQUESTS = 3
Trouble = Callable[[], str]


@dataclass(frozen=True)
class Endpoint:
    """The address that receives the requests, and the engines behind it.

    engines: () if unknown. policy: the router's policy, its default if unknown. trouble: returns
    a description of dead processes, or "".
    """

    arm: ArmName
    url: str
    engines: tuple[EngineFacts, ...]
    llm: Llm
    cluster: Cluster | None = None
    profile: Profile | None = None
    policy: str = "cache_aware"
    trouble: Trouble = lambda: ""

    @property
    def fleet(self) -> Fleet | None:
        if not self.engines or self.cluster is None:
            return None
        return fleet_of_engines(self.engines, self.llm, self.cluster, self.profile, self.policy)


@dataclass
class Kept:
    """The requests of a load that have ended so far, for a load that is interrupted."""

    url: str
    connections: Connections
    sent: list[Sent] = field(default_factory=list)
    started_at: float = field(default_factory=time.time)

    def result(self) -> LoadResult:
        return LoadResult(
            url=self.url,
            sent=tuple(sorted(self.sent, key=lambda one: one.index)),
            started_at=self.started_at,
            span_s=max((one.end_s for one in self.sent), default=0.0),
            cpu_s=0.0,
            connections=self.connections,
            is_interrupted=True,
        )


async def play(
    endpoint: Endpoint,
    requests: Requests,
    kept: Kept,
    *,
    repeat: int,
    rate_rps: float | None,
    seed: int,
    concurrency: int | None = None,
    on_progress: OnProgress | None = None,
    on_forecast: Callable[[Forecast], None] = lambda forecast: None,
) -> ArmLoad:
    """Predict the requests, warm up, send them, and watch the engines meanwhile.

    on_forecast: called with the prediction before the first request goes out.

    Raises EngineFailed as soon as an engine has died.
    """
    ids = token_ids_for(endpoint.llm.vocab_size)
    outcome = _simulated(endpoint, requests, concurrency)
    forecast = _forecast(endpoint, outcome, requests) if outcome else None
    if forecast is not None:
        on_forecast(forecast)
    await _warm(endpoint, requests, ids, seed)
    watched = _Watched(endpoint)
    kept.started_at = time.time()
    load = asyncio.create_task(
        run_load(
            endpoint.url,
            requests,
            connections=kept.connections,
            concurrency=concurrency,
            on_progress=on_progress,
            on_sent=kept.sent.append,
            token_ids=ids,
            seed=seed,
        )
    )
    try:
        result = await watched.until(load)
    finally:
        load.cancel()
        with suppress(asyncio.CancelledError, aiohttp.ClientError, OSError):
            await load
    return ArmLoad(
        arm=endpoint.arm,
        repeat=repeat,
        rate_rps=rate_rps,
        result=result,
        predicted=outcome,
        forecast=forecast,
        drift=watched.drift(),
    )


def predicted(endpoint: Endpoint, result: LoadResult, requests: Requests) -> Outcome | None:
    """Predict an interrupted load by the times at which its requests were sent.

    None if nothing was sent or the GPUs are unknown.
    """
    return _simulated(endpoint, as_played(result, requests)) if result.sent else None


def _simulated(
    endpoint: Endpoint, requests: Requests, clients: int | None = None
) -> Outcome | None:
    fleet = endpoint.fleet
    if fleet is None:
        return None
    return (
        simulate(fleet, requests) if clients is None else simulate_clients(fleet, requests, clients)
    )


def _forecast(endpoint: Endpoint, outcome: Outcome, requests: Requests) -> Forecast:
    inside = windowed(outcome, replace(requests, arrival_s=outcome.arrival_s or requests.arrival_s))
    return Forecast(
        at=time.time(),
        basis=endpoint.profile.id if endpoint.profile else "roofline",
        ttft_s=percentiles(inside.ttft_s),
        tpot_s=percentiles(inside.tpot_s),
    )


async def _warm(endpoint: Endpoint, requests: Requests, ids: tuple[int, int], seed: int) -> None:
    """Send a few uncounted requests first: compiles kernels and connects engines."""
    few = head(requests, WARM_REQUESTS)
    few = replace(few, arrival_s=[0.0] * len(few), osl=[min(8, n) for n in few.osl], blocks=None)
    result = await run_load(
        endpoint.url, few, concurrency=1, connections="new", token_ids=ids, seed=seed + 7919
    )
    problems = [one.error for one in result.sent if one.error]
    if len(problems) == len(result.sent) and problems:
        why = endpoint.trouble() or problems[0]
        raise EngineFailed(
            f"{endpoint.url} failed every warm-up request: {why}.", code="engine_failed"
        )


class _Watched:
    """Counters of an arm's engines before and after a load."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._before: dict[str, EngineCounters] = {}
        self._after: dict[str, EngineCounters] = {}
        self._used: dict[str, list[int]] = {}
        self._num_requests = 0

    async def until(self, load: "asyncio.Task[LoadResult]") -> LoadResult:
        """Wait for the load's result. Raises EngineFailed if an engine dies meanwhile."""
        async with aiohttp.ClientSession(headers=authorization()) as http:
            await self._look(http, self._before)
            while not load.done():
                await asyncio.wait([load], timeout=WATCH_EVERY_S)
                if dead := self._endpoint.trouble():
                    raise EngineFailed(
                        f"An engine died during the load: {dead}.", code="engine_failed"
                    )
                await self._look(http, self._after)
        result = load.result()
        self._num_requests = sum(one.error is None for one in result.sent)
        return result

    def drift(self) -> tuple[str, ...]:
        """Sentences about engines that have drifted from their profile."""
        endpoint = self._endpoint
        fleet, profile = endpoint.fleet, endpoint.profile
        if fleet is None or profile is None:
            return ()
        found = []
        for facts in endpoint.engines:
            model = getattr(fleet, facts.role)
            live = self._live(facts)
            if live is not None:
                band = error_band(profile, endpoint.llm)
                seen = drift(live, model.times, model.chunked_prefill_size, band=band)
                found.append(sentence(seen, f"The {facts.role} engine", profile.id))
        return tuple(dict.fromkeys(line for line in found if line))

    def _live(self, facts: EngineFacts) -> LiveSteps | None:
        before, after = self._before.get(facts.url), self._after.get(facts.url)
        if before is None or after is None:
            return None
        counted = after.since(before)
        used = [n for n in self._used.get(facts.url, []) if n > 0]
        of_role = sum(one.role == facts.role for one in self._endpoint.engines)
        return LiveSteps(
            role=facts.role,
            prefill_tokens=counted.prefill_tokens,
            prefill_busy_s=counted.prefill_busy_s,
            requests=self._num_requests / of_role,
            decode_steps=counted.steps,
            decode_batch=counted.batch,
            decode_step_s=counted.step_s,
            context_tokens=sum(used) / len(used) if used else 0.0,
        )

    async def _look(self, http: aiohttp.ClientSession, into: dict[str, EngineCounters]) -> None:
        for facts in self._endpoint.engines:
            if not facts.has_counters:
                continue
            try:
                load = await asyncio.wait_for(probe_load(Probed(facts.url, facts.role, http)), 5.0)
            except (aiohttp.ClientError, OSError, asyncio.TimeoutError, PdctlError):
                continue
            if load.counted is not None:
                into[facts.url] = load.counted
                self._used.setdefault(facts.url, []).append(load.used_tokens)
