"""Requests that exist for what they make an engine do: their tokens go nowhere."""

import asyncio
import json
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import aiohttp

from pdctl.errors import EngineFailed
from pdctl.measurement.counters import LOADS_PATH, Load, parse_load
from pdctl.measurement.probe import Probed, prompt

# SGLang's FAKE_BOOTSTRAP_HOST: an engine of one role serves such a request alone
FAKE_BOOTSTRAP = (("bootstrap_host", "2.2.2.2"), ("bootstrap_room", 0))


TOGETHER_S = 120.0  # until all requests of a batch run
LOOK_S = 0.002
STREAMED = 64  # more would keep this process too busy to look at the clock


class Together:
    """Requests that decode side by side until the block ends.

    As many as STREAMED of them are streamed, as clients ask for it: that is work for an engine too.
    """

    def __init__(self, engine: Probed, batch: int, context: int, steps: int) -> None:
        self._engine = engine
        self._num_tokens = 3 * steps + 4 * batch
        self._prompts = [prompt(engine, context) for _ in range(batch)]
        self._rids = [f"pdctl-{uuid.uuid4().hex}" for _ in range(batch)]
        self._tasks: list[asyncio.Task[None]] = []
        self.times: list[float] = []  # of each token of the first request
        self._last_times: list[float] = []

    async def __aenter__(self) -> "Together":
        last = len(self._prompts) - 1
        for n, ids in enumerate(self._prompts):
            body = {**body_of(self._engine, ids, self._num_tokens), "rid": self._rids[n]}
            times = self.times if n == 0 else self._last_times if n == last else None
            if n < STREAMED or n == last:
                task = asyncio.create_task(_stream(self._engine, body, times))
            else:
                task = asyncio.create_task(_ask(self._engine, body))
            self._tasks.append(task)
        return self

    async def __aexit__(self, *problem: object) -> None:
        for task in self._tasks:
            task.cancel()
        results = await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(self._abort(rid) for rid in self._rids))
        if problem[0] is None:
            for result in results:
                if isinstance(result, aiohttp.ClientError):
                    raise result

    async def _abort(self, rid: str) -> None:
        """One request by its own name: others may be served by this engine."""
        with suppress(aiohttp.ClientError):
            url = f"{self._engine.url}/abort_request"
            async with self._engine.http.post(url, json={"rid": rid}) as answer:
                await answer.read()

    async def until(self, holds: Callable[[], bool], every_s: float) -> bool:
        """Whether it holds before they break up or TOGETHER_S are over."""
        deadline = asyncio.get_running_loop().time() + TOGETHER_S
        while not holds():
            if self.is_over() or asyncio.get_running_loop().time() > deadline:
                return False
            await asyncio.sleep(every_s)
        return True

    def is_over(self) -> bool:
        """Whether one of them has ended."""
        return any(task.done() for task in self._tasks)

    def tokens_of_last(self) -> int:
        """Tokens of the request that was sent last: with the first of them all of them run."""
        return len(self.times if len(self._tasks) == 1 else self._last_times)

    def tokens(self) -> float:
        """Mean tokens that a request has by now."""
        if len(self._tasks) == 1:
            return float(len(self.times))
        return (len(self.times) + len(self._last_times)) / 2


async def load_of(engine: Probed) -> Load:
    async with engine.http.get(engine.url + LOADS_PATH) as answer:
        body = await answer.read()
    load = parse_load(body) if answer.status == 200 else None
    if load is None:
        raise EngineFailed(f"{engine.url}/v1/loads gave no load (HTTP {answer.status}).")
    return load


async def answers(engine: Probed, prompts: list[list[int]]) -> list[int]:
    """Prefill prompts; cached tokens of each, as the engine says."""
    replies = await asyncio.gather(*(post(engine, body_of(engine, ids, 1)) for ids in prompts))
    return [int(reply.get("meta_info", {}).get("cached_tokens") or 0) for reply in replies]


async def _ask(engine: Probed, body: dict[str, object]) -> None:
    await post(engine, body)


async def post(engine: Probed, body: dict[str, object]) -> dict[str, Any]:
    async with engine.http.post(f"{engine.url}/generate", json=body) as answer:
        answer.raise_for_status()
        found: dict[str, Any] = json.loads(await answer.read())
        return found


async def _stream(engine: Probed, body: dict[str, object], times: list[float] | None) -> None:
    """times: gets the clock at each token; None: they are read and let go."""
    clock = asyncio.get_running_loop().time
    async with engine.http.post(f"{engine.url}/generate", json={**body, "stream": True}) as answer:
        answer.raise_for_status()
        if times is None:
            async for _ in answer.content.iter_any():
                pass
            return
        async for line in answer.content:
            if line.startswith(b"data: {"):
                times.append(clock())


def body_of(engine: Probed, ids: list[int], num_tokens: int) -> dict[str, object]:
    sampling = {"max_new_tokens": num_tokens, "temperature": 0, "ignore_eos": True}
    body: dict[str, object] = {"input_ids": ids, "sampling_params": sampling, "stream": False}
    return body if engine.role == "colocated" else {**body, **dict(FAKE_BOOTSTRAP)}
