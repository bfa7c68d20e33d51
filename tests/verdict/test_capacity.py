import math

import pytest

from pdctl.verdict.capacity import (
    decode_rps,
    demand_of,
    max_batch,
    prefill_alone_s,
    prefill_packed_s,
    prefill_rps,
    prefill_shared_s,
    prefill_tokens_per_s,
    running_requests,
    step_s,
    tpot_at,
)
from pdctl.workload.describe import workload_from_lengths
from pdctl.workload.records import Slo
from tests.verdict.examples import TIMES, engine


def demand(isl: float = 4000, osl: float = 100, hit: float | None = None):  # type: ignore[no-untyped-def]
    made = demand_of(workload_from_lengths(isl=isl, osl=osl, prefix_hit=hit))
    assert made is not None
    return made


def test_unknown_lengths_ask_for_nothing_that_could_be_computed() -> None:
    assert demand_of(workload_from_lengths(isl=100, osl=None)) is None


def test_a_cached_prefix_is_read_and_not_computed() -> None:
    asked = demand(4000, 100, 0.75)
    assert (asked.fresh, asked.cached) == (1000, 3000)
    assert asked.pairs == pytest.approx(1000 * (3000 + 500))
    assert asked.context == 4050


def test_a_prompt_alone_takes_its_tokens_and_more_prompts_share_a_step() -> None:
    assert prefill_alone_s(engine(), demand()) == pytest.approx(0.4)
    assert prefill_packed_s(engine(), demand()) == pytest.approx(0.4)
    assert prefill_tokens_per_s(engine(), demand()) == pytest.approx(10_000)


def test_sharing_a_step_saves_its_fixed_cost() -> None:
    slow_start = engine(times=TIMES.__class__(**{**vars(TIMES), "prefill_base_s": 0.4}))
    short = demand(1000)
    assert prefill_shared_s(slow_start, short, rate_rps=0.1) == pytest.approx(0.5)
    assert prefill_shared_s(slow_start, short, rate_rps=100) == pytest.approx(0.15)


def test_a_step_reads_the_context_of_all_its_requests() -> None:
    assert step_s(engine(), demand(), 10) == pytest.approx(0.01 + 10 * 4050e-6)


def test_speculative_tokens_shorten_the_time_per_token() -> None:
    plain, drafted = engine(), engine(verify_tokens=4, accept_length=2.5)
    assert tpot_at(drafted, demand(), 8) == pytest.approx(tpot_at(plain, demand(), 8) / 2.5)


def test_kv_and_the_limit_of_running_requests_bound_a_batch() -> None:
    assert max_batch(engine(), demand()) == pytest.approx(1_000_000 / 4050)
    assert max_batch(engine("decode"), demand()) == pytest.approx(1_000_000 / 4562)
    assert max_batch(engine(max_running_requests=48), demand()) == 48
    assert max_batch(engine(kv_capacity_tokens=0), demand()) == 0


def test_the_decode_rate_at_an_slo_is_littles_law_at_the_batch_that_just_meets_it() -> None:
    rate = decode_rps(engine("decode"), demand(), 0.0505)  # 10 requests: 10 + 40.5 ms
    assert rate == pytest.approx(0.92 * 10 / (100 * 0.0505), rel=0.01)


def test_no_rate_meets_an_slo_below_one_request_alone() -> None:
    assert decode_rps(engine("decode"), demand(), 0.005) == 0
    assert prefill_rps(engine("prefill"), demand(), Slo(ttft_s=0.3)) == 0


def test_a_wider_ttft_lets_the_prefill_engine_be_busier() -> None:
    rates = [prefill_rps(engine("prefill"), demand(), Slo(ttft_s=t)) for t in (0.5, 1.0, 4.0)]
    assert rates == sorted(rates)
    assert rates[-1] < 1 / 0.4


def test_the_running_batch_is_its_own_fixed_point() -> None:
    batch = running_requests(engine(), demand(), 150.0)
    assert batch is not None
    assert batch == pytest.approx(150 * tpot_at(engine(), demand(), batch), rel=0.02)


def test_more_tokens_per_second_than_the_engine_makes_is_no_batch() -> None:
    assert running_requests(engine(), demand(), 1e6) is None
    assert math.isfinite(max_batch(engine(), demand()))
