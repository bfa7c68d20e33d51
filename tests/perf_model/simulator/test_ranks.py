"""Engines with attention-DP: timelines computed by hand.

Prefill takes 1 ms and 10 µs a token of an engine whose ranks are all at work, so that a rank alone
takes as long as if each of the others had as many tokens. Two ranks, a chunk of 1,000 on each.
"""

from dataclasses import replace
from itertools import pairwise

import pytest

from pdctl.perf_model.engine_model import engine_model
from pdctl.perf_model.records import Balance, EngineModel, Parallelism, Role
from pdctl.perf_model.simulator.job import Job
from pdctl.perf_model.simulator.scheduling import Ranks
from pdctl.perf_model.simulator.simulate import simulate
from tests.perf_model.fleets import (
    PLAIN,
    RICH,
    colocated,
    engine,
    ms,
    random_requests,
    requests,
    split,
)
from tests.perf_model.shapes import cluster, llm

ROWS = replace(PLAIN, prefill_token_s=0.0, prefill_row_s=1e-5)


def ranked(
    role: Role = "colocated",
    *,
    running: int = 1000,
    kv: int = 1_000_000,
    balance: Balance = "round_robin",
) -> EngineModel:
    """Two attention-DP ranks."""
    model = engine(role, times=ROWS, chunk=2000, running=running, kv=kv)
    return replace(model, parallelism=Parallelism(tp=2, dp=2), balance=balance)


def test_a_prompt_alone_takes_one_rank_as_long_as_a_prompt_on_each() -> None:
    alone, both = requests((0.0, 1000, 1)), requests((0.0, 1000, 1), (0.0, 1000, 1))
    assert ms(simulate(colocated(ranked()), alone).ttft_s) == [1 + 20]
    assert ms(simulate(colocated(ranked()), both).ttft_s) == [21, 21]
    tensor_parallel = engine(times=ROWS, chunk=2000)
    assert ms(simulate(colocated(tensor_parallel), alone).ttft_s) == [1 + 10]


def test_a_third_prompt_waits_for_its_rank() -> None:
    three = requests(*[(0.0, 1000, 1)] * 3)
    assert ms(simulate(colocated(ranked()), three).ttft_s) == [21, 21, 42]


def test_a_long_prompt_is_cut_into_the_chunks_of_its_rank() -> None:
    # 1000, 1000 and 500 tokens on one rank; a second one of 500 shares the first step
    asked = requests((0.0, 2500, 1), (0.0, 500, 1))
    assert ms(simulate(colocated(ranked()), asked).ttft_s) == [21 + 21 + 11, 21]


def test_requests_on_other_ranks_have_a_token_in_a_prefill_step() -> None:
    # steps: prefill 0-21, decode 21-31, 31-41, the second's prompt 41-52, decode to the end
    asked = requests((0.0, 1000, 10), (0.022, 500, 1))
    outcome = simulate(colocated(ranked()), asked)
    assert ms(outcome.ttft_s) == [21, 52 - 22]
    assert ms(outcome.e2e_s)[0] == 21 + 2 * 10 + 11 + 6 * 10


def test_requests_on_the_same_rank_have_none() -> None:
    asked = requests((0.0, 1000, 10), (0.0, 1000, 1), (0.022, 500, 1))
    outcome = simulate(colocated(ranked()), asked)
    assert ms(outcome.ttft_s) == [21, 21, 52 - 22]
    assert ms(outcome.e2e_s)[0] == 21 + 9 * 10 + 11


@pytest.mark.parametrize("model", [ranked(running=2), ranked(kv=4000)], ids=["slots", "kv"])
def test_a_rank_without_room_lets_its_requests_wait_though_another_has_room(
    model: EngineModel,
) -> None:
    # the first runs on rank 0 until 21 + 9 · 10 ms, the second leaves rank 1 at 21; the third
    # is rank 0's: of its 2,000 tokens of KV the first holds 1,000
    asked = requests((0.0, 1000, 10), (0.0, 1000, 1), (0.001, 1000, 1))
    limited = simulate(colocated(model), asked)
    assert ms(limited.ttft_s) == [21, 21, 111 + 21 - 1]
    # with room it only waits for the decode step that was decided before it came, 21-31 ms
    assert ms(simulate(colocated(ranked()), asked).ttft_s)[2] == 31 + 21 - 1


def test_a_prefill_engine_has_ranks_too() -> None:
    fleet = split(ranked("prefill"), engine("decode", times=ROWS))
    asked = requests((0.0, 1000, 1), (0.0, 2500, 1))
    # both begin in a step of 21 ms; the first is answered for when the loop looks, after the next
    # step; the second goes on for 21 and 11, and its last 500 tokens travel for 1.5 ms
    assert ms(simulate(fleet, asked).ttft_s) == [21 + 21, 21 + 21 + 11 + 1.5]
    assert ms(simulate(fleet, requests((0.0, 1000, 1))).ttft_s) == [21 + 2]


def test_the_least_loaded_rank_gets_the_next_prompt_by_tokens_or_by_requests() -> None:
    # in turn rank 0 gets 2,000 and 500 tokens: 2 steps of 21, then one of 11; by tokens rank 1
    # gets all that follow 2,000; by requests rank 0 gets the third, as in turn
    asked = requests((0.0, 2000, 1), (0.0, 500, 1), (0.0, 500, 1), (0.0, 500, 1))

    def ttft(balance: Balance) -> list[float]:
        return ms(simulate(colocated(ranked(balance=balance)), asked).ttft_s)

    assert ttft("round_robin") == ttft("total_requests") == [42, 21, 42 + 11, 21]
    assert ttft("total_tokens") == [42, 21, 21, 42]


def test_a_rank_is_relieved_of_requests_that_have_left() -> None:
    # with the first gone, rank 0 gets 1,000 tokens and rank 1 twice 500: one step of 21. Were it
    # still counted, rank 1 would get 1,000 and the last 500, a step more
    asked = requests((0.0, 1000, 1), (0.05, 1000, 1), (0.05, 500, 1), (0.05, 500, 1))
    assert ms(simulate(colocated(ranked(balance="total_tokens")), asked).ttft_s) == [21] * 4
    fleet = split(ranked("prefill", balance="total_tokens"), engine("decode", times=ROWS))
    # and one KV transfer after another, of 2, 1.5 and 1.5 ms
    assert ms(simulate(fleet, asked).ttft_s) == [23, 23, 24.5, 26]


def test_wide_ranks_take_in_as_many_tokens_as_lmsys_measured() -> None:
    # DeepSeek-V3 on 4 nodes of 8 H100, prompts of 2,000 tokens, 16,384 tokens a rank: 52,300
    # tokens/s a node (LMSYS 2025-05-05). All prompts wait from the start; both ends do not count
    shape = Parallelism(tp=32, dp=32, ep=32)
    h100 = cluster("H100", 4, 50e9)
    wide = engine_model(
        llm("deepseek-v3"),
        h100,
        shape,
        "prefill",
        chunk=32 * 16384,
        mem_fraction=0.85,
        two_batch_overlap=True,
        all_to_all=True,
    )
    fleet = split(wide, engine("decode", kv=10**9, running=10**5))
    asked = requests(*[(0.0, 2000, 1)] * 4000)
    done_s = sorted(time for time in simulate(fleet, asked).ttft_s if time is not None)
    rate_rps = 2800 / (done_s[3200] - done_s[400])
    assert rate_rps * 2000 / 4 == pytest.approx(52_300, rel=0.10)


def test_rooms_give_a_prompt_to_a_random_rank() -> None:
    ranks: Ranks[Job] = Ranks(8, 8000, 1, "follow_bootstrap_room")
    jobs = [Job(n, 100, 1, ()) for n in range(4000)]
    for job in jobs:
        ranks.take(job)
    drawn = [job.rank for job in jobs]
    assert all(abs(drawn.count(rank) - 500) < 3 * 21 for rank in range(8))  # σ = 21
    repeated = sum(one == next_one for one, next_one in pairwise(drawn))
    assert abs(repeated - 500) < 3 * 21  # in turn there would be none


@pytest.mark.parametrize("balance", ["round_robin", "follow_bootstrap_room", "total_tokens"])
@pytest.mark.parametrize("kv", [40_000, 1_000_000])
@pytest.mark.parametrize("seed", range(3))
def test_every_request_and_all_kv_come_out_again(seed: int, kv: int, balance: Balance) -> None:
    asked = random_requests(200, rate_rps=40.0, seed=seed)
    shape = Parallelism(tp=4, dp=4)
    roles: tuple[Role, ...] = ("colocated", "prefill", "decode")
    made = {
        role: replace(
            engine(role, times=RICH, kv=kv, chunk=2048, running=64),
            parallelism=shape,
            balance=balance,
        )
        for role in roles
    }
    for fleet in (colocated(made["colocated"], 2), split(made["prefill"], made["decode"], 2, 1)):
        outcome = simulate(fleet, asked)
        assert all(time is not None for time in outcome.e2e_s)
