"""A load on simulated engines: sent, watched, predicted, and abandoned if an engine dies."""

import asyncio
from array import array
from collections.abc import Awaitable, Callable

import pytest

from pdctl.errors import EngineFailed
from pdctl.inspection.cluster import parse_gpus
from pdctl.inspection.llm import read_llm
from pdctl.measurement.arm_run import Endpoint, Kept, play
from pdctl.measurement.calibration.engine_client import facts_of_engines
from pdctl.measurement.results import Forecast
from pdctl.perf_model.simulator.simulate import simulate_clients
from pdctl.workload.records import Requests
from tests.engines.sim.engines import Running, engine

LLM = read_llm("llama-3.1-8b")


def requests(num: int = 20, gap_s: float = 0.02) -> Requests:
    return Requests([n * gap_s for n in range(num)], array("q", [50] * num), array("q", [5] * num))


async def endpoint(running: Running, trouble: Callable[[], str] = lambda: "") -> Endpoint:
    facts = await facts_of_engines([running.url])
    return Endpoint(
        "target", running.url, facts, LLM, cluster=parse_gpus("1xH200"), trouble=trouble
    )


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        await asyncio.wait_for(test(), 20)

    asyncio.run(limited())


def test_every_request_is_played_and_predicted() -> None:
    async def test() -> None:
        async with engine("colocated") as running:
            kept = Kept(running.url, "new")
            told: list[tuple[Forecast, int]] = []
            found = await play(
                await endpoint(running),
                requests(),
                kept,
                repeat=0,
                rate_rps=50.0,
                seed=1,
                on_forecast=lambda forecast: told.append((forecast, len(kept.sent))),
            )
            assert len(found.result.sent) == 20
            assert all(one.is_whole for one in found.result.sent)
            assert len(kept.sent) == 20
            assert found.predicted is not None
            assert len(found.predicted.ttft_s) == 20
            ((forecast, sent_by_then),) = told
            assert sent_by_then == 0
            assert forecast.at < found.result.started_at
            assert forecast.basis == "roofline"
            assert found.forecast == forecast

    run(test)


def test_a_closed_loop_is_predicted_by_clients_before_it_begins() -> None:
    async def test() -> None:
        async with engine("colocated") as running:
            target = await endpoint(running)
            found = await play(
                target,
                requests(),
                Kept(running.url, "new"),
                repeat=0,
                rate_rps=None,
                seed=1,
                concurrency=4,
            )
            assert found.forecast is not None
            assert found.forecast.at < found.result.started_at
            assert target.fleet is not None
            assert found.predicted == simulate_clients(target.fleet, requests(), 4)

    run(test)


def test_requests_that_ended_before_an_interruption_are_kept() -> None:
    async def test() -> None:
        async with engine("colocated") as running:
            kept = Kept(running.url, "new")
            many = requests(500)
            load = asyncio.create_task(
                play(await endpoint(running), many, kept, repeat=0, rate_rps=50.0, seed=1)
            )
            while len(kept.sent) < 3:
                await asyncio.sleep(0.01)
            load.cancel()
            with pytest.raises(asyncio.CancelledError):
                await load
            result = kept.result()
            assert result.is_interrupted
            assert 3 <= len(result.sent) < 500

    run(test)


def test_an_engine_that_dies_ends_the_load_with_the_reason() -> None:
    async def test() -> None:
        async with engine("colocated") as running:
            where = await endpoint(running, lambda: "decode-0 ended (exit code -9)")
            with pytest.raises(EngineFailed, match="decode-0 ended"):
                await play(
                    where, requests(2000), Kept(running.url, "new"), repeat=0, rate_rps=50.0, seed=1
                )

    run(test)


def test_an_endpoint_that_fails_the_warm_up_is_reported_before_the_load() -> None:
    async def test() -> None:
        async with engine("colocated") as running:
            where = await endpoint(running)
            long = Requests([0.0], array("q", [200_000]), array("q", [5]))
            with pytest.raises(EngineFailed, match="failed every warm-up request"):
                await play(where, long, Kept(running.url, "new"), repeat=0, rate_rps=1.0, seed=1)

    run(test)
