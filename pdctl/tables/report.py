"""A verdict as one self-contained HTML page: the answer, six charts, every input."""

from collections.abc import Iterable, Sequence
from html import escape

from pdctl.tables.plan import gpus_text
from pdctl.tables.report_charts import (
    lengths_charts,
    pareto_chart,
    queue_charts,
    rate_chart,
    split_chart,
)
from pdctl.tables.report_style import STYLE
from pdctl.units import UNKNOWN, format_bytes, format_rate, format_seconds, format_share
from pdctl.verdict.curves import RatePoint
from pdctl.verdict.records import Arm, Question, Verdict

Row = tuple[str, ...]


def report_page(
    question: Question,
    verdict: Verdict,
    next_command: str,
    curves: dict[str, tuple[RatePoint, ...]],
    flips: str,
) -> str:
    """The page. Everything that came from outside is escaped; nothing is fetched."""
    title = f"{question.llm.name}: {verdict.headline}"
    sections = [
        _section("Both arms", _table(_arm_rows(question, verdict)), wide=True),
        _section("Why", _table(_rule_rows(verdict)), wide=True),
        _section("Goodput against rate", rate_chart(question, verdict, curves)),
        _section("Goodput against split", split_chart(verdict)),
        _section("TTFT against TPOT: the Pareto front", pareto_chart(verdict)),
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
        f"{_head(question, verdict, next_command, flips)}"
        f"<main>{''.join(s for s in sections if s)}</main></body></html>\n"
    )


def _head(question: Question, verdict: Verdict, next_command: str, flips: str) -> str:
    source = verdict.provenance
    said = [text for text in (verdict.unmet, *verdict.warnings) if text]
    notes = "".join(f"<p>{escape(text)}</p>" for text in said)
    return (
        f'<header><p class="dim">{escape(question.llm.name)} on {escape(_gpus(question))}</p>'
        f"<h1>{escape(verdict.headline)}</h1><p>{escape(verdict.reason)}</p>"
        f"<p>{escape(flips)}</p>"
        f'<p class="dim">Confidence {verdict.confidence}, decided by {verdict.decided_by}; '
        f"{source.basis}, ±{source.band * 100:.0f} %.</p>"
        f"<p><code>{escape(next_command)}</code></p>{notes}</header>"
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
    slo = question.slo
    rows: list[Row] = [("", *(arm.layout for arm in arms), "SLO")]
    rows.append(("GPUs", *(gpus_text(arm) for arm in arms), ""))
    for q in ("p50", "p90", "p99"):
        rows.append((f"TTFT {q}", *(_time(a.ttft_s, q) for a in arms), _limit(slo.ttft_s)))
    for q in ("p50", "p90", "p99"):
        rows.append((f"TPOT {q}", *(_time(a.tpot_s, q) for a in arms), _limit(slo.tpot_s)))
    rows.append(("highest rate", *(f"{format_rate(a.knee_rps)} req/s" for a in arms), ""))
    rows.append(("tokens/s per GPU", *(format_rate(a.tokens_per_s_per_gpu) for a in arms), ""))
    rows.append(("KV use peak", *(_kv(arm) for arm in arms), ""))
    return rows


def _rule_rows(verdict: Verdict) -> list[Row]:
    rows: list[Row] = [("rule", "value", "favours", "source")]
    rows += [(r.id.replace("_", " "), r.text, r.favours, r.source) for r in verdict.rules]
    return rows


def _input_rows(question: Question) -> list[Row]:
    llm, workload, slo = question.llm, question.workload, question.slo
    cluster = question.cluster
    rdma = cluster.rdma_bytes_per_s
    between = f"{rdma * 8 / 1e9:.0f} Gbit/s per GPU" if rdma else UNKNOWN
    rows: list[Row] = [("input", "value"), ("model", llm.name), ("GPUs", _gpus(question))]
    rows += [("between nodes", between if cluster.num_nodes > 1 else "one node")]
    rows += [("workload", workload.origin)]
    for name, lengths in (("prompt tokens", workload.isl), ("output tokens", workload.osl)):
        rows.append(
            (name, f"mean {lengths.mean:,.0f}, cv {lengths.cv:.2f}" if lengths else UNKNOWN)
        )
    rows += [
        ("rate", f"{format_rate(workload.rate_rps)} req/s" if workload.rate_rps else UNKNOWN),
        ("prefix hit", format_share(workload.prefix_hit)),
        ("SLOs", _slo_text(slo.ttft_s, slo.tpot_s, slo.attainment)),
        ("seed", str(question.seed)),
    ]
    return rows


def _slo_text(ttft_s: float | None, tpot_s: float | None, attainment: float) -> str:
    parts = [f"TTFT {format_seconds(ttft_s)}"] if ttft_s else []
    parts += [f"TPOT {format_seconds(tpot_s)}"] if tpot_s else []
    return f"{', '.join(parts)} for {format_share(attainment)}" if parts else "none"


def _provenance_rows(question: Question, verdict: Verdict) -> list[Row]:
    source, gpu = verdict.provenance, question.cluster.gpu
    rows: list[Row] = [("what", "from")]
    rows += [("step times", source.profile or "roofline of the datasheet, no measurement")]
    rows += [("error band", f"±{source.band * 100:.0f} % ({source.basis})")]
    rows += [("GPU", f"{gpu.name}, {format_bytes(gpu.memory_bytes)}: {gpu.source}")]
    rows += [("latencies", "discrete-event simulation of SGLang's scheduling")]
    rows += [("flips and the sweep's rates", "closed forms, scaled to agree with the simulation")]
    rows += [("assumed", text) for text in question.llm.assumptions]
    return rows


def _gpus(question: Question) -> str:
    cluster = question.cluster
    each = f"{cluster.gpus_per_node} × {cluster.gpu.name}"
    return each if cluster.num_nodes == 1 else f"{cluster.num_nodes} nodes of {each}"


def _time(times: object, quantile: str) -> str:
    return format_seconds(getattr(times, quantile, None))


def _limit(seconds: float | None) -> str:
    return format_seconds(seconds) if seconds else ""


def _kv(arm: Arm) -> str:
    parts: Iterable[str] = (f"{r} {format_share(v)}" for r, v in (arm.kv_usage or {}).items())
    return ", ".join(parts) or UNKNOWN
