"""Decide whether to move one engine between prefill and decode. Pure: history in, decision out.

The rule rests on what-ifs and on what was measured before and after earlier moves. It never acts
on a gain whose lower bound is zero or less. Within the cool-down of a move it only goes on in the
same direction, and only for a gain that is clear.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pdctl.status.records import Alternative, WhatIf

WORSE_BY = 0.02  # of the share that meets the SLOs: a move that costs as much is undone
CLEAR_GAIN = 0.10  # a lower bound that needs no second look to agree
REMEMBERED_COOL_DOWNS = 6  # for which a move that did not help is not repeated

Kind = Literal["move", "undo"]


@dataclass(frozen=True)
class Limits:
    """Limits of an autopilot. max_moves: since `since_s` (Unix seconds), undone ones too."""

    cool_down_s: float = 300.0
    max_moves: int = 12
    since_s: float = 0.0


@dataclass(frozen=True)
class Split:
    """Numbers of prefill and decode engines."""

    num_prefill: int
    num_decode: int

    @property
    def layout(self) -> str:
        return f"{self.num_prefill}P{self.num_decode}D"


@dataclass(frozen=True)
class Move:
    """A change that was made. seen, promised: shares of the requests that met the SLOs before it
    and as predicted after it.
    """

    at_s: float
    kind: Kind
    before: Split
    after: Split
    seen: float
    promised: float


@dataclass(frozen=True)
class Decision:
    """The action now, and its reason as a sentence. to: None unless an engine moves."""

    action: Literal["wait", "move", "undo"]
    why: str
    to: Split | None = None
    promised: float | None = None


def next_step(
    now: Split, looks: Sequence[WhatIf], moves: Sequence[Move], limits: Limits
) -> Decision:
    """The next step of an autopilot.

    looks: what-ifs since the last move, oldest first, the last one of this moment. moves: all that
    were made, oldest first. Ignores: engines that are added or removed; only roles change.
    """
    if not looks or looks[-1].layout != now.layout:
        return Decision("wait", "No what-if of the present layout yet.")
    look = looks[-1]
    last = moves[-1] if moves else None
    left_s = limits.cool_down_s - (look.at_s - last.at_s) if last else 0.0
    if last and left_s > 0 and not _goes_on(last, now, look):
        return Decision("wait", f"Cooling down for {left_s:.0f} s after {last.after.layout}.")
    if last and left_s <= 0 and last.kind == "move" and last.after == now:
        why = _did_not_help(last, look)
        if why:
            return Decision("undo", why, last.before, last.seen)
    if sum(one.at_s >= limits.since_s for one in moves) >= limits.max_moves:
        return Decision("wait", f"All {limits.max_moves} moves are used.")
    if not look.is_match:
        return Decision(
            "wait",
            f"The replay of {now.layout} says {look.replayed:.0%} and {look.seen:.0%} was seen: "
            "the model does not match, so its advice does not count.",
        )
    return _towards_the_best(now, looks, moves, limits)


def _towards_the_best(
    now: Split, looks: Sequence[WhatIf], moves: Sequence[Move], limits: Limits
) -> Decision:
    look = looks[-1]
    step = _step(now, look)
    if step is None:
        return Decision("wait", f"No other split is better than {now.layout} beyond doubt.")
    to = Split(step.num_prefill, step.num_decode)
    if _was_undone(now, to, moves, look.at_s, limits):
        return Decision("wait", f"{to.layout} did not help when it was tried.")
    before = _step(now, looks[-2]) if len(looks) > 1 else None
    is_confirmed = before is not None and before.layout == step.layout
    if step.gain_low < CLEAR_GAIN and not is_confirmed:
        return Decision("wait", f"{to.layout} looks better; one more look must agree.")
    why = (
        f"{now.layout}: {look.seen:.0%} meet the SLOs; {to.layout} would give "
        f"{step.attainment:.0%}, at least {step.gain_low:+.1%}."
    )
    return Decision("move", why, to, step.attainment)


def _step(now: Split, look: WhatIf) -> Alternative | None:
    """One engine towards the best split, if that split is better beyond doubt.

    The step itself may gain nothing yet: under overload only the whole way helps. It must not lose.
    """
    best = next((one for one in look.alternatives if one.num_prefill), None)
    if best is None or best.gain_low <= 0 or not look.is_match:
        return None
    by = 1 if best.num_prefill > now.num_prefill else -1
    step = look.of(Split(now.num_prefill + by, now.num_decode - by).layout)
    return step if step and step.gain >= 0 else None


def _goes_on(last: Move, now: Split, look: WhatIf) -> bool:
    """True if a clear gain calls for a further step in the direction of the last one."""
    step = _step(now, look)
    if step is None or step.gain_low < CLEAR_GAIN:
        return False
    went_up = last.after.num_prefill > last.before.num_prefill
    return went_up == (step.num_prefill > now.num_prefill)


def _did_not_help(move: Move, look: WhatIf) -> str:
    """Why a move is to be undone; "" if it helped, or if the load has made its return worse.

    The share may fall because the load grew. Then the replay of the earlier layout on the new
    requests falls too, and a replay that matches what is seen is evidence of that.
    """
    if look.seen >= move.seen - WORSE_BY:
        return ""
    back = look.of(move.before.layout)
    if look.is_match and back is not None and back.gain <= 0:
        return ""
    return (
        f"{move.after.layout} was to give {move.promised:.0%} and gives {look.seen:.0%}; "
        f"{move.before.layout} gave {move.seen:.0%}."
    )


def _was_undone(now: Split, to: Split, moves: Sequence[Move], at_s: float, limits: Limits) -> bool:
    since_s = at_s - REMEMBERED_COOL_DOWNS * limits.cool_down_s
    return any(
        one.kind == "undo" and (one.before, one.after) == (to, now) and one.at_s >= since_s
        for one in moves
    )
