"""What the real router does with each policy: the simulator's routing.py says the same."""

import asyncio
import json
import random
import re
import urllib.request
from collections import Counter
from typing import Any

import aiohttp

from tests.e2e.cli import Cli, free_port

TOKENS = 4000  # of a prompt: some tenths of a second, so that those sent together overlap


def up(cli: Cli, prefill: int, total: int, *words: str) -> dict[str, Any]:
    sizes = ("--prefill", str(prefill), "--total", str(total), "--port", str(free_port()))
    done = cli.run("up", "qwen3-8b", "--engine", "sim", "--name", "chat", "-d", *sizes, *words)
    assert done.returncode == 0, done.stderr
    return cli.state("chat")


def counts(state: dict[str, Any], role: str) -> Counter[str]:
    found: Counter[str] = Counter()
    for one in state["processes"]:
        if one["role"] == role:
            with urllib.request.urlopen(f"{one['url']}/metrics", timeout=10) as page:
                text = page.read().decode()
            lines = re.findall(r"sglang:num_requests_total\{[^}]*\} ([0-9.e+]+)", text)
            found[one["name"]] = sum(int(float(n)) for n in lines)
    return found


def prompt(rng: random.Random, shared: str = "") -> str:
    return shared + " ".join(str(rng.randrange(10**6)) for _ in range(TOKENS * 4 // 7))


def send(state: dict[str, Any], prompts: list[str], *, apart_s: float) -> None:
    """All prompts, each `apart_s` after the one before it; streams, as clients ask for them."""

    async def one(http: aiohttp.ClientSession, text: str, after_s: float) -> None:
        await asyncio.sleep(after_s)
        body = {"text": text, "sampling_params": {"max_new_tokens": 2}, "stream": True}
        async with http.post(f"{state['endpoint']}/generate", data=json.dumps(body)) as answer:
            assert answer.status == 200
            await answer.read()

    async def everything() -> None:
        connector = aiohttp.TCPConnector(force_close=True)
        headers = {"content-type": "application/json"}
        async with aiohttp.ClientSession(connector=connector, headers=headers) as http:
            await asyncio.gather(*(one(http, text, n * apart_s) for n, text in enumerate(prompts)))

    asyncio.run(everything())


def test_cache_aware_sends_colocated_engines_what_is_new_by_load_and_prefixes_home(
    cli: Cli,
) -> None:
    state, rng = up(cli, 0, 3), random.Random(1)
    before = counts(state, "colocated")
    send(state, [prompt(rng) for _ in range(6)], apart_s=0.01)
    together = counts(state, "colocated") - before
    assert sorted(together.values()) == [2, 2, 2]
    before = counts(state, "colocated")
    send(state, [prompt(rng) for _ in range(3)], apart_s=1.5)
    assert list((counts(state, "colocated") - before).values()) == [3], "idle: always the first"
    begin = prompt(rng)
    send(state, [begin], apart_s=0)
    before = counts(state, "colocated")
    send(state, [begin + " " + str(n) for n in range(6)], apart_s=0.01)
    assert list((counts(state, "colocated") - before).values()) == [6], "a known prefix"


def test_cache_aware_draws_prefill_and_decode_engines_at_random(cli: Cli) -> None:
    state, rng = up(cli, 2, 4, "--policy", "cache_aware", "--sim-speed", "20"), random.Random(1)
    begin, before = prompt(rng), counts(state, "prefill")
    send(state, [begin + " " + str(n) for n in range(30)], apart_s=0.02)
    found = counts(state, "prefill") - before
    assert len(found) == 2, "one prefix, and yet two engines"
    assert min(found.values()) >= 5


def test_split_engines_take_turns_by_default(cli: Cli) -> None:
    state, rng = up(cli, 2, 4, "--sim-speed", "20"), random.Random(1)
    before = {role: counts(state, role) for role in ("prefill", "decode")}
    send(state, [prompt(rng) for _ in range(8)], apart_s=0.02)
    for role, was in before.items():
        assert sorted((counts(state, role) - was).values()) == [4, 4]
