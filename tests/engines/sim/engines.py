"""Simulated engines inside the test's event loop, on free ports."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any, TypeVar

import aiohttp
from aiohttp import web

from pdctl.deployment.records import MODES
from pdctl.engines.sim.api import Api
from pdctl.engines.sim.engine import Engine
from pdctl.engines.sim.flags import parse_flags
from pdctl.engines.sim.info import Identity
from pdctl.engines.sim.partners import Registry
from pdctl.inspection.llm import read_llm
from pdctl.perf_model.records import EngineModel, Role
from tests.engines.sim.models import model as plain_model

SPEED = 20.0
T = TypeVar("T")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Running:
    """One serving engine, and an HTTP session for requests to it."""

    def __init__(self, api: Api, http: aiohttp.ClientSession) -> None:
        self.api = api
        self.http = http
        self.port = api.identity.flags.port
        self.bootstrap_port = api.identity.flags.bootstrap_port
        self.url = f"http://127.0.0.1:{self.port}"

    async def get(self, path: str) -> Any:
        async with self.http.get(self.url + path) as reply:
            text = await reply.text()
            return reply.status, json.loads(text) if text[:1] in ("{", "[") else text

    async def post(self, path: str, body: object) -> Any:
        async with self.http.post(self.url + path, json=body) as reply:
            text = await reply.text()
            return reply.status, json.loads(text) if text[:1] in ("{", "[") else text

    async def events(self, path: str, body: dict[str, object]) -> list[Any]:
        """The JSON of each event of a stream, which must end in [DONE]."""
        async with self.http.post(self.url + path, json={**body, "stream": True}) as reply:
            lines = [line.strip() async for line in reply.content if line.strip()]
        assert lines[-1] == b"data: [DONE]"
        return [json.loads(line.removeprefix(b"data: ")) for line in lines[:-1]]


@asynccontextmanager
async def engine(
    role: Role = "colocated",
    *args: str,
    model: EngineModel | None = None,
    speed: float = SPEED,
    bootstrap_port: int | None = None,
    patience_s: float = 300.0,
) -> AsyncIterator[Running]:
    """An engine named llama-3.1-8b with the round step times of `models`."""
    own_bootstrap = bootstrap_port or free_port()
    argv = ["--model-path", "llama-3.1-8b", "--disaggregation-mode", MODES[role], *args]
    argv += ["--port", str(free_port()), "--disaggregation-bootstrap-port", str(own_bootstrap)]
    flags = parse_flags(argv)
    model = model or plain_model(role)
    identity = Identity(flags, read_llm("llama-3.1-8b"), "H200", 15.0, 100.0, 0.0)
    async with AsyncExitStack() as stack:
        core = Engine(model, speed=speed, overlap=flags.overlap)
        registry = None
        if role == "prefill" or flags.role_switch:
            registry = Registry("127.0.0.1", own_bootstrap)
            registry.engine = core
            await registry.start()
            await registry.register(flags.port, 1, 1, 1)
            stack.push_async_callback(registry.stop)
        base = model
        api = Api(identity, core, registry, lambda new: replace(base, role=new))
        runner = web.AppRunner(
            api.application(), access_log=None, handler_cancellation=True, shutdown_timeout=0.1
        )
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", flags.port).start()
        stack.push_async_callback(api.handover.partners.stop)
        tasks = [
            asyncio.create_task(core.run()),
            asyncio.create_task(api.handover.expire(patience_s)),
        ]
        api.status = "Up"
        http = await stack.enter_async_context(aiohttp.ClientSession())
        yield Running(api, http)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def pair(*args: str, kv: int = 100_000) -> AsyncIterator[tuple[Running, Running]]:
    """A prefill and a decode engine."""
    async with (
        engine("prefill", *args) as prefill,
        engine("decode", *args, model=plain_model("decode", kv=kv)) as decode,
    ):
        yield prefill, decode


def both_legs(prefill: Running, room: int, body: dict[str, object]) -> dict[str, object]:
    """The body that a router sends to both engines."""
    return {
        **body,
        "bootstrap_host": "127.0.0.1",
        "bootstrap_port": prefill.bootstrap_port,
        "bootstrap_room": room,
    }


def run(test: Callable[[], Awaitable[T]]) -> T:
    """Run an asynchronous test within ten seconds."""

    async def limited() -> T:
        return await asyncio.wait_for(test(), 10)

    return asyncio.run(limited())


async def eventually(holds: Callable[[], bool]) -> None:
    """Wait until a condition set by another task holds."""
    for _ in range(1000):
        if holds():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it never came to be")
