"""Engine models with round times: a step takes 10 ms, a prefill 1 ms per token."""

from pdctl.engines.sim.requests import Request
from pdctl.perf_model.records import EngineModel, Parallelism, Role, StepTimes

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
    return EngineModel(
        role=role,
        parallelism=Parallelism(),
        times=TIMES,
        kv_capacity_tokens=kv,
        max_running_requests=max_running,
        chunked_prefill_size=chunk,
        max_context=context,
        reserved_decode_tokens=reserved,
        radix_cache=role != "decode",
        mixed_chunk=mixed,
    )


def request(
    rid: str = "a",
    prompt: int = 100,
    new: int = 4,
    *,
    room: int | None = None,
    blocks: tuple[int, ...] = (),
) -> Request:
    return Request(rid=rid, prompt_tokens=prompt, max_new=new, room=room, blocks=blocks)
