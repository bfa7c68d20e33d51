"""Steps of engines at work, from what they count: looked at, not disturbed."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise

import aiohttp

from pdctl.engines.api_key import authorization
from pdctl.errors import InvalidInput
from pdctl.measurement.asking import load_of
from pdctl.measurement.counters import Load
from pdctl.measurement.engine_facts import EngineFacts
from pdctl.measurement.probe import Probed
from pdctl.perf_model.records import Measurement, Role

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
) -> list[list[Load]]:
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
    seen: list[list[Load]] = [[] for _ in facts]
    async with aiohttp.ClientSession(headers=authorization()) as http:
        engines = [Probed(one.url, one.role, http) for one in facts]
        while clock() - start < window_s:
            loads = await asyncio.gather(*(load_of(engine) for engine in engines))
            for history, load in zip(seen, loads, strict=True):
                if not history or history[-1].counted != load.counted:
                    history.append(load)
            tell(clock() - start)
            await asyncio.sleep(LOOK_EVERY_S)
    return seen


def steps_of_loads(loads: Iterable[Load], role: Role, chunk: int) -> Iterator[Measurement]:
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
