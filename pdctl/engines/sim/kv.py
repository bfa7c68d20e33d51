"""KV cache of one engine: tokens held by requests, and blocks cached for shared prefixes."""

from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pdctl.engines.sim.requests import BLOCK_TOKENS, PrefillPart, Request
from pdctl.perf_model.records import EngineModel
from pdctl.perf_model.simulator import scheduling
from pdctl.perf_model.simulator.scheduling import Ranks
from pdctl.perf_model.simulator.steps import (
    mixed_step_s,
    ranked_prefill_s,
    rows_beside_s,
    weighted_pairs,
)


class KvCache:
    """The KV cache, counted in tokens. Invariant: held + cached + free = capacity."""

    def __init__(self, capacity_tokens: int, *, radix: bool) -> None:
        self.capacity_tokens = capacity_tokens
        self.radix = radix
        self.held_tokens = 0  # each belongs to one request
        self._locks: dict[int, int] = {}  # cached block -> number of requests that use it
        self._idle: OrderedDict[int, None] = OrderedDict()  # unused blocks, oldest first

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
        """Number of leading blocks that are cached."""
        for n, block in enumerate(blocks):
            if block not in self._locks:
                return n
        return len(blocks)

    def lock(self, blocks: Sequence[int]) -> None:
        """Protect cached `blocks` from eviction until unlocked."""
        for block in blocks:
            self._locks[block] += 1
            self._idle.pop(block, None)

    def unlock(self, blocks: Sequence[int]) -> None:
        """Release a lock. Of a chain of blocks, the last one is evicted first."""
        for block in reversed(blocks):
            self._locks[block] -= 1
            if not self._locks[block]:
                self._idle[block] = None

    def hold(self, tokens: int) -> bool:
        """Allocate `tokens` to one request, evicting idle blocks. False if they do not fit."""
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
        """Turn held blocks into cached ones that the caller has locked; return their tokens.

        If a block is already cached, only locks it, and frees the caller's copy.
        """
        for block in blocks:
            self._locks[block] = self._locks.get(block, 0) + 1
            self._idle.pop(block, None)
        tokens = len(blocks) * BLOCK_TOKENS
        self.held_tokens -= tokens
        return tokens

    def flush(self) -> None:
        """Remove all unused blocks."""
        for block in self._idle:
            del self._locks[block]
        self._idle.clear()


@dataclass(frozen=True)
class Admission:
    """The parts of a prefill batch. is_full: no request can enter until another one leaves."""

    parts: list[PrefillPart]
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
    """Fill a prefill batch and allocate its KV.

    promised_tokens: KV that running requests may still need. beside: decode rows in the batch.
    """
    room = scheduling.Room(
        kv.available_tokens,
        promised_tokens,
        model.chunked_prefill_size,
        page=model.page_size,
        beside=beside,
    )
    admitted, partial, is_full = scheduling.admit(
        waiting, partial, room, slots, _claim(kv), _release(kv)
    )
    return _allocated(kv, admitted, partial, is_full)


def ranks_of(model: EngineModel) -> "Ranks[Request] | None":
    """The attention-DP ranks of an engine; None without."""
    return Ranks.of(model) if model.parallelism.dp > 1 else None


def admit_on_ranks(
    kv: KvCache,
    waiting: "deque[Request]",
    ranks: "Ranks[Request]",
    model: EngineModel,
    running: Sequence[Request] = (),
    ratio: float = 0.0,
) -> Admission:
    """As admit_waiting, where each attention-DP rank has its share of the chunk, slots and KV.

    ratio: KV that running requests may still need, as a share of what they may ask for.
    """
    each, slots = model.kv_capacity_tokens / ranks.dp, model.max_running_requests // ranks.dp
    rooms = []
    for rank in range(ranks.dp):
        own = [request for request in running if request.rank == rank]
        unfinished = ranks.partials[rank]
        held = sum(r.prompt_tokens + r.launched for r in own)
        held += unfinished.done if unfinished else 0
        promised = ratio * scheduling.CONSERVATIVENESS * sum(r.max_new - r.launched for r in own)
        rooms.append((each - held, promised, max(1, slots) - len(own)))
    admitted, is_full = ranks.admit(
        waiting, kv.available_tokens, rooms.__getitem__, _claim(kv), _release(kv)
    )
    return _allocated(kv, admitted, ranks.partial(), is_full)


def _claim(kv: KvCache) -> Callable[[Request], float]:
    def claim(request: Request) -> float:
        before = kv.evictable_tokens
        _lock_prefix(kv, request)
        return before - kv.evictable_tokens

    return claim


def _release(kv: KvCache) -> Callable[[Request], None]:
    def release(request: Request) -> None:
        kv.unlock(request.blocks[: request.num_locked])
        request.num_locked = request.done = request.cached_tokens = 0

    return release


def _allocated(
    kv: KvCache, admitted: list[tuple[Request, int]], partial: Request | None, is_full: bool
) -> Admission:
    parts = [_allocate(kv, request, tokens) for request, tokens in admitted]
    if parts and parts[0].tokens <= 0:  # the partial request has to wait for KV
        parts = []
    return Admission(parts, partial, is_full)


def _lock_prefix(kv: KvCache, request: Request) -> None:
    blocks = 0
    if kv.radix:
        blocks = min(kv.match(request.blocks), (request.prompt - 1) // BLOCK_TOKENS)
    kv.lock(request.blocks[:blocks])
    request.num_locked = blocks
    request.done = request.cached_tokens = blocks * BLOCK_TOKENS


def _allocate(kv: KvCache, request: Request, tokens: int) -> PrefillPart:
    tokens = min(tokens, kv.available_tokens)
    kv.hold(tokens)
    request.own_tokens += tokens
    request.done += tokens
    return PrefillPart(request, tokens, request.done >= request.prompt)


def hold_gains(kv: KvCache, rows: list[Request], accept_length: float) -> list[int] | None:
    """Allocate KV for the tokens that each row gains in a step; None: it does not fit.

    A row gains `accept_length` tokens in the mean: whole ones, the rest counts in a later step.
    """
    gains = [int(row.credit + accept_length + 1e-9) for row in rows]  # 0.4 · 5 is 2
    if not kv.hold(sum(gains)):
        return None
    for row, gain in zip(rows, gains, strict=True):
        row.credit += accept_length - gain
        row.own_tokens += gain
        row.launched = min(row.launched + gain, row.max_new)
    return gains


def prefill_duration_s(
    model: EngineModel,
    parts: list[PrefillPart],
    rows: Sequence[Request] = (),
    context_tokens: int = 0,
) -> float:
    """Seconds for a forward pass over `parts`, and over decode rows in a mixed batch."""
    dp = model.parallelism.dp
    tokens, pairs = [0] * dp, [0.0] * dp
    for part in parts:
        tokens[part.request.rank] += part.tokens
        done = part.request.done - part.tokens
        pairs[part.request.rank] += weighted_pairs(model.times, part.tokens, done)
    if dp == 1:
        return mixed_step_s(model.times, tokens[0], pairs[0], len(rows), context_tokens)
    prefill = ranked_prefill_s(model.times, dp, sum(tokens), max(tokens), max(pairs))
    return prefill + rows_beside_s(model.times, len(rows), context_tokens)


def keep_prefix(kv: KvCache, request: Request) -> None:
    """Make the request's complete full blocks available to later requests."""
    if not kv.radix:
        return
    blocks = min(request.done // BLOCK_TOKENS, len(request.blocks))
    if blocks > request.num_locked:
        request.own_tokens -= kv.insert(request.blocks[request.num_locked : blocks])
        request.num_locked = blocks


def free(kv: KvCache, request: Request) -> None:
    """Free all KV of a request. Its cached blocks remain available to later requests."""
    kv.release(request.own_tokens)
    kv.unlock(request.blocks[: request.num_locked])
    request.own_tokens = request.num_locked = request.done = 0
