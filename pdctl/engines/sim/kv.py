"""The KV cache of one engine: tokens held by requests, and blocks kept for shared prefixes."""

from collections import OrderedDict
from collections.abc import Sequence

from pdctl.engines.sim.tokens import BLOCK_TOKENS


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
