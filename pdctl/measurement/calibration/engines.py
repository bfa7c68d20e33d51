"""Calibrate running engines: one colocated, one of either role, or a pair with KV transfer."""

import asyncio
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import aiohttp

from pdctl.engines.clients.api_key import authorization
from pdctl.errors import EnvironmentProblem, InvalidInput, StateConflict
from pdctl.inspection.records import Cluster, Llm
from pdctl.measurement.calibration.adaptive import TOLERANCE, CalibrationRun, Progress, take
from pdctl.measurement.calibration.engine_client import (
    EngineFacts,
    Probed,
    engine_facts,
    hop_s,
    probe_load,
)
from pdctl.measurement.calibration.probe_steps import EngineSteps
from pdctl.perf_model.fitting import design
from pdctl.perf_model.fitting.identify import Disagreement, disagreements
from pdctl.perf_model.fitting.profiles import (
    calibrated_profile,
    check_gpu,
    error_band,
    profile_text,
    write_profile,
)
from pdctl.perf_model.records import Measurement, Profile, StepTimes
from pdctl.perf_model.roofline import step_times


@dataclass(frozen=True)
class Calibration:
    """A calibration as it is shown. file: None when its residuals are too large to keep it.

    uncertainty: standard deviation of the least certain step; None where it is not known.
    unidentified: coefficients that kept their roofline. request_s: of a small request, what was
    neither its step nor HTTP. notes: what it cannot say, in sentences.
    """

    profile: Profile
    file: Path | None
    num_measurements: int
    elapsed_s: float
    band: float
    uncertainty: float | None
    is_complete: bool
    unidentified: tuple[str, ...]
    disagreements: tuple[Disagreement, ...]
    given_up: tuple[Measurement, ...] = ()
    request_s: float | None = None
    is_simulated: bool = False
    notes: tuple[str, ...] = ()


def keep_profile(profile: Profile, directory: Path) -> tuple[Profile, Path]:
    """Write a profile beside those of its name, never over one; it and its file.

    The second of a name is NAME--2, and so on. Raises EnvironmentProblem where that cannot be.
    """
    number, name = 1, profile.id
    while (directory / f"{name}.json").exists():
        number += 1
        name = f"{profile.id}--{number}"
    named = replace(profile, id=name)
    try:
        return named, write_profile(named, directory)
    except OSError as problem:
        raise EnvironmentProblem(
            f"The profile cannot be written to {directory}: {problem.strerror or problem}.",
            hint="-o FILE writes it elsewhere",
            code="profile_unwritable",
        ) from problem


def keep_as(profile: Profile, file: Path) -> tuple[Profile, Path]:
    """Write a profile to a file that is not there yet.

    Raises InvalidInput where it is, EnvironmentProblem where it cannot be written.
    """
    named = replace(profile, id=file.stem)
    try:
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "w") as out:
            out.write(profile_text(named))
    except FileExistsError as problem:
        raise InvalidInput(
            f"{file} is there already and was left as it is.", hint=f"-o {_next(file)}"
        ) from problem
    except OSError as problem:
        raise EnvironmentProblem(
            f"{file} cannot be written: {problem.strerror or problem}.", code="profile_unwritable"
        ) from problem
    return named, file


def band_of(profile: Profile, llm: Llm) -> float:
    """Relative half-width within which `plan` will believe this profile."""
    return error_band(profile, llm)


def _next(file: Path) -> Path:
    taken: Sequence[int] = [n for n in range(2, 100) if not _numbered(file, n).exists()]
    return _numbered(file, taken[0] if taken else 100)


def _numbered(file: Path, number: int) -> Path:
    return file.with_name(f"{file.stem}--{number}{file.suffix}")


CRAMPED_TOKENS = 100_000
BUSY_S = 3.0  # health checks are over by then
KEPT_S = 4.0  # SGLang's HTTP server closes connections that were idle for five
FAST = 2.0  # simulations faster than this leave no time to meet in a step
Tell = Callable[[Progress], None]


async def facts_of(urls: Sequence[str]) -> tuple[EngineFacts, ...]:
    """What the engines at these addresses say. Raises InvalidInput where one is no engine."""
    async with aiohttp.ClientSession(headers=authorization()) as http:
        return tuple([await engine_facts(http, url) for url in urls])


async def calibrate_engines(
    facts: Sequence[EngineFacts],
    llm: Llm,
    cluster: Cluster,
    *,
    budget_s: float,
    command: str,
    clock_rate: float = 1.0,
    tolerance: float = TOLERANCE,
    earlier: Profile | None = None,
    tell: Tell = lambda progress: None,
    keep: Callable[[Measurement], None] = lambda step: None,
) -> Calibration:
    """Measure these engines until their steps are known; nothing else may use them meanwhile.

    clock_rate: of simulated engines, how much faster than time they run. tolerance: as `take`.
    earlier: a profile of such engines, fitted anew together with what is measured now. keep: told
    every step as it has been measured.
    Raises InvalidInput for a set of engines it cannot measure or an `earlier` of others,
    StateConflict where one serves others, EngineFailed when one is gone.
    """
    prefill, decode = _roles(facts)
    if earlier is not None:
        _check_like(earlier, facts[0], llm, cluster)
    grid = _grid(prefill, decode, clock_rate)
    roofline = roofline_of(decode or prefill, llm, cluster)
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=KEPT_S)
    timeout = aiohttp.ClientTimeout(total=600, sock_connect=10)
    async with aiohttp.ClientSession(
        connector=connector, timeout=timeout, headers=authorization()
    ) as http:
        await _refuse_busy(http, facts)
        steps = await _steps(http, prefill, decode, llm, clock_rate)

        async def measure(step: Measurement, times: StepTimes) -> Measurement | None:
            found = await steps.measure(step, times)
            if found is not None:
                keep(found)
            return found

        taken = await take(
            measure,
            grid,
            roofline,
            budget_s=budget_s,
            tolerance=tolerance,
            known=earlier.measurements if earlier else (),
            tell=tell,
        )
    engine = prefill or decode
    assert engine is not None
    beside = steps.request()
    if beside is not None:
        taken = _with_request(taken, beside, roofline)
    return calibration(taken, roofline, llm, cluster, engine, command=command)


def _check_like(earlier: Profile, facts: EngineFacts, llm: Llm, cluster: Cluster) -> None:
    """Raises InvalidInput naming what differs, unless both are of the same kind of engine."""
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
                f"The profile {earlier.id} is of another {what}: {theirs}, not {ours}.",
                hint="without --with",
                code="another_profile",
            )


def calibration(
    taken: CalibrationRun,
    roofline: StepTimes,
    llm: Llm,
    cluster: Cluster,
    facts: EngineFacts,
    *,
    command: str,
    notes: tuple[str, ...] = (),
) -> Calibration:
    """What measurements come to. Raises InvalidInput if they tell nothing at all."""
    if taken.fit is None:
        raise InvalidInput(
            f"The {len(taken.measurements)} measurements identify no coefficient of step times.",
            hint="a longer --budget, or --window with more load",
            code="not_identified",
        )
    profile = calibrated_profile(
        taken.measurements,
        taken.fit,
        roofline,
        llm,
        gpu=cluster.gpu.name,
        parallelism=facts.parallelism,
        engine=facts.engine,
        attention_backend=facts.attention_backend,
        date=date.today().isoformat(),
        command=command,
    )
    return Calibration(
        profile=profile,
        file=None,
        num_measurements=len(taken.measurements),
        elapsed_s=taken.elapsed_s,
        band=band_of(profile, llm),
        uncertainty=taken.uncertainty,
        is_complete=taken.is_complete,
        unidentified=taken.unidentified,
        disagreements=disagreements(taken.measurements, taken.fit, are_probes=not notes),
        given_up=taken.given_up,
        request_s=taken.fit.factors.get("request_s", 0.0) * roofline.request_s or None,
        is_simulated=facts.is_simulated,
        notes=notes,
    )


def _with_request(
    taken: CalibrationRun, beside: Measurement, roofline: StepTimes
) -> CalibrationRun:
    """`taken` with what a request takes beside its steps, which no step tells."""
    if taken.fit is None or roofline.request_s <= 0:
        return taken
    factors = {**taken.fit.factors, "request_s": beside.seconds / roofline.request_s}
    fit = replace(taken.fit, factors=factors, residuals=(*taken.fit.residuals, 0.0))
    return replace(taken, fit=fit, measurements=(*taken.measurements, beside))


def roofline_of(facts: EngineFacts | None, llm: Llm, cluster: Cluster) -> StepTimes:
    """The times of an engine before anything is measured."""
    assert facts is not None
    backend = None if facts.is_simulated else facts.attention_backend
    return step_times(llm, cluster, facts.parallelism, "colocated", attention_backend=backend)


def token_ids(llm: Llm) -> tuple[int, int]:
    """Ids that are in the vocabulary, clear of the special tokens at its ends."""
    return min(1000, llm.vocab_size // 50), min(31000, llm.vocab_size - llm.vocab_size // 40)


async def _refuse_busy(http: aiohttp.ClientSession, facts: Sequence[EngineFacts]) -> None:
    """Raises StateConflict where an engine serves others: both would spoil the other's figures."""
    for one in facts:
        engine = Probed(one.url, one.role, http)
        deadline = asyncio.get_running_loop().time() + BUSY_S
        while one.has_counters and (load := await probe_load(engine)).running + load.waiting:
            if asyncio.get_running_loop().time() > deadline:
                raise StateConflict(
                    f"{one.url} serves {load.running} requests: its steps are not its own.",
                    hint=f"pdctl calibrate --from {one.url} looks on without disturbing it",
                    code="busy",
                )
            await asyncio.sleep(0.1)


def _roles(facts: Sequence[EngineFacts]) -> tuple[EngineFacts | None, EngineFacts | None]:
    """The engine that prefills and the one that decodes; the same one when colocated."""
    by_role = {one.role: one for one in facts}
    if len(by_role) < len(facts) or ("colocated" in by_role and len(facts) > 1):
        raise InvalidInput(
            f"These {len(facts)} engines are {', '.join(f.role for f in facts)}: "
            "calibrate takes one, or one prefill and one decode.",
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
            # SGLang caches no prompt that no decode engine waits for, not even between its chunks:
            # one longer than a chunk is begun again and again until the KV is full (0.5.15)
            limits = replace(limits, prefix_cache=False)
        grid += design.prefill_grid(limits)
    if decode is not None:
        reserved = decode.reserved_decode_tokens if decode.role == "decode" else 0
        grid += design.decode_grid(replace(decode.limits, reserved=reserved))
        if decode.role == "colocated":
            grid += design.mixed_grid(decode.limits)
            # without overlap nothing of a prefill is hidden behind the step before it
            hides = decode.overlap and clock_rate <= FAST
            limits = replace(decode.limits, counted=decode.has_counters)
            grid += design.stall_grid(limits) if hides else ()
    if prefill is not None and decode is not None and prefill.role == "prefill":
        grid += design.transfer_grid(prefill.limits)
    return grid


def _with_batches(facts: EngineFacts, clock_rate: float) -> design.EngineLimits:
    """Prompts meet in one step only while another step lasts; fast simulations leave no time."""
    counts = facts.has_counters
    return replace(facts.limits, counted=counts, batches=counts and clock_rate <= FAST)


async def _steps(
    http: aiohttp.ClientSession,
    prefill: EngineFacts | None,
    decode: EngineFacts | None,
    llm: Llm,
    clock_rate: float,
) -> EngineSteps:
    rng = random.Random()
    one = prefill or decode
    assert one is not None
    ids = token_ids(llm)
    first = Probed(one.url, one.role, http, rng, ids)
    other = decode or one
    second = Probed(other.url, other.role, http, rng, ids)
    return EngineSteps(
        first,
        second,
        bootstrap_port=one.bootstrap_port,
        clock_rate=clock_rate,
        hop_s=await hop_s(first),
        plug_tokens=min(2048, one.limits.chunk // 2, one.limits.max_context // 2),
        has_counters=one.has_counters and other.has_counters,
        is_cramped=one.limits.kv_tokens < CRAMPED_TOKENS,
    )
