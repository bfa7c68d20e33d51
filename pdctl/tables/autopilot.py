"""An autopilot's decisions and their results, as text. Pure."""

from collections.abc import Sequence
from time import localtime, strftime

from pdctl.status.autopilot.decision import Move
from pdctl.status.autopilot.journal import Entry, moves_of
from pdctl.status.records import WhatIf
from pdctl.units import format_number_of, format_points, format_seconds, format_share


def entry_line(entry: Entry) -> str:
    """One decision as a line."""
    verb = {"wait": "wait", "move": "move", "undo": "undo"}[entry.decision.action]
    if entry.is_dry and verb != "wait":
        verb = f"would {verb}"
    to = f" → {entry.decision.to.layout}" if entry.decision.to else ""
    problem = f" Failed: {entry.problem}" if entry.problem else ""
    return f"{_clock(entry.at_s)} {entry.layout}{to}  {verb}: {entry.decision.why}{problem}"


def report_lines(name: str, entries: Sequence[Entry]) -> list[str]:
    """The moves with what was promised and what was seen afterwards, and the shares over time."""
    if not entries:
        return [f"No autopilot has run on {name}."]
    moves = moves_of(entries)
    seen = [one.look.seen for one in entries if one.look]
    lines = [
        f"{name}: {len(entries)} decisions since {_day(entries[0].at_s)}, "
        f"moves: {len(moves)}, undone: {sum(one.kind == 'undo' for one in moves)}."
    ]
    if seen:
        mean = sum(seen) / len(seen)
        lines.append(f"  Requests within the SLOs: {format_share(mean)} on average over all looks.")
    lines += [_move_line(move, entries) for move in moves]
    return [*lines, f"  Last: {entry_line(entries[-1])}"]


def _move_line(move: Move, entries: Sequence[Entry]) -> str:
    later = [one for one in entries if one.at_s > move.at_s]
    until_s = next((one.at_s for one in later if one.move), float("inf"))
    after = [one.look.seen for one in later if one.look and one.at_s <= until_s]
    brought = (
        f"{format_share(sum(after) / len(after))} after" if after else "nothing known yet after"
    )
    before = "" if move.seen is None else f"{format_share(move.seen)} before, "
    promised = (
        "nothing promised" if move.promised is None else f"{format_share(move.promised)} promised"
    )
    return (
        f"  {_day(move.at_s)} {move.before.layout} → {move.after.layout} ({move.kind}): "
        f"{before}{promised}, {brought}"
    )


def what_if_lines(look: WhatIf, now_s: float) -> list[str]:
    """Today's layout and the best other one, with how well the model matches; then all others.

    now_s: Unix seconds. Nothing is said of other layouts where the model does not match.
    """
    first = f"Now {look.layout}: {_today(look)}."
    best = look.best
    if best:
        first += (
            f" {best.layout} would give {format_share(best.attainment)}, "
            f"at least {format_points(best.gain_low)} more."
        )
    elif look.is_match:
        first += " No other layout is better beyond doubt."
    replayed = (
        f"Replayed {format_number_of(look.num_requests, 'request')}, {_ago(now_s - look.at_s)}"
    )
    others = ", ".join(f"{one.layout} {format_share(one.attainment)}" for one in look.alternatives)
    second = f"{replayed}: {others}." if look.is_match else f"{replayed}."
    return [first, second, *_usual_lines(look)]


def _today(look: WhatIf) -> str:
    """Today's share, and how well the replay matches it.

    Whole times are a weaker yardstick than both limits, so the replay tells the share within them.
    """
    good = "meet the SLOs" if look.usual_ttft_s is None else "get today's median times"
    doubt = "" if look.is_match else ", which does not match: no advice"
    seen, replayed = format_share(look.seen), format_share(look.replayed)
    if not look.by_whole:
        return f"{seen} {good} (its replay says {replayed}{doubt})"
    return (
        f"{format_share(look.attainment)} {good} in its replay ({seen} end in the time that both "
        f"limits allow together; its replay says {replayed}{doubt})"
    )


def _usual_lines(look: WhatIf) -> list[str]:
    if look.usual_ttft_s is None or look.usual_tpot_s is None:
        return []
    return [
        "No SLOs are given, so a layout is better if more requests get today's median times: TTFT "
        f"{format_seconds(look.usual_ttft_s)} and TPOT {format_seconds(look.usual_tpot_s)}, or "
        "less of both."
    ]


def _ago(seconds: float) -> str:
    return f"{seconds / 60:.0f} min ago" if seconds >= 60 else "just now"


def _day(at_s: float) -> str:
    return strftime("%Y-%m-%d %H:%M:%S", localtime(at_s))


def _clock(at_s: float) -> str:
    return strftime("%H:%M:%S", localtime(at_s))
