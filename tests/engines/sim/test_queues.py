"""The three schedulers, driven step by step without clock or network."""

from dataclasses import replace

import pytest

from pdctl.engines.sim.colocated import ColocatedQueues
from pdctl.engines.sim.decode import DecodeQueues
from pdctl.engines.sim.engine import SchedulerQueues, queues_for
from pdctl.engines.sim.prefill import PrefillQueues
from pdctl.engines.sim.requests import Batch, Emission, Request
from pdctl.perf_model.records import EngineModel, Parallelism, Role
from tests.engines.sim.models import model, request


def run(queues: SchedulerQueues, now_s: float = 0.0) -> tuple[Batch | None, list[Emission]]:
    """One scheduler pass without overlap: decide, then finish the batch."""
    decision = queues.decide(now_s)
    emissions = list(decision.emissions)
    if decision.batch:
        end_s = now_s + decision.batch.duration_s
        emissions += queues.finish(decision.batch, end_s).emissions
    return decision.batch, emissions


def until_idle(queues: SchedulerQueues, limit: int = 1000) -> list[Emission]:
    emissions: list[Emission] = []
    for _ in range(limit):
        if queues.is_idle:
            return emissions
        emissions += run(queues)[1]
    raise AssertionError(f"still busy after {limit} passes: {queues.queues}")


def test_waiting_prompts_go_before_decode_steps() -> None:
    queues = ColocatedQueues(model())
    queues.submit(request("a", new=3), 0.0)
    run(queues)
    queues.submit(request("b", new=3), 0.0)
    batch, _ = run(queues)
    assert batch is not None
    assert [part.request.rid for part in batch.parts] == ["b"]
    assert not batch.rows


def test_a_mixed_batch_carries_the_running_requests() -> None:
    queues = ColocatedQueues(model(mixed=True))
    queues.submit(request("a", new=3), 0.0)
    run(queues)
    queues.submit(request("b", new=3), 0.0)
    batch, emissions = run(queues)
    assert batch is not None
    assert [row.rid for row in batch.rows] == ["a"]
    assert [e.request.rid for e in emissions] == ["b", "a"]


def test_with_a_receive_interval_a_prompt_waits_until_the_scheduler_looks() -> None:
    queues = ColocatedQueues(replace(model(), receive_interval=3))
    queues.submit(request("a", new=9), 0.0)
    batches = [run(queues)[0], run(queues)[0]]  # the scheduler looks after each prefill
    queues.submit(request("b", new=1), 0.0)
    batches += [run(queues)[0] for _ in range(4)]
    kinds = ["prefill" if batch and batch.parts else "decode" for batch in batches]
    assert kinds == ["prefill", "decode", "decode", "decode", "prefill", "decode"]


def test_a_prompt_that_nobody_looked_at_yet_can_be_aborted() -> None:
    queues = ColocatedQueues(replace(model(), receive_interval=3))
    queues.submit(request("a", new=2), 0.0)
    run(queues)
    unread = request("b")
    queues.submit(unread, 0.0)
    queues.abort(unread)
    assert [emission.request.rid for emission in until_idle(queues)] == ["a"]


def test_a_long_prompt_is_prefilled_in_chunks_that_others_fill_up() -> None:
    queues = ColocatedQueues(model(chunk=1000))
    queues.submit(request("long", prompt=2500, new=1), 0.0)
    queues.submit(request("short", prompt=300, new=1), 0.0)
    chunks = []
    while not queues.is_idle:
        batch, _ = run(queues)
        assert batch is not None
        chunks.append([(part.request.rid, part.tokens) for part in batch.parts])
    assert chunks == [[("long", 1000)], [("long", 1000)], [("long", 500), ("short", 300)]]


def test_a_finished_request_gives_back_all_kv_but_its_prefix() -> None:
    queues = ColocatedQueues(model())
    queues.submit(request("a", prompt=100, new=5, blocks=(1, 2, 3)), 0.0)
    until_idle(queues)
    assert (queues.kv.held_tokens, queues.kv.evictable_tokens) == (0, 48)


def test_a_repeated_prompt_is_only_computed_after_its_cached_prefix() -> None:
    queues = ColocatedQueues(model())
    for rid in ("a", "b"):
        queues.submit(request(rid, prompt=100, new=1, blocks=(1, 2, 3)), 0.0)
        batch, emissions = run(queues)
    assert batch is not None
    assert batch.new_tokens == 52
    assert emissions[0].request.cached_tokens == 48


def test_a_request_that_does_not_fit_waits_until_another_leaves() -> None:
    queues = ColocatedQueues(model(kv=1000))
    queues.submit(request("a", prompt=600, new=3), 0.0)
    queues.submit(request("b", prompt=600, new=3), 0.0)
    run(queues)
    assert queues.queues.waiting == 1
    rids = [e.request.rid for e in until_idle(queues)]
    assert rids == ["a", "a", "b", "b", "b"]


def test_running_requests_are_limited() -> None:
    queues = ColocatedQueues(model(max_running=2))
    for rid in "abc":
        queues.submit(request(rid, new=4), 0.0)
    run(queues)
    run(queues)
    assert (queues.queues.running, queues.queues.waiting) == (2, 1)
    until_idle(queues)


def test_short_of_kv_the_shortest_output_is_retracted_and_still_completes() -> None:
    queues = ColocatedQueues(model(kv=306))
    first, second = (request(rid, prompt=100, new=60) for rid in "ab")
    first.ignore_eos = False  # the ratio of running requests lets the second in
    queues.submit(first, 0.0)
    emissions = [e for _ in range(5) for e in run(queues)[1]]
    queues.submit(second, 0.0)
    emissions += until_idle(queues)
    assert second.retractions == 1
    assert [sum(e.tokens for e in emissions if e.request is r) for r in (first, second)] == [60, 60]
    assert queues.kv.held_tokens == 0


def test_overlap_decides_a_batch_before_the_last_one_has_ended() -> None:
    queues = ColocatedQueues(model())
    queues.submit(request("a", new=3), 0.0)
    batches = [queues.decide(0.0).batch for _ in range(4)]
    assert [bool(b) for b in batches] == [True, True, True, False], "no step after the last token"
    tokens = [queues.finish(b, 0.1).emissions for b in batches if b]
    assert [e[0].reason for e in tokens] == [None, None, "length"]


def test_an_aborted_request_frees_its_place_and_its_kv() -> None:
    queues = ColocatedQueues(model())
    one = request("a", new=100)
    queues.submit(one, 0.0)
    batch = queues.decide(0.0).batch
    queues.abort(one)
    assert batch is not None
    assert queues.finish(batch, 0.1).emissions == []
    assert queues.is_idle
    assert queues.kv.held_tokens == 0


def test_a_prefill_engine_waits_until_its_partner_has_kv() -> None:
    queues = PrefillQueues(model("prefill"))
    one = request("a", prompt=100, new=1, room=1)
    queues.submit(one, 0.0)
    assert queues.decide(0.0).batch is None
    assert queues.queues.bootstrap == 1
    one.is_ready = True
    assert queues.decide(0.0).batch is not None
    assert queues.queues.bootstrap == 0


def test_a_prefill_engine_answers_when_the_kv_has_arrived() -> None:
    queues = PrefillQueues(model("prefill"))
    one = request("a", prompt=100, new=1, room=1)
    one.is_ready = True
    queues.submit(one, 0.0)
    batch = queues.decide(0.0).batch
    assert batch is not None
    result = queues.finish(batch, 0.1)
    assert (result.emissions, result.transfers, queues.queues.inflight) == ([], [one], 1)
    wake_s = queues.wake_s()
    assert wake_s is not None
    assert abs(wake_s - 0.115) < 1e-9, "5 ms and 0.1 ms per token after the forward pass"
    assert [e.reason for e in queues.poll(wake_s).emissions] == ["length"]
    assert queues.is_idle


def test_transfers_of_one_queue_follow_one_another() -> None:
    queues = PrefillQueues(model("prefill"))
    both = [request(str(room), prompt=100, new=1, room=room) for room in (4, 8)]
    for one in both:
        one.is_ready = True
        queues.submit(one, 0.0)
    batch = queues.decide(0.0).batch
    assert batch is not None
    queues.finish(batch, 0.0)
    assert [round(one.transfer_end_s, 6) for one in both] == [0.015, 0.030]


def decode_request(rid: str = "a", prompt: int = 100, new: int = 4) -> Request:
    one = request(rid, prompt=prompt, new=new, room=1)
    one.is_ready = True
    return one


def test_a_decode_engine_takes_kv_first_and_runs_after_the_transfer() -> None:
    queues = DecodeQueues(model("decode"))
    one = decode_request(new=3)
    queues.submit(one, 0.0)
    decision = queues.decide(0.0)
    assert (decision.allocated, decision.batch, queues.queues.transfer) == ([one], None, 1)
    assert queues.kv.held_tokens == 100
    one.is_transferred = True
    decision = queues.decide(0.0)
    assert [e.tokens for e in decision.emissions] == [1], "the prefill engine's token comes at once"
    assert decision.batch is not None
    assert decision.batch.duration_s == 0.010


def test_a_request_without_a_handshake_is_passed_over_and_a_misfit_blocks() -> None:
    queues = DecodeQueues(model("decode", kv=2000))
    unmet, big, small = decode_request("u"), decode_request("big", 1800), decode_request("s", 10)
    unmet.is_ready = False
    for one in (unmet, big, small):
        queues.submit(one, 0.0)
    assert queues.decide(0.0).allocated == []
    queues.abort(big)
    assert queues.decide(0.0).allocated == [small]


def test_reserved_tokens_keep_newcomers_out_while_kv_is_free() -> None:
    queues = DecodeQueues(model("decode", kv=2000))
    for rid in "abc":
        queues.submit(decode_request(rid, 300), 0.0)
    assert len(queues.decide(0.0).allocated) == 2
    assert queues.kv.free_tokens == 1400


def test_a_decode_engine_parks_requests_without_kv_and_takes_nobody_new_meanwhile() -> None:
    queues = DecodeQueues(model("decode", kv=300, reserved=10))
    both = [decode_request(rid, 100, 80) for rid in "ab"]
    for one in both:
        queues.submit(one, 0.0)
    queues.decide(0.0)
    for one in both:
        one.is_transferred = True
    emissions = until_idle(queues)
    assert queues.num_retracted >= 1
    assert [sum(e.tokens for e in emissions if e.request is one) for one in both] == [80, 80]
    assert queues.kv.held_tokens == 0


def test_a_request_parked_while_its_last_step_ran_ends_with_that_step() -> None:
    queues = DecodeQueues(model("decode", reserved=0))
    long, short = decode_request("long", 100, 50), decode_request("short", 101, 2)
    for one in (long, short):
        queues.submit(one, 0.0)
    queues.decide(0.0)
    long.is_transferred = short.is_transferred = True
    in_flight = queues.decide(0.0).batch
    queues.kv.hold(queues.kv.free_tokens)
    queues.decide(0.0)
    assert queues.queues.retracted == 1
    assert in_flight is not None
    ended = queues.finish(in_flight, 0.01).emissions
    assert [(e.request.rid, e.reason) for e in ended] == [("long", None), ("short", "length")]
    assert queues.queues.retracted == 0


@pytest.mark.parametrize("role", ["colocated", "decode"])
def test_with_speculation_a_step_gains_whole_tokens_that_add_up_to_the_mean(role: Role) -> None:
    queues = queues_for(role, replace(model(role), accept_length=2.4))
    asked = request("a", prompt=100, new=25)
    asked.fake = asked.is_ready = True
    queues.submit(asked, 0.0)
    emissions = until_idle(queues)
    assert [e.tokens for e in emissions] == [1, 2, 2, 3, 2, 3, 2, 2, 3, 2, 3]
    assert emissions[-1].reason == "length"
    assert queues.kv.held_tokens == 0


def two_ranks(role: Role = "colocated") -> EngineModel:
    """Prefill takes 1 ms per token of an engine whose ranks are all at work."""
    made = model(role, chunk=2000)
    times = replace(made.times, prefill_token_s=0.0, prefill_row_s=0.001)
    return replace(made, parallelism=Parallelism(tp=2, dp=2), times=times)


def test_a_prompt_alone_is_cut_into_chunks_of_its_rank_and_takes_both_ranks_time() -> None:
    for queues in (ColocatedQueues(two_ranks()), PrefillQueues(two_ranks("prefill"))):
        alone = replace(request("long", prompt=1500, new=1), fake=True, is_ready=True)
        queues.submit(alone, 0.0)
        batches = [run(queues)[0] for _ in range(2)]
        assert [batch and batch.parts[0].tokens for batch in batches] == [1000, 500]
        assert [batch and batch.duration_s for batch in batches] == [2.0, 1.0]


def test_requests_on_ranks_without_a_prompt_have_a_token_in_its_step() -> None:
    queues = ColocatedQueues(two_ranks())
    queues.submit(request("a", new=5), 0.0)
    run(queues)
    queues.submit(request("b", new=5), 0.0)
    batch, emissions = run(queues)
    assert batch is not None
    assert ([part.request.rid for part in batch.parts], batch.rows[0].rid) == (["b"], "a")
    assert [e.request.rid for e in emissions] == ["b", "a"]
    queues.submit(request("c", new=5), 0.0)  # on the rank of a
    batch, _ = run(queues)
    assert batch is not None
    assert [row.rid for row in batch.rows] == ["b"]
    until_idle(queues)
    assert queues.kv.held_tokens == 0


def test_an_aborted_prompt_leaves_its_rank_to_others() -> None:
    queues = ColocatedQueues(two_ranks())
    long = request("long", prompt=5000, new=1)
    queues.submit(long, 0.0)
    run(queues)
    assert queues.chunked is long
    queues.abort(long)
    queues.submit(request("b", new=1), 0.0)
    assert [e.request.rid for e in until_idle(queues)] == ["b"]
