"""Calibrate running engines: one engine of any role, or a prefill and a decode engine."""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import aiohttp

from pdctl.engines.clients.api_key import authorization
from pdctl.errors import InvalidInput, StateConflict
from pdctl.inspection.records import Cluster, Llm
from pdctl.measurement.calibration.adaptive import (
    TARGET_UNCERTAINTY,
    CalibrationProgress,
    CalibrationRun,
    measure_steps,
)
from pdctl.measurement.calibration.engine_client import Probed, hop_s, probe_load
from pdctl.measurement.calibration.probe_steps import EngineSteps
from pdctl.measurement.calibration.result import Calibration, calibration, roofline_of
from pdctl.measurement.engine_facts import EngineFacts
from pdctl.measurement.load import token_ids_for
from pdctl.perf_model.fitting import design
from pdctl.perf_model.fitting.profiles import check_gpu
from pdctl.perf_model.records import Measurement, Profile, StepTimes

CRAMPED_TOKENS = 100_000
BUSY_S = 3.0  # health checks take less
KEPT_S = 4.0  # SGLang's HTTP server closes connections after five idle seconds
FAST = 2.0  # simulations faster than this leave no time for prompts to meet in a step
Tell = Callable[[CalibrationProgress], None]


async def calibrate_engines(
    facts: Sequence[EngineFacts],
    llm: Llm,
    cluster: Cluster,
    *,
    budget_s: float,
    command: str,
    clock_rate: float = 1.0,
    target: float = TARGET_UNCERTAINTY,
    earlier: Profile | None = None,
    tell: Tell = lambda progress: None,
    keep: Callable[[Measurement], None] = lambda step: None,
) -> Calibration:
    """Measure these engines until their step times are known. No other client may use them.

    clock_rate: factor by which simulated engines run faster than real time. target: as for
    `measure_steps`. earlier: a profile of such engines, fitted together with the new measurements.
    keep: called with every measured step.
    Raises InvalidInput if it cannot measure this set of engines, or if `earlier` is for another
    kind of engine; StateConflict if an engine serves other clients; EngineFailed if one is gone.
    """
    prefill, decode = _roles(facts)
    engine = prefill or decode or facts[0]
    if earlier is not None:
        _check_like(earlier, facts[0], llm, cluster)
    known = earlier.measurements if earlier else ()
    grid = _grid(prefill, decode, clock_rate)
    roofline = roofline_of(decode or engine, llm, cluster)
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEPT_S)
    timeout = aiohttp.ClientTimeout(total=600, sock_connect=10)
    async with aiohttp.ClientSession(
        connector=connector, timeout=timeout, headers=authorization()
    ) as http:
        await _refuse_busy(http, facts)
        steps = await _steps(http, engine, decode or engine, llm, clock_rate)

        async def measure(step: Measurement, times: StepTimes) -> Measurement | None:
            found = await steps.measure(step, times)
            if found is not None:
                keep(found)
            return found

        run = await measure_steps(
            measure,
            grid,
            roofline,
            budget_s=budget_s,
            target=target,
            known=known,
            tell=tell,
        )
    request = steps.request()
    if request is not None:
        run = _with_request(run, request, roofline)
    num = len(known)
    return calibration(run, roofline, llm, cluster, engine, command=command, num_earlier=num)


def _check_like(earlier: Profile, facts: EngineFacts, llm: Llm, cluster: Cluster) -> None:
    """Raise InvalidInput naming the difference, unless both are the same kind of engine."""
    check_gpu(earlier, cluster.gpu.name)
    pairs = (
        ("LLM", earlier.llm, llm.name),
        ("engine", earlier.engine, facts.engine),
        ("attention backend", earlier.attention_backend, facts.attention_backend),
        ("parallelism", earlier.parallelism, facts.parallelism),
    )
    for what, theirs, ours in pairs:
        if theirs != ours:
            raise InvalidInput(
                f"The profile {earlier.id} is for another {what}: {theirs}, not {ours}.",
                hint="leave out --with",
                code="another_profile",
            )


def _with_request(run: CalibrationRun, request: Measurement, roofline: StepTimes) -> CalibrationRun:
    """Add the time of a request outside its steps, which step times cannot show."""
    if run.fit is None or roofline.request_s <= 0:
        return run
    factors = {**run.fit.factors, "request_s": request.seconds / roofline.request_s}
    fit = replace(run.fit, factors=factors, residuals=(*run.fit.residuals, 0.0))
    return replace(run, fit=fit, measurements=(*run.measurements, request))


async def _refuse_busy(http: aiohttp.ClientSession, facts: Sequence[EngineFacts]) -> None:
    """Raise StateConflict if an engine serves other clients: each would distort the other."""
    for one in facts:
        engine = Probed(one.url, one.role, http)
        deadline = asyncio.get_running_loop().time() + BUSY_S
        while one.has_counters and (load := await probe_load(engine)).running + load.waiting:
            if asyncio.get_running_loop().time() > deadline:
                raise StateConflict(
                    f"{one.url} is serving {load.running} other requests; "
                    "calibration needs an idle engine.",
                    hint=f"pdctl calibrate --from {one.url} watches it without sending requests",
                    code="busy",
                )
            await asyncio.sleep(0.1)


def _roles(facts: Sequence[EngineFacts]) -> tuple[EngineFacts | None, EngineFacts | None]:
    """The engine that prefills and the one that decodes. A colocated engine does both."""
    by_role = {one.role: one for one in facts}
    if len(by_role) < len(facts) or ("colocated" in by_role and len(facts) > 1):
        raise InvalidInput(
            f"calibrate takes one engine, or one prefill and one decode engine; these {len(facts)} "
            f"are {', '.join(f.role for f in facts)}.",
            hint="--url once, or --url PREFILL --url DECODE",
        )
    together = by_role.get("colocated")
    return together or by_role.get("prefill"), together or by_role.get("decode")


def _grid(
    prefill: EngineFacts | None, decode: EngineFacts | None, clock_rate: float
) -> tuple[Measurement, ...]:
    grid: tuple[Measurement, ...] = ()
    if prefill is not None:
        limits = _with_batches(prefill, clock_rate)
        if prefill.role == "prefill":
            # In 0.5.15, SGLang caches no prompt that no decode engine waits for, not even
            # between chunks: it restarts a longer prompt again and again until the KV is full.
            limits = replace(limits, prefix_cache=False)
        grid += design.prefill_grid(limits)
    if decode is not None:
        reserved = decode.reserved_decode_tokens if decode.role == "decode" else 0
        grid += design.decode_grid(replace(decode.limits, reserved=reserved))
        if decode.role == "colocated":
            grid += design.mixed_grid(decode.limits)
            # without overlap, no part of a prefill hides behind the step before it
            hides = decode.overlap and clock_rate <= FAST
            limits = replace(decode.limits, counted=decode.has_counters)
            grid += design.stall_grid(limits) if hides else ()
    if prefill is not None and decode is not None and prefill.role == "prefill":
        grid += design.transfer_grid(prefill.limits)
    return grid


def _with_batches(facts: EngineFacts, clock_rate: float) -> design.EngineLimits:
    """Limits for prefill. Prompts share a step only if another step lasts long enough to queue."""
    counts = facts.has_counters
    return replace(facts.limits, counted=counts, batches=counts and clock_rate <= FAST)


async def _steps(
    http: aiohttp.ClientSession,
    prefill: EngineFacts,
    decode: EngineFacts,
    llm: Llm,
    clock_rate: float,
) -> EngineSteps:
    rng, ids = random.Random(), token_ids_for(llm.vocab_size)
    first = Probed(prefill.url, prefill.role, http, rng, ids)
    return EngineSteps(
        first,
        Probed(decode.url, decode.role, http, rng, ids),
        bootstrap_port=prefill.bootstrap_port,
        clock_rate=clock_rate,
        hop_s=await hop_s(first),
        plug_tokens=min(2048, prefill.limits.chunk // 2, prefill.limits.max_context // 2),
        has_counters=prefill.has_counters and decode.has_counters,
        is_cramped=prefill.limits.kv_tokens < CRAMPED_TOKENS,
    )
