"""The KV cache of one engine: tokens held by requests, and blocks kept for shared prefixes."""

from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass

from pdctl.engines.sim.requests import BLOCK_TOKENS, Part, Request
from pdctl.perf_model.records import EngineModel
from pdctl.perf_model.simulator import scheduling
from pdctl.perf_model.steps import mixed_step_s, weighted_pairs


class KvCache:
    """Counts tokens, not bytes. Invariant: held + cached + free = capacity."""

    def __init__(self, capacity_tokens: int, *, radix: bool) -> None:
        self.capacity_tokens = capacity_tokens
        self.radix = radix
        self.held_tokens = 0  # owned by one request each
        self._locks: dict[int, int] = {}  # cached block -> requests that use it
        self._idle: OrderedDict[int, None] = OrderedDict()  # unused ones, oldest first

    @property
    def free_tokens(self) -> int:
        return self.capacity_tokens - self.held_tokens - len(self._locks) * BLOCK_TOKENS

    @property
    def evictable_tokens(self) -> int:
        return len(self._idle) * BLOCK_TOKENS

    @property
    def available_tokens(self) -> int:
        return self.free_tokens + self.evictable_tokens

    @property
    def used_tokens(self) -> int:
        return self.capacity_tokens - self.available_tokens

    def match(self, blocks: Sequence[int]) -> int:
        """How many leading blocks are cached."""
        for n, block in enumerate(blocks):
            if block not in self._locks:
                return n
        return len(blocks)

    def lock(self, blocks: Sequence[int]) -> None:
        """Keep cached `blocks` from eviction until unlocked."""
        for block in blocks:
            self._locks[block] += 1
            self._idle.pop(block, None)

    def unlock(self, blocks: Sequence[int]) -> None:
        """Give up a lock; the last block of a chain becomes the first to be evicted."""
        for block in reversed(blocks):
            self._locks[block] -= 1
            if not self._locks[block]:
                self._idle[block] = None

    def hold(self, tokens: int) -> bool:
        """Take `tokens` for one request, evicting idle blocks; False: they are not there."""
        if tokens > self.available_tokens:
            return False
        while tokens > self.free_tokens:
            block, _ = self._idle.popitem(last=False)
            del self._locks[block]
        self.held_tokens += tokens
        return True

    def release(self, tokens: int) -> None:
        self.held_tokens -= tokens

    def insert(self, blocks: Sequence[int]) -> int:
        """Turn held blocks into cached ones, locked by the caller; returns the tokens given up.

        A block that was cached meanwhile is only locked: the caller's copy is freed.
        """
        for block in blocks:
            self._locks[block] = self._locks.get(block, 0) + 1
            self._idle.pop(block, None)
        tokens = len(blocks) * BLOCK_TOKENS
        self.held_tokens -= tokens
        return tokens

    def flush(self) -> None:
        """Forget every block that nobody uses."""
        for block in self._idle:
            del self._locks[block]
        self._idle.clear()


@dataclass(frozen=True)
class Admission:
    """What a prefill batch took. is_full: nobody enters until somebody leaves."""

    parts: list[Part]
    partial: Request | None
    is_full: bool


def admit_waiting(
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
