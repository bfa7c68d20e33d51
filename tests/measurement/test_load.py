"""The load generator against simulated engines, and against servers that misbehave."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from pdctl.measurement.load import load, run_load
from pdctl.measurement.records import LoadProgress, Sent
from pdctl.measurement.summary import summary
from pdctl.workload.records import Requests
from tests.engines.sim.engines import engine, free_port, run
from tests.engines.sim.models import model
from tests.engines.sim.test_process import process, sim, status, until

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def server(handler: Handler) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/generate", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    port = free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


def requests(num: int, *, gap_s: float = 0.01, isl: int = 20, osl: int = 5) -> Requests:
    return Requests([n * gap_s for n in range(num)], [isl] * num, [osl] * num)


def test_every_token_of_every_request_is_timed() -> None:
    async def test() -> None:
        async with engine(speed=1.0, model=model(chunk=64)) as one:
            result = await run_load(one.url, requests(5, osl=6))
        assert [sent.index for sent in result.sent] == [0, 1, 2, 3, 4]
        assert all(sent.is_whole for sent in result.sent), result.sent
        for sent in result.sent:
            assert len(sent.token_s) == 6
            assert sent.ttft_s is not None
            assert sent.ttft_s >= 0.020, "the prompt alone takes 20 ms"
            assert list(sent.token_s) == sorted(sent.token_s)
        tpot_s = summary(result).tpot_s
        assert tpot_s is not None
        assert tpot_s.p50 >= 0.009, "a step takes 10 ms"

    run(test)


def test_arrivals_keep_their_times_and_a_speed_shortens_them() -> None:
    async def test() -> None:
        async with engine(speed=100.0) as one:
            result = await run_load(one.url, requests(5, gap_s=0.1), speed=2.0)
        gaps = [sent.intended_s for sent in result.sent]
        assert [round(at, 6) for at in gaps] == [0.0, 0.05, 0.1, 0.15, 0.2]
        assert all(sent.lateness_s >= 0 for sent in result.sent)

    run(test)


def test_a_closed_loop_never_has_more_than_its_requests_out() -> None:
    async def test() -> None:
        most = 0
        out = 0

        async def handler(http: web.Request) -> web.StreamResponse:
            nonlocal most, out
            out += 1
            most = max(most, out)
            await asyncio.sleep(0.01)
            out -= 1
            return web.Response(
                body=b'data: {"meta_info":{"completion_tokens":5}}\n\ndata: [DONE]\n\n'
            )

        async with server(handler) as url:
            result = await run_load(url, requests(12, gap_s=0.0), concurrency=3)
        assert most == 3
        assert len(result.sent) == 12
        assert all(sent.is_whole for sent in result.sent)

    run(test)


def test_shared_blocks_are_found_in_the_engines_cache() -> None:
    async def test() -> None:
        shared = tuple(range(10))
        blocks = [(*shared, 100 + n) for n in range(4)]
        ask = Requests([0.05 * n for n in range(4)], [176] * 4, [2] * 4, blocks, 16)
        async with engine(speed=100.0) as one:
            result = await run_load(one.url, ask, concurrency=1)
        assert [sent.cached_tokens for sent in result.sent] == [0, 160, 160, 160]

    run(test)


def test_new_connections_are_new_and_kept_ones_are_kept() -> None:
    async def test() -> None:
        ports: list[int] = []

        async def handler(http: web.Request) -> web.StreamResponse:
            assert http.transport is not None
            ports.append(http.transport.get_extra_info("peername")[1])
            return web.Response(
                body=b'data: {"meta_info":{"completion_tokens":5}}\n\ndata: [DONE]\n\n'
            )

        async with server(handler) as url:
            await run_load(url, requests(4), concurrency=1, connections="kept")
            assert len(set(ports)) == 1
            ports.clear()
            await run_load(url, requests(4), concurrency=1, connections="new")
            assert len(set(ports)) == 4

    run(test)


def test_what_goes_wrong_is_in_the_record_and_the_rest_goes_on() -> None:
    answers: dict[int, Callable[[], web.Response]] = {
        0: lambda: web.Response(),
        1: lambda: web.Response(status=503, text='{"error":{"message":"no room"}}'),
        2: lambda: web.Response(body=b'data: {"meta_info":{"completion_tokens":2}}\n\n'),
        3: lambda: web.Response(
            body=b'data: {"meta_info":{"finish_reason": {"type": "abort", "message": "lost KV"},'
            b'"completion_tokens":1,"cached_tokens":0}}\n\ndata: [DONE]\n\n'
        ),
        4: lambda: web.Response(
            body=b'data: {"meta_info":{"completion_tokens":2}}\n\ndata: [DONE]\n\n'
        ),
        5: lambda: web.Response(body=b'data: {"error":{"message":"too long"}}\n\ndata: [DONE]\n\n'),
    }

    async def test() -> None:
        count = -1

        async def handler(http: web.Request) -> web.StreamResponse:
            nonlocal count
            count += 1
            return answers[count]()

        async with server(handler) as url:
            result = await run_load(url, requests(6), concurrency=1)
        errors = [sent.error for sent in result.sent]
        assert errors == [
            "the stream ended without [DONE]",
            "HTTP 503: no room",
            "the stream ended without [DONE]",
            "aborted: lost KV",
            None,
            "too long",
        ]
        assert [sent.is_truncated for sent in result.sent] == [False] * 4 + [True, False]

    run(test)


def test_an_address_where_nobody_listens_fails_every_request() -> None:
    async def test() -> None:
        result = await run_load(f"http://127.0.0.1:{free_port()}", requests(3))
        assert all("ConnectionRefused" in (sent.error or "") for sent in result.sent)
        assert summary(result).ttft_s is None

    run(test)


def test_a_silent_server_times_out() -> None:
    async def handler(http: web.Request) -> web.StreamResponse:
        await asyncio.sleep(5)
        return web.Response()

    async def test() -> None:
        async with server(handler) as url:
            result = await run_load(url, requests(1), timeout_s=0.1)
        assert "timed out" in (result.sent[0].error or "")

    run(test)


def test_what_has_ended_is_kept_when_interrupted(tmp_path: Path) -> None:
    pressed: list[bool] = []

    def stop(progress: LoadProgress) -> None:
        if progress.num_done and not pressed:
            pressed.append(True)
            signal.raise_signal(signal.SIGINT)

    port = free_port()
    with process(tmp_path / "log", *sim(port, "--sim-speed", "1")):
        until(lambda: status(f"http://127.0.0.1:{port}/ready") == 200, tmp_path / "log")
        ask = Requests([0.0, 0.0], [10, 10], [1, 100_000])
        result = load(f"http://127.0.0.1:{port}", ask, on_progress=stop)
    assert result.is_interrupted
    assert [(sent.index, sent.is_whole) for sent in result.sent] == [(0, True)]


def test_progress_is_told_and_requests_are_handed_over_as_they_end() -> None:
    async def test() -> None:
        told: list[LoadProgress] = []
        ended: list[Sent] = []
        async with engine(speed=50.0) as one:
            ask = requests(6)
            await run_load(one.url, ask, on_progress=told.append, on_sent=ended.append)
        last = told[-1]
        assert (last.num_requests, last.num_done, last.num_failed) == (6, 6, 0)
        assert last.ttft_s is not None
        assert sorted(sent.index for sent in ended) == list(range(6))

    run(test)


def test_the_api_key_goes_with_every_request(monkeypatch: pytest.MonkeyPatch) -> None:
    async def handler(http: web.Request) -> web.StreamResponse:
        if http.headers.get("Authorization") != "Bearer a-long-secret":
            return web.Response(status=401, text='{"error": "Unauthorized"}')
        return web.Response(body=b'data: {"meta_info":{"completion_tokens":5}}\n\ndata: [DONE]\n\n')

    async def test() -> None:
        async with server(handler) as url:
            monkeypatch.setenv("PDCTL_API_KEY", "a-long-secret")
            assert (await run_load(url, requests(1))).sent[0].error is None
            monkeypatch.delenv("PDCTL_API_KEY")
            assert (await run_load(url, requests(1))).sent[0].error is not None

    run(test)
