"""Calibrate from engines at work, by reading counters or logs without sending requests."""

import asyncio
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import aiohttp

from pdctl.engines.clients.api_key import authorization
from pdctl.errors import InvalidInput
from pdctl.inspection.cluster import detect_cluster, parse_gpus
from pdctl.inspection.llm import read_llm
from pdctl.inspection.records import Cluster, Llm
from pdctl.measurement.calibration.adaptive import CalibrationRun
from pdctl.measurement.calibration.engine_client import (
    Probed,
    engines_of,
    facts_of_engines,
    probe_load,
)
from pdctl.measurement.calibration.result import Calibration, calibration, roofline_of
from pdctl.measurement.engine_facts import EngineFacts, facts_of_log
from pdctl.measurement.prediction import cluster_of
from pdctl.paths import near_path
from pdctl.perf_model.fitting.identify import fit_identified
from pdctl.perf_model.records import Measurement, Role
from pdctl.status.pages import EngineLoad

POLL_EVERY_S = 0.05  # an engine publishes each prefill step and every fifteenth decode step
LEAST_COUNTED_TOKENS = 64  # fewer: health checks and first requests of other clients
LEAST_STEADY_STEPS = 8
LEAST_LOGGED_TOKENS = 16  # fewer: health checks
MOST_S = 60.0

# coefficients that counters identify; they do not show how prompts share a step
WANTED_OF_LOADS = (
    "prefill_base_s",
    "prefill_token_s",
    "decode_base_s",
    "decode_context_s",
)
# coefficients that logs identify: prompts come one by one, decode steps without prefill between
WANTED_OF_LOGS = (
    "prefill_base_s",
    "prefill_token_s",
    "prefill_pair_s",
    "decode_base_s",
    "decode_context_s",
)
LOADS_NOTE = (
    "Counters do not show prompt lengths: prefill attention, KV transfer and cached prefixes "
    "keep their roofline values."
)
LOGS_NOTE = (
    "Log lines time only steps that had others queued before them: KV transfer and weight "
    "reads keep their roofline values."
)
_NUMBER = re.compile(r"([#a-zA-Z][#a-zA-Z /()-]*): (-?[0-9]+(?:\.[0-9]+)?)")


def calibrate_from_loads(
    urls: Sequence[str],
    *,
    model: str,
    gpus: str,
    window_s: float,
    command: str,
    tell: Callable[[float], None] = lambda elapsed_s: None,
) -> Calibration:
    """Watch the counters of the engines behind these addresses for `window_s` seconds.

    model, gpus: "" for the ones that the engines report.
    Raises InvalidInput if the engines did too little to tell step times.
    """
    facts = asyncio.run(facts_of_engines(engines_of(urls)))
    llm = read_llm(model or facts[0].model)
    cluster = cluster_of(gpus, facts[0])
    histories = asyncio.run(watch_loads(facts, window_s, tell=tell))
    steps = [
        step
        for one, loads in zip(facts, histories, strict=True)
        for step in steps_of_loads(loads, one.role, one.limits.chunk)
    ]
    if not steps:
        raise InvalidInput(
            f"No usable steps from {len(facts)} engines in {window_s:g} s: "
            "they were idle, or every batch was too small.",
            hint="--window 5min, while the engines have requests",
            code="idle",
        )
    return _fitted(
        steps, WANTED_OF_LOADS, llm, cluster, facts[0], command, LOADS_NOTE, elapsed_s=window_s
    )


def calibrate_from_logs(
    paths: Sequence[Path], *, model: str, gpus: str, sizes: tuple[int, int, int, int], command: str
) -> Calibration:
    """Read the steps in these engine logs. sizes: tp, pp, dp, ep."""
    steps = [step for path in paths for step in read_step_log(path)]
    llm = read_llm(model)
    cluster = parse_gpus(gpus) if gpus else detect_cluster()
    facts = facts_of_log(paths[0], sizes)
    return _fitted(steps, WANTED_OF_LOGS, llm, cluster, facts, command, LOGS_NOTE)


def _fitted(
    steps: Sequence[Measurement],
    wanted: Sequence[str],
    llm: Llm,
    cluster: Cluster,
    facts: EngineFacts,
    command: str,
    note: str,
    *,
    elapsed_s: float = 0.0,
) -> Calibration:
    roofline = roofline_of(facts, llm, cluster)
    fit, unidentified = fit_identified(steps, roofline, wanted=wanted)
    run = CalibrationRun(
        measurements=tuple(steps),
        fit=fit,
        unidentified=unidentified,
        uncertainty=None,
        elapsed_s=elapsed_s,
        given_up=(),
        is_complete=True,
    )
    kinds = {step.kind for step in steps}
    missing = [kind for kind in ("prefill", "decode") if kind not in kinds]
    notes = (note, *(f"No {kind} steps: they keep their roofline times." for kind in missing))
    return calibration(run, roofline, llm, cluster, facts, command=command, notes=notes)


def read_step_log(path: Path) -> tuple[Measurement, ...]:
    """Read the steps in one engine's log. Raises InvalidInput if the file has none."""
    try:
        with path.open(encoding="utf-8", errors="replace") as lines:
            found = tuple(steps_of_log(lines))
    except OSError as problem:
        text = f"{path} cannot be read: {problem.strerror}.{near_path(path)}"
        raise InvalidInput(text) from problem
    if not found:
        raise InvalidInput(
            f"{path} has no 'Prefill batch' or 'Decode batch' lines of an engine under load.",
            hint="the log of an SGLang engine at --log-level info, written while requests queue",
            code="no_steps",
        )
    return found


def steps_of_log(lines: Iterable[str]) -> Iterator[Measurement]:
    """Steps in a log's lines, in order.

    A prefill line gives tokens per second since the previous prefill line. That is the step's
    time only if requests were queued then. A decode line gives tokens per second since the
    previous decode line. That is the step's time only if no prefill ran in between.
    Source: managers/scheduler_metrics_mixin.py of SGLang 0.5.15; 0.5.23 writes the same lines.
    """
    was_waiting = False
    last, running = "", 0
    for line in lines:
        if "Prefill batch" in line:
            fields = _fields(line)
            step = _prefill(fields)
            if step is not None and last == "prefill" and was_waiting:
                yield step
            was_waiting = fields.get("#queue-req", 0) > 0
            last = "prefill"
        elif "Decode batch" in line:
            step = _decode(_fields(line))
            if step is not None and last == "decode" and step.batch == running:
                yield step
            last, running = "decode", step.batch if step else 0


def _fields(line: str) -> dict[str, float]:
    text = line.partition("batch,")[2]
    return {name.strip(" ,"): float(value) for name, value in _NUMBER.findall(text)}


def _prefill(fields: dict[str, float]) -> Measurement | None:
    tokens, prompts = fields.get("#new-token", 0), int(fields.get("#new-seq", 0))
    rate = fields.get("input throughput (token/s)", 0)
    if tokens < LEAST_LOGGED_TOKENS or prompts < 1 or rate <= 0 or tokens / rate > MOST_S:
        return None
    if fields.get("#running-req", 0) > 0:  # a colocated engine may have decoded in between
        return None
    return Measurement(
        "stall",
        tokens / rate,
        batch=prompts,
        new_tokens=round(tokens / prompts),
        cached_tokens=round(fields.get("#cached-token", 0) / prompts),
    )


def _decode(fields: dict[str, float]) -> Measurement | None:
    batch, rate = int(fields.get("#running-req", 0)), fields.get("gen throughput (token/s)", 0)
    context = int(fields.get("#token", fields.get("#full token", 0)))
    if batch < 1 or rate <= 0 or context < batch or batch / rate > MOST_S:
        return None
    return Measurement("decode", batch / rate, batch=batch, context=context)


async def watch_loads(
    facts: Sequence[EngineFacts],
    window_s: float,
    *,
    tell: Callable[[float], None] = lambda elapsed_s: None,
) -> list[list[EngineLoad]]:
    """Record each engine's load over a window, whenever it changes.

    Raises InvalidInput if an engine has no counters, EngineFailed if one does not answer.
    """
    for one in facts:
        if not one.has_counters:
            raise InvalidInput(
                f"{one.url} ({one.engine}) has no step counters; they need SGLang 0.5.23.",
                hint="pdctl calibrate MODEL --from-logs LOGFILE",
                code="no_counters",
            )
    clock = asyncio.get_running_loop().time
    start = clock()
    seen: list[list[EngineLoad]] = [[] for _ in facts]
    async with aiohttp.ClientSession(headers=authorization()) as http:
        engines = [Probed(one.url, one.role, http) for one in facts]
        while clock() - start < window_s:
            loads = await asyncio.gather(*(probe_load(engine) for engine in engines))
            for history, load in zip(seen, loads, strict=True):
                if not history or history[-1].counted != load.counted:
                    history.append(load)
            tell(clock() - start)
            await asyncio.sleep(POLL_EVERY_S)
    return seen


def steps_of_loads(loads: Iterable[EngineLoad], role: Role, chunk: int) -> Iterator[Measurement]:
    """Steps between successive loads of one engine. Pure.

    If prompts were prefilled in between: one step with all of them, if they fit one. Otherwise:
    the mean decode step, if the batch was steady.
    Ignores: how many prompts shared a prefill step, and their cached prefixes. With overlap, a
    prefill time can include one decode step of a colocated engine.
    """
    for before, after in pairwise(loads):
        if before.counted is None or after.counted is None:
            continue
        counted = after.counted.since(before.counted)
        if counted.prefill_tokens < 0 or counted.steps < 0:
            continue  # the engine has restarted
        if counted.prefill_tokens >= LEAST_COUNTED_TOKENS:
            if counted.prefill_tokens <= chunk and counted.prefill_busy_s > 0:
                tokens = round(counted.prefill_tokens)
                yield Measurement(
                    "prefill", counted.prefill_busy_s, new_tokens=tokens, counted=True
                )
            continue
        if counted.prefill_tokens or counted.steps < LEAST_STEADY_STEPS or role == "prefill":
            continue
        variance = counted.bb / counted.steps - counted.batch**2
        batch = round(counted.batch)
        context = (before.used_tokens + after.used_tokens) // 2
        if batch >= 1 and variance <= 0.25 + (0.05 * batch) ** 2 and context > batch:
            yield Measurement("decode", counted.step_s, batch=batch, context=context)
