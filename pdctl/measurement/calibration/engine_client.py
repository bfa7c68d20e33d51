"""What a running engine says of itself that its step times depend on."""

import asyncio
import json
import random
import re
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import aiohttp

from pdctl.errors import EngineFailed, InvalidInput
from pdctl.perf_model.fitting.design import EngineLimits
from pdctl.perf_model.records import Parallelism, Role
from pdctl.status.pages import LOADS_PATH, EngineLoad, parse_load

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


async def probe_load(engine: Probed) -> EngineLoad:
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


UNKNOWN_CONTEXT = 131072
ASK_S = 10.0


@dataclass(frozen=True)
class EngineFacts:
    """One engine. engine: "sglang 0.5.23" or "simulated"; accelerator: None where it is a CPU."""

    url: str
    role: Role
    engine: str
    model: str
    attention_backend: str
    parallelism: Parallelism
    limits: EngineLimits
    accelerator: str | None
    bootstrap_port: int | None
    has_counters: bool
    is_simulated: bool = False
    overlap: bool = True
    page_size: int = 1
    reserved_decode_tokens: int = 512
    device: str = ""  # "cpu", "cuda"; "" where it does not say


async def engine_facts(http: aiohttp.ClientSession, url: str) -> EngineFacts:
    """What the engine behind `url` says.

    Raises InvalidInput where no SGLang engine answers, or a router does.
    """
    url = checked_url(url)
    info = await _get(http, url, ("/server_info", "/get_server_info"))
    model_info = await _get(http, url, ("/model_info", "/get_model_info"))
    loads = await _page(http, url, LOADS_PATH)
    page = _object(loads)
    load = parse_load(loads or b"")
    if not info or "router_manager" in info or "max_total_num_tokens" not in info:
        raise InvalidInput(
            f"{url} is not an SGLang engine: it gives no /server_info.",
            hint="the URL of one engine, not of the router: pdctl status shows them",
            code="not_sglang",
        )
    from pdctl.deployment.records import role_of_mode  # `calibrate --help` starts sooner without

    mode = model_info.get("disaggregation_mode") or info.get("disaggregation_mode")
    role = role_of_mode(mode) or "colocated"  # live; SGLang 0.5.15 reports the launched one
    simulated = bool(info.get("is_simulated"))
    accelerator = page.get("accelerator")
    return EngineFacts(
        url=url,
        role=role,
        engine="simulated" if simulated else f"sglang {info.get('version') or 'unknown'}",
        model=str(model_info.get("model_path") or info.get("model_path") or ""),
        attention_backend=_backend(info, simulated=simulated),
        parallelism=_parallelism(info),
        limits=limits_of(info),
        accelerator=str(accelerator) if accelerator else None,
        bootstrap_port=_whole(info.get("disaggregation_bootstrap_port")),
        has_counters=load is not None and load.counted is not None,
        is_simulated=simulated,
        overlap=not info.get("disable_overlap_schedule"),
        page_size=_whole(info.get("page_size")) or 1,
        reserved_decode_tokens=_whole(info.get("num_reserved_decode_tokens")) or 512,
        device=str(info.get("device") or ""),
    )


def facts_of_log(path: Path, sizes: tuple[int, int, int, int]) -> EngineFacts:
    """What the server_args line of an engine's log says. sizes: tp, pp, dp, ep."""
    with path.open(encoding="utf-8", errors="replace") as lines:
        head = next((line for line in lines if "server_args=" in line), "")
    backend = re.search(r"attention_backend='([a-z0-9_]+)'", head)
    version = re.search(r"version='?(\d+\.\d+\.\d+)", head)
    is_simulated = "simulated=True" in head
    engine = f"sglang {version.group(1)}" if version else "sglang"
    return EngineFacts(
        url=str(path),
        role="colocated",
        engine="simulated" if is_simulated else engine,
        model="",
        attention_backend=backend.group(1) if backend else "unknown",
        parallelism=Parallelism(*sizes),
        limits=EngineLimits(UNKNOWN_CONTEXT, 256, UNKNOWN_CONTEXT, UNKNOWN_CONTEXT),
        accelerator=None,
        bootstrap_port=None,
        has_counters=False,
        is_simulated=is_simulated,
    )


def checked_url(url: str) -> str:
    """`url` without a trailing slash; InvalidInput unless it is http and names a host."""
    parts = urlsplit(url if "//" in url else f"http://{url}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidInput(f"{url[:80]!r} is not an HTTP address.", hint="http://127.0.0.1:30000")
    return parts.geturl().rstrip("/")


def limits_of(info: Mapping[str, Any]) -> EngineLimits:
    """What an engine can be asked for, from its /server_info."""
    kv_tokens = _whole(info.get("max_total_num_tokens")) or 0
    context = _whole(info.get("context_length")) or _whole(info.get("max_req_input_len"))
    context = context or UNKNOWN_CONTEXT
    chunk = _whole(info.get("chunked_prefill_size")) or -1
    ranks = _whole(info.get("attn_dp_size")) or 1
    running = _whole(_internal(info).get("effective_max_running_requests_per_dp"))
    most = running * ranks if running else _whole(info.get("max_running_requests")) or 256
    return EngineLimits(
        chunk=chunk if chunk > 0 else context,
        max_running=most,
        kv_tokens=kv_tokens,
        max_context=context,
        prefix_cache=not info.get("disable_radix_cache"),
        mixed_chunk=bool(info.get("enable_mixed_chunk")),
        eager=_is_eager(info),
    )


def _is_eager(info: Mapping[str, Any]) -> bool:
    """Whether it launches prefill kernel by kernel, as SGLang 0.5.15's prefill engines do.

    On a CPU nothing runs beside what Python does: no launch hides there, with graphs or without.
    """
    if info.get("device") == "cpu":
        return False
    config = info.get("cuda_graph_config")
    prefill = config.get("prefill") if isinstance(config, dict) else None
    return isinstance(prefill, dict) and prefill.get("backend") == "disabled"


def _parallelism(info: Mapping[str, Any]) -> Parallelism:
    def size(*names: str) -> int:
        return max([1, *(n for name in names if (n := _whole(info.get(name))))])

    return Parallelism(
        size("tp_size"), size("pp_size"), size("attn_dp_size", "dp_size"), size("ep_size")
    )


def _backend(info: Mapping[str, Any], *, simulated: bool) -> str:
    if simulated:
        return "simulated"
    found = info.get("prefill_attention_backend") or info.get("attention_backend")
    return str(found or _internal(info).get("attention_backend") or "unknown")


def _internal(info: Mapping[str, Any]) -> Mapping[str, Any]:
    states = info.get("internal_states")
    first = states[0] if isinstance(states, list) and states else {}
    return first if isinstance(first, dict) else {}


def _whole(value: object) -> int | None:
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


async def _get(http: aiohttp.ClientSession, url: str, paths: Sequence[str]) -> Mapping[str, Any]:
    for path in paths:
        found = _object(await _page(http, url, path))
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


def _object(body: bytes | None) -> Mapping[str, Any]:
    try:
        found = json.loads(body) if body else {}
    except ValueError:
        return {}
    return cast("Mapping[str, Any]", found) if isinstance(found, dict) else {}
