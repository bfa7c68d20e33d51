"""One colocated engine over HTTP."""

import asyncio
from dataclasses import replace

import aiohttp
import pytest

from pdctl.engines.sim.requests import ids_of_list, prompt_seed, token
from tests.engines.sim.engines import SPEED, engine, eventually, run
from tests.engines.sim.models import model

PROMPT = [5, 6, 7, 8, 9]


def native(new: int = 4, **more: object) -> dict[str, object]:
    params = {"max_new_tokens": new, "ignore_eos": True}
    return {"input_ids": PROMPT, "sampling_params": params, **more}


def test_generate_answers_with_the_tokens_the_prompt_determines() -> None:
    async def test() -> None:
        async with engine() as one:
            status, answer = await one.post("/generate", native(4))
            seed = prompt_seed(ids_of_list(PROMPT))
            assert status == 200
            assert answer["output_ids"] == [token(seed, n) for n in range(4)]
            meta = answer["meta_info"]
            assert meta["finish_reason"] == {"type": "length", "length": 4}
            assert (meta["prompt_tokens"], meta["completion_tokens"]) == (5, 4)

    run(test)


def test_a_stream_grows_token_by_token_and_ends_with_the_reason() -> None:
    async def test() -> None:
        async with engine() as one:
            events = await one.events("/generate", native(3))
            _, whole = await one.post("/generate", native(3))
            assert [len(e["output_ids"]) for e in events] == [1, 2, 3]
            assert events[-1]["text"] == whole["text"]
            assert [e["meta_info"]["finish_reason"] for e in events[:-1]] == [None, None]
            assert events[-1]["meta_info"]["finish_reason"]["type"] == "length"

    run(test)


def test_an_incremental_stream_has_each_token_once() -> None:
    async def test() -> None:
        async with engine("colocated", "--incremental-streaming-output") as one:
            events = await one.events("/generate", native(5))
            _, whole = await one.post("/generate", native(5))
            assert [i for e in events for i in e["output_ids"]] == whole["output_ids"]
            assert "".join(e["text"] for e in events) == whole["text"]

    run(test)


def test_a_batch_is_answered_in_its_order() -> None:
    async def test() -> None:
        async with engine() as one:
            params = [{"max_new_tokens": n} for n in (3, 1)]
            body = {"text": ["hello there", "bye"], "sampling_params": params}
            status, answers = await one.post("/generate", body)
            assert status == 200
            assert [len(a["output_ids"]) for a in answers] == [3, 1]
            assert [a["meta_info"]["prompt_tokens"] for a in answers] == [3, 1]

    run(test)


def test_a_chat_stream_has_a_role_the_text_a_reason_and_the_usage() -> None:
    async def test() -> None:
        async with engine() as one:
            chat: dict[str, object] = {
                "model": "any",
                "messages": [{"role": "user", "content": "hi"}],
                "max_tokens": 3,
            }
            _, whole = await one.post("/v1/chat/completions", chat)
            more: dict[str, object] = {**chat, "stream_options": {"include_usage": True}}
            events = await one.events("/v1/chat/completions", more)
            deltas = [e["choices"][0]["delta"] for e in events if e["choices"]]
            assert deltas[0] == {"role": "assistant", "content": ""}
            text = "".join(d.get("content", "") for d in deltas)
            assert text == whole["choices"][0]["message"]["content"]
            assert events[-2]["choices"][0]["finish_reason"] == "length"
            assert events[-1]["usage"] == whole["usage"]
            assert whole["usage"]["completion_tokens"] == 3

    run(test)


def test_completions_take_lists_and_n() -> None:
    async def test() -> None:
        async with engine() as one:
            body = {"model": "m", "prompt": ["one", "two"], "max_tokens": 2, "n": 2}
            _, answer = await one.post("/v1/completions", body)
            assert [c["index"] for c in answer["choices"]] == [0, 1, 2, 3]
            assert answer["usage"]["completion_tokens"] == 8

    run(test)


def test_an_answer_without_a_limit_ends_by_itself() -> None:
    async def test() -> None:
        async with engine(speed=1000.0) as one:
            body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
            _, answer = await one.post("/v1/chat/completions", body)
            assert answer["choices"][0]["finish_reason"] == "stop"
            assert 64 <= answer["usage"]["completion_tokens"] <= 256

    run(test)


def test_what_sglang_refuses_is_refused_with_400() -> None:
    async def test() -> None:
        async with engine(model=model(context=50)) as one:
            bodies: tuple[dict[str, object], ...] = (
                {"sampling_params": {}},
                {"input_ids": []},
                {"input_ids": [1, -2]},
                {"input_ids": ["a"]},
                {"input_ids": [1] * 60},
                {"text": "hi", "sampling_params": {"max_new_tokens": -1}},
                {"text": "hi", "sampling_params": {"max_new_tokens": "many"}},
            )
            for body in bodies:
                status, answer = await one.post("/generate", body)
                assert (status, answer["error"]["code"]) == (400, 400), body

    run(test)


def test_the_information_endpoints_name_the_model_the_role_and_the_limits() -> None:
    async def test() -> None:
        async with engine() as one:
            _, info = await one.get("/model_info")
            _, server = await one.get("/server_info")
            _, models = await one.get("/v1/models")
            assert info["disaggregation_mode"] == "null"
            assert info["architectures"] == ["LlamaForCausalLM"]
            assert server["internal_states"][0]["memory_usage"]["token_capacity"] == 100_000
            assert server["version"] == "0.5.23"
            assert models["data"][0]["id"] == "llama-3.1-8b"
            assert (await one.get("/get_load"))[0] == 404
            assert (await one.get("/metrics"))[0] == 404, "only with --enable-metrics"

    run(test)


def test_loads_count_what_was_done() -> None:
    async def test() -> None:
        async with engine() as one:
            await one.post("/generate", native(9))
            _, loads = await one.get("/v1/loads?include=core,disagg,queues")
            load = loads["loads"][0]
            assert load["total_prefill_uncached_tokens"] == 5
            assert load["total_prefill_busy_us"] == 5000 / SPEED
            count, rows, total_us, *_ = load["decode_moments"]
            assert count == rows
            assert 5 <= count <= 8
            # launch to launch, the first across the prefill, in time as an onlooker has it
            assert round(total_us * SPEED) == 5_000 + (count - 1) * 10_000
            assert (load["num_running_reqs"], load["token_usage"]) == (0, 0.0)

    run(test)


def test_a_request_takes_its_way_in_and_the_start_of_its_step_beside_the_step() -> None:
    plain = model()
    beside = replace(plain.times, request_s=2.0, prefill_start_s=0.3)

    async def test() -> None:
        async with engine(model=replace(plain, times=beside)) as one:
            await one.post("/generate", native(1))
            record = one.api.engine.record
            assert record.prefill_busy_s * SPEED == pytest.approx(0.3 + 0.005)
            assert record.ttft_s.sum * SPEED >= 2.0 + 0.3 + 0.005

    run(test)


def test_a_first_token_waits_for_the_launch_of_the_next_prompt_where_launching_takes_long() -> None:
    plain = model()
    eager = replace(plain.times, prefill_graphs=False, eager_s=4.0)

    async def test() -> None:
        async with engine(model=replace(plain, times=eager)) as one:
            first = asyncio.create_task(one.post("/generate", native(1)))
            await asyncio.sleep(1.0 / SPEED)
            await one.post("/generate", native(1))
            await first
            record = one.api.engine.record
            assert record.prefill_busy_s * SPEED == pytest.approx(8.0)
            assert record.ttft_s.sum * SPEED >= 8.0 + 6.5  # 4 + 7 if the first were told at once

    run(test)


def test_a_client_that_leaves_takes_its_request_with_it() -> None:
    async def test() -> None:
        async with engine(speed=1.0) as one:
            async with one.http.post(
                one.url + "/generate", json=native(9000, stream=True)
            ) as reply:
                await reply.content.readline()
                assert one.api.engine.queues.queues.running == 1
            await eventually(lambda: one.api.engine.is_idle)
            assert one.api.engine.queues.kv.held_tokens == 0

    run(test)


def test_an_aborted_request_ends_and_the_others_go_on() -> None:
    async def test() -> None:
        async with engine() as one:
            bodies = [native(400, rid="first", stream=True), native(20, rid="second")]
            first = asyncio.create_task(one.events("/generate", bodies[0]))
            second = asyncio.create_task(one.post("/generate", bodies[1]))
            await eventually(lambda: one.api.engine.queues.queues.running == 2)
            await one.post("/abort_request", {"rid": "first"})
            reason = (await first)[-1]["meta_info"]["finish_reason"]
            assert reason["type"] == "abort"
            assert (await second)[0] == 200

    run(test)


def test_the_cache_is_flushed_only_while_idle() -> None:
    async def test() -> None:
        async with engine() as one:
            busy = asyncio.create_task(one.post("/generate", native(100)))
            await eventually(lambda: not one.api.engine.is_idle)
            assert (await one.post("/flush_cache", {}))[0] == 400
            await busy
            assert (await one.get("/flush_cache"))[0] == 200

    run(test)


def test_the_metrics_page_has_sglangs_names_and_labels() -> None:
    from prometheus_client.parser import text_string_to_metric_families

    async def test() -> None:
        async with engine("colocated", "--enable-metrics") as one:
            await one.post("/generate", native(5))
            _, text = await one.get("/metrics")
        families = {family.name: family for family in text_string_to_metric_families(text)}
        gauge = families["sglang:num_running_reqs"].samples[0]
        assert gauge.labels["engine_type"] == "unified"
        assert gauge.labels["model_name"] == "llama-3.1-8b"
        itl = families["sglang:inter_token_latency_seconds"].samples
        assert next(s.value for s in itl if s.name.endswith("_count")) == 4
        ttft = families["sglang:time_to_first_token_seconds"].samples
        assert next(s.value for s in ttft if s.name.endswith("_count")) == 1

    run(test)


def test_garbage_is_answered_and_survived() -> None:
    async def test() -> None:
        async with engine() as one:
            async with one.http.post(one.url + "/generate", data=b"\xff{") as reply:
                assert reply.status == 400
            async with one.http.post(one.url + "/generate", data=b"[]") as reply:
                assert reply.status == 400
            assert (await one.get("/health"))[0] == 200

    run(test)


def test_many_streams_at_once_each_get_their_own_tokens() -> None:
    async def test() -> None:
        async with engine() as one:

            async def ask(n: int) -> list[int]:
                params = {"max_new_tokens": 5}
                body: dict[str, object] = {"input_ids": [n, n, n], "sampling_params": params}
                events = await one.events("/generate", body)
                return list(events[-1]["output_ids"])

            found = await asyncio.gather(*(ask(n) for n in range(40)))
            seeds = [prompt_seed(ids_of_list([n, n, n])) for n in range(40)]
            assert found == [[token(seed, i) for i in range(5)] for seed in seeds]

    run(test)


def test_a_connection_reset_before_the_stream_begins_leaves_nothing_behind() -> None:
    async def test() -> None:
        async with engine(speed=1.0) as one:
            timeout = aiohttp.ClientTimeout(total=0.05)
            try:
                async with one.http.post(
                    one.url + "/generate", json=native(9000), timeout=timeout
                ) as reply:
                    await reply.read()
            except asyncio.TimeoutError:
                pass
            await eventually(lambda: one.api.engine.is_idle)

    run(test)
