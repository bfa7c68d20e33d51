"""The latest requests of a deployment, from the lines its engines log as requests end. Pure.

A line holds lengths and durations and no prompt.
"""

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random

from pdctl.engines.request_times import RequestTimes
from pdctl.status.explain.explain import aligned_parts
from pdctl.status.explain.join import Halves, joined
from pdctl.status.explain.parts import total_s, ttft_s
from pdctl.status.explain.records import Part
from pdctl.workload.records import Requests

MOST_REQUESTS = 20_000  # the latest ones; bounds memory and the time of a replay
BLOCK_TOKENS = 64
_SLACK, _SLACK_S = 0.2, 1.5  # between the whole time of a request and the sum of its parts
_FEW = 0.1  # of the requests
SLOTS = 20  # of a window, over which arrivals are counted


@dataclass(frozen=True)
class Ended:
    """One request that has ended. ttft_s, tpot_s: None where its line does not tell them.

    arrived_s, ended_s: Unix seconds. took_s: its whole time, where its line does not tell the other
    two, or contradicts itself. computing_s: when its prefill began and ended, in seconds
    after its arrival; None: unknown.
    """

    arrived_s: float
    ended_s: float
    isl: int
    osl: int
    cached: int = 0  # leading prompt tokens that prefill found in its cache
    ttft_s: float | None = None
    tpot_s: float | None = None
    took_s: float | None = None
    computing_s: tuple[float, float] | None = None


@dataclass(frozen=True)
class Window:
    """Requests in order of arrival, and what the deployment made of them.

    requests: arrival_s begins at 0. The first `held` were in progress then: the queue of the past.
    Those before `first` fill the engines of a replay and count for nothing else.
    ttft_s, tpot_s: None where unknown, for example for a request that has not ended.
    took_s: whole times, where the other times are unknown or contradict them.
    waited_s: before 0 s, by a held request without a first token. span_s: of those that count.
    """

    requests: Requests
    held: int
    first: int
    ttft_s: tuple[float | None, ...]
    tpot_s: tuple[float | None, ...]
    took_s: tuple[float | None, ...]
    waited_s: tuple[float, ...]
    span_s: float


def ended_requests(halves: Iterable[RequestTimes], hosts: Mapping[str, str]) -> list[Ended]:
    """The requests whose halves these are, by arrival, with times as their clients saw them.

    Both halves tell when the router let the first token through. A colocated engine does not tell
    when it came, and only the whole time is known.

    hosts: of the engines where they are known, for their clocks.
    Ignores: time in the router and in tokenizers, which no line holds.
    """
    pairs = joined(halves)
    _, parts = aligned_parts(pairs, hosts)
    found = [_ended(*one) for one in zip(pairs, parts, strict=True) if one[0].decode is not None]
    return sorted(found, key=lambda one: one.arrived_s)


def _ended(request: Halves, parts: Sequence[Part]) -> Ended:
    half, output = request.any, max(1, request.any.output_tokens)
    prompt = max(1, half.input_tokens)
    ttft = ttft_s(request, parts) if request.is_whole else None
    return Ended(
        arrived_s=half.entry_s,
        ended_s=half.end_s if half.written_s is None else half.written_s,
        isl=prompt,
        osl=output,
        cached=min(prompt - 1, request.first.cached_tokens or 0),
        ttft_s=ttft,
        tpot_s=None if ttft is None else (total_s(request, parts) - ttft) / max(1, output - 1),
        took_s=half.queue_s + half.forward_s if half.role == "colocated" else None,
        computing_s=next(
            (
                (part.start_s, part.start_s + part.seconds)
                for part in parts
                if part.name in ("prefill", "prefill and transfer")
            ),
            None,
        ),
    )


def window_of(
    ended: Iterable[Ended],
    *,
    since_s: float,
    now_s: float,
    unfinished: int = 0,
    arrived: int | None = None,
    steady_since_s: float = 0.0,
    seed: int = 0,
) -> Window | None:
    """The requests that arrived from `since_s` on, after a lead-in. None: there are none.

    The lead-in is as long as the window, but begins no earlier than `steady_since_s`, when engines
    last changed. Requests in progress at its begin are part of it. unfinished: requests that the
    engines hold now; arrived: how many came since `since_s`, None if nothing counts them. Without
    those that have not ended, the load would look lighter than it is. They are drawn from the
    others, the longer a request stayed the more often: so are requests found in an engine.
    """
    begin_s = min(since_s, max(2 * since_s - now_s, steady_since_s))
    held = [one for one in ended if one.ended_s > begin_s and one.arrived_s <= now_s]
    kept = _believed(held[-MOST_REQUESTS:])
    if not kept:
        return None
    known = [*kept, *_drawn(kept, unfinished, arrived, begin_s, since_s, now_s, seed)]
    known.sort(key=lambda one: one.arrived_s)
    if known[-1].arrived_s < since_s:
        return None
    waited_s = tuple(max(0.0, begin_s - one.arrived_s) for one in known)
    known = [_at_start(one, begin_s) if one.arrived_s < begin_s else one for one in known]
    blocks = list(_blocks(known)) if any(one.cached for one in known) else None
    requests = Requests(
        arrival_s=array("d", [one.arrived_s - begin_s for one in known]),
        isl=array("q", [one.isl for one in known]),
        osl=array("q", [one.osl for one in known]),
        blocks=blocks,
        block_tokens=BLOCK_TOKENS if blocks else 0,
    )
    return Window(
        requests,
        held=sum(one.arrived_s == begin_s for one in known),
        first=sum(one.arrived_s < since_s or one.arrived_s == begin_s for one in known),
        ttft_s=tuple(one.ttft_s for one in known),
        tpot_s=tuple(one.tpot_s for one in known),
        took_s=tuple(one.took_s for one in known),
        waited_s=waited_s,
        span_s=now_s - since_s,
    )


def _believed(ended: list[Ended]) -> list[Ended]:
    """The requests, with whole times alone if the parts of more than a few do not add up to them.

    The few that add up would be those of a few tokens, and not like the others.
    """
    wrong = sum(not _adds_up(one) for one in ended)
    if wrong <= _FEW * len(ended):
        return ended
    return [
        replace(
            one,
            ttft_s=None,
            tpot_s=None,
            computing_s=None,
            took_s=one.ended_s - one.arrived_s,
        )
        for one in ended
    ]


def _adds_up(one: Ended) -> bool:
    if one.ttft_s is None or one.tpot_s is None:
        return True
    took_s = one.ended_s - one.arrived_s
    parts_s = one.ttft_s + one.tpot_s * (one.osl - 1)
    return abs(took_s - parts_s) <= _SLACK_S + _SLACK * took_s


def at_speed(window: Window, speed: float) -> Window:
    """The window of simulated engines that run at `speed` times real time, in their own time."""
    arrival_s = array("d", [at_s * speed for at_s in window.requests.arrival_s])
    return replace(
        window,
        requests=replace(window.requests, arrival_s=arrival_s),
        ttft_s=tuple(None if s is None else s * speed for s in window.ttft_s),
        tpot_s=tuple(None if s is None else s * speed for s in window.tpot_s),
        took_s=tuple(None if s is None else s * speed for s in window.took_s),
        waited_s=tuple(s * speed for s in window.waited_s),
        span_s=window.span_s * speed,
    )


def _at_start(one: Ended, begin_s: float) -> Ended:
    """The rest of a request when the lead-in began, as a request of that moment."""
    spent_s = begin_s - one.arrived_s
    if one.ttft_s is not None and one.tpot_s is not None and spent_s >= one.ttft_s:
        decoded = int((spent_s - one.ttft_s) / one.tpot_s) if one.tpot_s else one.osl
        return Ended(begin_s, one.ended_s, 1, max(1, one.osl - decoded))
    if one.took_s:
        return _in_proportion(one, begin_s, 1 - spent_s / one.took_s)
    computed = _computed(one, spent_s)
    if not computed:
        return replace(one, arrived_s=begin_s)
    prompt = max(1, round((one.isl - one.cached) * (1 - computed)))
    return replace(one, arrived_s=begin_s, isl=prompt, cached=0)


def _in_proportion(one: Ended, begin_s: float, rest: float) -> Ended:
    """A share of a request's prompt and output, where nothing tells which of them was done."""
    isl, osl = max(1, round(one.isl * rest)), max(1, round(one.osl * rest))
    return Ended(begin_s, one.ended_s, isl, osl)


def _computed(one: Ended, spent_s: float) -> float:
    """The share of its prompt that was computed `spent_s` after a request arrived."""
    start_s, end_s = one.computing_s or (spent_s, spent_s)
    return min(1.0, max(0.0, (spent_s - start_s) / max(1e-9, end_s - start_s)))


def _drawn(
    kept: Sequence[Ended],
    unfinished: int,
    arrived: int | None,
    begin_s: float,
    since_s: float,
    now_s: float,
    seed: int,
) -> Iterator[Ended]:
    """The requests that have not ended, at the times where arrivals are missing.

    The others came before the window; they are held when the lead-in begins.
    """
    num = max(0, min(unfinished, MOST_REQUESTS - len(kept)))
    times = [one.arrived_s for one in kept if one.arrived_s >= since_s]
    inside = num if arrived is None else max(0, min(num, arrived - len(times)))
    random = Random(seed)
    like = random.choices(kept, [one.ended_s - one.arrived_s + 1e-3 for one in kept], k=num)
    missing = [*_missing(times, inside, since_s, now_s), *[begin_s - 1e-3] * (num - inside)]
    for one, at_s in zip(like, missing, strict=True):
        yield Ended(at_s, now_s, one.isl, one.osl, one.cached)


def _missing(times: Sequence[float], num: int, since_s: float, now_s: float) -> Iterator[float]:
    """`num` times that make arrivals as even as they can be over the slots of the window."""
    width_s = (now_s - since_s) / SLOTS
    counts = [0] * SLOTS
    for at_s in times:
        counts[min(SLOTS - 1, int((at_s - since_s) / width_s))] += 1
    for place in range(num):
        slot = min(range(SLOTS), key=counts.__getitem__)
        counts[slot] += 1
        yield since_s + (slot + (place + 0.5) / num) * width_s


def _blocks(known: Sequence[Ended]) -> Iterator[tuple[int, ...]]:
    """Prompt blocks whose cached ones begin one chain that all requests share."""
    fresh = max(one.isl for one in known) // BLOCK_TOKENS + 1
    for one in known:
        shared = one.cached // BLOCK_TOKENS
        own = -(-one.isl // BLOCK_TOKENS) - shared
        yield (*range(shared), *range(fresh, fresh + own))
        fresh += own
