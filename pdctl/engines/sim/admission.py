"""A prefill batch from the waiting queue and the KV cache, by the rules the simulator shares."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from pdctl.engines.sim.kv import KvCache
from pdctl.engines.sim.requests import Part, Request
from pdctl.engines.sim.tokens import BLOCK_TOKENS
from pdctl.perf_model import scheduling
from pdctl.perf_model.records import EngineModel
from pdctl.perf_model.steps import mixed_step_s, weighted_pairs


@dataclass(frozen=True)
class Admission:
    """What a prefill batch took. is_full: nobody enters until somebody leaves."""

    parts: list[Part]
    partial: Request | None
    is_full: bool


def admit(
    kv: KvCache,
    waiting: "deque[Request]",
    partial: Request | None,
    model: EngineModel,
    *,
    slots: int,
    promised_tokens: float = 0.0,
    beside: int = 0,
) -> Admission:
    """Fill a prefill batch and take its KV.

    promised_tokens: what running requests may still need; beside: decode rows in a mixed batch.
    """
    room = scheduling.Room(
        kv.available_tokens,
        promised_tokens,
        model.chunked_prefill_size,
        page=model.page_size,
        beside=beside,
    )

    def claim(request: Request) -> float:
        before = kv.evictable_tokens
        _lock_prefix(kv, request)
        return before - kv.evictable_tokens

    def release(request: Request) -> None:
        kv.unlock(request.blocks[: request.num_locked])
        request.num_locked = request.done = request.cached_tokens = 0

    taken, partial, is_full = scheduling.admit(  # type: ignore[type-var]  # prompt is a property
        waiting, partial, room, slots, claim, release
    )
    parts = [_take(kv, request, tokens) for request, tokens in taken]
    if parts and parts[0].tokens <= 0:  # the unfinished one waits for KV
        parts = []
    return Admission(parts, partial, is_full)


def _lock_prefix(kv: KvCache, request: Request) -> None:
    blocks = 0
    if kv.radix:
        blocks = min(kv.match(request.blocks), (request.prompt - 1) // BLOCK_TOKENS)
    kv.lock(request.blocks[:blocks])
    request.num_locked = blocks
    request.done = request.cached_tokens = blocks * BLOCK_TOKENS


def _take(kv: KvCache, request: Request, tokens: int) -> Part:
    tokens = min(tokens, kv.available_tokens)
    kv.hold(tokens)
    request.own_tokens += tokens
    request.done += tokens
    return Part(request, tokens, request.done >= request.prompt)


def prefill_duration_s(
    model: EngineModel, parts: list[Part], rows: Sequence[Request] = (), context_tokens: int = 0
) -> float:
    """Seconds of a forward pass over the new tokens of `parts`, with decode rows in a mixed one."""
    new_tokens = sum(part.tokens for part in parts)
    pairs = sum(
        weighted_pairs(model.times, part.tokens, part.request.done - part.tokens) for part in parts
    )
    return mixed_step_s(model.times, new_tokens, pairs, len(rows), context_tokens)


def keep_prefix(kv: KvCache, request: Request) -> None:
    """Make the full blocks whose KV exists findable by later requests."""
    if not kv.radix:
        return
    blocks = min(request.done // BLOCK_TOKENS, len(request.blocks))
    if blocks > request.num_locked:
        request.own_tokens -= kv.insert(request.blocks[request.num_locked : blocks])
        request.num_locked = blocks


def free(kv: KvCache, request: Request) -> None:
    """Give back all KV of a request; its cached blocks stay findable."""
    kv.release(request.own_tokens)
    kv.unlock(request.blocks[: request.num_locked])
    request.own_tokens = request.num_locked = request.done = 0
