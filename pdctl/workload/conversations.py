"""Requests from conversations whose later turns have a delay instead of an arrival time.

AIPerf's traces say when a conversation begins; each later turn comes `delay` after the answer
before, and its prompt is the new text alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pdctl.units import format_count, format_seconds
from pdctl.workload.lines import Turn
from pdctl.workload.time_units import UNITS_S

# How long an answer takes is unknown until a deployment exists: an assumption, said in the notes.
ASSUMED_FIRST_TOKEN_S = 0.5
ASSUMED_TOKEN_S = 0.03
HISTORY_BLOCK_TOKENS = 64
_MANY_SECONDS = 60.0  # delays beside dates: a median above it counts milliseconds


@dataclass(frozen=True)
class Conversations:
    """Requests of conversations, in the order of the file.

    isl: prompts with their history. blocks: the history as shared prefixes; None: unknown here.
    """

    arrival_s: list[float]
    isl: Sequence[int]
    blocks: list[tuple[int, ...]] | None
    note: str


def delay_unit(column_unit: str | None, time_unit: str, delays: Sequence[float]) -> str:
    """The unit of delays: the one in their name, else that of the times.

    Beside dates, or without a unit of times, seconds unless the median delay would be over a
    minute.
    """
    if column_unit:
        return column_unit
    if time_unit in UNITS_S:
        return time_unit
    middle = sorted(delays)[len(delays) // 2] if delays else 0.0
    return "ms" if middle > _MANY_SECONDS else "s"


def place_turns(
    arrival_s: Sequence[float],
    isl: Sequence[int],
    osl: Sequence[int],
    turns: Sequence[Turn | None],
    *,
    delay_s: float,
    has_blocks: bool,
) -> Conversations:
    """The arrival of each turn, and the length of its prompt.

    arrival_s: nan where a turn has a delay instead; its conversation then began earlier in the
    file. delay_s: seconds in one unit of delay. has_blocks: prompts have block ids and are whole.
    Ignores: that a slower deployment makes later turns come later.
    """
    placed: list[float] = []
    before: dict[object, int] = {}
    previous: list[int | None] = []
    for place, turn in enumerate(turns):
        last = before.get(turn[0]) if turn else None
        at = arrival_s[place]
        if at != at and turn is not None and last is not None:
            answered = placed[last] + ASSUMED_FIRST_TOKEN_S + ASSUMED_TOKEN_S * osl[last]
            at = answered + (turn[1] or 0.0) * delay_s
        placed.append(at)
        previous.append(last)
        if turn is not None:
            before[turn[0]] = place
    num_later = sum(last is not None for last in previous)
    said = _arrival_note(num_later, len(before))
    if has_blocks or _is_whole(isl, osl, previous):
        return Conversations(placed, isl, None, said)
    whole, blocks = _with_history(isl, osl, previous)
    return Conversations(
        placed,
        whole,
        blocks,
        f"{said} The prompts of later turns are assumed to begin with the earlier turns, from the "
        "prefix cache.",
    )


def _arrival_note(num_later: int, num_conversations: int) -> str:
    return (
        f"{format_count(num_later)} requests are later turns of {format_count(num_conversations)} "
        "conversations. Each is assumed to arrive its delay after the previous answer, which takes "
        f"{format_seconds(ASSUMED_FIRST_TOKEN_S)} plus {format_seconds(ASSUMED_TOKEN_S)} per "
        "output token."
    )


def _is_whole(isl: Sequence[int], osl: Sequence[int], previous: Sequence[int | None]) -> bool:
    """True if every later prompt is long enough to hold the turn before and its answer."""
    later = [(place, last) for place, last in enumerate(previous) if last is not None]
    return all(isl[place] >= isl[last] + osl[last] for place, last in later)


def _with_history(
    isl: Sequence[int], osl: Sequence[int], previous: Sequence[int | None]
) -> tuple[list[int], list[tuple[int, ...]]]:
    """Prompts that begin with the turns before them, and the ids of their blocks."""
    whole: list[int] = []
    blocks: list[tuple[int, ...]] = []
    fresh = 0
    for place, last in enumerate(previous):
        tokens = isl[place]
        shared: tuple[int, ...] = ()
        if last is not None:
            tokens += whole[last] + osl[last]
            shared = blocks[last][: whole[last] // HISTORY_BLOCK_TOKENS]
        own = -(-tokens // HISTORY_BLOCK_TOKENS) - len(shared)
        blocks.append((*shared, *range(fresh, fresh + own)))
        whole.append(tokens)
        fresh += own
    return whole, blocks
