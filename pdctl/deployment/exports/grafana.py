"""A Grafana dashboard for prefill and decode engines of SGLang behind its router."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from pdctl.deployment.exports import queries as q

WHERE = 'deployment=~"$deployment"'
WINDOW = "$__rate_interval"
COLUMNS = 24  # of Grafana's grid
HEIGHT = 8


@dataclass(frozen=True)
class Query:
    """One expression, with the legend of its series."""

    expr: str
    legend: str


@dataclass(frozen=True)
class Panel:
    """One chart, or single numbers if is_number. width: of the grid's 24 columns."""

    title: str
    meaning: str
    queries: tuple[Query, ...]
    unit: str = "short"
    width: int = 8
    is_number: bool = False


@dataclass(frozen=True)
class Row:
    """A heading and the panels under it."""

    title: str
    panels: tuple[Panel, ...]


def rows() -> tuple[Row, ...]:
    """The dashboard from top to bottom: is it well, then where is it not."""
    return (
        Row("SLOs and advice", _summary()),
        Row("Prefill queues", _queues("prefill", _PREFILL_QUEUES)),
        Row("Decode queues", _queues("decode", _DECODE_QUEUES)),
        Row("Latency", _latencies()),
        Row("KV transfer", _transfers()),
        Row("KV cache", _cache()),
        Row("Router", _router()),
        Row("What if", _what_if()),
    )


def dashboard() -> str:
    """The dashboard as the JSON that Grafana imports. It asks for the data source."""
    return json.dumps(_document(rows()), indent=1) + "\n"


_PREFILL_QUEUES = (
    (
        "Waiting",
        "num_queue_reqs",
        "Prompts that wait for a prefill step. Growing: too few prefill engines.",
    ),
    ("Bootstrap", "num_prefill_bootstrap_queue_reqs", "Prompts that wait for a decode slot."),
    ("Inflight", "num_prefill_inflight_queue_reqs", "Prompts whose KV is on its way to decode."),
)
_DECODE_QUEUES = (
    ("Running", "num_running_reqs", "Requests that receive tokens."),
    ("Preallocation", "num_decode_prealloc_queue_reqs", "Requests that wait for KV memory."),
    ("Transfer", "num_decode_transfer_queue_reqs", "Requests that wait for their KV to arrive."),
)


def _queues(role: str, queues: Sequence[tuple[str, str, str]]) -> tuple[Panel, ...]:
    return tuple(
        Panel(title, meaning, (Query(q.gauge(name, role, WHERE), "{{engine}}"),))
        for title, name, meaning in queues
    )


def _own(name: str, by: str = "deployment") -> str:
    return f"max by ({by}) ({name}{{{WHERE}}})"


def _summary() -> tuple[Panel, ...]:
    share = f"1 - ({q.missed_share('5m', WHERE)})"
    burn = (
        Query(q.burn_rate("5m", WHERE), "{{slo}} 5 min"),
        Query(q.burn_rate("1h", WHERE), "{{slo}} 1 h"),
    )
    return (
        _number("Share within SLO", "Of the last 5 minutes.", share, "{{slo}}", "percentunit"),
        _number(
            "Error budget left",
            "Since pdctl began to watch; below zero: overdrawn.",
            _own(q.ERROR_BUDGET, "deployment, slo"),
            "{{slo}}",
            "percentunit",
        ),
        _number(
            "Advice", "The cause that pdctl sees.", f"{_own(q.ADVICE, 'cause')} == 1", "{{cause}}"
        ),
        _number("Engines serving", "By role.", _own(q.SERVING, q.POOL), "{{pool}}"),
        Panel("Burn rate", "1 uses up the error budget exactly.", burn, width=12),
        Panel(
            "Targets that answer",
            "1: Prometheus reaches it.",
            (Query(f"max by (engine) (up{{{WHERE}}})", "{{engine}}"),),
            width=12,
        ),
    )


def _number(title: str, meaning: str, expr: str, legend: str, unit: str = "short") -> Panel:
    return Panel(title, meaning, (Query(expr, legend),), unit, width=6, is_number=True)


def _latencies() -> tuple[Panel, ...]:
    return (
        _quantiles("Time to first token", "time_to_first_token_seconds"),
        _quantiles("Time between tokens", "inter_token_latency_seconds"),
        Panel(
            "Output tokens per second",
            "By engine.",
            (Query(q.gauge("gen_throughput", q.SPEAKING_ROLES, WHERE), "{{engine}}"),),
        ),
    )


def _quantiles(title: str, name: str) -> Panel:
    queries = (
        Query(q.histogram_quantile(share, name, q.SPEAKING_ROLES, WINDOW, WHERE), label)
        for share, label in ((0.5, "p50"), (0.9, "p90"), (0.99, "p99"))
    )
    return Panel(title, "Only engines that decode observe it.", tuple(queries), "s")


def _transfers() -> tuple[Panel, ...]:
    by = "deployment, engine"
    speed = q.mean("kv_transfer_speed_gb_s", "prefill", WINDOW, WHERE, by)
    latency = q.histogram_quantile(0.9, "kv_transfer_latency_ms", "prefill", WINDOW, WHERE, by)
    failed = ("num_transfer_failed_reqs_total", "num_bootstrap_failed_reqs_total")
    roles = "prefill|decode"
    failures = tuple(
        Query(q.rate(name, roles, WINDOW, WHERE, by), f"{{{{engine}}}} {label}")
        for name, label in zip(failed, ("transfer", "bootstrap"), strict=True)
    )
    return (
        Panel("Speed", "Mean of a transfer, in GB/s.", (Query(speed, "{{engine}}"),), "GBs"),
        Panel("Duration p90", "Of a transfer.", (Query(latency, "{{engine}}"),), "ms"),
        Panel("Failures", "Per second.", failures, "ops"),
    )


def _cache() -> tuple[Panel, ...]:
    roles = q.SERVING_ROLES
    retracted = q.rate(
        "num_retracted_requests_total", q.SPEAKING_ROLES, WINDOW, WHERE, "deployment, engine"
    )
    return (
        Panel(
            "KV in use",
            "Above 95 %, decode takes no more requests.",
            (Query(q.mean_gauge("token_usage", roles, WHERE), "{{engine}}"),),
            "percentunit",
        ),
        Panel(
            "Prefix hits",
            "Share of prompt tokens found in the cache.",
            (Query(q.mean_gauge("cache_hit_rate", q.PREFILLING_ROLES, WHERE), "{{engine}}"),),
            "percentunit",
        ),
        Panel(
            "Retractions",
            "Running requests that lost their memory, per second.",
            (Query(retracted, "{{engine}}"),),
            "ops",
        ),
    )


def _router() -> tuple[Panel, ...]:
    answers = f"sum by (status_code) (rate(smg_http_responses_total{{{WHERE}}}[{WINDOW}]))"
    return (
        Panel("Answers", "Per second.", (Query(answers, "{{status_code}}"),), "reqps"),
        Panel(
            "Engines it believes healthy",
            "1: requests go there.",
            (Query(f"max by (worker) (smg_worker_health{{{WHERE}}})", "{{worker}}"),),
        ),
        Panel(
            "Circuit breakers",
            "0 closed, 1 open, 2 half-open.",
            (Query(f"max by (worker) (smg_worker_cb_state{{{WHERE}}})", "{{worker}}"),),
        ),
    )


def _what_if() -> tuple[Panel, ...]:
    engines = (
        Query(_own(q.DESIRED, q.POOL), "{{pool}} now"),
        Query(_own(q.ADVISED, q.POOL), "{{pool}} advised"),
    )
    match = (
        Query(_own(q.WHAT_IF_SEEN), "seen"),
        Query(_own(q.WHAT_IF_REPLAYED), "replayed"),
    )
    return (
        Panel(
            "Share within SLO by layout",
            "The latest requests, replayed on every layout of the same GPUs.",
            (Query(_own(q.WHAT_IF, "layout"), "{{layout}}"),),
            "percentunit",
            width=12,
        ),
        Panel(
            "Replay of today's layout",
            "Share within SLO. More than 10 points apart: the replay does not count.",
            match,
            "percentunit",
            width=12,
        ),
        Panel("Engines now and advised", "By role.", engines, width=12),
        Panel(
            "Predicted by the plan",
            "Latencies that the plan of this deployment predicted.",
            (Query(_own(q.PREDICTED, "quantity"), "{{quantity}}"),),
            "s",
            width=12,
        ),
    )


def _document(rows: Sequence[Row]) -> dict[str, object]:
    return {
        "title": "SGLang prefill and decode (pdctl)",
        "uid": "pdctl-sglang-pd",
        "tags": ["sglang", "pdctl"],
        "schemaVersion": 39,
        "timezone": "browser",
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_DATA_SOURCE, _DEPLOYMENT]},
        "panels": _placed(rows),
    }


_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_DATA_SOURCE = {
    "name": "datasource",
    "label": "Prometheus",
    "type": "datasource",
    "query": "prometheus",
}
_DEPLOYMENT = {
    "name": "deployment",
    "label": "Deployment",
    "type": "query",
    "datasource": _SOURCE,
    "query": {"query": 'label_values(up{role="router"}, deployment)', "refId": "deployment"},
    "refresh": 2,
    "multi": True,
    "includeAll": True,
}


def _placed(rows: Sequence[Row]) -> list[dict[str, object]]:
    """Headings and panels on the grid, from left to right and then down."""
    placed: list[dict[str, object]] = []
    y = 0
    for row in rows:
        place = {"x": 0, "y": y, "w": COLUMNS, "h": 1}
        placed.append({"id": len(placed) + 1, "type": "row", "title": row.title, "gridPos": place})
        x, y = 0, y + 1
        for panel in row.panels:
            if x + panel.width > COLUMNS:
                x, y = 0, y + HEIGHT
            place = {"x": x, "y": y, "w": panel.width, "h": HEIGHT}
            placed.append({"id": len(placed) + 1, "gridPos": place, **_panel(panel)})
            x += panel.width
        y += HEIGHT
    return placed


def _panel(panel: Panel) -> dict[str, object]:
    return {
        "type": "stat" if panel.is_number else "timeseries",
        "title": panel.title,
        "description": panel.meaning,
        "datasource": _SOURCE,
        "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
        "options": _NUMBER if panel.is_number else {},
        "targets": [
            {"refId": chr(ord("A") + i), "expr": one.expr, "legendFormat": one.legend}
            for i, one in enumerate(panel.queries)
        ],
    }


_NUMBER = {"reduceOptions": {"calcs": ["lastNotNull"]}, "textMode": "value_and_name"}
