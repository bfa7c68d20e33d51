"""`pdctl explain` on simulated engines behind the real router, against its clients' clocks."""

import asyncio
import json
import random
import time
from typing import Any

import aiohttp

from tests.commands.test_schema import check
from tests.e2e.cli import Cli, free_port

COUNT, RATE_RPS = 40, 1.5
CLOSE_S = 0.05  # through client, router and tokenizer of a busy machine


def test_the_parts_add_up_to_what_clients_waited(cli: Cli) -> None:
    port = str(free_port())
    sim = ("qwen3-32b", "--engine", "sim", "--gpus", "4xH200")
    sizes = ("--prefill", "2", "--total", "4", "--name", "chat", "--port", port, "-d")
    done = cli.run("up", *sim, *sizes)
    assert done.returncode == 0, done.stderr
    seen = asyncio.run(_clients(f"http://127.0.0.1:{port}"))
    done = cli.run("explain", "--slowest", "1000", "--json")
    answer = json.loads(done.stdout)
    check("explain", answer)
    found = {one["rid"]: one for one in answer["data"]["requests"]}
    assert seen.keys() <= found.keys()
    off = [abs(found[rid]["ttft_s"] - ttft_s) for rid, ttft_s in seen.items()]
    near = [gap < max(CLOSE_S, 0.03 * s) for gap, s in zip(off, seen.values(), strict=True)]
    assert sum(near) >= 0.95 * len(near)
    replay = answer["data"]["replay"]
    assert replay["today"]["layout"] == "2P2D"
    assert {one["layout"] for one in replay["others"]} == {"1P3D", "3P1D"}


async def _clients(url: str) -> dict[str, float]:
    """Send the requests; the seconds to the first token of each, by its id."""
    chance = random.Random(1)
    at_s = 0.0
    jobs = []
    # a kept connection to the router may take 200 ms longer
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(connector=connector) as http:
        for _ in range(COUNT):
            at_s += chance.expovariate(RATE_RPS)
            ids = [chance.randrange(1000) for _ in range(int(chance.lognormvariate(8.8, 0.6)))]
            jobs.append(_one(http, url, ids, at_s))
        return dict(await asyncio.gather(*jobs))


async def _one(
    http: aiohttp.ClientSession, url: str, ids: list[int], at_s: float
) -> tuple[str, float]:
    params = {"max_new_tokens": 20, "ignore_eos": True}
    body = json.dumps({"input_ids": ids, "sampling_params": params, "stream": True})
    await asyncio.sleep(1.0 + at_s)
    start_s = time.perf_counter()
    headers = {"content-type": "application/json"}
    async with http.post(f"{url}/generate", data=body, headers=headers) as answer:
        first: Any = None
        async for line in answer.content:
            if first is None and line.startswith(b"data: {"):
                first_s = time.perf_counter() - start_s
                first = json.loads(line[6:])["meta_info"]["id"]
    return first, first_s
