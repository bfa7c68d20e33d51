"""Talk to the engines being measured: synthetic requests, whose output is discarded, and facts."""

import asyncio
import json
import random
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from pdctl.engines.clients.api_key import authorization
from pdctl.engines.clients.router import RouterClient
from pdctl.engines.clients.sglang import LOADS_PATH
from pdctl.errors import EngineFailed, InvalidInput
from pdctl.measurement.engine_facts import (
    EngineFacts,
    checked_url,
    facts_from_pages,
    parsed_object,
)
from pdctl.perf_model.records import Role
from pdctl.status.pages import EngineLoad, parse_load

TOGETHER_S = 120.0  # wait this long for all requests of a batch to run
LOOK_S = 0.002
STREAMED = 64  # streaming more requests would keep this process too busy to read the clock
ASK_S = 10.0
# SGLang's FAKE_BOOTSTRAP_HOST: an engine of one role serves such a request without a partner
FAKE_BOOTSTRAP = (("bootstrap_host", "2.2.2.2"), ("bootstrap_room", 0))
_FIRST_TOKEN_ID, _LAST_TOKEN_ID = 1000, 31000


@dataclass(frozen=True)
class Probed:
    """An engine under measurement. The same `rng` seed gives the same prompts."""

    url: str
    role: Role
    http: aiohttp.ClientSession
    rng: random.Random = field(default_factory=lambda: random.Random(0))
    token_ids: tuple[int, int] = (_FIRST_TOKEN_ID, _LAST_TOKEN_ID)


def prompt(engine: Probed, num_tokens: int) -> list[int]:
    """Random token ids, so that no earlier prompt shares a prefix with this one."""
    low, high = engine.token_ids
    return [engine.rng.randrange(low, high) for _ in range(num_tokens)]


async def hop_s(engine: Probed, repeats: int = 9) -> float:
    """Cost of HTTP itself in seconds: the median time of an answer that needs no step."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        async with engine.http.get(f"{engine.url}/model_info") as answer:
            await answer.read()
        times.append(time.perf_counter() - start)
    return sorted(times)[len(times) // 2]


class Together:
    """Requests that decode side by side until the block ends.

    Streams up to STREAMED of them, because clients stream and streaming costs the engine time.
    """

    def __init__(self, engine: Probed, batch: int, context: int, steps: int) -> None:
        self._engine = engine
        self._num_tokens = 3 * steps + 4 * batch
        self._prompts = [prompt(engine, context) for _ in range(batch)]
        self._rids = [f"pdctl-{uuid.uuid4().hex}" for _ in range(batch)]
        self._tasks: list[asyncio.Task[None]] = []
        self.times: list[float] = []  # clock at each token of the first request
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
        """Abort one request by its own id, because the engine may serve other clients too."""
        with suppress(aiohttp.ClientError):
            url = f"{self._engine.url}/abort_request"
            async with self._engine.http.post(url, json={"rid": rid}) as answer:
                await answer.read()

    async def until(self, holds: Callable[[], bool], every_s: float) -> bool:
        """Wait until `holds()`; False if a request ends or TOGETHER_S pass first."""
        deadline = asyncio.get_running_loop().time() + TOGETHER_S
        while not holds():
            if self.is_over() or asyncio.get_running_loop().time() > deadline:
                return False
            await asyncio.sleep(every_s)
        return True

    def is_over(self) -> bool:
        """True once one of the requests has ended."""
        return any(task.done() for task in self._tasks)

    def tokens_of_last(self) -> int:
        """Tokens of the request sent last; once it has one, all requests are running."""
        return len(self.times if len(self._tasks) == 1 else self._last_times)

    def tokens(self) -> float:
        """Mean number of tokens per request so far."""
        if len(self._tasks) == 1:
            return float(len(self.times))
        return (len(self.times) + len(self._last_times)) / 2


async def probe_load(engine: Probed) -> EngineLoad:
    """The engine's current load. Raises EngineFailed if it does not report one."""
    async with engine.http.get(engine.url + LOADS_PATH) as answer:
        body = await answer.read()
    load = parse_load(body) if answer.status == 200 else None
    if load is None:
        raise EngineFailed(f"{engine.url}/v1/loads returned no load (HTTP {answer.status}).")
    return load


async def answers(engine: Probed, prompts: list[list[int]]) -> list[int]:
    """Prefill the prompts; return the cached tokens that the engine reports for each."""
    replies = await asyncio.gather(*(post(engine, body_of(engine, ids, 1)) for ids in prompts))
    return [int(reply.get("meta_info", {}).get("cached_tokens") or 0) for reply in replies]


async def _ask(engine: Probed, body: dict[str, object]) -> None:
    await post(engine, body)


async def post(engine: Probed, body: dict[str, object]) -> dict[str, Any]:
    """Send one request to /generate; return the engine's JSON answer."""
    async with engine.http.post(f"{engine.url}/generate", json=body) as answer:
        answer.raise_for_status()
        found: dict[str, Any] = json.loads(await answer.read())
        return found


async def _stream(engine: Probed, body: dict[str, object], times: list[float] | None) -> None:
    """Read a stream to its end. Append the clock at each token to `times`, if given."""
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
    """The /generate request for these token ids and exactly `num_tokens` output tokens."""
    sampling = {"max_new_tokens": num_tokens, "temperature": 0, "ignore_eos": True}
    body: dict[str, object] = {"input_ids": ids, "sampling_params": sampling, "stream": False}
    return body if engine.role == "colocated" else {**body, **dict(FAKE_BOOTSTRAP)}


async def facts_of_engines(urls: Sequence[str]) -> tuple[EngineFacts, ...]:
    """Facts from the engines at these addresses. Raises InvalidInput if one is not an engine."""
    async with aiohttp.ClientSession(headers=authorization()) as http:
        return tuple([await engine_facts(http, url) for url in urls])


async def engine_facts(http: aiohttp.ClientSession, url: str) -> EngineFacts:
    """Facts from the engine at `url`.

    Raises InvalidInput if nothing answers there, or something other than an SGLang engine does.
    """
    url = checked_url(url)
    info = await _get(http, url, ("/server_info", "/get_server_info"))
    model_info = await _get(http, url, ("/model_info", "/get_model_info"))
    return facts_from_pages(url, info, model_info, await _page(http, url, LOADS_PATH))


def engines_of(urls: Sequence[str]) -> list[str]:
    """URLs of the engines behind these addresses: a router's workers, or the engine itself."""
    found: list[str] = []
    for url in urls:
        listed = RouterClient(checked_url(url)).workers()
        found += [engine.url for engine in listed] if listed else [checked_url(url)]
    return found


async def _get(http: aiohttp.ClientSession, url: str, paths: Sequence[str]) -> Mapping[str, Any]:
    for path in paths:
        found = parsed_object(await _page(http, url, path))
        if found:
            return found
    return {}


async def _page(http: aiohttp.ClientSession, url: str, path: str) -> bytes | None:
    try:
        timeout = aiohttp.ClientTimeout(total=ASK_S)
        async with http.get(url + path, timeout=timeout) as answer:
            return await answer.read() if answer.status == 200 else None
    except (aiohttp.ClientError, OSError, TimeoutError) as problem:
        raise InvalidInput(
            f"{url} does not answer: {type(problem).__name__} {problem}".rstrip() + ".",
            hint="is it running? pdctl ls",
            code="no_answer",
        ) from problem
