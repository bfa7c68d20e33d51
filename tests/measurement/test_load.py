"""The load generator against simulated engines, and against servers that misbehave."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from pdctl.measurement.load import TOKEN_IDS, Prompts, load, run_load, token_ids_for
from pdctl.measurement.results import LoadProgress, Sent, summary
from pdctl.workload.records import Requests
from tests.engines.sim.engines import engine, free_port, run
from tests.engines.sim.models import model
from tests.engines.sim.test_process import process, sim, status, until


def ids(prompts: Prompts, index: int) -> list[int]:
    return list(json.loads(prompts.body(index))["input_ids"])


def test_a_body_asks_for_exactly_the_lengths_wanted() -> None:
    requests = Requests([0.0] * 4, [1, 16, 17, 9000], [3, 4, 5, 6])
    prompts = Prompts(requests)
    for n, (isl, osl) in enumerate(zip(requests.isl, requests.osl, strict=True)):
        body = json.loads(prompts.body(n))
        assert len(body["input_ids"]) == isl
        assert body["sampling_params"]["max_new_tokens"] == osl
        assert body["stream"] is True


def test_prompts_without_blocks_share_no_prefix() -> None:
    prompts = Prompts(Requests([0.0] * 50, [40] * 50, [1] * 50))
    heads = {tuple(ids(prompts, n)[:8]) for n in range(50)}
    assert len(heads) == 50


def test_equal_leading_blocks_are_equal_tokens_and_other_blocks_are_not() -> None:
    blocks = [(1, 2, 3), (1, 2, 4), (5, 2, 3)]
    prompts = Prompts(Requests([0.0] * 3, [75] * 3, [1] * 3, blocks, 30))
    first, second, third = (ids(prompts, n) for n in range(3))
    assert len(first) == 75
    assert first[:60] == second[:60]
    assert first[60:] != second[60:]
    assert first[:30] != third[:30]
    assert first[30:] == third[30:], "a block has its tokens wherever it stands"


def test_a_prompt_longer_than_its_blocks_is_filled_up() -> None:
    prompts = Prompts(Requests([0.0, 0.0], [35, 35], [1, 1], [(1,), (1,)], 10))
    first, second = ids(prompts, 0), ids(prompts, 1)
    assert (len(first), len(second)) == (35, 35)
    assert first[:10] == second[:10]
    assert first[10] != second[10]


def test_a_last_block_cut_short_is_a_prefix_of_the_whole_one() -> None:
    prompts = Prompts(Requests([0.0, 0.0], [50, 64], [1, 1], [(1, 2), (1, 2)], 32))
    assert ids(prompts, 0) == ids(prompts, 1)[:50]


@pytest.mark.parametrize("vocab", [256, 4096, 32_000, 151_936])
def test_token_ids_stay_inside_a_vocabulary(vocab: int) -> None:
    low, high = token_ids_for(vocab)
    assert 0 < low < high < vocab
    assert TOKEN_IDS[0] >= low
    assert TOKEN_IDS[1] >= high


def test_the_same_seed_makes_the_same_prompts_and_tokens_stay_in_their_range() -> None:
    requests = Requests([0.0], [5000], [1])
    assert Prompts(requests, seed=1).body(0) == Prompts(requests, seed=1).body(0)
    assert Prompts(requests, seed=1).body(0) != Prompts(requests, seed=2).body(0)
    few = ids(Prompts(requests, token_ids=(10, 20)), 0)
    assert set(few) == set(range(10, 20))


def test_prompts_differ_in_their_whole_content_not_only_where_they_begin() -> None:
    """With equal tokens everywhere, an MoE reads few experts and looks too fast."""
    prompts = Prompts(Requests([0.0] * 2, [2000] * 2, [1] * 2))
    first, second = ids(prompts, 0), ids(prompts, 1)
    assert len(set(first)) > 1500
    assert sum(a == b for a, b in zip(first, second, strict=True)) < 20


def test_a_prompt_longer_than_the_pool_has_every_token() -> None:
    assert len(ids(Prompts(Requests([0.0], [100_000], [1])), 0)) == 100_000


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


def test_a_failure_is_recorded_and_the_other_requests_continue() -> None:
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


def test_an_address_without_a_server_fails_every_request() -> None:
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


@pytest.mark.slow
def test_an_interrupted_load_keeps_the_requests_that_ended(tmp_path: Path) -> None:
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


def test_progress_is_reported_and_requests_are_passed_on_as_they_end() -> None:
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
