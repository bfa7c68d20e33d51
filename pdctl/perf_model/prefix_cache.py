"""What one engine's prefix cache holds: segments of prompts, least recently used out first.

Like SGLang's radix tree it locks what requests use and evicts unlocked leaves. A segment's
ancestors are used whenever it is, and are let go after it, so the order of letting go is at once
least recently used first and leaves before what they hang on.
Ignores: generated tokens, whose block ids a trace does not give, are not cached.
"""

from collections import OrderedDict
from collections.abc import Sequence

from pdctl.perf_model.prefixes import Path


class PrefixCache:
    """Segments held by number. total_tokens: all held; locked_tokens: of these, in use."""

    __slots__ = ("_idle", "_locks", "_tokens", "locked_tokens", "total_tokens")

    def __init__(self, segment_tokens: Sequence[int]) -> None:
        self._tokens = segment_tokens
        self._locks: dict[int, int] = {}  # requests that use a segment, for all segments held
        self._idle: OrderedDict[int, None] = OrderedDict()  # those nobody uses, oldest first
        self.total_tokens = 0
        self.locked_tokens = 0

    def tokens_of(self, segment: int) -> int:
        """Length of a segment."""
        return self._tokens[segment]

    def claim(self, path: Path) -> tuple[int, int, int]:
        """Lock the leading segments that are held.

        Returns how many they are, their tokens, and of these the tokens nobody else had locked.
        """
        locks, tokens = self._locks, self._tokens
        covered = matched = newly = 0
        for segment in path:
            users = locks.get(segment)
            if users is None:
                break
            size = tokens[segment]
            if not users:
                newly += size
                del self._idle[segment]
            locks[segment] = users + 1
            matched += size
            covered += 1
        self.locked_tokens += newly
        return covered, matched, newly

    def publish(self, segments: Path) -> int:
        """Hold and lock freshly computed segments below claimed ones; returns their tokens."""
        locks, tokens = self._locks, self._tokens
        total = fresh = newly = 0
        for segment in segments:
            size = tokens[segment]
            total += size
            users = locks.get(segment)
            if users is None:
                locks[segment] = 1
                fresh += size
                continue
            if not users:
                newly += size
                del self._idle[segment]
            locks[segment] = users + 1
        self.total_tokens += fresh
        self.locked_tokens += fresh + newly
        return total

    def release(self, path: Path, covered: int) -> None:
        """Unlock the first `covered` segments of a path."""
        locks, idle = self._locks, self._idle
        for place in range(covered - 1, -1, -1):
            segment = path[place]
            users = locks[segment] - 1
            locks[segment] = users
            if not users:
                self.locked_tokens -= self._tokens[segment]
                idle[segment] = None

    def evict(self, tokens: float) -> None:
        """Forget the least recently used segments until `tokens` are free or all are in use."""
        idle, locks = self._idle, self._locks
        while tokens > 0 and idle:
            segment, _ = idle.popitem(last=False)
            del locks[segment]
            size = self._tokens[segment]
            tokens -= size
            self.total_tokens -= size
