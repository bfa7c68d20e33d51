"""The parts of a request's time to first token. Pure."""

from collections.abc import Sequence

from pdctl.engines.request_times import RequestTimes
from pdctl.status.explain.join import Halves
from pdctl.status.explain.records import Part, PartName


def parts_of(halves: Halves, ahead_s: float = 0.0) -> tuple[Part, ...]:
    """The parts of the time from the first engine to the first token; they add up to it.

    ahead_s: how far the decode engine's clock is ahead. An error in it moves time between
    neighbouring parts; of their sum it can only change what the router adds.

    Source: sglang#22853 for the router, which holds back a first token.
    Ignores: the way through router and tokenizer, and back to the client, which no engine logs.
    """
    prefill, decode = halves.prefill, halves.decode
    if prefill is None:
        parts = _of_decode(halves.any)
    elif decode is None:
        ends = _prefill_ends(prefill, 0.0, prefill.end_s)
        parts = _laid(ends, prefill.entry_s, prefill.end_s)
    else:
        ends = _joined_ends(prefill, decode, ahead_s)
        parts = _laid(ends, min(decode.entry_s, prefill.entry_s + ahead_s), ends[-1][2])
    return _after_retries(parts, halves)


def ttft_s(halves: Halves, parts: Sequence[Part]) -> float | None:
    """Seconds to the first token; None where the logs do not have that moment."""
    if halves.decode is None or halves.decode.role == "colocated":
        return None
    return sum(part.seconds for part in parts)


def tpot_s(halves: Halves) -> float | None:
    """Mean seconds per token after the first; None for one token, or if the logs lack it."""
    decode = halves.decode
    if decode is None or decode.role == "colocated" or decode.output_tokens < 2:
        return None
    return decode.forward_s / (decode.output_tokens - 1)


def total_s(halves: Halves, parts: Sequence[Part]) -> float:
    """Seconds to the end of the answer. Decoding goes on while the router holds back tokens."""
    to_first_s = sum(part.seconds for part in parts)
    if halves.decode is None:
        return to_first_s
    held_s = sum(part.seconds for part in parts if part.name == "router")
    return to_first_s - held_s + max(held_s, halves.decode.forward_s)


_Ends = list[tuple[PartName, str, float]]  # a part, its engine, and when it ends at the latest


def _handshake(decode: RequestTimes) -> _Ends:
    known_s = decode.entry_s + decode.bootstrap_s
    return [
        ("bootstrap", decode.engine, known_s),
        ("decode allocation", decode.engine, known_s + decode.allocation_s),
    ]


def _prefill_ends(prefill: RequestTimes, ahead_s: float, arrived_s: float) -> _Ends:
    """The parts on a prefill engine, which may notice late that its KV has arrived."""
    queued: _Ends = [("prefill queue", prefill.engine, min(prefill.start_s + ahead_s, arrived_s))]
    if prefill.sending_s is None:
        return [*queued, ("prefill and transfer", prefill.engine, arrived_s)]
    computed_s = min(prefill.end_s - prefill.sending_s + ahead_s, arrived_s)
    return [
        *queued,
        ("prefill", prefill.engine, computed_s),
        ("KV transfer", prefill.engine, arrived_s),
    ]


def _joined_ends(prefill: RequestTimes, decode: RequestTimes, ahead_s: float) -> _Ends:
    """The parts of a whole request.

    The last one is SGLang's router: it forwards nothing before the prefill engine has answered,
    which a busy one does late.
    """
    arrived_s = decode.start_s - decode.queue_s
    return [
        *_handshake(decode),
        *_prefill_ends(prefill, ahead_s, arrived_s),
        ("decode queue", decode.engine, decode.start_s),
        ("router", prefill.engine, max(decode.start_s, prefill.end_s + ahead_s)),
    ]


def _of_decode(half: RequestTimes) -> tuple[Part, ...]:
    """Parts that one decode half, or a colocated engine, tells without a prefill half."""
    if half.role == "colocated":
        return _laid([("queue", half.engine, half.start_s)], half.entry_s, half.start_s)
    arrived_s = half.start_s - half.queue_s
    ends: _Ends = [
        *_handshake(half),
        ("prefill and transfer", half.engine, arrived_s),
        ("decode queue", half.engine, half.start_s),
    ]
    return _laid(ends, half.entry_s, half.start_s)


def _laid(ends: _Ends, start_s: float, last_s: float) -> tuple[Part, ...]:
    """One part after the other from `start_s` to `last_s`; none begins before the last one ends."""
    parts, at_s = [], start_s
    for name, engine, end_s in ends:
        until_s = min(max(end_s, at_s), last_s)
        parts.append(Part(name, engine, at_s - start_s, until_s - at_s))
        at_s = until_s
    return tuple(parts)


def _after_retries(parts: tuple[Part, ...], halves: Halves) -> tuple[Part, ...]:
    """Put the time that failed attempts took in front."""
    if not halves.earlier:
        return parts
    first = min(halves.earlier, key=lambda half: half.entry_s)
    lost_s = max(0.0, halves.first.entry_s - first.entry_s)
    moved = (Part(p.name, p.engine, p.start_s + lost_s, p.seconds) for p in parts)
    return (Part("retry", first.engine, 0.0, lost_s), *moved)
