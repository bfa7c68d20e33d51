"""A scrape configuration for a deployment, and alert rules for its symptoms, for Prometheus."""

from collections.abc import Sequence
from dataclasses import dataclass

from pdctl.deployment.exports import queries as q
from pdctl.deployment.records import Deployment, ProcessSpec
from pdctl.paths import TARGETS_FILE, state_home

RULES_FILE = "pdctl-rules.yml"

# Recorded once, because several alerts and their history need them.
PREFILL_WAITING = "deployment:pd_prefill_waiting:sum"
PREFILL_ENGINES = "deployment:pd_prefill_engines:count"
ITL = "deployment:pd_itl_seconds:mean5m"
BACKS_UP = "deployment:pd_prefill_backs_up:waiting"
CREEPS_UP = "deployment:pd_decode_creeps_up:itl_seconds"


def recordings() -> dict[str, str]:
    """The recorded series and their expressions."""
    waiting = q.gauge("num_queue_reqs", q.PREFILLING_ROLES)
    up = f'up{{role=~"{q.PREFILLING_ROLES}"}}'
    is_deep = f"{PREFILL_WAITING} > 2 * {PREFILL_ENGINES}"
    grows = f"deriv({PREFILL_WAITING}[5m]) > 0"
    stays = f"min_over_time({PREFILL_WAITING}[5m]) > 20 * {PREFILL_ENGINES}"
    return {
        PREFILL_WAITING: f"sum by (deployment) ({waiting})",
        PREFILL_ENGINES: f"count by (deployment) ({up})",
        ITL: q.mean("inter_token_latency_seconds", q.SPEAKING_ROLES, "5m"),
        BACKS_UP: f"({is_deep}) and (({grows}) or ({stays}))",
        CREEPS_UP: f"{ITL} > 1.25 * avg_over_time({ITL}[1h] offset 10m)",
    }


@dataclass(frozen=True)
class Alert:
    """One alert rule. hold: how long the condition has to hold. summary: the symptom and its cause.

    action: a command that helps or shows more.
    """

    name: str
    expr: str
    hold: str
    severity: str
    summary: str
    action: str


_NAME = "{{ $labels.deployment }}"
_ENGINE = "{{ $labels.engine }}"
_COUNT = '{{ $value | printf "%.0f" }}'  # rates of counters are extrapolated to fractions
_STATUS = f"pdctl status {_NAME}"


def alerts() -> tuple[Alert, ...]:
    """The alerts, in the order of docs/observability.md."""
    return (*_queue_alerts(), *_transfer_alerts(), *_process_alerts(), *_slo_alerts())


def _queue_alerts() -> tuple[Alert, ...]:
    usage = q.mean_gauge("token_usage", q.SPEAKING_ROLES)
    return (
        Alert(
            "PdPrefillQueueBacksUp",
            f"{BACKS_UP} unless on (deployment) {CREEPS_UP}",
            "2m",
            "warning",
            f"{_NAME}: {_COUNT} requests wait for prefill, and decode keeps its pace.",
            f"Add a prefill engine or move one from decode: {_STATUS} names the command.",
        ),
        Alert(
            "PdDecodeLatencyCreepsUp",
            f"{CREEPS_UP} unless on (deployment) {BACKS_UP}",
            "5m",
            "warning",
            f"{_NAME}: the time between tokens rose to {{{{ $value | humanizeDuration }}}}, more "
            "than 25 % above the last hour, and prefill keeps up.",
            f"Add a decode engine or move one from prefill: {_STATUS} names the command.",
        ),
        Alert(
            "PdBothPoolsFallBehind",
            f"{BACKS_UP} and on (deployment) {CREEPS_UP}",
            "2m",
            "critical",
            f"{_NAME}: {_COUNT} requests wait for prefill, and the time between tokens rises.",
            "Add engines to both pools; then ask pdctl plan for the ratio.",
        ),
        Alert(
            "PdKvCacheFull",
            f"{usage} > 0.95",
            "5m",
            "warning",
            f"{_ENGINE} of {_NAME} has {{{{ $value | humanizePercentage }}}} of its KV cache in "
            "use.",
            f"Add a decode engine, or bound the context: {_STATUS}.",
        ),
    )


def _transfer_alerts() -> tuple[Alert, ...]:
    failed = " or ".join(
        _grew(f"sglang:{name}")
        for name in ("num_transfer_failed_reqs_total", "num_bootstrap_failed_reqs_total")
    )
    transfer = q.gauge("num_decode_transfer_queue_reqs", "decode")
    running = q.gauge("num_running_reqs", "decode")
    finished = q.rate("num_requests_total", "decode", "5m", by="deployment, role, engine")
    leaks = f"min_over_time(({transfer})[5m:15s]) > max_over_time(({running})[5m:15s])"
    freezes = f"min_over_time(({transfer})[5m:15s]) > 0 and ({finished}) == 0"
    return (
        Alert(
            "PdKvTransfersFail",
            failed,
            "0s",
            "warning",
            f"{_COUNT} KV transfers of {_ENGINE} in {_NAME} failed within 5 minutes.",
            f"pdctl doctor {_NAME}",
        ),
        Alert(
            "PdKvTransfersStuck",
            f"({leaks}) or ({freezes})",
            "5m",
            "critical",
            f"{_COUNT} requests of {_ENGINE} in {_NAME} have waited for their KV for 5 minutes.",
            f"pdctl logs {_ENGINE} --name {_NAME}; a restart of the engine frees its slots.",
        ),
    )


def _grew(counter: str) -> str:
    """By how much a counter grew in 5 minutes, where it did.

    SGLang serves a counter of failures only after the first one, which `increase` cannot see.
    """
    by = "by (deployment, engine)"
    appeared = f"(sum {by} ({counter}) unless sum {by} ({counter} offset 5m))"
    return (
        f"sum {by} (increase({counter}[5m])) > 0"
        f" or {appeared} > 0 and on (deployment, engine) (up offset 5m)"
    )


def _process_alerts() -> tuple[Alert, ...]:
    health = "max by (deployment, worker) (smg_worker_health) == 0"
    breaker = "max by (deployment, worker) (smg_worker_cb_state) == 1"
    return (
        Alert(
            "PdEngineDown",
            f'up{{role=~"{q.SERVING_ROLES}"}} == 0',
            "1m",
            "critical",
            f"{_ENGINE} of {_NAME} does not answer.",
            f"pdctl logs {_ENGINE} --name {_NAME}",
        ),
        Alert(
            "PdRouterDown",
            'up{role="router"} == 0',
            "1m",
            "critical",
            f"The router of {_NAME} does not answer, so no request is served.",
            _STATUS,
        ),
        Alert(
            "PdRouterLostEngine",
            f"({health}) or ({breaker})",
            "1m",
            "critical",
            f"The router of {_NAME} sends nothing to {{{{ $labels.worker }}}}: it is unhealthy, "
            "or its circuit breaker is open.",
            _STATUS,
        ),
        Alert(
            "PdEnginesMissing",
            f"sum by (deployment) ({q.SERVING}) < sum by (deployment) ({q.DESIRED})",
            "10m",
            "warning",
            f"{_NAME} serves with {{{{ $value }}}} engines, fewer than it should have.",
            _STATUS,
        ),
    )


def _slo_alerts() -> tuple[Alert, ...]:
    return tuple(
        Alert(
            name,
            f"{q.burn_rate(short)} > {factor} and {q.burn_rate(long)} > {factor}",
            hold,
            severity,
            f"{_NAME} misses its {{{{ $labels.slo }}}} limit {{{{ $value | humanize }}}} times "
            f"as often as allowed, over {short} and over {long}.",
            _STATUS,
        )
        for name, short, long, factor, hold, severity in (
            ("PdSloBurnsFast", "5m", "1h", 4, "2m", "critical"),
            ("PdSloBurnsSlowly", "30m", "6h", 1, "15m", "warning"),
        )
    )


def rules() -> str:
    """The rule file, which is the same for every deployment."""
    recorded = [{"record": name, "expr": expr} for name, expr in recordings().items()]
    return _yaml(
        {
            "groups": [
                {"name": "pdctl-recorded", "rules": recorded},
                {"name": "pdctl-alerts", "rules": [_rule(alert) for alert in alerts()]},
            ]
        }
    )


def _rule(alert: Alert) -> dict[str, object]:
    return {
        "alert": alert.name,
        "expr": alert.expr,
        "for": alert.hold,
        "labels": {"severity": alert.severity},
        "annotations": {"summary": alert.summary, "action": alert.action},
    }


def render(deployment: Deployment, specs: Sequence[ProcessSpec]) -> str:
    """The configuration of a Prometheus that scrapes what the supervisor lists."""
    targets = state_home().absolute() / deployment.name / TARGETS_FILE
    job = {"job_name": "pdctl", "file_sd_configs": [{"files": [str(targets)]}]}
    return _yaml(
        {
            "global": {"scrape_interval": "5s", "evaluation_interval": "15s"},
            "rule_files": [RULES_FILE],
            "scrape_configs": [job],
        }
    )


def _yaml(document: object) -> str:
    import yaml  # slow, and most commands write no file

    return yaml.safe_dump(document, sort_keys=False, width=10_000, allow_unicode=True)
