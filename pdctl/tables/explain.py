"""Screens of `explain`: a table of slow requests, the timeline of one, and an HTML page. Pure."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from html import escape

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pdctl import __version__
from pdctl.status.explain.records import (
    PACE_CAUSES,
    ExplainedRequest,
    Explanation,
    OtherSplit,
    Part,
    PartName,
    Replay,
)
from pdctl.tables.report import STYLE
from pdctl.text_lines import wrapped
from pdctl.units import UNKNOWN, format_count, format_seconds, format_span

BAR_CELLS = 40
MOST_TIMELINES = 5  # of requests whose ids begin alike
RID_CHARS = 12
WHY_BESIDE = 100  # columns; in fewer the reason would be a column of single words
ALIKE = 1.05  # times within 5 % in the simulator say nothing
PIPE_HEADS = (
    *("REQUEST", "AT", "PREFILL", "DECODE", "PROMPT", "CACHED", "OUTPUT", "TTFT_S", "TPOT_S"),
    *("CAUSE", "PARTS", "WHY"),
)
COLOURS: dict[PartName, tuple[str, str]] = {  # on a terminal, and the class on the page
    "retry": ("red", "late"),
    "bootstrap": ("magenta", "other"),
    "decode allocation": ("red", "late"),
    "prefill queue": ("yellow", "wait"),
    "prefill": ("green", "pd"),
    "prefill and transfer": ("green", "pd"),
    "KV transfer": ("cyan", "colocated"),
    "decode queue": ("yellow", "wait"),
    "router": ("magenta", "other"),
    "queue": ("yellow", "wait"),
}


def explain_view(found: Explanation, *, is_one: bool, width: int) -> RenderableType:
    """The screen: timelines for one request, else a table.

    width: columns; on a narrow terminal the reasons stand below the table, not beside it.
    """
    if is_one:
        parts: list[RenderableType] = []
        for one in found.requests[:MOST_TIMELINES]:
            parts += [*_timeline(one), *_elsewhere(one, found.replay), Text("")]
        left = len(found.requests) - MOST_TIMELINES
        parts += [Text(f"{left} more requests begin like this.\n")] if left > 0 else []
    else:
        is_wide = width >= WHY_BESIDE
        parts = [Text(heading(found), style="bold"), Text(""), _table(found, has_why=is_wide)]
        parts += [Text(""), *([] if is_wide else _reasons(found, width))]
    return Group(*parts, *(Text(line, style="dim") for line in remarks(found)))


def heading(found: Explanation) -> str:
    """The number of requests in the window, and of those listed."""
    shown, span = len(found.requests), format_span(found.span_s)
    if found.num_requests == 1:
        return f"The only request in {span}"
    if shown == found.num_requests:
        return f"All {shown} requests in {span}, the slowest first"
    return f"The slowest {shown} of {found.num_requests:,} requests in {span}"


def explain_lines(found: Explanation) -> Iterator[str]:
    """One line per request with tabs between its values, below a line of names."""
    yield "\t".join(PIPE_HEADS)
    for one in found.requests:
        parts = " ".join(f"{p.name.replace(' ', '_')}={p.seconds:.4f}" for p in one.parts)
        numbers = ("" if value is None else f"{value:.4f}" for value in (one.ttft_s, one.tpot_s))
        cached = "" if one.cached_tokens is None else str(one.cached_tokens)
        yield "\t".join(
            (
                *(one.rid, f"{one.at:.3f}", one.prefill_engine, one.decode_engine),
                *(str(one.input_tokens), cached, str(one.output_tokens), *numbers),
                *(one.cause.kind, parts, one.cause.text),
            )
        )


def remarks(found: Explanation) -> list[str]:
    """Footnotes: time that the parts leave out, clocks that differ, gaps in the logs."""
    lines = ["Times start when an engine's scheduler gets the request, after router and tokenizer."]
    for clock in found.clocks:
        lines.append(
            f"{clock.decode_engine}'s clock is {_signed(clock.ahead_s)} "
            f"{clock.prefill_engine}'s; their parts were aligned."
        )
    lines += _replay_remarks(found.replay)
    return [*lines, *([found.replay_missing] if found.replay_missing else []), *found.notes]


def _signed(seconds: float) -> str:
    return f"{format_seconds(abs(seconds))} {'ahead of' if seconds > 0 else 'behind'}"


def _replay_remarks(replay: Replay | None) -> list[str]:
    if replay is None:
        return []
    splits = ", ".join(
        f"{split.layout} {format_seconds(split.ttft_p99_s)}"
        for split in (replay.today, *replay.others)
    )
    lines = [f"Simulated TTFT p99 of the window: {splits}; step times from {replay.basis}."]
    if replay.median_off is not None:
        where = _beside(replay.median_off)
        lines.append(f"The simulated median TTFT of {replay.today.layout} {where}.")
    return lines


def _beside(off: float) -> str:
    """The side of the observed figure on which a simulated one lies, and how far."""
    percent = round(off * 100)
    side = "above" if percent > 0 else "below"
    return f"is {abs(percent)} % {side} the observed" if percent else "is the observed one"


def _table(found: Explanation, *, has_why: bool) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_edge=False)
    for head in ("request", "prompt", "TTFT", "TPOT", "mostly", *(("why",) if has_why else ())):
        right = head in ("prompt", "TTFT", "TPOT")
        table.add_column(head, justify="right" if right else "left", no_wrap=head != "why")
    for one in found.requests:
        table.add_row(
            one.rid[:RID_CHARS],
            format_count(one.input_tokens),
            format_seconds(one.ttft_s),
            format_seconds(one.tpot_s),
            _mostly(one),
            *((_why(one, found.replay),) if has_why else ()),
        )
    return table


def _reasons(found: Explanation, width: int) -> list[RenderableType]:
    """The reasons as sentences, each behind the id of its request."""
    lines = (f"{one.rid[:RID_CHARS]}  {_why(one, found.replay)}" for one in found.requests)
    return [*(Text(wrapped(line, width, indent=RID_CHARS + 2)) for line in lines), Text("")]


def _why(one: ExplainedRequest, replay: Replay | None) -> str:
    return " ".join((one.cause.text, *_sentences(one, replay)))


def _mostly(one: ExplainedRequest) -> str:
    """The longest part and its share."""
    if not one.parts or not one.waited_s:
        return UNKNOWN
    longest = max(one.parts, key=lambda part: part.seconds)
    return f"{longest.name} {longest.seconds / one.waited_s * 100:.0f} %"


def _timeline(one: ExplainedRequest) -> Iterator[RenderableType]:
    yield Text(title(one), style="bold")
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)
    for justify in ("left", "left", "right", "left"):
        table.add_column(justify=justify)
    for part in one.parts:
        bar = Text(_bar(part, one.waited_s), style=COLOURS[part.name][0])
        table.add_row(f"  {part.name}", bar, format_seconds(part.seconds), part.engine)
    yield table
    yield Text(ending(one))
    yield Text(f"{one.cause.text}{' ' + one.missing if one.missing else ''}", style="yellow")


def title(one: ExplainedRequest) -> str:
    """Id, engines, lengths and time of a request."""
    engines = " → ".join(name for name in (one.prefill_engine, one.decode_engine) if name)
    cached = f" ({format_count(one.cached_tokens)} cached)" if one.cached_tokens else ""
    at = datetime.fromtimestamp(one.at)
    lengths = f"{format_count(one.input_tokens)}{cached} + {format_count(one.output_tokens)} tokens"
    return f"{one.rid} · {engines} · {lengths} · {at:%Y-%m-%d %H:%M:%S}"


def ending(one: ExplainedRequest) -> str:
    """The time of the first token, and the tokens after it."""
    if one.ttft_s is None:
        return f"Time of its first token unknown; {format_seconds(one.total_s)} in all."
    rest = "" if one.tpot_s is None else f", then {format_seconds(one.tpot_s)} per token"
    first = format_seconds(one.ttft_s)
    return f"First token after {first}{rest}; {format_seconds(one.total_s)} in all."


def _bar(part: Part, whole_s: float) -> str:
    if whole_s <= 0:
        return ""
    start = min(BAR_CELLS - 1, int(part.start_s / whole_s * BAR_CELLS))
    length = max(1, round(part.seconds / whole_s * BAR_CELLS)) if part.seconds > 0 else 0
    return " " * start + "█" * min(length, BAR_CELLS - start)


def _elsewhere(one: ExplainedRequest, replay: Replay | None) -> Iterator[RenderableType]:
    for sentence in _sentences(one, replay):
        yield Text(sentence)


def _sentences(one: ExplainedRequest, replay: Replay | None) -> Iterator[str]:
    """The nearest of the splits that would have served this request best."""
    if replay is None or one.ttft_s is None or one.cause.kind in PACE_CAUSES:
        return
    today = _ttft(replay.today, one.rid)
    best_s = min((_ttft(split, one.rid) for split in replay.others), default=today)
    near = (split for split in replay.others if _ttft(split, one.rid) <= ALIKE * best_s)
    best = next(near, None)
    if best is None or _ttft(best, one.rid) >= today:
        return
    yield (
        f"With {best.layout} it would have taken {format_seconds(_ttft(best, one.rid))} to its "
        f"first token (simulated; {replay.today.layout} simulated takes {format_seconds(today)})."
    )


def _ttft(split: OtherSplit, rid: str) -> float:
    seconds = split.ttft_s.get(rid)
    return float("inf") if seconds is None else seconds


def explanation_page(found: Explanation, where: str) -> str:
    """The page of --report. Everything that came from outside is escaped; nothing is fetched."""
    requests = "".join(_section(one, found.replay) for one in found.requests)
    notes = "".join(f'<p class="dim">{escape(line)}</p>' for line in remarks(found))
    name = escape(f"{heading(found)}, from {where}")
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{name}</title><style>{STYLE}{_BARS}</style></head><body>"
        f"<header><h1>{name}</h1></header><main>{requests}</main>"
        f'<footer>{notes}<p class="dim">pdctl {__version__}</p></footer></body></html>\n'
    )


_BARS = """
.track { position: relative; height: 1.1rem; min-width: 12rem; background: var(--soft); }
.track i { position: absolute; top: 0; bottom: 0; min-width: 2px; background: currentColor; }
"""


def _section(one: ExplainedRequest, replay: Replay | None) -> str:
    sentences = (ending(one), one.cause.text, one.missing, *_sentences(one, replay))
    text = "".join(f"<p>{escape(line)}</p>" for line in sentences if line)
    rows = "".join(_row(part, one.waited_s) for part in one.parts)
    return (
        f'<section class="wide"><h2>{escape(title(one))}</h2>{text}'
        f'<div class="scroll"><table><tbody>{rows}</tbody></table></div></section>'
    )


def _row(part: Part, whole_s: float) -> str:
    left, width = (
        share / whole_s * 100 if whole_s else 0 for share in (part.start_s, part.seconds)
    )
    bar = f'<i style="left:{left:.2f}%;width:{width:.2f}%"></i>'
    cells: Sequence[str] = (escape(format_seconds(part.seconds)), escape(part.engine))
    return (
        f'<tr><th scope="row">{escape(part.name)}</th>'
        f'<td><div class="track {COLOURS[part.name][1]}">{bar}</div></td>'
        f"{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
    )
