"""Decide whether to move engines between prefill and decode. Pure: history in, decision out.

The rule rests on what-ifs, and on what was measured before and after earlier moves. It never acts
on a gain whose lower bound is not worth a move, and asks more of a move that makes the smaller role
smaller. The latest part of the window shows a shift of the load first: it can prevent a move, and
call for one that makes no small role smaller. Where what-ifs call for nothing, the queues may call
for a change (split_advice), unless a replay that matches is against it. Within the cool-down of a
move it goes on in the same direction only.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pdctl.status.autopilot.split_advice import Split, SplitAdvice
from pdctl.status.records import Alternative, WhatIf
from pdctl.units import format_points, format_share

WORSE_BY = 0.02  # of the share that meets the SLOs: less is no reason to move, more one to undo
CLEAR_GAIN = 0.10  # a lower bound that needs no second look to agree
LATEST = 0.4  # of the window: its latest part, which is replayed by itself too
REMEMBERED_COOL_DOWNS = 6  # for which a move that did not help is not repeated
JUDGED_COOL_DOWNS = 2  # after which a fall has other causes than the move

Kind = Literal["move", "undo"]


@dataclass(frozen=True)
class Limits:
    """Limits of an autopilot. max_moves: since `since_s` (Unix seconds), undone ones too."""

    cool_down_s: float = 300.0
    max_moves: int = 12
    since_s: float = 0.0


@dataclass(frozen=True)
class Move:
    """A change that was made. seen, promised: shares of the requests that met the SLOs before it
    and as predicted after it; None: unknown, since queues and not a what-if called for it.
    """

    at_s: float
    kind: Kind
    before: Split
    after: Split
    seen: float | None = None
    promised: float | None = None

    @property
    def goes_up(self) -> bool:
        """True if it made prefill larger."""
        return self.after.num_prefill > self.before.num_prefill


@dataclass(frozen=True)
class Decision:
    """The action now, and its reason as a sentence. to: None unless engines move."""

    action: Literal["wait", "move", "undo"]
    why: str
    to: Split | None = None
    promised: float | None = None


def next_step(
    now: Split,
    looks: Sequence[WhatIf],
    moves: Sequence[Move],
    limits: Limits,
    *,
    at_s: float,
    latest: WhatIf | None = None,
    queues: SplitAdvice | None = None,
) -> Decision:
    """The next step of an autopilot.

    looks: what-ifs since the last move, oldest first. moves: all that were made, oldest first.
    latest: the what-if of the latest part of the window now; None: too few requests.
    queues: the split that the queues of the last minute call for; None: no other. at_s: now; a look
    of another time says nothing.
    Ignores: engines that are added or removed; only roles change.
    """
    look = looks[-1] if looks and (looks[-1].layout, looks[-1].at_s) == (now.layout, at_s) else None
    last = moves[-1] if moves else None
    left_s = limits.cool_down_s - (at_s - last.at_s) if last else 0.0
    if last and look and left_s <= 0 and _is_judged(last, now, at_s, limits):
        why = _did_not_help(last, look)
        if why:
            return Decision("undo", why, last.before, last.seen)
    if sum(one.at_s >= limits.since_s for one in moves) >= limits.max_moves:
        return Decision("wait", f"All {limits.max_moves} moves are used.")
    chosen = _by_what_if(now, looks, latest) if look else None
    if chosen is None or chosen.to is None:
        other = _by_latest(now, latest) or _by_queues(now, look, queues)
        chosen = other or chosen or Decision("wait", _unknown(now, look))
    if chosen.to is None:
        return chosen
    if _was_undone(now, chosen.to, look, moves, at_s, limits):
        return Decision("wait", f"{chosen.to.layout} did not help when it was tried.")
    if last and left_s > 0 and last.goes_up != (chosen.to.num_prefill > now.num_prefill):
        return Decision("wait", f"Cooling down for {left_s:.0f} s after {last.after.layout}.")
    return chosen


def _by_what_if(now: Split, looks: Sequence[WhatIf], latest: WhatIf | None) -> Decision:
    """All the way to the best split for a clear gain, else one engine once two looks agree.

    After a shift, most of the window is of the load before it, so its latest part may prevent it.
    """
    look = looks[-1]
    goal = _goal(now, look)
    if goal is None and not look.is_match:
        return Decision("wait", _unknown(now, look))
    if goal is None:
        return Decision("wait", f"No other split is better than {now.layout} beyond doubt.")
    by = 1 if goal.num_prefill > now.num_prefill else -1
    step = look.of(Split(now.num_prefill + by, now.num_decode - by).layout)
    if goal.gain_low < CLEAR_GAIN:
        if step is None or step.gain < 0:
            return Decision("wait", f"{goal.layout} looks better, but not the way there.")
        before = _goal(now, looks[-2]) if len(looks) > 1 else None
        if before is None or (before.num_prefill > now.num_prefill) != (by > 0):
            return Decision("wait", f"{goal.layout} looks better; one more look must agree.")
        goal = step
    move = _move(now, look, goal)
    if latest and move.to and _is_against(latest, move.to):
        return Decision("wait", f"{move.to.layout} looks better, but not for the latest requests.")
    return move


def _by_latest(now: Split, latest: WhatIf | None) -> Decision | None:
    """The move that the latest part of the window calls for; None: none, or a doubtful one.

    The split that was best before a shift of the load hides the gain in the window as a whole.
    """
    if latest is None or not latest.is_match or latest.by_whole:
        return None
    goal = _goal(now, latest, is_brief=True)
    return _move(now, latest, goal) if goal else None


def _move(now: Split, look: WhatIf, goal: Alternative) -> Decision:
    """The move towards a goal that leaves half of each role."""
    goal = look.of(_at_most_half(now, goal).layout) or goal
    why = (
        f"{now.layout}: {format_share(look.seen)} met the SLOs in the last {look.window_s:.0f} s; "
        f"{goal.layout} would give {format_share(goal.attainment)}, "
        f"a gain of at least {format_points(goal.gain_low)}."
    )
    return Decision("move", why, Split(goal.num_prefill, goal.num_decode), goal.attainment)


def _is_against(look: WhatIf, to: Split) -> bool:
    other = look.of(to.layout)
    return other is None or other.gain < 0


def _goal(now: Split, look: WhatIf, *, is_brief: bool = False) -> Alternative | None:
    """The nearest of the splits that are as good as the best; None: none is worth a move."""
    splits = [Split(one.num_prefill, one.num_decode) for one in look.alternatives]
    worth = [
        one
        for one, to in zip(look.alternatives, splits, strict=True)
        if to.num_prefill and one.gain_low > _least_gain(now, to, look, is_brief=is_brief)
    ]
    if not worth:
        return None
    least = max(one.attainment for one in worth) - WORSE_BY
    good = [one for one in worth if one.attainment >= least]
    return min(good, key=lambda one: abs(one.num_prefill - now.num_prefill))


def _least_gain(now: Split, to: Split, look: WhatIf, *, is_brief: bool) -> float:
    """The lower bound of a gain that pays for a move.

    Towards as many prefill as decode engines, a little; away from it, a clear gain: the next load
    may be another one, and a small role is soon overloaded. No gain in the brief latest part of a
    window pays for that. A replay that does not match has its mismatch taken off its gains, so that
    a clear one that is left still counts.
    """
    if _thins(now, to):
        return math.inf if is_brief else CLEAR_GAIN
    is_sure = look.is_match and not look.by_whole and not is_brief
    return WORSE_BY if is_sure else CLEAR_GAIN


def _thins(now: Split, to: Split) -> bool:
    """True if the smaller role becomes smaller."""
    return to.smaller < now.smaller


def _at_most_half(now: Split, goal: Alternative) -> Split:
    """The split on the way to a goal after which half of the role that gives engines is left."""
    half = (now.num_decode if goal.num_prefill > now.num_prefill else now.num_prefill) // 2
    most = max(1, half)
    by = max(-most, min(most, goal.num_prefill - now.num_prefill))
    return Split(now.num_prefill + by, now.num_decode - by)


def _by_queues(now: Split, look: WhatIf | None, queues: SplitAdvice | None) -> Decision | None:
    """The change that the queues call for; None: none, or a replay that matches is against it.

    Without a model they are no ground to leave a single engine in a role of a larger deployment.
    """
    if queues is None or (_thins(now, queues.to) and queues.to.smaller < 2 and now.total > 3):
        return None
    if look and look.is_match and _is_against(look, queues.to):
        return None
    return Decision("move", queues.why, queues.to)


def _unknown(now: Split, look: WhatIf | None) -> str:
    """A sentence: why the what-if says nothing."""
    if look is None:
        return "The queues call for no other split."
    return (
        f"The replay of {now.layout} says {format_share(look.replayed)} "
        f"and {format_share(look.seen)} was seen: it "
        "does not match, so it does not count, and the queues call for no other split."
    )


def _is_judged(move: Move, now: Split, at_s: float, limits: Limits) -> bool:
    """True while a fall of what is seen may be due to this move."""
    is_recent = at_s - move.at_s <= JUDGED_COOL_DOWNS * limits.cool_down_s
    return is_recent and move.kind == "move" and move.after == now


def _did_not_help(move: Move, look: WhatIf) -> str:
    """Why a move is to be undone; "" if it helped, or if the load has made its return worse.

    The share may fall because the load grew. Then the replay of the earlier layout on the new
    requests falls too, by more than the replay of today's differs from what is seen. A move that
    queues called for is made while the share falls, so that what was seen before says too much.
    Whole times alone are too little to blame it for a fall.
    """
    if look.by_whole or move.seen is None or move.promised is None:
        return ""
    if look.seen >= move.seen - WORSE_BY:
        return ""
    back = look.of(move.before.layout)
    if back is not None and back.gain + (0.0 if look.is_match else look.mismatch) <= 0:
        return ""
    return (
        f"{move.after.layout} was to give {format_share(move.promised)} and gives "
        f"{format_share(look.seen)}; {move.before.layout} gave {format_share(move.seen)}."
    )


def _was_undone(
    now: Split,
    to: Split,
    look: WhatIf | None,
    moves: Sequence[Move],
    at_s: float,
    limits: Limits,
) -> bool:
    """True while an undone move is not to be repeated.

    It may be repeated once a replay that matches sees less than the move had given.
    """
    since_s = at_s - REMEMBERED_COOL_DOWNS * limits.cool_down_s
    undone = [
        one
        for one in moves
        if one.kind == "undo" and (one.before, one.after) == (to, now) and one.at_s >= since_s
    ]
    return any(not _gave_more(one, look) for one in undone)


def _gave_more(undo: Move, look: WhatIf | None) -> bool:
    """True if more requests met the SLOs just before an undo than a replay that matches sees."""
    if look is None or undo.seen is None or not look.is_match or look.by_whole:
        return False
    return look.seen < undo.seen - WORSE_BY
