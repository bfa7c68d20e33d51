"""Requests that decode side by side: the time of their steps, and what a prompt costs them."""

import asyncio
from itertools import pairwise

from pdctl.measurement.calibration.engine_client import Probed, Together, answers

CONTEXT = 512
PROMPTS = 16
APART_S = 0.15
VERIFY_STEPS = 60


async def beside(engine: Probed, batch: int, tokens: int) -> dict[str, list[float]]:
    """Seconds until each prompt is answered, and the running requests' longest gap meanwhile.

    batch: requests that decode. usual_s: gaps between their tokens in the first second.
    """
    clock = asyncio.get_running_loop().time
    took, gaps = [], []
    async with Together(engine, batch, CONTEXT, 700) as crowd:
        await crowd.until(lambda: crowd.tokens_of_last() > 8, 0.005)
        await asyncio.sleep(1.0)
        usual = [after - before for before, after in pairwise(crowd.times[-60:])]
        for _ in range(PROMPTS):
            ids = [engine.rng.randrange(*engine.token_ids) for _ in range(tokens)]
            first, began = len(crowd.times) - 1, clock()
            await answers(engine, [ids])
            took.append(clock() - began)
            await asyncio.sleep(APART_S)
            meanwhile = crowd.times[max(first, 0) :]
            gaps.append(max((b - a for a, b in pairwise(meanwhile)), default=0.0))
            if crowd.is_over():
                break
    return {"usual_s": sorted(usual), "answer_s": took, "gap_s": gaps}


async def verify_gaps(engine: Probed, batch: int, context: int) -> list[float]:
    """Seconds between the chunks of one of `batch` streams, once all of them have begun."""
    async with Together(engine, batch, context, 300) as crowd:
        await crowd.until(lambda: crowd.tokens_of_last() > 8, 0.005)
        first = len(crowd.times)
        await crowd.until(lambda: len(crowd.times) > first + VERIFY_STEPS, 0.005)
        return [after - before for before, after in pairwise(crowd.times[first:])]
