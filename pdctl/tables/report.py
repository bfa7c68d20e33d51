"""A verdict as one self-contained HTML page: the answer, six charts, every input."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape

from pdctl import __version__
from pdctl.inspection.cluster import machines_text
from pdctl.perf_model.records import QueueSample
from pdctl.tables.plan import (
    answer_sentences,
    arm_rows,
    basis,
    carried_rps,
    flips_head,
    is_estimated,
    width,
)
from pdctl.tables.svg import Axes, Limit, Series, bar_chart, line_chart
from pdctl.units import UNKNOWN, format_bytes, format_rate, format_seconds, format_share
from pdctl.verdict.caveats import state_sentence
from pdctl.verdict.closed_loop import clients_of, load_text
from pdctl.verdict.rate_curves import RatePoint
from pdctl.verdict.records import Arm, Question, Verdict
from pdctl.verdict.sentences import flip_sentences
from pdctl.workload.describe import drawn_line, read_line
from pdctl.workload.records import Workload

ROOM = 1.08  # above the highest value
NUM_BINS = 24
_QUEUES = (
    ("running", "running", "pd"),
    ("waiting", "waiting", "wait"),
    ("bootstrap", "bootstrap", "other"),
    ("inflight", "inflight", "faint"),
    ("prealloc", "prealloc", "colocated"),
    ("transfer", "transfer", "late"),
)


def rate_chart(
    question: Question, verdict: Verdict, curves: dict[str, tuple[RatePoint, ...]]
) -> str:
    """Requests per second within the SLOs against those offered; without SLOs, TPOT p90."""
    if not curves:
        return ""
    has_slo = question.slo.is_given
    lines = []
    for name, points in curves.items():
        values = [(p.offered_rps, _height(p, has_slo)) for p in points]
        start = [(0.0, 0.0)] if has_slo else []
        known = [(x, y) for x, y in values if y is not None]
        lines.append(Series(f"{_name(name)} {verdict.arms[name].layout}", start + known, name))
    y = "req/s within the SLOs" if has_slo else "TPOT p90, ms"
    limits = [Limit("x", verdict.rate_rps, "your rate")] if verdict.is_rate_asked else []
    if not has_slo and question.slo.tpot_s:
        limits.append(Limit("y", question.slo.tpot_s * 1e3, "SLO"))
    axes = Axes("req/s offered", y, *_top(lines))
    return line_chart(f"{y} against rate for both arms", axes, lines, (), limits)


def _height(point: RatePoint, has_slo: bool) -> float | None:
    if has_slo:
        return point.good_rps
    return None if point.tpot_p90_s is None else point.tpot_p90_s * 1e3


def split_chart(verdict: Verdict) -> str:
    """The capacity of every split and of colocated; ~ marks estimates."""
    alone = verdict.arms.get("colocated")
    arms = ([alone] if alone else []) + list(verdict.sweep)
    values = [_carried(arm) for arm in arms]
    if not verdict.sweep or not any(values):
        return ""
    chosen = verdict.arms["pd"].layout if "pd" in verdict.arms else ""
    groups: dict[str, list[tuple[float, float]]] = {"colocated": [], "pd": [], "faint": []}
    for i, (arm, value) in enumerate(zip(arms, values, strict=True)):
        kind = "colocated" if arm is alone else "pd" if arm.layout == chosen else "faint"
        groups[kind].append((float(i), value))
    estimated = ", estimated (~)" if any(map(is_estimated, arms)) else ""
    names = {"colocated": "colocated", "pd": "best split", "faint": f"other splits{estimated}"}
    bars = [Series(names[kind], points, kind) for kind, points in groups.items() if points]
    height = "carries up to" if verdict.clients is None else "throughput"
    axes = Axes("layout", f"{height}, req/s", 1.0, max(values) * ROOM)
    labels = [f"{'~' if is_estimated(a) else ''}{a.layout}" for a in arms]
    return bar_chart("What each layout carries", axes, labels, bars)


def _carried(arm: Arm) -> float:
    """Simulated, or estimated in closed form; a split is never given both."""
    return carried_rps(arm) or 0.0


def pareto_chart(question: Question, verdict: Verdict) -> str:
    """Every layout by TTFT and TPOT p90; the front joins those no other beats at both."""
    alone = verdict.arms.get("colocated")
    both = ([alone] if alone else []) + list(verdict.sweep)
    arms = [arm for arm in both if arm.ttft_s and arm.tpot_s]
    points = {id(a): _latencies(a) for a in arms}
    if len(arms) < 2:
        return ""
    front = pareto_front(list(points.values()))
    near = 6 * min(y for _, y in points.values())  # an overloaded layout would flatten the rest
    shown = [a for a in arms if points[id(a)][1] <= near]
    marks = [Series(a.layout, [points[id(a)]], "colocated" if a is alone else "pd") for a in shown]
    line = Series("Pareto front", [p for p in front if p[1] <= near], "faint front")
    axes = Axes("TPOT p90, ms", "TTFT p90, s", *_top(marks))
    slo = question.slo
    limits = [Limit("x", slo.tpot_s * 1e3, "SLO")] if slo.tpot_s else []
    limits += [Limit("y", slo.ttft_s, "SLO")] if slo.ttft_s else []
    return line_chart("TTFT against TPOT of every layout", axes, [line], marks, limits)


def _latencies(arm: Arm) -> tuple[float, float]:
    assert arm.ttft_s is not None
    assert arm.tpot_s is not None
    return arm.tpot_s.p90 * 1e3, arm.ttft_s.p90


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other one beats in both coordinates, smaller being better."""
    best = math.inf
    front = []
    for x, y in sorted(set(points)):
        if y < best:
            front.append((x, y))
            best = y
    return front


def queue_charts(verdict: Verdict) -> Iterator[tuple[str, str]]:
    """Queue lengths over time, one chart per arm."""
    for name, arm in verdict.arms.items():
        lines = [line for line in _queue_lines(arm.queues) if any(y for _, y in line.points)]
        if lines:
            axes = Axes("seconds", "requests", *_top(lines))
            title = f"Queues of {_name(name)} {arm.layout} over time"
            yield title, line_chart(title, axes, lines, ())


def _queue_lines(samples: Sequence[QueueSample]) -> Iterator[Series]:
    for field, name, kind in _QUEUES:
        yield Series(name, [(s.at_s, float(getattr(s, field))) for s in samples], kind)


def lengths_charts(workload: Workload) -> Iterator[tuple[str, str]]:
    """Histograms of prompt and output lengths, on a logarithmic axis."""
    requests = workload.requests
    if requests is None:
        return
    for name, tokens in (("Prompt tokens", requests.isl), ("Output tokens", requests.osl)):
        names, counts = log_histogram(tokens)
        bars = [Series("", [(float(i), float(n)) for i, n in enumerate(counts)], "colocated")]
        axes = Axes("tokens (each bar starts at its label)", "requests", 1.0, max(counts) * ROOM)
        yield name, bar_chart(f"{name} of {len(tokens)} requests", axes, names, bars)


def log_histogram(tokens: Sequence[int]) -> tuple[list[str], list[int]]:
    """Counts in bins of equal ratio, named by where they start."""
    low, high = max(min(tokens), 1), max(max(tokens), 2)
    width = max(math.log(high / low), 1e-9) / NUM_BINS
    counts = [0] * NUM_BINS
    for value in tokens:
        counts[min(int(math.log(max(value, low) / low) / width), NUM_BINS - 1)] += 1
    starts = (low * math.exp(width * i) for i in range(NUM_BINS))
    return [f"{s:.0f}" if s < 1000 else f"{s / 1000:.3g}k" for s in starts], counts


def _top(series: Sequence[Series]) -> tuple[float, float]:
    points = [p for s in series for p in s.points]
    xs, ys = [x for x, _ in points], [y for _, y in points]
    return max(xs, default=1.0) * ROOM or 1.0, max(ys, default=1.0) * ROOM or 1.0


def _name(arm: str) -> str:
    return "PD" if arm == "pd" else arm


STYLE = """
:root { color-scheme: light dark; --ink: #1c1c22; --dim: #63636e; --paper: #fff; --rule: #dedee4;
  --pd: #0a7d4f; --colocated: #1f6fd0; --wait: #b76a00; --other: #8a4fc7; --late: #c2356f;
  --soft: #f4f4f7; }
@media (prefers-color-scheme: dark) { :root { --ink: #ececf1; --dim: #a2a2ae; --paper: #17171b;
  --rule: #34343c; --pd: #46c98f; --colocated: #6aa9ff; --wait: #f0b04a; --other: #c39bf0;
  --late: #f07aa5;
  --soft: #202026; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 76rem; padding: 2rem 1.25rem 4rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; } h2 { font-size: 1.1rem;
  margin: 0 0 .6rem; } p { margin: .3rem 0; } .dim { color: var(--dim); }
main { display: grid; gap: 2rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 32rem),
  1fr)); margin-top: 1.5rem; }
section { min-width: 0; } .wide { grid-column: 1 / -1; } .scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--rule);
  vertical-align: top; } thead th { color: var(--dim); font-weight: 500; }
code { background: var(--soft); padding: .15rem .4rem; border-radius: .25rem;
  overflow-wrap: anywhere; }
svg { width: 100%; height: auto; display: block; } .grid { stroke: var(--rule); }
.label { fill: var(--dim); font: 11px system-ui, sans-serif; }
.line { fill: none; stroke: currentColor; stroke-width: 2; } .bar, .mark { fill: currentColor; }
.pd { color: var(--pd); } .colocated { color: var(--colocated); } .wait { color: var(--wait); }
.other { color: var(--other); } .late { color: var(--late); }
.faint { color: var(--dim); opacity: .6; }
.front { stroke-dasharray: 5 4; } .limit { stroke: var(--late); stroke-dasharray: 3 3; }
.note { color: var(--wait); } footer { margin-top: 2.5rem; } ul { margin: .3rem 0 .6rem;
  padding-left: 1.2rem; }
@media (max-width: 40rem) { body { padding: 1rem .75rem 3rem; } h1 { font-size: 1.35rem; }
  th, td { padding-right: .5rem; font-size: .9rem; } .label { font-size: 15px; } }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; list-style: none; padding: 0;
  margin: .3rem 0 0; font-size: .85rem; } .legend li::before { content: "■ "; }
"""

Row = tuple[str, ...]


@dataclass(frozen=True)
class Made:
    """The date of a report, and the command that made it."""

    at: datetime
    command: str


def report_page(
    question: Question,
    verdict: Verdict,
    next_commands: Sequence[str],
    curves: dict[str, tuple[RatePoint, ...]],
    made: Made,
) -> str:
    """The page. Everything that came from outside is escaped; nothing is fetched."""
    title = f"{question.llm.name}: {verdict.headline}"
    sections = [
        _section("Both arms", _table(_arm_rows(question, verdict)), wide=True),
        _section("Why", _table(_rule_rows(verdict)), wide=True),
        _section("Requests within the SLOs against rate", rate_chart(question, verdict, curves)),
        _section("What each layout carries", split_chart(verdict)),
        _section("TTFT against TPOT: the Pareto front", pareto_chart(question, verdict)),
        *(_section(name, chart) for name, chart in queue_charts(verdict)),
        *(_section(name, chart) for name, chart in lengths_charts(question.workload)),
        _section("Inputs", _table(_input_rows(question))),
        _section("Where the numbers come from", _table(_provenance_rows(question, verdict))),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>"
        f"{_head(question, verdict, next_commands)}"
        f"<main>{''.join(s for s in sections if s)}</main>{_foot(made)}</body></html>\n"
    )


def _head(question: Question, verdict: Verdict, next_commands: Sequence[str]) -> str:
    answers = "".join(f"<p>{escape(text)}</p>" for text in answer_sentences(question, verdict))
    flips = list(flip_sentences(verdict.flips, verdict.arms))
    turns = "".join(f"<li>{escape(text)}</li>" for text in flips)
    notes = "".join(f'<p class="note">{escape(text)}</p>' for text in verdict.warnings)
    commands = "".join(f"<p><code>{escape(command)}</code></p>" for command in next_commands)
    return (
        f'<header><p class="dim">{escape(question.llm.name)} on {escape(_gpus(question))}</p>'
        f"<h1>{escape(verdict.headline)}</h1>{answers}"
        f'<p class="dim">Confidence {verdict.confidence}, decided by {verdict.decided_by}; '
        f"{escape(basis(verdict))}.</p>"
        f"{f'<h2>{flips_head(question)}</h2><ul>{turns}</ul>' if turns else ''}"
        f"{commands}{notes}</header>"
    )


def _foot(made: Made) -> str:
    at = made.at.strftime("%Y-%m-%d %H:%M %Z").strip()
    return (
        f'<footer class="dim"><p>pdctl {__version__}, {escape(at)}</p>'
        f"<p><code>{escape(made.command)}</code></p></footer>"
    )


def _section(name: str, body: str, *, wide: bool = False) -> str:
    if not body:
        return ""
    kind = ' class="wide"' if wide else ""
    return f'<section{kind}><h2>{escape(name)}</h2><div class="scroll">{body}</div></section>'


def _table(rows: Sequence[Row]) -> str:
    head, *body = rows
    cells = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    lines = "".join(_line(row) for row in body)
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{lines}</tbody></table>"


def _line(row: Row) -> str:
    first, *rest = row
    cells = "".join(f"<td>{escape(cell)}</td>" for cell in rest)
    return f'<tr><th scope="row">{escape(first)}</th>{cells}</tr>'


def _arm_rows(question: Question, verdict: Verdict) -> list[Row]:
    arms = [verdict.arms[name] for name in ("colocated", "pd") if name in verdict.arms]
    rows: list[Row] = [
        (name, *cells, wanted) for name, cells, wanted in arm_rows(question, verdict)
    ]
    for field, name in (("ttft_s", "TTFT"), ("tpot_s", "TPOT")):
        for q in ("p50", "p90", "p99"):
            rows.append((f"{name} {q}", *(_time(getattr(a, field), q) for a in arms), ""))
    return rows


def _rule_rows(verdict: Verdict) -> list[Row]:
    rows: list[Row] = [("rule", "value", "points to", "source")]
    rows += [(r.id.replace("_", " "), r.text, r.favours, r.source) for r in verdict.rules]
    if states := state_sentence(verdict.state_limits):
        rows.append(("states", states, "", "SGLang's memory pools"))
    return rows


def _input_rows(question: Question) -> list[Row]:
    llm, workload, slo = question.llm, question.workload, question.slo
    cluster = question.cluster
    rdma = cluster.rdma_bytes_per_s
    between = f"{rdma * 8 / 1e9:.0f} Gbit/s per GPU" if rdma else UNKNOWN
    rows: list[Row] = [("input", "value"), ("model", llm.name), ("GPUs", _gpus(question))]
    rows += [("between nodes", between if cluster.num_nodes > 1 else "one node")]
    rows += [("workload", workload.origin)]
    if said := read_line(workload.trace) if workload.trace else drawn_line(workload):
        rows += [("requests", said)]
    for name, lengths in (("prompt tokens", workload.isl), ("output tokens", workload.osl)):
        rows.append(
            (name, f"mean {lengths.mean:,.0f}, cv {lengths.cv:.2f}" if lengths else UNKNOWN)
        )
    rows += [
        ("load", _load(question)),
        ("prefix hit", format_share(workload.prefix_hit)),
        ("SLOs", _slo_text(slo.ttft_s, slo.tpot_s, slo.attainment)),
        ("seed", str(question.seed)),
    ]
    return rows


def _load(question: Question) -> str:
    clients, rate_rps = clients_of(question.workload.concurrency), question.workload.rate_rps
    if clients is not None:
        return load_text(clients)
    return f"{format_rate(rate_rps)} req/s" if rate_rps else UNKNOWN


def _slo_text(ttft_s: float | None, tpot_s: float | None, attainment: float) -> str:
    parts = [f"TTFT {format_seconds(ttft_s)}"] if ttft_s else []
    parts += [f"TPOT {format_seconds(tpot_s)}"] if tpot_s else []
    return f"{', '.join(parts)} for {format_share(attainment)}" if parts else "none"


def _provenance_rows(question: Question, verdict: Verdict) -> list[Row]:
    source, gpu = verdict.provenance, question.cluster.gpu
    rows: list[Row] = [("what", "from")]
    rows += [("step times", source.profile or "roofline of the datasheet, no measurement")]
    errors = source.errors
    rows += [
        ("interval of TTFT", f"{width(errors.ttft)}: {errors.ttft.basis}"),
        ("interval of TPOT", f"{width(errors.tpot)}: {errors.tpot.basis}"),
        ("interval of rates", f"{width(errors.rate)}: {errors.rate.basis}"),
        ("one arm over the other", f"{width(errors.rate_ratio)}: {errors.rate_ratio.basis}"),
    ]
    rows += [("GPU", f"{gpu.name}, {format_bytes(gpu.memory_bytes)}: {gpu.source}")]
    rows += [("latencies", "discrete-event simulation of SGLang's scheduling")]
    rows += [("what layouts carry", "the same simulation at other rates; ~ marks closed forms")]
    rows += [("what changes the answer", "the whole question, asked again at that value")]
    rows += [("assumed", text) for text in question.llm.assumptions]
    return rows


def _gpus(question: Question) -> str:
    cluster = question.cluster
    if question.max_gpus and question.max_gpus < cluster.num_gpus:
        return f"{question.max_gpus} of {cluster.num_gpus} × {cluster.gpu.name}"
    if cluster.num_gpus < cluster.num_nodes * cluster.gpus_per_node:
        return machines_text(cluster)
    each = f"{cluster.gpus_per_node} × {cluster.gpu.name}"
    return each if cluster.num_nodes == 1 else f"{cluster.num_nodes} nodes of {each}"


def _time(times: object, quantile: str) -> str:
    return format_seconds(getattr(times, quantile, None))
