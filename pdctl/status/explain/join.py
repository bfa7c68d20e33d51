"""Join the halves of requests that prefill and decode engines logged, and their clocks. Pure."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

from pdctl.engines.request_times import RequestTimes
from pdctl.status.explain.records import ClockGap

ROUNDING_S = 0.005  # entry times have whole milliseconds, and schedulers poll
SAME_CLOCK_S = 0.1  # a difference below it is a busy scheduler rather than a clock
_ROUTER_S = 1.0  # the router sends both legs at once; clocks in a data centre differ less


@dataclass(frozen=True)
class Halves:
    """Both halves of a request. A colocated engine's only half is `decode`.

    earlier: attempts of the same request that failed before this one. is_guess: joined by lengths
    and times, since the engines hide the room.
    """

    prefill: RequestTimes | None
    decode: RequestTimes | None
    is_guess: bool = False
    earlier: tuple[RequestTimes, ...] = field(default=(), compare=False)

    @property
    def any(self) -> RequestTimes:
        half = self.decode or self.prefill
        assert half is not None
        return half

    @property
    def first(self) -> RequestTimes:
        """The half that has the prompt's lengths and that came first."""
        return self.prefill or self.any

    @property
    def is_whole(self) -> bool:
        return self.decode is not None and (
            self.decode.role == "colocated" or self.prefill is not None
        )


def joined(records: Iterable[RequestTimes]) -> tuple[Halves, ...]:
    """The requests behind these halves, by time.

    Joins by room, then by rid, then, only for engines that log no room, by equal prompt length and
    a start within a second. Repeated lines, one per rank, count once.
    """
    by_key: dict[tuple[str, object], dict[str, RequestTimes]] = {}
    for record in records:
        key = ("rid", record.rid) if record.room is None else ("room", record.room)
        if record.role == "colocated":
            key = (record.engine, record.rid)
        by_key.setdefault(key, {}).setdefault(record.role, record)
    pairs = [
        Halves(found.get("prefill"), found.get("decode") or found.get("colocated"))
        for found in by_key.values()
    ]
    whole = [one for one in pairs if one.is_whole]
    alone = _guessed([one for one in pairs if not one.is_whole])
    return tuple(sorted(_with_retries([*whole, *alone]), key=lambda one: one.first.entry_s))


def _guessed(alone: Sequence[Halves]) -> list[Halves]:
    """Join halves without a room: each decode half to the prefill half that fits it best."""
    hidden = [one for one in alone if one.any.room is None]
    prefills: dict[int, list[RequestTimes]] = defaultdict(list)
    for one in hidden:
        if one.prefill is not None:
            prefills[one.prefill.input_tokens].append(one.prefill)
    for same in prefills.values():
        same.sort(key=lambda half: half.entry_s)
    found = [one for one in alone if one.any.room is not None]
    decodes = [one.decode for one in hidden if one.decode is not None]
    for decode in sorted(decodes, key=lambda half: half.entry_s):
        prefill = _taken(prefills[decode.input_tokens], decode)
        found.append(Halves(prefill, decode, is_guess=prefill is not None))
    return [*found, *(Halves(half, None) for half in chain(*prefills.values()))]


def _taken(prefills: list[RequestTimes], decode: RequestTimes) -> RequestTimes | None:
    """Remove and return the prefill half that started next to this decode half."""
    place = bisect_left(prefills, decode.entry_s, key=lambda half: half.entry_s)
    near = [i for i in (place - 1, place) if 0 <= i < len(prefills)]
    best = min(near, key=lambda i: abs(prefills[i].entry_s - decode.entry_s), default=None)
    if best is None or abs(prefills[best].entry_s - decode.entry_s) > _ROUTER_S:
        return None
    return prefills.pop(best)


def _with_retries(pairs: Sequence[Halves]) -> list[Halves]:
    """Attach attempts without a decode half to the later attempt with the same rid."""
    attempts: dict[str, list[Halves]] = defaultdict(list)
    for one in pairs:
        attempts[one.any.rid].append(one)
        if one.prefill is not None and one.prefill.rid != one.any.rid:
            attempts[one.prefill.rid].append(one)
    kept = {id(one): one for one in pairs}
    for same in attempts.values():
        last = max(same, key=lambda one: (one.is_whole, one.first.entry_s))
        earlier = tuple(
            one.first
            for one in same
            if not one.is_whole and one.first.entry_s < last.first.entry_s and last.is_whole
        )
        if earlier:
            kept[id(last)] = Halves(last.prefill, last.decode, last.is_guess, earlier)
            for one in same:
                if not one.is_whole:
                    kept.pop(id(one), None)
    return list(kept.values())


def clocks_of(pairs: Iterable[Halves], hosts: Mapping[str, str]) -> dict[tuple[str, str], ClockGap]:
    """The lead of each decode engine's clock over each prefill engine's, by their names.

    Bounds are causal: KV is allocated before prefill starts (else before it ends), and arrives
    after it was computed. Between them, the router sends both legs of a request at once. A busy
    scheduler notices its leg late, so the pairs in which the prefill engine was quick tell most.

    hosts: of the engines where they are known; engines of one host have one clock.
    Ignores: clocks that drift within the window.
    """
    shared: dict[tuple[str, str], list[tuple[RequestTimes, RequestTimes]]] = defaultdict(list)
    for one in pairs:
        if one.prefill is not None and one.decode is not None and not one.is_guess:
            names = (one.prefill.engine, one.decode.engine)
            shared[names].append((one.prefill, one.decode))
    return {
        (prefill, decode): _clock(prefill, decode, both, hosts)
        for (prefill, decode), both in shared.items()
    }


def offsets_of(clocks: Mapping[tuple[str, str], ClockGap]) -> dict[str, float]:
    """The lead of each engine's clock over one of those that requests connect it with.

    Ignores: the other ways to the same engine, which an exact estimate would agree with.
    """
    leads: dict[str, dict[str, float]] = defaultdict(dict)
    for (prefill, decode), gap in clocks.items():
        leads[prefill][decode], leads[decode][prefill] = gap.ahead_s, -gap.ahead_s
    found: dict[str, float] = {}
    for first in sorted(leads):
        found.setdefault(first, 0.0)
        waiting = [first]
        while waiting:
            one = waiting.pop()
            fresh = {name: found[one] + s for name, s in leads[one].items() if name not in found}
            found |= fresh
            waiting += fresh
    return found


def _clock(
    prefill: str,
    decode: str,
    both: Sequence[tuple[RequestTimes, RequestTimes]],
    hosts: Mapping[str, str],
) -> ClockGap:
    if prefill in hosts and hosts[prefill] == hosts.get(decode):
        return ClockGap(prefill, decode, 0.0, 0.0, 0.0)
    low_s = max(_allocated_s(d) - p.start_s for p, d in both)
    high_s = min(_arrived_s(d) - computed_s(p) for p, d in both)
    if low_s > high_s + ROUNDING_S:  # prefill may begin before KV is allocated
        low_s = max(_allocated_s(d) - p.end_s for p, d in both)
    gaps = sorted(d.entry_s - p.entry_s for p, d in both)
    if low_s > high_s:  # a clock was set, or some halves do not belong together
        return ClockGap(prefill, decode, gaps[len(gaps) // 2], None, None)
    sent_s = gaps[int(len(gaps) * 0.9)]
    can_be_same = low_s - ROUNDING_S <= 0 <= high_s + ROUNDING_S
    ahead_s = 0.0 if can_be_same and abs(sent_s) < SAME_CLOCK_S else min(max(sent_s, low_s), high_s)
    return ClockGap(prefill, decode, ahead_s, low_s, high_s)


def computed_s(half: RequestTimes) -> float:
    """The time at which a prefill engine had computed the prompt; else that of its first batch."""
    return half.start_s if half.sending_s is None else half.end_s - half.sending_s


def _allocated_s(half: RequestTimes) -> float:
    return half.entry_s + half.bootstrap_s + half.allocation_s


def _arrived_s(half: RequestTimes) -> float:
    return _allocated_s(half) + half.transfer_s
