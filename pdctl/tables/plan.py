"""A verdict as a screen: the answer first, both arms side by side, why, what flips it."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from pdctl.perf_model.intervals import ErrorInterval
from pdctl.perf_model.records import layout_text
from pdctl.text_lines import shell_lines
from pdctl.units import (
    UNKNOWN,
    format_count,
    format_number_of,
    format_rate,
    format_seconds,
    format_share,
)
from pdctl.verdict import sentences
from pdctl.verdict.caveats import state_sentence
from pdctl.verdict.closed_loop import clients_text, load_text
from pdctl.verdict.records import Arm, Interval, Question, Rule, Sizing, Verdict
from pdctl.workload.records import Slo, Workload

FAVOURS = {"pd": "split", "colocated": "colocated", "neither": "–", "unknown": "?"}
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
BASES = {
    "fitted": "step times fitted to a profile",
    "relative": "step times fitted to another model's profile",
    "roofline": "step times from datasheets",
}
BAR_CELLS = 12
GAP = 3  # columns between those of a table
HEAD = "all layouts"
MOST_PERCENT = 0.5  # half-width up to which ± says something
_EIGHTHS = " ▏▎▍▌▋▊▉█"


def plan_view(question: Question, verdict: Verdict) -> RenderableType:
    """The screen of `pdctl plan`, but for the commands that follow from it."""
    parts: list[RenderableType] = list(_headline(question, verdict))
    if verdict.clients is not None:
        parts.append(Text(f"Load: {load_text(verdict.clients)}.", style="dim"))
    if any(arm.attainment is not None or arm.ttft_s for arm in verdict.arms.values()):
        parts += [Text(), _arms(question, verdict)]
    parts += [Text(), _rules(verdict.rules)]
    if states := state_sentence(verdict.state_limits):
        parts.append(Text(states))
    if flips := list(sentences.flip_sentences(verdict.flips, verdict.arms)):
        head = f"{flips_head(question)} (each one asked again)"
        parts += [Text(), Text(head, style="bold")]
        parts += map(Text, flips)
    if len(verdict.sweep) > 1 and any(map(carried_rps, verdict.arms.values())):
        parts += [Text(), _sweep(verdict)]
    if notes := _notes(verdict):
        parts += [Text(), *notes]
    return _indented(Group(*parts))


def next_lines(commands: Sequence[str], width: int) -> list[str]:
    """The commands to go on with, each in lines that a shell reads as one."""
    heads = ["next", *[""] * len(commands)]
    lines = [
        line
        for head, command in zip(heads, commands, strict=False)
        for line in shell_lines(command, width, head=f"  {head:4}   ")
    ]
    return ["", *lines] if lines else []


def plain_view(view: RenderableType, width: int) -> str:
    """A view as text without colours, and without spaces at the ends of its lines."""
    from io import StringIO

    from rich.console import Console

    file = StringIO()
    Console(file=file, width=width, color_system=None, highlight=False, emoji=False).print(view)
    lines = [line.rstrip() for line in file.getvalue().splitlines()]
    return "\n".join(lines).strip("\n") + "\n"


def workload_line(workload: Workload) -> str:
    """12.3 req/s, ISL 4,012, OSL 250, 20 % of the prompts cached: means."""
    parts = [f"{format_rate(workload.rate_rps)} req/s"]
    for name, lengths in (("ISL", workload.isl), ("OSL", workload.osl)):
        parts.append(f"{name} {format_count(round(lengths.mean) if lengths else None)}")
    if workload.prefix_hit is not None:
        parts.append(f"{format_share(workload.prefix_hit)} of the prompts cached")
    return ", ".join(parts)


def _headline(question: Question, verdict: Verdict) -> Iterator[RenderableType]:
    colour = COLOURS[verdict.verdict] if verdict.is_met else "red"
    text = Text(verdict.headline, style=f"bold {colour}")
    if verdict.arms:
        text.append(f"   sure? {verdict.confidence} · {basis(verdict)}", style="default")
    yield text
    for sentence in answer_sentences(question, verdict):
        yield Text(sentence)


def answer_sentences(question: Question, verdict: Verdict) -> Iterator[str]:
    """The lines below the headline: its grounds, the GPUs that are enough, one engine's failure."""
    if verdict.reason:
        yield verdict.reason
    if not verdict.is_met:
        return
    if needed := sentences.gpus_sentence(question, verdict):
        yield f"At {format_rate(verdict.rate_rps)} req/s, {needed[0].lower()}{needed[1:]}"
    yield from sentences.down_sentences(question, verdict)


def flips_head(question: Question) -> str:
    """The head of the flips; --fewest took so many GPUs, and they hold for these."""
    most = question.max_gpus
    return (
        f"Changes the answer on {format_number_of(most, 'GPU')}" if most else "Changes the answer"
    )


def basis(verdict: Verdict) -> str:
    """The source of the step times, on which every figure's interval rests."""
    if verdict.decided_by == "rules" and not any(a.ttft_s for a in verdict.arms.values()):
        return "rules alone"
    return BASES[verdict.provenance.basis]


def width(factors: ErrorInterval) -> str:
    """An interval of factors: ±16 %, or within 2.4× where it is wider than half of the figure."""
    if factors.half_width > MOST_PERCENT:
        return f"within {factors.high:.1f}×"
    return f"±{factors.half_width * 100:.0f} %"


def _arms(question: Question, verdict: Verdict) -> Table:
    arms = [verdict.arms[k] for k in ("colocated", "pd") if k in verdict.arms]
    table = _grid()
    table.add_column()
    for _ in arms:
        table.add_column(justify="left")
    table.add_column(style="dim")
    for name, cells, wanted in arm_rows(question, verdict):
        head = not name.strip() or name.startswith("at ")
        texts = [_Facts(cell, "red" if MISSED in cell else "") for cell in cells]
        table.add_row(name, *texts, _Facts(wanted), style="bold" if head else "")
    return table


@dataclass(frozen=True)
class _Facts:
    """A cell that breaks between facts only: "1.28 s" and "±23 %" each stay whole."""

    text: str
    style: str = ""

    def _parts(self) -> list[str]:
        return re.split(r"(?<=\S)  | (?=[±(✗])|(?<=split) |(?<=colocated) ", self.text)

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(max(map(len, self._parts())), len(self.text))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        is_wide = len(self.text) <= options.max_width
        yield Text(self.text if is_wide else "\n".join(self._parts()), style=self.style)


MISSED = "✗"
ArmRow = tuple[str, list[str], str]


def arm_rows(question: Question, verdict: Verdict) -> Iterator[ArmRow]:
    """The rows of both arms side by side: name, a cell an arm, and the SLO. Missed cells have ✗."""
    arms = [verdict.arms[k] for k in ("colocated", "pd") if k in verdict.arms]
    slo, rate = question.slo, verdict.rate_rps
    share = sentences.share_name(slo.attainment)
    heads = [f"{'colocated' if 'colocated' in a.parallelism else 'split'} {a.layout}" for a in arms]
    wanted = f"your SLO ({share_text(slo.attainment)})" if slo.is_given else ""
    at = f"at {format_rate(rate)} req/s" if rate is not None else ""
    if verdict.clients is not None:
        at = f"at {clients_text(verdict.clients)}"
    yield (at, heads, wanted)
    if slo.is_given:
        name = "meet both SLOs" if slo.ttft_s and slo.tpot_s else "meet the SLO"
        yield (name, [_share_cell(a, slo) for a in arms], share_text(slo.attainment))
    quantiles = [("TTFT", slo.ttft_s, "ttft"), ("TPOT", slo.tpot_s, "tpot")]
    for name, limit, key in quantiles:
        cells = [_time_cell(a, key, limit) for a in arms]
        yield (f"{name} {share}", cells, format_seconds(limit) if limit is not None else "")
    asked = f"you: {format_rate(rate)}" if rate is not None and verdict.is_rate_asked else ""
    if verdict.clients is None:
        yield ("carries up to", [_capacity_cell(a, rate if asked else None) for a in arms], asked)
    else:
        yield ("throughput", [f"{format_rate(a.throughput_rps)} req/s" for a in arms], "")
    yield ("GPUs", [gpus_text(a) for a in arms], "")
    if slo.is_given and verdict.is_rate_asked:
        cells = [f"{a.gpus_needed:,}" if a.gpus_needed else "–" for a in arms]
        yield ("GPUs needed", cells, "")
    yield ("output per GPU", [_tokens_cell(a) for a in arms], "")
    if price := question.usd_per_gpu_hour:
        costs = [usd_per_million(a, price) for a in arms]
        cells = [f"${cost:.2f}" if cost is not None else UNKNOWN for cost in costs]
        yield ("per 1M output tokens", cells, f"${price:.2f} per GPU-hour")
    yield ("KV use peak", [_kv(a) for a in arms], "")


def share_text(share: float) -> str:
    """0.9 as 90 %, 0.999 as 99.9 %."""
    return f"{share * 100:.4g} %"


def _share_cell(arm: Arm, slo: Slo) -> str:
    if arm.attainment is None:
        return UNKNOWN
    if arm.keeps_up is False:
        return f"cannot keep up {MISSED}"
    return sentences.share_down(arm.attainment) + ("" if arm.meets else f" {MISSED}")


def _time_cell(arm: Arm, key: str, limit: float | None) -> str:
    value: float | None = getattr(arm, f"{key}_at_share_s")
    if value is None:
        return "–" if arm.keeps_up is False else UNKNOWN
    if value == 0:
        return "one token"  # TPOT of answers without a second one
    between = arm.intervals.get(f"{key}_at_share_s")
    text = format_seconds(value) + (f" {_width_of(value, between)}" if between else "")
    is_missed = limit is not None and value > limit and not arm.meets
    return text + (f" {MISSED}" if is_missed else "")


def _width_of(value: float, between: Interval) -> str:
    factors = ErrorInterval(between.low / value, between.high / value, "", 0, 0)
    return width(factors)


def _capacity_cell(arm: Arm, asked_rps: float | None) -> str:
    if arm.capacity_rps is None:
        return UNKNOWN
    if not arm.capacity_rps:
        return f"0 {MISSED}"
    text = f"{format_rate(sentences.carried_at(arm, asked_rps))} req/s"
    between = arm.intervals.get("capacity_rps")
    if between is None:
        return text
    return f"{text} ({format_rate(between.low)}–{format_rate(between.high)})"


def _tokens_cell(arm: Arm) -> str:
    if arm.tokens_per_s_per_gpu is None:
        return "–" if arm.keeps_up is False else UNKNOWN
    return f"{format_rate(arm.tokens_per_s_per_gpu)} tok/s"


def usd_per_million(arm: Arm, usd_per_gpu_hour: float) -> float | None:
    """Dollars for a million output tokens at the rate compared at; None: unknown."""
    speed = arm.tokens_per_s_per_gpu
    return usd_per_gpu_hour / 3600 / speed * 1e6 if speed else None


def gpus_text(arm: Arm) -> str:
    """8 × tp2, or P 4 × tp2  D 1 × tp8."""
    parts = []
    for role, shape in arm.parallelism.items():
        letter = "" if role == "colocated" else f"{role[0].upper()} "
        parts.append(f"{letter}{arm.counts[role]} × {shape.text}")
    return "  ".join(parts)


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
    table.add_row("Why", "", "points to", style="bold")
    for rule in rules:
        style = COLOURS.get(rule.favours, "dim")
        table.add_row(RULE_NAMES[rule.id], rule.text, Text(FAVOURS[rule.favours], style=style))
    return table


def _sweep(verdict: Verdict) -> RenderableType:
    """The layouts with a bar each. Only the last column may wrap: the others stay in line."""
    arms = [verdict.arms[k] for k in ("colocated",) if k in verdict.arms] + list(verdict.sweep)
    values = [carried_rps(arm) or 0.0 for arm in arms]
    top = max(values) or 1.0
    shown = verdict.arms.get(verdict.verdict)
    mixed = len({tuple(arm.parallelism.items()) for arm in verdict.sweep}) > 1
    table = _grid()
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column()
    name = "carries up to" if verdict.clients is None else "throughput"
    table.add_row(HEAD, "", name, style="bold")
    for arm, value in zip(arms, values, strict=True):
        is_shown = shown is not None and (arm.layout, arm.parallelism) == (
            shown.layout,
            shown.parallelism,
        )
        about = "~ " if is_estimated(arm) else ""
        shape = _Facts(gpus_text(arm) if mixed else "")
        cells = (arm.layout, bar(value / top), f"{about}{format_rate(value)}", shape)
        table.add_row(*cells, style="green" if is_shown else "")
    estimated = ["~ estimated, not simulated"] if any(map(is_estimated, arms)) else []
    notes = "\n".join([*estimated, *_starts(verdict)])
    left = max(len(HEAD), *(len(arm.layout) for arm in arms)) + GAP
    return Group(table, Padding(Text(notes, style="dim"), (0, 0, 0, left))) if notes else table


def carried_rps(arm: Arm) -> float | None:
    """The arm's capacity, or an estimate of it; its throughput in a closed loop."""
    known = (arm.throughput_rps, arm.capacity_rps, arm.estimate_rps)
    return next((rate for rate in known if rate is not None), None)


def is_estimated(arm: Arm) -> bool:
    """True if the arm's capacity is only a closed form's estimate."""
    return arm.throughput_rps is None and arm.capacity_rps is None


def _starts(verdict: Verdict) -> Iterator[str]:
    """The splits by rule: rules of thumb: 2P6D (a quarter), 3P5D (token rates)."""
    names = {"quarter": "a quarter", "rate_match": "token rates"}
    parts = [f"{_layout(start)} ({names[start.basis]})" for start in verdict.starts]
    if parts:
        yield f"rules of thumb: {', '.join(parts)}"


def _layout(sizing: Sizing) -> str:
    return layout_text({"prefill": sizing.prefill or 0, "decode": sizing.decode or 0})


def bar(share: float, cells: int = BAR_CELLS) -> str:
    """A bar of eighths: 0.5 of 12 cells is ██████."""
    eighths = round(min(max(share, 0.0), 1.0) * cells * 8)
    full, rest = divmod(eighths, 8)
    return "█" * full + (_EIGHTHS[rest] if rest else "")


def _notes(verdict: Verdict) -> list[Text]:
    return [Text(f"! {warning}", style="yellow") for warning in verdict.warnings]


def _grid() -> Table:
    return Table(box=None, show_header=False, padding=(0, GAP, 0, 0), pad_edge=False)


def _indented(body: RenderableType) -> RenderableType:
    return Padding(body, (1, 2), expand=False)
