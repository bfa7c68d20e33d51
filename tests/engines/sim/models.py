"""Engine models with round times: a step takes 10 ms, a prefill 1 ms per token."""

from dataclasses import replace

from pdctl.engines.sim.requests import Request
from pdctl.perf_model.records import EngineModel, Role, StepTimes
from tests.perf_model.fleets import engine

TIMES = StepTimes(
    prefill_base_s=0.0,
    prefill_token_s=0.001,
    prefill_pair_s=0.0,
    decode_base_s=0.010,
    decode_weight_s=0.0,
    decode_request_s=0.0,
    decode_latency_s=0.0,
    decode_context_s=0.0,
    decode_compute_s=0.0,
    transfer_base_s=0.005,
    transfer_token_s=0.0001,
)


def model(
    role: Role = "colocated",
    *,
    kv: int = 100_000,
    max_running: int = 100,
    chunk: int = 8192,
    context: int = 50_000,
    reserved: int = 512,
    mixed: bool = False,
) -> EngineModel:
    own = engine(
        role, times=TIMES, kv=kv, running=max_running, chunk=chunk, reserved=reserved, mixed=mixed
    )
    return replace(own, max_context=context, radix_cache=role != "decode")


def request(
    rid: str = "a",
    prompt: int = 100,
    new: int = 4,
    *,
    room: int | None = None,
    blocks: tuple[int, ...] = (),
) -> Request:
    return Request(rid=rid, prompt_tokens=prompt, max_new=new, room=room, blocks=blocks)
