"""The charts of the report, each from the records of a verdict."""

import math
from collections.abc import Iterator, Sequence

from pdctl.perf_model.records import QueueSample
from pdctl.tables.svg import Axes, Series, bar_chart, line_chart
from pdctl.verdict.curves import RatePoint
from pdctl.verdict.records import Arm, Question, Verdict
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
    axes = Axes("req/s offered", y, *_top(lines))
    return line_chart(f"{y} against rate for both arms", axes, lines, ())


def _height(point: RatePoint, has_slo: bool) -> float | None:
    if has_slo:
        return point.good_rps
    return None if point.tpot_p90_s is None else point.tpot_p90_s * 1e3


def split_chart(verdict: Verdict) -> str:
    """The highest rate of every split, and of colocated."""
    alone = verdict.arms.get("colocated")
    arms = ([alone] if alone else []) + list(verdict.sweep)
    values = [arm.knee_rps or 0.0 for arm in arms]
    if not verdict.sweep or not any(values):
        return ""
    chosen = verdict.arms["pd"].layout if "pd" in verdict.arms else ""
    groups: dict[str, list[tuple[float, float]]] = {"colocated": [], "pd": [], "faint": []}
    for i, (arm, value) in enumerate(zip(arms, values, strict=True)):
        kind = "colocated" if arm is alone else "pd" if arm.layout == chosen else "faint"
        groups[kind].append((float(i), value))
    names = {"colocated": "colocated", "pd": "best split", "faint": "other splits"}
    bars = [Series(names[kind], points, kind) for kind, points in groups.items() if points]
    axes = Axes("layout", "highest req/s", 1.0, max(values) * ROOM)
    return bar_chart("Highest rate of each layout", axes, [a.layout for a in arms], bars)


def pareto_chart(verdict: Verdict) -> str:
    """Every layout by TTFT and TPOT p90; the front joins those no other beats at both."""
    alone = verdict.arms.get("colocated")
    arms = [a for a in ([alone] if alone else []) + list(verdict.sweep) if a.ttft_s and a.tpot_s]
    points = {id(a): _latencies(a) for a in arms}
    if len(arms) < 2:
        return ""
    front = pareto_front(list(points.values()))
    near = 6 * min(y for _, y in points.values())  # an overloaded layout would flatten the rest
    shown = [a for a in arms if points[id(a)][1] <= near]
    marks = [Series(a.layout, [points[id(a)]], "colocated" if a is alone else "pd") for a in shown]
    line = Series("Pareto front", [p for p in front if p[1] <= near], "faint front")
    axes = Axes("TPOT p90, ms", "TTFT p90, s", *_top(marks))
    return line_chart("TTFT against TPOT of every layout", axes, [line], marks)


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
