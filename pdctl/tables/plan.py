"""A verdict as a screen: the answer first, both arms side by side, why, what flips it."""

from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pdctl.perf_model.records import Percentiles
from pdctl.units import UNKNOWN, format_count, format_rate, format_seconds, format_share
from pdctl.verdict.closed_loop import load_text
from pdctl.verdict.records import Arm, Flip, Question, Rule, Verdict
from pdctl.workload.records import Workload

FAVOURS = {"pd": "PD", "colocated": "colocated", "neither": "–", "unknown": "?"}
COLOURS = {"pd": "green", "colocated": "cyan", "too_close": "yellow"}
RULE_NAMES = {
    "long_prompts": "prompts",
    "decode_batch": "decode",
    "moe": "model",
    "short_prompts": "short",
    "single_node": "nodes",
    "variability": "variability",
    "kv_path": "KV path",
}
BAR_CELLS = 12
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def plan_view(question: Question, verdict: Verdict, next_command: str) -> RenderableType:
    """The screen of `pdctl plan`."""
    parts: list[RenderableType] = [_headline(verdict)]
    if verdict.clients is not None:
        parts.append(Text(f"Load: {load_text(verdict.clients)}.", style="dim"))
    if any(arm.ttft_s for arm in verdict.arms.values()):
        parts += [Text(), _arms(question, verdict)]
    parts += [Text(), _rules(verdict.rules)]
    if flips := flip_sentence(verdict):
        parts += [Text(), Text(flips)]
    if len(verdict.sweep) > 1:
        parts += [Text(), _sweep(verdict)]
    parts += [Text(), *_notes(verdict), _next(verdict, next_command)]
    return _indented(Group(*parts))


def workload_line(workload: Workload) -> str:
    """12.3 req/s, ISL 4,012, OSL 250, 20 % of the prompts cached: means."""
    parts = [f"{format_rate(workload.rate_rps)} req/s"]
    for name, lengths in (("ISL", workload.isl), ("OSL", workload.osl)):
        parts.append(f"{name} {format_count(round(lengths.mean) if lengths else None)}")
    if workload.prefix_hit is not None:
        parts.append(f"{format_share(workload.prefix_hit)} of the prompts cached")
    return ", ".join(parts)


def _headline(verdict: Verdict) -> Text:
    text = Text()
    if verdict.unmet and verdict.unmet != verdict.reason:
        text.append(f"{verdict.unmet}\n", style="bold red")
    text.append(verdict.headline, style=f"bold {COLOURS[verdict.verdict]}")
    text.append(f"   confidence {verdict.confidence} ({basis(verdict)})", style="default")
    if verdict.reason:
        text.append(f"\n{verdict.reason}", style="default")
    return text


def basis(verdict: Verdict) -> str:
    """Where the numbers come from, in brackets: roofline, ±30 %."""
    if verdict.decided_by == "rules" and not any(a.ttft_s for a in verdict.arms.values()):
        return "rules alone"
    source = verdict.provenance
    return f"{source.basis}, ±{source.band * 100:.0f} %"


def _arms(question: Question, verdict: Verdict) -> Table:
    arms = [verdict.arms[k] for k in ("colocated", "pd") if k in verdict.arms]
    slo = question.slo
    table = _grid()
    table.add_column()
    for _ in arms:
        table.add_column(justify="left")
    table.add_column(style="dim")
    heads = [f"{'colocated' if a.layout.endswith('C') else 'PD'} {a.layout}" for a in arms]
    table.add_row("", *heads, "your SLO" if slo.is_given else "", style="bold")
    table.add_row("GPUs", *(gpus_text(a) for a in arms), "")
    table.add_row("TTFT  p50 / p90", *(_pair(a.ttft_s) for a in arms), _limit(slo.ttft_s))
    table.add_row("TPOT  p50 / p90", *(_pair(a.tpot_s) for a in arms), _limit(slo.tpot_s))
    name = "goodput" if slo.is_given else "sustains" if verdict.clients is None else "throughput"
    rate = verdict.rate_rps
    offered = f"offered {format_rate(rate)}" if rate is not None else ""
    table.add_row(name, *(_per_s(sustained(a)) for a in arms), offered)
    if verdict.clients is not None and slo.is_given:
        wanted = format_share(slo.attainment)
        table.add_row("meet the SLOs", *(format_share(a.attainment) for a in arms), wanted)
    table.add_row("tokens/s per GPU", *(format_rate(a.tokens_per_s_per_gpu) for a in arms), "")
    table.add_row("KV use peak", *(_kv(a) for a in arms), "")
    return table


def sustained(arm: Arm) -> float | None:
    """The highest rate the arm sustains; the goodput at the offered rate where it is unknown."""
    return arm.knee_rps if arm.knee_rps is not None else arm.goodput_rps


def gpus_text(arm: Arm) -> str:
    """8 × tp2, or P 4 × tp2  D 1 × tp8."""
    counts = dict(zip(arm.parallelism, arm.num_engines, strict=False))
    parts = []
    for role, shape in arm.parallelism.items():
        words = [f"tp{shape.tp}"]
        words += [
            f"{k}{n}" for k, n in (("pp", shape.pp), ("dp", shape.dp), ("ep", shape.ep)) if n > 1
        ]
        letter = "" if role == "colocated" else f"{role[0].upper()} "
        parts.append(f"{letter}{counts[role]} × {' '.join(words)}")
    return "  ".join(parts)


def _pair(times: Percentiles | None) -> str:
    if times is None:
        return UNKNOWN
    if times.p99 == 0:
        return "one token"  # TPOT of answers without a second one
    left, right = format_seconds(times.p50), format_seconds(times.p90)
    if left.split()[-1] == right.split()[-1]:
        left = left.split()[0]
    return f"{left} / {right}"


def _limit(seconds: float | None) -> str:
    return format_seconds(seconds) if seconds is not None else ""


def _per_s(rate: float | None) -> str:
    return f"{format_rate(rate)} req/s" if rate is not None else UNKNOWN


def _kv(arm: Arm) -> str:
    if not arm.kv_usage:
        return UNKNOWN
    if len(arm.kv_usage) == 1:
        return format_share(next(iter(arm.kv_usage.values())))
    return "  ".join(f"{r[0].upper()} {format_share(v)}" for r, v in arm.kv_usage.items())


def _rules(rules: Sequence[Rule]) -> Table:
    table = _grid()
    table.add_column()
    table.add_column(ratio=1, overflow="fold")
    table.add_column()
    table.add_row("Why", "", "favours", style="bold")
    for rule in rules:
        style = COLOURS.get(rule.favours, "dim")
        table.add_row(RULE_NAMES[rule.id], rule.text, Text(FAVOURS[rule.favours], style=style))
    return table


def flip_sentence(verdict: Verdict) -> str:
    """It flips to colocated if TPOT may be 80 ms, or below 1.1 req/s."""
    sentences = []
    for side in ("colocated", "pd", "too_close"):
        flips = [f for f in verdict.flips if f.to == side]
        if flips:
            name = {"pd": "PD", "too_close": "too close to call"}.get(side, side)
            verb = "becomes" if side == "too_close" else "flips to"
            sentences.append(f"It {verb} {name} {_either(map(_flip_words, flips))}.")
    return " ".join(sentences)


def _flip_words(flip: Flip) -> str:
    up = flip.at > flip.from_at if flip.from_at is not None else True
    if flip.what in ("tpot_s", "ttft_s"):
        name = flip.what[:4].upper()
        return f"if {name} {'may' if up else 'must'} be {format_seconds(flip.at)}"
    if flip.what == "rate_rps":
        return f"{'above' if up else 'below'} {format_rate(flip.at)} req/s"
    if flip.what == "isl":
        return f"with prompts {'over' if up else 'under'} {flip.at:,.0f} tokens"
    return f"with {flip.at:.0f} engines"


def _either(words: Iterable[str]) -> str:
    *most, last = list(words)
    return f"{', '.join(most)}, or {last}" if most else last


def _sweep(verdict: Verdict) -> Table:
    values = [sustained(arm) or 0.0 for arm in verdict.sweep]
    top = max(values) or 1.0
    chosen = verdict.arms.get("pd")
    mixed = len({tuple(arm.parallelism.items()) for arm in verdict.sweep}) > 1
    table = _grid()
    table.add_column(justify="right")
    table.add_column(min_width=BAR_CELLS)
    table.add_column(justify="right")
    table.add_column()
    table.add_row("splits", "", "req/s", _starts(verdict), style="bold")
    for arm, value in zip(verdict.sweep, values, strict=True):
        best = chosen is not None and arm.parallelism == chosen.parallelism
        style = "green" if best and chosen and arm.layout == chosen.layout else ""
        shape = f"{gpus_text(arm)}  " if mixed else ""
        cells = (arm.layout, bar(value / top), format_rate(value), shape + _sweep_times(arm))
        table.add_row(*cells, style=style)
    return table


def _starts(verdict: Verdict) -> str:
    """The splits that the rules start from: N/4 = 2P6D, by rate 3P5D."""
    names = {"quarter": "N/4", "rate_match": "by rate"}
    parts = [f"{names[s.basis]} {s.prefill}P{s.decode}D" for s in verdict.starts]
    return ", ".join(parts)


def _sweep_times(arm: Arm) -> str:
    if arm.ttft_s is None or arm.tpot_s is None:
        return arm.infeasible or "cannot keep up"
    return f"{format_seconds(arm.ttft_s.p90)}, {format_seconds(arm.tpot_s.p90)}"


def bar(share: float, cells: int = BAR_CELLS) -> str:
    """A bar of eighths: 0.5 of 12 cells is ██████."""
    eighths = round(min(max(share, 0.0), 1.0) * cells * 8)
    full, rest = divmod(eighths, 8)
    return "█" * full + (_EIGHTHS[rest] if rest else "")


def _notes(verdict: Verdict) -> list[Text]:
    return [Text(f"! {warning}", style="yellow") for warning in verdict.warnings]


def _next(verdict: Verdict, command: str) -> Text:
    text = Text("next   ", style="dim")
    text.append(command, style="bold")
    if verdict.arms:
        text.append("\n       pdctl rehearse · --report plan.html · --json", style="dim")
    return text


def _grid() -> Table:
    return Table(box=None, show_header=False, padding=(0, 3, 0, 0), pad_edge=False)


def _indented(body: RenderableType) -> RenderableType:
    from rich.padding import Padding

    return Padding(body, (1, 2), expand=False)
