"""The router's choice of an engine. Deterministic given its counts and random numbers.

Source: sglang-router 0.3.2, asked with prompts that share prefixes or not, one at a time and many
(tests/e2e/test_router.py): balance_abs_threshold 64, balance_rel_threshold 1.5, cache_threshold
0.3; among colocated engines cache_aware counts streams from the moment they are sent, and of the
idlest takes the first; of prefill and decode engines it keeps no prefixes and draws at random.
Ignores: eviction from the router's prefix tree (2^26 characters).
"""

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Literal, get_args

from pdctl.perf_model.simulator.job import Job

BALANCE_ABS_THRESHOLD = 64
BALANCE_REL_THRESHOLD = 1.5
CACHE_THRESHOLD = 0.3

Policy = Literal["random", "round_robin", "power_of_two", "cache_aware"]
_POLICIES: Mapping[str, Policy] = {name: name for name in get_args(Policy)}


def known_policy(name: str) -> Policy:
    """The policy of this name; "random" for one that is not simulated."""
    return _POLICIES.get(name, "random")


class SeenPrefixes:
    """The router's prefix tree: an engine to which each segment of a prompt was sent.

    Of several the router takes what its hash map gives first: any, and mostly the same again.
    Source: tree.rs of sglang-router 0.3.2.
    """

    __slots__ = ("_places", "_tokens")

    def __init__(self, segment_tokens: Sequence[int]) -> None:
        self._tokens = segment_tokens
        self._places: dict[int, int] = {}

    def owner(self, job: Job) -> int:
        """The place of the longest known leading run of a prompt; -1 if too little is known."""
        seen, tokens = self._places, self._tokens
        matched = 0
        segment = -1
        for following in job.path:
            if following not in seen:
                break
            segment = following
            matched += tokens[segment]
        return seen[segment] if matched > CACHE_THRESHOLD * job.isl else -1

    def note(self, job: Job, place: int) -> None:
        """Remember where a prompt went."""
        seen = self._places
        for segment in job.path:
            other = seen.get(segment, -1)
            if other < 0 or _order(segment, place) < _order(segment, other):
                seen[segment] = place


def _order(segment: int, place: int) -> int:
    """The place of an engine in the hash map of a segment: any order, but a stable one."""
    mixed = _product(segment + 1, 0x9E3779B1) ^ _product(place + 1, 0x85EBCA77)
    return _product(mixed ^ (mixed >> 15), 0x2C1B3C6D)


def _product(a: int, b: int) -> int:
    """a·b modulo 2³², by halves of 16 bits.

    A product of larger integers looks for signals, and compiled code takes an interrupt in it for a
    lack of memory, of which it dies.
    """
    low, high = a & 0xFFFF, (a >> 16) & 0xFFFF
    crossed = (high * (b & 0xFFFF) + low * (b >> 16)) & 0xFFFF
    return (low * (b & 0xFFFF) + (crossed << 16)) & 0xFFFFFFFF


class Pool:
    """The engines of one role as the router sees them.

    loads: requests in flight per engine; places: the engines open to new requests.
    choose(owner): the place of the engine that gets a request, -1 when none is open; owner: the
    engine that had its prefix (-1: none), which only cache_aware heeds.
    """

    __slots__ = ("_all_open", "_last", "_rng", "choose", "loads", "places")

    def __init__(self, policy: Policy, size: int, rng: Random) -> None:
        self.loads = [0] * size
        self.places = list(range(size))
        self._all_open = True
        self._rng = rng
        self._last = -1
        self.choose: Callable[[int], int] = {
            "random": self._random,
            "round_robin": self._round_robin,
            "power_of_two": self._power_of_two,
            "cache_aware": self._cache_aware,
        }[policy]

    def open(self, place: int) -> None:
        """Let an engine have new requests."""
        if place not in self.places:
            self.places = sorted([*self.places, place])
        self._all_open = len(self.places) == len(self.loads)

    def close(self, place: int) -> None:
        """Send an engine no more requests."""
        self.places = [other for other in self.places if other != place]
        self._all_open = False

    def add(self) -> int:
        """One more engine, closed for now; returns its place."""
        self.loads.append(0)
        self._all_open = False
        return len(self.loads) - 1

    def _random(self, _: int) -> int:
        places = self.places
        return places[int(self._rng.random() * len(places))] if places else -1

    def _round_robin(self, _: int) -> int:
        self._last += 1
        return self.places[self._last % len(self.places)] if self.places else -1

    def _power_of_two(self, _: int) -> int:
        places = self.places
        count = len(places)
        if count < 2:
            return places[0] if places else -1
        first = int(self._rng.random() * count)
        second = int(self._rng.random() * (count - 1))
        second += second >= first
        one, other = places[first], places[second]
        return one if self.loads[one] <= self.loads[other] else other

    def _cache_aware(self, owner: int) -> int:
        """The engine that had the prompt's prefix, unless loads are far apart; else the idlest."""
        loads, places = self.loads, self.places
        if not self._all_open:
            if not places:
                return -1
            loads = [loads[place] for place in places]
            owner = owner if owner in places else -1
        if owner < 0:
            return places[loads.index(min(loads))]
        high = max(loads)
        if high > BALANCE_ABS_THRESHOLD:
            low = min(loads)
            if high - low > BALANCE_ABS_THRESHOLD and high > low * BALANCE_REL_THRESHOLD:
                return places[loads.index(low)]
        return owner
