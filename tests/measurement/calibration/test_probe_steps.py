"""Steps of simulated engines, measured over HTTP and compared with the model's step times."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from pdctl.errors import InvalidInput, StateConflict
from pdctl.inspection.cluster import parse_gpus
from pdctl.inspection.llm import read_llm
from pdctl.measurement.calibration.engine_client import Probed, engine_facts, facts_of_engines
from pdctl.measurement.calibration.engines import calibrate_engines
from pdctl.measurement.calibration.probe_steps import EngineSteps
from pdctl.measurement.engine_facts import limits_of
from pdctl.perf_model.engine_model import engine_model
from pdctl.perf_model.fitting.fit import predicted_s
from pdctl.perf_model.fitting.profiles import measured_dir, read_profile
from pdctl.perf_model.records import Measurement, Parallelism
from tests.engines.sim.engines import Running, engine, pair
from tests.engines.sim.models import model

CAPTURES = Path(__file__).parents[2] / "data/captures"

SPEED = 20.0  # what engines() runs at by default
TRUE = model("colocated").times


def steps_of(prefill: Running, decode: Running | None = None) -> EngineSteps:
    role = prefill.api.engine.role
    other = decode or prefill
    return EngineSteps(
        Probed(prefill.url, role, prefill.http),
        Probed(other.url, other.api.engine.role, other.http),
        bootstrap_port=prefill.bootstrap_port,
        clock_rate=SPEED,
        hop_s=0.002,
    )


@asynccontextmanager
async def one(*args: str) -> AsyncIterator[tuple[Running, EngineSteps]]:
    async with engine("colocated", *args) as running:
        yield running, steps_of(running)


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        await asyncio.wait_for(test(), 30)

    asyncio.run(limited())


@pytest.mark.parametrize(("new", "cached"), [(64, 0), (2000, 0), (256, 1024)])
def test_a_prefill_step_takes_what_the_engine_counts(new: int, cached: int) -> None:
    async def test() -> None:
        async with one() as (_, steps):
            step = Measurement("prefill", 0.0, counted=True, new_tokens=new, cached_tokens=cached)
            found = await steps.measure(step, TRUE)
            assert found is not None
            assert found.new_tokens + found.cached_tokens == new + cached
            assert abs(found.cached_tokens - cached) <= 16
            assert found.seconds == pytest.approx(predicted_s(TRUE, found), rel=0.01)

    run(test)


def test_a_cached_beginning_is_prefilled_once_for_many_steps() -> None:
    async def test() -> None:
        async with one() as (running, steps):
            step = Measurement("prefill", 0.0, counted=True, new_tokens=128, cached_tokens=2048)
            await steps.measure(step, TRUE)
            before = running.api.engine.record.prefill_tokens
            await steps.measure(step, TRUE)
            assert running.api.engine.record.prefill_tokens - before < 200

    run(test)


@pytest.mark.parametrize(("batch", "context"), [(1, 200), (8, 300)])
def test_a_decode_step_takes_what_the_engine_counts(batch: int, context: int) -> None:
    async def test() -> None:
        async with one() as (running, steps):
            step = Measurement("decode", 0.0, batch=batch, context=batch * context)
            found = await steps.measure(step, TRUE)
            assert found is not None
            assert found.batch == batch
            assert found.context > batch * context
            assert found.seconds == pytest.approx(predicted_s(TRUE, found), rel=0.02)
            assert running.api.engine.is_idle

    run(test)


def test_a_batch_larger_than_the_engine_runs_is_not_measured() -> None:
    async def test() -> None:
        async with engine("colocated", model=model("colocated", max_running=4)) as running:
            steps = steps_of(running)
            step = Measurement("decode", 0.0, batch=6, context=6 * 64)
            assert await steps.measure(step, TRUE) is None

    run(test)


def test_the_work_of_another_client_is_not_counted_as_the_step() -> None:
    async def test() -> None:
        async with one() as (running, steps):
            body = {"input_ids": list(range(900)), "sampling_params": {"max_new_tokens": 1}}
            other = asyncio.create_task(running.post("/generate", body))
            step = Measurement("prefill", 0.0, counted=True, new_tokens=1500)
            found = await steps.measure(step, TRUE)
            await other
            assert found is None or found.seconds == pytest.approx(
                predicted_s(TRUE, found), rel=0.01
            )

    run(test)


def test_a_prefill_and_a_decode_engine_are_measured_alone_and_their_transfer_together() -> None:
    async def test() -> None:
        async with pair() as (prefill, decode):
            steps = steps_of(prefill, decode)
            for step in (
                Measurement("prefill", 0.0, counted=True, new_tokens=700),
                Measurement("decode", 0.0, batch=4, context=4 * 200),
                Measurement("transfer", 0.0, new_tokens=1500),
            ):
                found = await steps.measure(step, TRUE)
                assert found is not None, step
                assert found.seconds == pytest.approx(predicted_s(TRUE, found), rel=0.02)

    run(test)


def test_the_facts_of_an_engine_are_those_it_was_started_with() -> None:
    async def test() -> None:
        async with engine("prefill", model=model("prefill")) as running:
            facts = await engine_facts(running.http, running.url + "/")
            assert facts.role == "prefill"
            assert facts.engine == "simulated"
            assert facts.has_counters
            assert facts.limits.chunk == running.api.engine.model.chunked_prefill_size
            assert facts.limits.kv_tokens == running.api.engine.model.kv_capacity_tokens

    run(test)


@pytest.mark.slow
@pytest.mark.parametrize(
    "step",
    [
        Measurement("prefill", 0.0, new_tokens=300),
        Measurement("prefill", 0.0, new_tokens=200, cached_tokens=512),
        Measurement("decode", 0.0, batch=6, context=6 * 100),
    ],
)
def test_an_engine_without_counters_is_timed_from_outside(step: Measurement) -> None:
    async def test() -> None:
        async with engine("colocated", speed=1.0) as running:
            steps = replace(steps_of(running), clock_rate=1.0, has_counters=False)
            found = await steps.measure(step, TRUE)
            assert found is not None
            assert found.batch == step.batch
            assert abs(found.cached_tokens - step.cached_tokens) <= 16
            assert found.seconds == pytest.approx(predicted_s(TRUE, found), rel=0.1, abs=0.01)

    run(test)


@pytest.mark.parametrize(
    ("role", "eager", "kv_tokens"),
    [("colocated", False, 905_795), ("prefill", True, 913_777), ("decode", False, 935_442)],
)
def test_the_limits_of_an_engine_of_0_5_15_on_an_h200(
    role: str, eager: bool, kv_tokens: int
) -> None:
    limits = limits_of(json.loads((CAPTURES / f"server_info_{role}_0.5.15.json").read_text()))
    assert (limits.eager, limits.kv_tokens) == (eager, kv_tokens)
    assert (limits.chunk, limits.max_context) == (8192, 131066)
    assert limits.prefix_cache is (role != "decode")


@pytest.mark.parametrize(
    ("backend", "eager"), [("disabled", True), ("breakable", False), ("full", False)]
)
def test_an_engine_that_captured_no_prefill_graphs_is_known_as_eager(
    backend: str, eager: bool
) -> None:
    # as the prefill and the decode engine of SGLang 0.5.15 said of themselves on an H200
    info = {"cuda_graph_config": {"prefill": {"backend": backend, "max_bs": 8192}}}
    assert limits_of(info).eager is eager
    assert limits_of({}).eager is False


@pytest.mark.slow
def test_a_running_request_waits_for_a_prompt_as_long_as_its_step_takes() -> None:
    async def test() -> None:
        async with engine("colocated", speed=1.0) as running:
            steps = replace(steps_of(running), clock_rate=1.0)
            found = await steps.measure(Measurement("stall", 0.0, new_tokens=300), TRUE)
            assert found is not None
            assert found.seconds == pytest.approx(0.3, rel=0.15)

    run(test)


@pytest.mark.slow
def test_prompts_that_gather_behind_another_are_measured_as_one_step() -> None:
    async def test() -> None:
        async with engine("colocated", speed=2.0) as running:
            steps = replace(steps_of(running), clock_rate=2.0, plug_tokens=400)
            step = Measurement("prefill", 0.0, batch=4, new_tokens=128, counted=True)
            found = await steps.measure(step, TRUE)
            assert found is not None
            assert found.seconds == pytest.approx(0.512, rel=0.02)

    run(test)


def test_a_whole_calibration_over_http_gives_a_profile_of_the_engine() -> None:
    async def test() -> None:
        true = engine_model(
            read_llm("llama-3.1-8b"), parse_gpus("1xH200"), Parallelism(), "colocated"
        )
        assert true is not None
        small = replace(
            true, chunked_prefill_size=1024, kv_capacity_tokens=20_000, max_running_requests=8
        )
        async with engine("colocated", model=replace(small, max_context=2048)) as running:
            found = await calibrate_engines(
                await facts_of_engines([running.url]),
                read_llm("llama-3.1-8b"),
                parse_gpus("1xH200"),
                budget_s=20.0,
                clock_rate=SPEED,
                target=0.03,
                command="pdctl calibrate",
            )
        assert found.is_simulated
        assert found.is_complete
        assert found.disagreements == ()
        for step in found.profile.measurements:
            assert step.seconds == pytest.approx(predicted_s(true.times, step), rel=0.02)

    run(test)


def test_a_profile_of_another_engine_is_not_fitted_together() -> None:
    async def test() -> None:
        async with engine("colocated") as running:
            facts = await facts_of_engines([running.url])
            with pytest.raises(InvalidInput, match="another engine: sglang 0.5.15, not simulated"):
                await calibrate_engines(
                    facts,
                    read_llm("llama-3.1-8b"),
                    parse_gpus("1xH200"),
                    budget_s=5.0,
                    command="pdctl calibrate",
                    earlier=read_profile(bundled),
                )

    bundled = measured_dir() / "h200--dense-gqa--sglang-0.5.15--triton.json"
    run(test)


@pytest.mark.slow
def test_a_mixed_step_is_the_longest_gap_of_a_request_that_decodes_beside_it() -> None:
    async def test() -> None:
        async with engine("colocated", model=model(mixed=True), speed=1.0) as running:
            steps = replace(steps_of(running), clock_rate=1.0)
            step = Measurement("mixed", 0.0, batch=4, new_tokens=300, context=4 * 64)
            found = await steps.measure(step, TRUE)
            assert found is not None
            assert found.seconds == pytest.approx(0.304, rel=0.15)
            assert found.context >= step.context

    run(test)


def test_probes_leave_the_requests_of_others_alone() -> None:
    async def test() -> None:
        async with one() as (running, steps):
            params = {"max_new_tokens": 400, "ignore_eos": True}
            body = {"input_ids": [7] * 40, "sampling_params": params}
            other = asyncio.create_task(running.post("/generate", body))
            await steps.measure(Measurement("decode", 0.0, batch=2, context=2 * 64), TRUE)
            status, answer = await other
            assert status == 200
            assert answer["meta_info"]["completion_tokens"] == 400

    run(test)


@pytest.mark.slow
def test_an_engine_that_serves_others_is_not_calibrated() -> None:
    async def test() -> None:
        async with engine("colocated", speed=1.0) as running:
            params = {"max_new_tokens": 900, "ignore_eos": True}
            body = {"input_ids": [7] * 40, "sampling_params": params}
            other = asyncio.create_task(running.post("/generate", body))
            await asyncio.sleep(0.2)
            with pytest.raises(StateConflict, match="is serving 1 other requests"):
                await calibrate_engines(
                    await facts_of_engines([running.url]),
                    read_llm("llama-3.1-8b"),
                    parse_gpus("1xH200"),
                    budget_s=5.0,
                    command="pdctl calibrate",
                )
            other.cancel()

    run(test)
