"""Which engine the router sends a request to. Pure given its counts and its random numbers.

Source: sglang-router 0.3.2: balance_abs_threshold 64, balance_rel_threshold 1.5,
cache_threshold 0.3. Ignores: eviction from the router's prefix tree (2^26 characters).
"""

from collections.abc import Callable
from random import Random
from typing import Literal

from pdctl.perf_model.prefix_cache import Blocks

BALANCE_ABS_THRESHOLD = 64
BALANCE_REL_THRESHOLD = 1.5
CACHE_THRESHOLD = 0.3

Policy = Literal["random", "round_robin", "power_of_two", "cache_aware"]
Choose = Callable[[Blocks], int]


class Pool:
    """The engines of one role as the router sees them. loads: requests in flight, by place."""

    __slots__ = ("_last", "_owners", "_rng", "choose", "loads")

    def __init__(self, policy: Policy, size: int, rng: Random) -> None:
        self.loads = [0] * size
        self._rng = rng
        self._last = -1
        self._owners: dict[int, int] = {}
        self.choose: Choose = {
            "random": self._random,
            "round_robin": self._round_robin,
            "power_of_two": self._power_of_two,
            "cache_aware": self._cache_aware,
        }[policy]

    def _random(self, blocks: Blocks) -> int:
        return int(self._rng.random() * len(self.loads))

    def _round_robin(self, blocks: Blocks) -> int:
        self._last = last = (self._last + 1) % len(self.loads)
        return last

    def _power_of_two(self, blocks: Blocks) -> int:
        count = len(self.loads)
        if count == 1:
            return 0
        first = int(self._rng.random() * count)
        second = int(self._rng.random() * (count - 1))
        second += second >= first
        return first if self.loads[first] <= self.loads[second] else second

    def _cache_aware(self, blocks: Blocks) -> int:
        """The engine that saw the longest run of these blocks, unless loads are far apart."""
        loads = self.loads
        low, high = min(loads), max(loads)
        chosen = -1
        if high - low <= BALANCE_ABS_THRESHOLD or high <= low * BALANCE_REL_THRESHOLD:
            chosen = self._owner(blocks)
        if chosen < 0:
            chosen = self._least_loaded(low)
        if blocks:
            self._owners.update(dict.fromkeys(blocks, chosen))
        return chosen

    def _owner(self, blocks: Blocks) -> int:
        owners = self._owners
        matched = 0
        owner = -1
        for block in blocks:
            found = owners.get(block, -1)
            if found < 0:
                break
            owner = found
            matched += 1
        return owner if matched > CACHE_THRESHOLD * len(blocks) else -1

    def _least_loaded(self, low: int) -> int:
        """The next engine after the last one chosen that has the lowest load."""
        try:
            self._last = self.loads.index(low, self._last + 1)
        except ValueError:
            self._last = self.loads.index(low)
        return self._last
