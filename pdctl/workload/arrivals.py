"""Requests made from lengths and a rate, and requests of a trace moved in time. Pure: the seed
is an argument.
"""

import math
from array import array
from collections.abc import Iterator, Sequence
from random import Random
from statistics import NormalDist
from typing import TypeVar

from pdctl.workload.records import Lengths, Mix, Requests, longest_request

T = TypeVar("T")

# A prompt has about this many blocks, so that a share of it can be a shared prefix
_BLOCKS_PER_PROMPT = 64
_LEAST_BLOCK_TOKENS = 16


def in_arrival_order(requests: Requests) -> Requests:
    """The same requests sorted by arrival (stably), the first at 0 s."""
    times = requests.arrival_s
    if not times:
        return requests
    if any(later < earlier for earlier, later in zip(times, times[1:], strict=False)):
        requests = pick(requests, sorted(range(len(times)), key=times.__getitem__))
    start = requests.arrival_s[0]
    return _at(requests, (time - start for time in requests.arrival_s))


# Source: 346 requests in bursts of up to 16 through the router to simulated engines: of two that
# were sent at one instant the first in the trace came first in 69 %, the shorter one in 66 %.
_TURN_S, _TOKEN_S, _CHANCE_S = 1e-3, 0.3e-6, 5e-3


def in_any_order(requests: Requests, seed: int) -> Requests:
    """The same requests at the same times, those of one instant as engines may receive them.

    A client sends them in turn and long prompts take longer to send; `seed` draws the rest.
    """
    random = Random(seed)
    keys = [
        (time, i * _TURN_S + isl * _TOKEN_S + random.expovariate(1 / _CHANCE_S))
        for i, (time, isl) in enumerate(zip(requests.arrival_s, requests.isl, strict=True))
    ]
    return pick(requests, sorted(range(len(keys)), key=keys.__getitem__))


def sending_s(requests: Requests, seed: int) -> list[float]:
    """The time that each request takes from its client to an engine, as `in_any_order` has it."""
    random = Random(seed)
    return [isl * _TOKEN_S + random.expovariate(1 / _CHANCE_S) for isl in requests.isl]


def pick(requests: Requests, order: Sequence[int]) -> Requests:
    """The requests at these places, in this order; their times as they are."""
    blocks = requests.blocks
    return Requests(
        arrival_s=[requests.arrival_s[i] for i in order],
        isl=array("q", (requests.isl[i] for i in order)),
        osl=array("q", (requests.osl[i] for i in order)),
        blocks=None if blocks is None else [blocks[i] for i in order],
        block_tokens=requests.block_tokens,
    )


def _at(requests: Requests, arrival_s: Iterator[float]) -> Requests:
    return Requests(
        array("d", arrival_s), requests.isl, requests.osl, requests.blocks, requests.block_tokens
    )


def head(requests: Requests, num: int) -> Requests:
    """The first `num` requests, or all if there are fewer."""
    return _between(requests, slice(num))


def tail(requests: Requests, start: int) -> Requests:
    """The requests from place `start` on, their times as they are."""
    return _between(requests, slice(start, None))


def _between(requests: Requests, places: slice) -> Requests:
    blocks = requests.blocks
    return Requests(
        arrival_s=requests.arrival_s[places],
        isl=requests.isl[places],
        osl=requests.osl[places],
        blocks=None if blocks is None else blocks[places],
        block_tokens=requests.block_tokens,
    )


def mean_rate_rps(requests: Requests) -> float | None:
    """Arrivals per second over the requests' own span; None for one request or one instant."""
    span = requests.arrival_s[-1] - requests.arrival_s[0] if len(requests) else 0.0
    return (len(requests) - 1) / span if span > 0 else None


def at_rate(requests: Requests, rate_rps: float, *, seed: int = 0) -> Requests:
    """The same requests at a mean rate of `rate_rps`, the first at 0 s.

    Arrivals keep their pattern (all gaps scaled alike); where they have none, being all at one
    instant, they become a Poisson process drawn from `seed`.
    """
    return _stretched(_evened(requests, seed), 1 / rate_rps)


def _stretched(requests: Requests, factor: float) -> Requests:
    return _at(requests, (time * factor for time in requests.arrival_s))


def _evened(requests: Requests, seed: int) -> Requests:
    """The same requests, one a second in the mean, the first at 0 s."""
    own = mean_rate_rps(requests)
    if own is None:
        return _at(requests, _poisson(Random(seed), len(requests)))
    start = requests.arrival_s[0]
    return _at(requests, ((time - start) * own for time in requests.arrival_s))


def _poisson(random: Random, num: int) -> Iterator[float]:
    now = 0.0
    for _ in range(num):
        yield now
        now += random.expovariate(1.0)


def make_requests(mix: Mix, *, num: int, rate_rps: float, seed: int) -> Requests:
    """`num` requests like those of `mix`, arriving at `rate_rps` requests per second.

    As once_a_second has them, nearer together or farther apart.
    """
    return _stretched(once_a_second(mix, num=num, seed=seed), 1 / rate_rps)


def once_a_second(mix: Mix, *, num: int, seed: int, max_context: int | None = None) -> Requests:
    """`num` requests like those of `mix`, one a second in the mean.

    A mix from a trace gives the trace's own requests in order, over again when `num` is
    larger (prefixes are then not shared between the rounds). Otherwise arrivals are Poisson and
    lengths constant, or log-normal where their `cv` is not 0; `prefix_hit` of the prompt tokens
    begin with blocks that all requests share. max_context: no prompt is drawn that leaves no room
    for an answer.

    Ignores: correlation of prompt and output length, bursts beyond Poisson, more than one
    shared prefix.
    """
    if mix.requests is not None and len(mix.requests):
        return _evened(_repeated(mix.requests, num), seed)
    random = Random(seed)
    arrival_s = array("d", _poisson(random, num))
    most = math.inf if max_context is None else max(longest_request(max_context) - 1, 1)
    isl = array("q", _lengths(random, mix.isl, num, most))
    osl = array("q", _lengths(random, mix.osl, num))
    if not mix.prefix_hit:
        return Requests(arrival_s, isl, osl)
    size = max(_LEAST_BLOCK_TOKENS, sum(isl) // len(isl) // _BLOCKS_PER_PROMPT)
    return Requests(arrival_s, isl, osl, _shared_blocks(random, isl, mix.prefix_hit, size), size)


def _lengths(
    random: Random, lengths: Lengths | None, num: int, most: float = math.inf
) -> Iterator[int]:
    """Equal lengths, or log-normal ones up to `most` in random order.

    One length comes from each of `num` equal parts of the distribution: so few requests have its
    mean and its tail already.
    """
    if lengths is None:
        raise ValueError("requests cannot be made from unknown lengths")
    if lengths.cv == 0:
        yield from (max(1, round(lengths.mean)) for _ in range(num))
        return
    variance = math.log1p(lengths.cv**2)
    normal = NormalDist(math.log(lengths.mean) - variance / 2, math.sqrt(variance))
    part = normal.cdf(math.log(most)) / num if most < math.inf else 1 / num
    order = list(range(num))
    random.shuffle(order)
    for place in order:
        share = part * (place + random.random())
        yield max(1, round(math.exp(normal.inv_cdf(min(max(share, 1e-12), 1 - 1e-12)))))


def _shared_blocks(
    random: Random, isl: Sequence[int], prefix_hit: float, size: int
) -> list[tuple[int, ...]]:
    """Ids of prompt blocks whose first `prefix_hit` (in the mean) are the same for all."""
    fresh = max(isl) // size + 1  # ids below are the shared chain's
    blocks = []
    for tokens in isl:
        shared = math.floor(tokens * prefix_hit / size + random.random())
        own = max(0, -(-tokens // size) - shared)
        blocks.append((*range(min(shared, tokens // size)), *range(fresh, fresh + own)))
        fresh += own
    return blocks


def _repeated(requests: Requests, num: int) -> Requests:
    rounds = -(-num // len(requests))
    if rounds == 1:
        return head(requests, num)
    span = requests.arrival_s[-1] - requests.arrival_s[0]
    round_s = span + span / max(1, len(requests) - 1)  # one mean gap between the rounds
    return head(
        Requests(
            arrival_s=[time + i * round_s for i in range(rounds) for time in requests.arrival_s],
            isl=list(requests.isl) * rounds,
            osl=list(requests.osl) * rounds,
            blocks=_repeated_blocks(requests.blocks, rounds),
            block_tokens=requests.block_tokens,
        ),
        num,
    )


def _repeated_blocks(
    blocks: Sequence[tuple[int, ...]] | None, rounds: int
) -> list[tuple[int, ...]] | None:
    if blocks is None:
        return None
    step = max((max(ids) for ids in blocks if ids), default=0) + 1
    return [tuple(one + i * step for one in ids) for i in range(rounds) for ids in blocks]
