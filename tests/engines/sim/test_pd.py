"""A prefill and a decode engine, with the test acting as the router."""

import asyncio
from typing import Any

from pdctl.engines.sim.partners import Registry
from pdctl.engines.sim.requests import Request
from tests.engines.sim.engines import Running, both_legs, engine, eventually, pair, run

PROMPT = [5, 6, 7, 8, 9]


def body(new: int = 4, **more: object) -> dict[str, object]:
    return {"input_ids": PROMPT, "sampling_params": {"max_new_tokens": new}, **more}


async def through(prefill: Running, decode: Running, room: int, ask: dict[str, object]) -> Any:
    """Send a request to both engines at once; return the decode engine's answer."""
    legs = both_legs(prefill, room, ask)
    first, second = await asyncio.gather(
        prefill.post("/generate", legs), decode.post("/generate", legs)
    )
    assert first[0] == second[0], (first, second)
    return second


def test_disaggregated_tokens_equal_colocated_ones() -> None:
    async def test() -> None:
        async with engine() as alone, pair() as (prefill, decode):
            _, expected = await alone.post("/generate", body(9))
            status, answer = await through(prefill, decode, 7, body(9))
            assert status == 200
            assert answer["output_ids"] == expected["output_ids"]
            assert prefill.api.engine.is_idle
            await eventually(lambda: decode.api.engine.queues.kv.held_tokens == 0)

    run(test)


def test_the_decode_engine_reports_what_its_partner_found_cached() -> None:
    async def test() -> None:
        async with pair() as (prefill, decode):
            ask: dict[str, object] = {**body(2), "input_ids": list(range(100, 170))}
            cached = []
            for room in (1, 2):
                _, answer = await through(prefill, decode, room, ask)
                cached.append(answer["meta_info"]["cached_tokens"])
            assert cached == [0, 64]

    run(test)


def test_either_leg_may_come_first() -> None:
    async def test() -> None:
        async with pair() as (prefill, decode):
            for room, (first, second) in enumerate(((prefill, decode), (decode, prefill))):
                legs = both_legs(prefill, room, body(3))
                early = asyncio.create_task(first.post("/generate", legs))
                await asyncio.sleep(0.05)
                assert not early.done()
                assert (await second.post("/generate", legs))[0] == 200
                assert (await early)[0] == 200

    run(test)


def test_requests_queue_where_sglang_queues_them() -> None:
    async def test() -> None:
        async with pair(kv=1200) as (prefill, decode):  # two prompts and their reserve fill it
            asks = [
                asyncio.create_task(through(prefill, decode, room, body(40))) for room in range(5)
            ]
            await eventually(lambda: decode.api.engine.queues.queues.running == 2)
            _, loads = await decode.get("/v1/loads")
            disagg = loads["loads"][0]["disaggregation"]
            assert disagg["mode"] == "decode"
            assert disagg["decode_prealloc_queue_reqs"] == 3
            _, loads = await prefill.get("/v1/loads")
            assert loads["loads"][0]["disaggregation"]["prefill_bootstrap_queue_reqs"] == 3
            assert loads["loads"][0]["num_waiting_reqs"] == 3
            assert [status for status, _ in await asyncio.gather(*asks)] == [200] * 5

    run(test)


def test_a_role_isolated_probe_needs_no_partner() -> None:
    async def test() -> None:
        async with pair() as (prefill, decode):
            fake = {"bootstrap_host": "2.2.2.2", "bootstrap_room": 0}
            _, first = await prefill.post("/generate", body(8, **fake))
            _, rest = await decode.post("/generate", body(8, **fake))
            assert (len(first["output_ids"]), len(rest["output_ids"])) == (1, 8)

    run(test)


def test_without_a_room_a_request_is_refused() -> None:
    async def test() -> None:
        async with pair() as (prefill, _):
            status, answer = await prefill.post("/generate", body())
            assert status == 400
            assert "without bootstrap room id" in answer["error"]["message"]

    run(test)


def test_the_registry_names_its_engine_once_it_is_registered() -> None:
    async def test() -> None:
        async with engine() as anyone:
            registry = Registry("127.0.0.1", anyone.bootstrap_port)
            await registry.start()
            url = f"http://127.0.0.1:{anyone.bootstrap_port}/route?prefill_dp_rank=-1"
            async with anyone.http.get(url) as reply:
                assert reply.status == 503
            await registry.register(31001, 2, 1, 1)
            async with anyone.http.get(url) as reply:
                route = await reply.json()
            assert (route["prefill_http_port"], route["attn_tp_size"]) == (31001, 2)
            await registry.stop()

    run(test)


def test_of_two_engines_on_one_bootstrap_port_the_last_is_registered() -> None:
    async def test() -> None:
        async with (
            engine("prefill") as first,
            engine("prefill", bootstrap_port=first.bootstrap_port) as second,
        ):
            url = f"http://127.0.0.1:{first.bootstrap_port}/route?prefill_dp_rank=-1"
            async with first.http.get(url) as reply:
                assert (await reply.json())["prefill_http_port"] == second.port

    run(test)


def test_a_partner_that_is_not_there_fails_the_request_after_its_tries() -> None:
    async def test() -> None:
        async with engine("decode", speed=1000.0) as decode:
            lost = body(4, bootstrap_host="127.0.0.1", bootstrap_port=1, bootstrap_room=3)
            status, answer = await decode.post("/generate", lost)
            assert status == 500
            assert "after 15 attempts" in answer["error"]["message"]
            assert decode.api.engine.is_idle

    run(test)


def test_a_prefill_engine_that_dies_fails_the_requests_it_had() -> None:
    async def test() -> None:
        async with engine("decode") as decode:
            async with engine("prefill") as prefill:
                assert (await through(prefill, decode, 1, body()))[0] == 200
                alone = both_legs(prefill, 2, body())  # its prefill leg never comes
                waiting = asyncio.create_task(decode.post("/generate", alone))
                await eventually(lambda: decode.api.engine.queues.queues.transfer == 1)
            status, answer = await waiting
            assert status == 500
            assert "Lost connection with prefill instance" in answer["error"]["message"]

    run(test)


def test_a_partner_that_never_comes_is_given_up_after_a_while() -> None:
    async def test() -> None:
        async with (
            engine("prefill", patience_s=2.0) as prefill,
            engine("decode", patience_s=2.0) as decode,
        ):
            status, answer = await prefill.post("/generate", both_legs(prefill, 1, body()))
            assert (status, "in KVPoll.Bootstrapping" in answer["error"]["message"]) == (500, True)
            status, answer = await decode.post("/generate", both_legs(prefill, 2, body()))
            assert (status, "in KVPoll.WaitingForInput" in answer["error"]["message"]) == (
                500,
                True,
            )
            assert decode.api.engine.is_idle
            # the room that the prefill engine gave up is refused at once, not after a timeout
            status, answer = await decode.post("/generate", both_legs(prefill, 1, body()))
            assert (status, "gave up" in answer["error"]["message"]) == (500, True)

    run(test)


def test_a_client_that_leaves_the_prefill_engine_fails_the_decode_leg() -> None:
    async def test() -> None:
        async with pair() as (prefill, decode):
            legs = both_legs(prefill, 9, {**body(), "input_ids": [1] * 20_000})
            second = asyncio.create_task(decode.post("/generate", legs))
            first = asyncio.create_task(prefill.post("/generate", legs))
            await eventually(lambda: prefill.api.engine.queues.queues.bootstrap == 0)
            await eventually(lambda: bool(prefill.api.engine.live))
            first.cancel()
            assert (await second)[0] == 500

    run(test)


def test_roles_switch_while_idle_and_serve_in_their_new_roles() -> None:
    async def test() -> None:
        async with pair("--enable-pd-role-switch") as (old_prefill, old_decode):
            status, answer = await old_decode.post("/pd_role_switch", {"new_role": "prefill"})
            assert (status, answer["message"]) == (200, "ok")
            status, answer = await old_prefill.post("/pd_role_switch", {"new_role": "decode"})
            assert status == 400
            assert "decode_cuda_graph_memory_gb is required" in answer["message"]
            assert answer["safe_to_restore"]
            status, _ = await old_prefill.post(
                "/pd_role_switch", {"new_role": "decode", "decode_cuda_graph_memory_gb": 0.5}
            )
            assert status == 200
            assert (await old_prefill.get("/model_info"))[1]["disaggregation_mode"] == "decode"
            assert (await through(old_decode, old_prefill, 5, body(6)))[0] == 200

    run(test)


def test_a_busy_engine_or_one_without_the_flag_keeps_its_role() -> None:
    async def test() -> None:
        async with engine("decode") as plain, engine("decode", "--enable-pd-role-switch") as able:
            status, answer = await plain.post("/pd_role_switch", {"new_role": "prefill"})
            assert (status, answer["success"]) == (400, False)
            fake = body(200, bootstrap_host="2.2.2.2", bootstrap_room=0)
            busy = asyncio.create_task(able.post("/generate", fake))
            await eventually(lambda: not able.api.engine.is_idle)
            status, answer = await able.post("/pd_role_switch", {"new_role": "prefill"})
            assert status == 400
            assert "not idle" in answer["message"]
            assert (await busy)[0] == 200

    run(test)


def test_a_request_is_new_however_long_the_engine_has_been_running() -> None:
    async def scenario() -> None:
        async with engine("prefill", speed=1000.0) as prefill:
            core, handover = prefill.api.engine, prefill.api.handover
            await asyncio.sleep(0.01)
            request = Request(rid="new", prompt_tokens=8, max_new=1, room=1)
            core.submit(request)
            assert core.now_s() > 5.0
            assert handover._overdue(request, 5.0) is None

    run(scenario)
