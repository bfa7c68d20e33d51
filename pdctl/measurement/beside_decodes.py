"""Prefill steps beside running decodes: what each waits for the other. By the client's clock."""

import asyncio
from dataclasses import replace
from itertools import pairwise
from statistics import median

from pdctl.measurement.asking import LOOK_S, Together, answers
from pdctl.measurement.probe import Probed, prompt
from pdctl.perf_model.design import DECODE_STEPS
from pdctl.perf_model.records import Measurement, StepTimes

STALLED_TOKENS = 64  # context of the request that waits
LEAST_GAPS = 12
ANSWERS = 8


async def stall(engine: Probed, step: Measurement, times: StepTimes) -> Measurement | None:
    """By how much a running request is delayed by the prefill of a prompt.

    Over several tokens: SGLang holds back the one before the prefill step while it launches it.
    """
    every_s = _every_s(times)
    async with Together(engine, 1, STALLED_TOKENS, DECODE_STEPS) as crowd:
        if not await crowd.until(lambda: len(crowd.times) >= LEAST_GAPS, every_s):
            return None
        before = len(crowd.times) - 2
        await answers(engine, [prompt(engine, step.new_tokens)])
        after = len(crowd.times) + 2
        if not await crowd.until(lambda: len(crowd.times) > after, every_s):
            return None
    gaps = [b - a for a, b in pairwise(crowd.times)]
    usual_s = median(gaps[:before])
    took_s = crowd.times[after] - crowd.times[before]
    context = STALLED_TOKENS + before
    return replace(step, context=context, seconds=took_s - (after - before) * usual_s)


async def answer(engine: Probed, step: Measurement, times: StepTimes) -> Measurement | None:
    """How long prompts take to be answered while another request decodes, in the mean."""
    every_s = _every_s(times)
    clock = asyncio.get_running_loop().time
    async with Together(engine, 1, STALLED_TOKENS, ANSWERS * DECODE_STEPS) as crowd:
        if not await crowd.until(lambda: len(crowd.times) >= LEAST_GAPS, every_s):
            return None
        took_s = 0.0
        for _ in range(ANSWERS):
            start = clock()
            await answers(engine, [prompt(engine, step.new_tokens)])
            took_s += clock() - start
            # out of step with the decodes, as requests that nobody planned are
            await asyncio.sleep(engine.rng.random() * every_s)
        if crowd.is_over():
            return None
        context = STALLED_TOKENS + round(crowd.tokens())
    return replace(step, context=context, seconds=took_s / ANSWERS)


async def mixed(engine: Probed, step: Measurement, times: StepTimes) -> Measurement | None:
    """The longest gap between tokens of a running request while one prompt is prefilled."""
    every_s = _every_s(times)
    async with Together(engine, step.batch, step.context // step.batch, DECODE_STEPS) as crowd:
        if not await crowd.until(lambda: crowd.tokens_of_last() > 0, every_s):
            return None
        tokens, asked = crowd.tokens(), len(crowd.times)
        await answers(engine, [prompt(engine, step.new_tokens)])
        await asyncio.sleep(4 * every_s)
        seen = crowd.times[max(0, asked - 2) :]
    gaps = [b - a for a, b in pairwise(seen)]
    if not gaps:
        return None
    context = round((step.context / step.batch + tokens) * step.batch)
    return replace(step, context=context, seconds=max(gaps))


def _every_s(times: StepTimes) -> float:
    """How often to look whether decodes have gone on."""
    return max(LOOK_S, 2 * (times.decode_base_s + times.decode_dense_s))
