"""From the logs of engines to the requests that were slow, and why. Pure."""

from collections import Counter
from collections.abc import Mapping, Sequence

from pdctl.engines.request_times import RequestLog
from pdctl.status.explain.cause import cause_of, usual_of
from pdctl.status.explain.join import Halves, clocks_of, joined, offsets_of
from pdctl.status.explain.pace import pace_cause, usual_pace
from pdctl.status.explain.parts import parts_of, total_s, tpot_s, ttft_s
from pdctl.status.explain.records import Cause, ClockGap, ExplainedRequest, Explanation, Part
from pdctl.units import format_count, format_number_of


def requests_in(logs: Sequence[RequestLog], window_s: float | None) -> tuple[Halves, ...]:
    """The requests in these logs; with a window, those that began in its last seconds."""
    pairs = joined(record for log in logs for record in log.records)
    if window_s is None or not pairs:
        return pairs
    spans = _spans(pairs, clocks_of(pairs, {}))
    last_s = max(end_s for _, end_s in spans)
    return tuple(
        one for one, (begin_s, _) in zip(pairs, spans, strict=True) if begin_s >= last_s - window_s
    )


def _spans(
    pairs: Sequence[Halves], clocks: Mapping[tuple[str, str], ClockGap]
) -> list[tuple[float, float]]:
    """Begin and end of each request, on one clock as far as clocks are known."""
    ahead_s = offsets_of(clocks)
    return [
        (
            one.first.entry_s - ahead_s.get(one.first.engine, 0.0),
            one.any.end_s - ahead_s.get(one.any.engine, 0.0),
        )
        for one in pairs
    ]


def explain_requests(
    pairs: Sequence[Halves],
    *,
    hosts: Mapping[str, str],
    slowest: int,
    rid: str | None = None,
    by_tpot: bool = False,
    notes: Sequence[str] = (),
) -> Explanation:
    """The slowest requests, or the one of this id, each with its parts and its cause.

    Args:
        hosts: of the engines where they are known, for their clocks.
        rid: as a client got it: its start is enough.
        by_tpot: slowest per token instead of to the first token.
    """
    clocks, parts = aligned_parts(pairs, hosts)
    usual, pace = usual_of(pairs, parts), usual_pace(pairs)
    if rid is None:
        order = sorted(range(len(pairs)), key=lambda i: -_slow_s(pairs[i], parts[i], by_tpot))
        chosen = order[:slowest]
    else:
        chosen = [i for i, one in enumerate(pairs) if is_called(one, rid)]
    explained = [
        _explained(
            pairs[i],
            parts[i],
            pace_cause(pairs[i], pace) if by_tpot else cause_of(pairs[i], parts[i], usual),
        )
        for i in chosen
    ]
    spans = _spans(pairs, clocks)
    start_s = min((begin_s for begin_s, _ in spans), default=0.0)
    return Explanation(
        num_requests=len(pairs),
        span_s=max((end_s for _, end_s in spans), default=0.0) - start_s,
        requests=tuple(explained),
        clocks=tuple(clocks[key] for key in sorted(clocks) if clocks[key].ahead_s),
        notes=tuple(notes),
    )


def aligned_parts(
    pairs: Sequence[Halves], hosts: Mapping[str, str]
) -> tuple[dict[tuple[str, str], ClockGap], list[tuple[Part, ...]]]:
    """The clocks of the engines, and the parts of each request on its decode engine's clock."""
    clocks = clocks_of(pairs, hosts)
    return clocks, [parts_of(one, _ahead_s(one, clocks)) for one in pairs]


def is_called(halves: Halves, rid: str) -> bool:
    """Is this the id, or the start of the id, or the room of a request?"""
    both = [half for half in (halves.prefill, halves.decode, *halves.earlier) if half]
    return any(half.rid.startswith(rid) or str(half.room) == rid for half in both)


def notes_on(logs: Sequence[RequestLog], pairs: Sequence[Halves]) -> tuple[str, ...]:
    """Sentences on what the logs lack, and on what was assumed for it."""
    notes = []
    for log in logs:
        if log.num_dropped:
            notes.append(
                f"{log.name} logged {log.num_dropped + len(log.records):,} requests; "
                f"the last {len(log.records):,} were read."
            )
        if log.num_unreadable:
            lines = format_number_of(log.num_unreadable, "line", "are")
            notes.append(f"{lines} cut off or damaged in the log of {log.name}, and left out.")
    guessed = sum(one.is_guess for one in pairs)
    if guessed:
        notes.append(
            "The engines log no bootstrap room: the halves of "
            f"{format_number_of(guessed, 'request')} were joined by prompt length and time."
        )
    alone = Counter(one.any.role for one in pairs if not one.is_whole and one.any.room is None)
    if min(alone["prefill"], alone["decode"]) > guessed:
        notes.append(
            "Without a bootstrap room most halves fit no other by prompt length and time, as where "
            "clocks are more than a second apart: each half is shown as a request."
        )
    for role, count in (
        ("prefill", sum(one.prefill is None and one.any.role == "decode" for one in pairs)),
        ("decode", sum(one.decode is None for one in pairs)),
    ):
        if count:
            notes.append(f"{_share_of(count, len(pairs))} no {role} half in these logs.")
    return tuple(notes)


def _share_of(count: int, total: int) -> str:
    if count == total:
        return f"None of {format_number_of(total, 'request')} has both halves: there is"
    return f"{format_count(count)} of {format_number_of(total, 'request', 'have')}"


def _ahead_s(halves: Halves, clocks: Mapping[tuple[str, str], ClockGap]) -> float:
    if halves.prefill is None or halves.decode is None:
        return 0.0
    clock = clocks.get((halves.prefill.engine, halves.decode.engine))
    return clock.ahead_s if clock else halves.decode.entry_s - halves.prefill.entry_s


def _slow_s(halves: Halves, parts: Sequence[Part], by_tpot: bool) -> float:
    if by_tpot:
        return tpot_s(halves) or 0.0
    return sum(part.seconds for part in parts)


def _explained(halves: Halves, parts: tuple[Part, ...], cause: Cause) -> ExplainedRequest:
    first, last = halves.first, halves.any
    room = next((h.room for h in (halves.decode, halves.prefill) if h and h.room is not None), None)
    return ExplainedRequest(
        rid=last.rid,
        room="" if room is None else str(room),
        at=min(half.entry_s for half in (first, *halves.earlier)),
        input_tokens=first.input_tokens,
        cached_tokens=first.cached_tokens,
        output_tokens=last.output_tokens if halves.decode else 0,
        prefill_engine=halves.prefill.engine if halves.prefill else "",
        decode_engine=halves.decode.engine if halves.decode else "",
        ttft_s=ttft_s(halves, parts),
        tpot_s=tpot_s(halves),
        total_s=total_s(halves, parts),
        parts=parts,
        cause=cause,
        is_guess=halves.is_guess,
        missing=_missing(halves),
    )


def _missing(halves: Halves) -> str:
    if halves.decode is None:
        return "No log of a decode engine has it: it failed, still runs, or that log is missing."
    if halves.decode.role == "colocated":
        return "Colocated engines do not log when the first token came."
    if halves.prefill is None:
        return "No log of a prefill engine has it, because that log is missing or was rotated."
    return ""
