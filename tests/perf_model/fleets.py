"""Fleets and requests for simulator tests, with step times easy to compute by hand."""

from dataclasses import replace
from random import Random

from pdctl.perf_model.records import EngineModel, Fleet, Outcome, Parallelism, Role, StepTimes
from pdctl.workload.records import Requests

# prefill: 1 ms + 10 µs per token; decode: 10 ms; transfer: 1 ms + 1 µs per token
PLAIN = StepTimes(
    prefill_base_s=0.001,
    prefill_token_s=1e-5,
    prefill_pair_s=0.0,
    decode_base_s=0.010,
    decode_weight_s=0.0,
    decode_request_s=0.0,
    decode_latency_s=0.0,
    decode_context_s=0.0,
    decode_compute_s=0.0,
    transfer_base_s=0.001,
    transfer_token_s=1e-6,
)
# every term at work, a floor that decode crosses as its context grows
RICH = replace(
    PLAIN,
    prefill_weight_s=0.002,
    prefill_pair_s=3e-9,
    decode_base_s=0.004,
    decode_weight_s=0.003,
    decode_request_s=1e-4,
    decode_latency_s=2e-6,
    decode_context_s=1e-6,
    decode_compute_s=9e-4,
    expert_share=0.1,
    prefill_cached_weight=1.7,
    prefill_cached_tokens=300,
    request_s=0.0007,
    prefill_start_s=0.0025,
)


def engine(
    role: Role = "colocated",
    *,
    times: StepTimes = PLAIN,
    kv: int = 1_000_000,
    running: int = 1000,
    chunk: int = 8192,
    reserved: int = 512,
    mixed: bool = False,
) -> EngineModel:
    """One engine with everything else at its default."""
    return EngineModel(
        role=role,
        parallelism=Parallelism(),
        times=times,
        kv_capacity_tokens=kv,
        max_running_requests=running,
        chunked_prefill_size=chunk,
        max_context=200_000,
        reserved_decode_tokens=reserved,
        mixed_chunk=mixed,
    )


def colocated(model: EngineModel | None = None, num: int = 1) -> Fleet:
    """A round-robin fleet of colocated engines without router latency."""
    return Fleet(
        colocated=model or engine(), num_colocated=num, router_hop_s=0.0, policy="round_robin"
    )


def split(
    prefill: EngineModel | None = None,
    decode: EngineModel | None = None,
    num_prefill: int = 1,
    num_decode: int = 1,
) -> Fleet:
    """A round-robin disaggregated fleet without router latency."""
    return Fleet(
        prefill=prefill or engine("prefill"),
        decode=decode or engine("decode"),
        num_prefill=num_prefill,
        num_decode=num_decode,
        router_hop_s=0.0,
        policy="round_robin",
    )


def requests(*rows: tuple[float, int, int]) -> Requests:
    """Requests from (arrival, ISL, OSL) rows."""
    return Requests([r[0] for r in rows], [r[1] for r in rows], [r[2] for r in rows])


def random_requests(
    count: int, *, seed: int, rate_rps: float, isl: int = 600, osl: int = 60
) -> Requests:
    """Poisson arrivals, lengths exponential around the means given."""
    rng = Random(seed)
    rows, now = [], 0.0
    for _ in range(count):
        rows.append((now, 1 + int(rng.expovariate(1 / isl)), 1 + int(rng.expovariate(1 / osl))))
        now += rng.expovariate(rate_rps)
    return requests(*rows)


def ms(values: object) -> list[float]:
    """Milliseconds, rounded, of a column without gaps."""
    assert isinstance(values, list)
    return [round(1000 * value, 6) for value in values]


def equal_outcomes(one: Outcome, other: Outcome, tolerance_s: float = 1e-6) -> None:
    """Fail unless two outcomes agree on every request."""
    for name in ("ttft_s", "e2e_s"):
        pairs = zip(getattr(one, name), getattr(other, name), strict=True)
        for index, (mine, theirs) in enumerate(pairs):
            if mine is None or theirs is None:
                assert mine is theirs, f"{name} of request {index}"
            else:
                assert abs(mine - theirs) < tolerance_s, f"{name} of request {index}"
