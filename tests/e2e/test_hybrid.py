"""A hybrid model's engines: how many requests they run, and its state pool on the status screen."""

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from tests.e2e.cli import Cli, free_port
from tests.e2e.test_sim_fleet import stream

# 64 GB of weights on 80 GB: the pool has 63 slots colocated and 99 on a decode engine
HYBRID = ("nemotron-3-nano-30b-a3b", "--engine", "sim", "--gpus", "2xH100", "--no-input")
REQUESTS, TOKENS = 48, 600


class Seen(NamedTuple):
    """What status showed while all requests were sent at once."""

    running: int
    state_usage: float
    screen: str


def _samples(cli: Cli, role: str) -> list[dict[str, Any]]:
    shown = json.loads(cli.run("status", "--once", "--json").stdout)["data"]
    engines = [one for one in shown["engines"] if one["target"]["role"] == role]
    return [one["sample"] for one in engines if one["sample"]]


def _seen_under_load(cli: Cli, role: str, *layout: str) -> Seen:
    up = cli.run("up", *HYBRID, *layout, "--port", str(free_port()), "-d", "--json")
    assert up.returncode == 0, up.stderr
    endpoint = json.loads(up.stdout)["data"]["endpoint"]
    with ThreadPoolExecutor(REQUESTS) as pool:
        answers = [pool.submit(stream, endpoint, i, TOKENS) for i in range(REQUESTS)]
        samples: list[dict[str, Any]] = []
        while not all(answer.done() for answer in answers):
            samples += _samples(cli, role)
            screen = cli.run("status", "--once").stdout
        assert [answer.result() for answer in answers] == [(TOKENS, True)] * REQUESTS
    assert cli.run("down").returncode == 0
    busiest = max(samples, key=lambda one: one["running"])
    return Seen(busiest["running"], busiest["state_usage"], screen)


def test_a_decode_engine_of_a_hybrid_runs_several_times_the_requests_of_a_colocated_one(
    cli: Cli,
) -> None:
    colocated = _seen_under_load(cli, "colocated", "--prefill", "0", "--total", "1")
    decode = _seen_under_load(cli, "decode", "--prefill", "1", "--total", "2")
    assert 0 < colocated.running <= 12
    assert decode.running >= 3 * colocated.running
    assert colocated.state_usage > decode.state_usage > 0.3
    for seen in (colocated, decode):
        assert "state use" in seen.screen
