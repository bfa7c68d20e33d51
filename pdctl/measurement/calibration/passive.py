"""Steps of engines at work, from what they count: looked at, not disturbed."""

import asyncio
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import aiohttp

from pdctl.engines.clients.api_key import authorization
from pdctl.errors import InvalidInput
from pdctl.measurement.calibration.engine_client import EngineFacts, Probed, probe_load
from pdctl.perf_model.records import Measurement, Role
from pdctl.status.pages import EngineLoad

_NUMBER = re.compile(r"([#a-zA-Z][#a-zA-Z /()-]*): (-?[0-9]+(?:\.[0-9]+)?)")
LEAST_LOGGED_TOKENS = 16  # fewer: health checks
MOST_S = 60.0

# what such lines tell: one prompt after another, decode without prefill in between
WANTED_OF_LOGS = (
    "prefill_base_s",
    "prefill_token_s",
    "prefill_pair_s",
    "decode_base_s",
    "decode_context_s",
)


def read_step_log(path: Path) -> tuple[Measurement, ...]:
    """The steps in one engine's log. Raises InvalidInput where it is not such a log."""
    try:
        with path.open(encoding="utf-8", errors="replace") as lines:
            found = tuple(steps_of_log(lines))
    except OSError as problem:
        raise InvalidInput(f"{path} cannot be read: {problem.strerror}.") from problem
    if not found:
        raise InvalidInput(
            f"{path} has no 'Prefill batch' or 'Decode batch' lines of an engine under load.",
            hint="a log of an SGLang engine, at --log-level info, with requests waiting",
            code="no_steps",
        )
    return found


def steps_of_log(lines: Iterable[str]) -> Iterator[Measurement]:
    """Steps in a log's lines, in order.

    A prefill line gives its tokens per second since the prefill line before it: the step's time
    only where requests were waiting then. A decode line gives the tokens per second since the
    decode line before it: the step's time only where no prefill was in between.
    Source: managers/scheduler_metrics_mixin.py of SGLang 0.5.15, the same lines in 0.5.23.
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
    if fields.get("#running-req", 0) > 0:  # a colocated engine may have decoded meanwhile
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


LOOK_EVERY_S = 0.05  # an engine publishes each prefill step and every fifteenth decode step
LEAST_TOKENS = 64  # fewer: health checks and first requests of others
LEAST_DECODE_STEPS = 8

# what the counters of a whole engine tell; how prompts share a step they do not say
WANTED = (
    "prefill_base_s",
    "prefill_token_s",
    "decode_base_s",
    "decode_context_s",
)


async def watch_loads(
    facts: Sequence[EngineFacts],
    window_s: float,
    *,
    tell: Callable[[float], None] = lambda elapsed_s: None,
) -> list[list[EngineLoad]]:
    """The loads of each engine over a window, each when it changed.

    Raises InvalidInput where an engine does not count, EngineFailed where it does not answer.
    """
    for one in facts:
        if not one.has_counters:
            raise InvalidInput(
                f"{one.url} ({one.engine}) does not count its steps: SGLang 0.5.23 does.",
                hint="pdctl calibrate MODEL --from-logs its log",
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
            await asyncio.sleep(LOOK_EVERY_S)
    return seen


def steps_of_loads(loads: Iterable[EngineLoad], role: Role, chunk: int) -> Iterator[Measurement]:
    """The steps between successive loads of one engine. Pure.

    Where prompts were prefilled in between: one step of all of them, if that fits one. Where
    none were: the mean of the decode steps, if their batch was steady.
    Ignores: how many prompts shared a prefill step, and their cached prefixes; overlap counts up
    to a decode step with a colocated engine's prefill.
    """
    for before, after in pairwise(loads):
        if before.counted is None or after.counted is None:
            continue
        counted = after.counted.since(before.counted)
        if counted.prefill_tokens < 0 or counted.steps < 0:
            continue  # restarted
        if counted.prefill_tokens >= LEAST_TOKENS:
            if counted.prefill_tokens <= chunk and counted.prefill_busy_s > 0:
                tokens = round(counted.prefill_tokens)
                yield Measurement(
                    "prefill", counted.prefill_busy_s, new_tokens=tokens, counted=True
                )
            continue
        if counted.prefill_tokens or counted.steps < LEAST_DECODE_STEPS or role == "prefill":
            continue
        variance = counted.bb / counted.steps - counted.batch**2
        batch = round(counted.batch)
        context = (before.used_tokens + after.used_tokens) // 2
        if batch >= 1 and variance <= 0.25 + (0.05 * batch) ** 2 and context > batch:
            yield Measurement("decode", counted.step_s, batch=batch, context=context)
