"""Step times of one engine, asked for directly: no router in the way.

A probe sends requests that exist for nothing but their duration: random token ids, so that no two
share a prefix unless the probe says so, and a fixed number of output tokens. A prefill or decode
engine serves them alone when they name SGLang's fake bootstrap host.
"""

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import aiohttp

from pdctl.perf_model.records import Role

# SGLang's FAKE_BOOTSTRAP_HOST: the engine skips the KV hand-over for such a request
_FAKE_BOOTSTRAP = MappingProxyType({"bootstrap_host": "2.2.2.2", "bootstrap_room": 0})
_FIRST_TOKEN_ID, _LAST_TOKEN_ID = 1000, 31000


@dataclass(frozen=True)
class Probed:
    """The engine being probed. `rng` makes the prompts; the same seed makes the same ones."""

    url: str
    role: Role
    http: aiohttp.ClientSession
    rng: random.Random = field(default_factory=lambda: random.Random(0))
    token_ids: tuple[int, int] = (_FIRST_TOKEN_ID, _LAST_TOKEN_ID)


def prompt(engine: Probed, num_tokens: int) -> list[int]:
    """Token ids that no earlier prompt began with, but by accident."""
    low, high = engine.token_ids
    return [engine.rng.randrange(low, high) for _ in range(num_tokens)]


async def hop_s(engine: Probed, repeats: int = 9) -> float:
    """Median time of an answer that needs no step: what HTTP itself costs, in seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        async with engine.http.get(f"{engine.url}/model_info") as answer:
            await answer.read()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


async def prefill_s(engine: Probed, new: int, cached: int, batch: int, hop: float) -> float:
    """Seconds to prefill `batch` prompts of `new` tokens each after `cached` cached ones."""
    stems = [prompt(engine, cached) for _ in range(batch)]
    if cached:
        await _all_done(engine, stems)
    start = time.perf_counter()
    await _all_done(engine, [stem + prompt(engine, new) for stem in stems])
    return max(time.perf_counter() - start - hop, 0.0)


async def decode_step_s(
    engine: Probed, batch: int, context: int, steps: int
) -> tuple[float, float]:
    """Seconds of a decode step of `batch` requests, and their mean context in tokens.

    Only tokens that came while all of them ran count.
    """
    prompts = [prompt(engine, context) for _ in range(batch)]
    streams = await asyncio.gather(*(_token_times(engine, p, steps, batch) for p in prompts))
    begin = max(stream[0] for stream in streams)
    end = min(stream[-1] for stream in streams)
    inside = [[at for at in stream if begin <= at <= end] for stream in streams]
    spans = [(times[-1] - times[0], len(times) - 1) for times in inside if len(times) > 1]
    gaps = sum(count for _, count in spans)
    if gaps < batch:
        raise ValueError(f"{batch} requests of {context} tokens never ran together")
    started = [sum(at < begin for at in stream) for stream in streams]
    mean_context = context + sum(started) / batch + gaps / batch / 2
    return sum(span for span, _ in spans) / gaps, mean_context


async def _all_done(engine: Probed, prompts: Sequence[list[int]]) -> None:
    await asyncio.gather(*(_answer(engine, ids) for ids in prompts))


async def _answer(engine: Probed, ids: list[int]) -> None:
    async with _post(engine, _body(engine, ids, 1)) as answer:
        answer.raise_for_status()
        await answer.read()


async def _token_times(engine: Probed, ids: list[int], steps: int, batch: int) -> list[float]:
    # the first requests run alone while the rest are prefilled: ask for enough tokens to meet
    body = _body(engine, ids, steps + 4 * batch, stream=True)
    times: list[float] = []
    async with _post(engine, body) as answer:
        answer.raise_for_status()
        async for at in _events(answer):
            times.append(at)
    return times


async def _events(answer: aiohttp.ClientResponse) -> AsyncIterator[float]:
    async for line in answer.content:
        if line.startswith(b"data: {"):
            yield time.perf_counter()


def _body(engine: Probed, ids: list[int], max_new_tokens: int, *, stream: bool = False) -> bytes:
    sampling = {"max_new_tokens": max_new_tokens, "temperature": 0, "ignore_eos": True}
    request = {"input_ids": ids, "sampling_params": sampling, "stream": stream}
    if engine.role != "colocated":
        request |= _FAKE_BOOTSTRAP
    return json.dumps(request).encode()


def _post(engine: Probed, body: bytes) -> "aiohttp.client._RequestContextManager":
    headers = {"content-type": "application/json"}
    return engine.http.post(f"{engine.url}/generate", data=body, headers=headers)
