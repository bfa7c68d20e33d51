"""The main cause of a request's wait, by comparison with the others of its window. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pdctl.engines.request_times import RequestTimes
from pdctl.status.explain.join import Halves, computed_s
from pdctl.status.explain.records import Cause, CauseKind, Part, PartName
from pdctl.units import format_count, format_number_of, format_seconds

LONG = 4  # a neighbour is long from this multiple of the window's median prompt
MAIN_SHARE = 0.5  # of a wait, from which on one neighbour is its cause
USUAL = 0.2  # quantile of work that counts as undisturbed
SLOW_ENGINE = 1.5  # of the usual time per token
MOST_BOOTSTRAP_S = 0.05  # no handshake usually takes longer, even where all of a window do


@dataclass(frozen=True)
class Usual:
    """The usual times of undisturbed work in this window, and every prefill engine's busy times.

    A prompt of n computed tokens takes base_s + token_s·n, and its KV link_s·input.
    """

    base_s: float
    token_s: float
    link_s: float
    median_tokens: int
    bootstrap_s: float
    by_engine: Mapping[str, Sequence[RequestTimes]]

    def prefill_s(self, tokens: int) -> float:
        return self.base_s + self.token_s * tokens


def usual_of(pairs: Sequence[Halves], parts: Sequence[Sequence[Part]]) -> Usual:
    """The usual times of a window, from its least disturbed requests.

    parts: of each pair. Waiting is never usual. Ignores that long prompts take more per token.
    """
    by_engine: dict[str, list[RequestTimes]] = defaultdict(list)
    for one in pairs:
        for half in (one.prefill, *one.earlier):
            if half is not None:
                by_engine[half.engine].append(half)
    halves = [half for some in by_engine.values() for half in some]
    median = int(_quantile([half.new_tokens for half in halves], 0.5))
    works = [(half.new_tokens, computed_s(half) - half.start_s) for half in halves]
    works = [(tokens, seconds) for tokens, seconds in works if seconds > 0]
    base_s = min((seconds for _, seconds in works), default=0.0)
    large = [(s - base_s) / n for n, s in works if n >= median]
    if (smallest := min((n for n, _ in works), default=0)) * 2 > median:
        # all prompts are alike: nothing tells a fixed share
        base_s, large = 0.0, [s / n for n, s in works if n >= smallest]
    sent = [
        _of(some, "KV transfer") / one.first.input_tokens
        for one, some in zip(pairs, parts, strict=True)
        if one.is_whole and one.prefill is not None and one.prefill.sending_s is not None
    ]
    return Usual(
        base_s=base_s,
        token_s=_quantile(large, USUAL),
        link_s=_quantile(sent, USUAL),
        median_tokens=median,
        bootstrap_s=_quantile([_of(some, "bootstrap") for some in parts], USUAL),
        by_engine=by_engine,
    )


def cause_of(halves: Halves, parts: Sequence[Part], usual: Usual) -> Cause:
    """The cause with the largest share of the time to first token."""
    return max(_causes(halves, parts, usual), key=lambda cause: cause.seconds)


def _causes(halves: Halves, parts: Sequence[Part], usual: Usual) -> Iterable[Cause]:
    by_name = {part.name: part for part in parts}
    yield _unknown(halves, by_name.get("prefill and transfer"))
    for name, kind, text in _WAITS:
        if (part := by_name.get(name)) and part.seconds > 0:
            waited = format_seconds(part.seconds)
            yield Cause(kind, part.engine, part.seconds, text.format(at=part.engine, s=waited))
    if part := by_name.get("bootstrap"):
        yield _late_handshake(halves, part, usual)
    if halves.prefill is None:
        return
    if part := by_name.get("prefill queue"):
        yield _queued(halves.prefill, part, usual)
    if part := by_name.get("prefill") or by_name.get("prefill and transfer"):
        yield from _computed(halves.prefill, part, usual)
    if part := by_name.get("KV transfer"):
        yield _sent(halves.prefill, part, usual)


def _unknown(halves: Halves, part: Part | None) -> Cause:
    """No cause: no log shows a wait, or one that only the log of the prefill engine explains."""
    if halves.prefill is not None or part is None or part.seconds <= 0:
        return Cause("unknown", "", 0.0, "The logs show no time that it waited.")
    text = (
        f"{part.engine} waited {format_seconds(part.seconds)} for its KV; "
        "the log of its prefill engine would show why."
    )
    return Cause("unknown", "", part.seconds * MAIN_SHARE, text)


_WAITS: tuple[tuple[PartName, CauseKind, str], ...] = (
    ("retry", "retry", "It was sent again after {s}, when an attempt on {at} had failed."),
    ("decode allocation", "decode_kv_full", "It waited {s} for KV cache or a slot on {at}."),
    ("decode queue", "decode_queue", "Its KV had arrived, and it waited {s} for a batch on {at}."),
    (
        "router",
        "held_back",
        "The router held its first token back for {s}, until {at} had answered.",
    ),
    ("queue", "queue", "It waited {s} in the queue of {at}."),
)


def _late_handshake(halves: Halves, part: Part, usual: Usual) -> Cause:
    late_s = max(0.0, part.seconds - min(usual.bootstrap_s, MOST_BOOTSTRAP_S))
    partner = f" and {halves.prefill.engine}" if halves.prefill else ""
    text = f"{part.engine}{partner} needed {format_seconds(part.seconds)} to find each other."
    return Cause("bootstrap", part.engine, late_s, text)


def _queued(prefill: RequestTimes, part: Part, usual: Usual) -> Cause:
    """A wait for the first batch: behind one long prompt, or behind many."""
    ahead = _beside(prefill, prefill.start_s - part.seconds, prefill.start_s, usual)
    waited = format_seconds(part.seconds)
    if ahead:
        longest, seconds = max(ahead, key=lambda one: one[1])
        if longest.new_tokens >= LONG * usual.median_tokens and seconds > part.seconds * MAIN_SHARE:
            text = f"It waited {waited} on {part.engine} behind {_named(longest)}."
            return Cause("long_neighbour", part.engine, part.seconds, text, longest.rid)
    tokens = sum(half.new_tokens for half, _ in ahead)
    requests = format_number_of(len(ahead), "request")
    what = f"behind {requests} of {_tokens(tokens)}" if ahead else ""
    text = f"It waited {waited} in the queue of {part.engine} {what}".rstrip() + "."
    return Cause("prefill_queue", part.engine, part.seconds, text)


def _computed(prefill: RequestTimes, part: Part, usual: Usual) -> Iterable[Cause]:
    """Prefill that took longer than its own tokens need, and what they need."""
    own_s = min(part.seconds, usual.prefill_s(prefill.new_tokens))
    took, tokens = format_seconds(part.seconds), _tokens(prefill.new_tokens)
    text = f"Its own {tokens} took {took} to prefill."
    if took != format_seconds(own_s):
        text = f"Its own {tokens} usually take {format_seconds(own_s)} to prefill, and took {took}."
    yield Cause("own_length", part.engine, own_s, text)
    excess_s = part.seconds - own_s
    if prefill.retries:
        text = f"{part.engine} computed it {prefill.retries + 1} times, in {took}."
        yield Cause("retry", part.engine, part.seconds, text)
        return
    beside = _beside(prefill, prefill.start_s, prefill.start_s + part.seconds, usual)
    text = f"{part.engine} took {took} for {tokens}, which usually takes {format_seconds(own_s)}."
    kind: CauseKind = "slow_prefill" if part.seconds > SLOW_ENGINE * own_s else "own_length"
    if beside:
        longest = max((half for half, _ in beside), key=lambda half: half.new_tokens)
        work_s = sum(usual.token_s * half.new_tokens for half, _ in beside)
        if longest.new_tokens > prefill.new_tokens / 2 and work_s > excess_s * MAIN_SHARE:
            text = f"It took {took} beside {_named(longest)} in a batch of {part.engine}."
            yield Cause("long_neighbour", part.engine, excess_s, text, longest.rid)
            return
    yield Cause(kind, part.engine, excess_s, text)


def _sent(prefill: RequestTimes, part: Part, usual: Usual) -> Cause:
    # a link slower than computing is slow, even where it always is
    whole_s = usual.prefill_s(prefill.input_tokens)
    usual_s = min(usual.link_s * prefill.input_tokens, whole_s)
    speed = ""
    if prefill.kv_mib and part.seconds > 0:
        rate = prefill.kv_mib / 1024 / part.seconds
        speed = f" ({rate:.2g} GiB/s)"
    text = (
        f"Its KV took {format_seconds(part.seconds)}{speed} from {part.engine}, "
        f"which usually takes {format_seconds(usual_s)}."
    )
    return Cause("slow_link", part.engine, max(0.0, part.seconds - usual_s), text)


def _beside(
    prefill: RequestTimes, start_s: float, end_s: float, usual: Usual
) -> list[tuple[RequestTimes, float]]:
    """The other requests that this engine computed in a span of time, and for how long of it."""
    found = []
    for half in usual.by_engine.get(prefill.engine, ()):
        if half is prefill or half.rid == prefill.rid:
            continue
        begin_s, done_s = half.start_s, computed_s(half)
        if done_s == begin_s:
            done_s = half.end_s
        shared_s = min(end_s, done_s) - max(start_s, begin_s)
        if shared_s > 0:
            found.append((half, shared_s))
    return found


def _named(half: RequestTimes) -> str:
    return f"a prompt of {_tokens(half.new_tokens)}"


def _tokens(count: int) -> str:
    return f"{format_count(count)} token{'' if count == 1 else 's'}"


def _of(parts: Sequence[Part], name: str) -> float:
    return sum(part.seconds for part in parts if part.name == name)


def _quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[int(len(values) * share)] if values else 0.0
