"""Timelines computed by hand, and what must not be lost."""

import pytest

from pdctl.perf_model.metrics import percentiles
from pdctl.perf_model.records import EngineModel, Fleet, Outcome, Parallelism, Role, StepTimes
from pdctl.perf_model.simulator import simulate
from pdctl.workload.records import Requests

# prefill: 1 ms + 10 µs per token; decode: 10 ms; transfer: 1 ms + 1 µs per token
TIMES = StepTimes(
    prefill_base_s=0.001,
    prefill_token_s=1e-5,
    prefill_pair_s=0.0,
    prefill_floor_s=0.0,
    decode_base_s=0.010,
    decode_weight_s=0.0,
    decode_request_s=0.0,
    decode_latency_s=0.0,
    decode_context_s=0.0,
    decode_compute_s=0.0,
    transfer_base_s=0.001,
    transfer_token_s=1e-6,
)


def engine(
    role: Role = "colocated", *, kv: int = 1_000_000, running: int = 1000, chunk: int = 8192
) -> EngineModel:
    return EngineModel(
        role=role,
        parallelism=Parallelism(),
        times=TIMES,
        kv_capacity_tokens=kv,
        max_running_requests=running,
        chunked_prefill_size=chunk,
        max_context=200_000,
    )


def colocated(num: int = 1) -> Fleet:
    return Fleet(colocated=engine(), num_colocated=num, router_hop_s=0.0, policy="round_robin")


def split(num_prefill: int = 1, num_decode: int = 1) -> Fleet:
    return Fleet(
        prefill=engine("prefill"),
        decode=engine("decode"),
        num_prefill=num_prefill,
        num_decode=num_decode,
        router_hop_s=0.0,
        policy="round_robin",
    )


def requests(*rows: tuple[float, int, int]) -> Requests:
    return Requests(*(list(column) for column in zip(*rows, strict=True)))  # type: ignore[arg-type]


def ttft_ms(outcome: Outcome) -> list[float]:
    return [round(1000 * value, 6) for value in outcome.ttft_s if value is not None]


def e2e_ms(outcome: Outcome) -> list[float]:
    return [round(1000 * value, 6) for value in outcome.e2e_s if value is not None]


def test_one_request_on_a_colocated_engine() -> None:
    outcome = simulate(colocated(), requests((0.0, 1000, 4)))
    assert ttft_ms(outcome) == [11.0]
    assert e2e_ms(outcome) == [41.0]
    assert outcome.tpot_s[0] == pytest.approx(0.010)


def test_one_request_through_prefill_transfer_and_decode() -> None:
    outcome = simulate(split(), requests((0.0, 1000, 4)))
    assert ttft_ms(outcome) == [13.0]  # 11 ms forward, 2 ms transfer
    assert e2e_ms(outcome) == [43.0]


def test_an_arrival_waits_for_the_running_step_and_the_one_already_queued() -> None:
    # steps of the first: prefill 0-11, decode 11-21, 21-31, 31-41 ms; at 22 ms the step that
    # starts at 31 is decided already, so the second is prefilled from 41 to 52 ms
    outcome = simulate(colocated(), requests((0.0, 1000, 10), (0.022, 1000, 1)))
    assert ttft_ms(outcome) == [11.0, 30.0]
    assert e2e_ms(outcome)[0] == 11 + 9 * 10 + 11


def test_only_the_last_chunk_of_a_transfer_is_exposed() -> None:
    # chunks of 8192 and 1808 tokens: 82.92 + 19.08 ms forward, then 1 + 1.808 ms
    outcome = simulate(split(), requests((0.0, 10_000, 2)))
    assert ttft_ms(outcome) == [pytest.approx(82.92 + 19.08 + 2.808)]


def test_a_prompt_beyond_the_kv_capacity_is_rejected_and_counted() -> None:
    fleet = Fleet(colocated=engine(kv=500), num_colocated=1)
    outcome = simulate(fleet, requests((0.0, 1000, 4), (0.0, 100, 4)))
    assert outcome.num_rejected == 1
    assert outcome.ttft_s[0] is None
    assert outcome.ttft_s[1] is not None


def test_a_fleet_without_engines_is_refused() -> None:
    with pytest.raises(ValueError, match="needs"):
        simulate(Fleet(), requests((0.0, 10, 1)))


def test_percentiles_interpolate_as_numpy_does() -> None:
    found = percentiles([1.0, 2.0, None, 3.0, 4.0])
    assert found is not None
    assert (found.mean, found.p50, found.p90, found.p99) == pytest.approx((2.5, 2.5, 3.7, 3.97))
