"""The alert rules under Prometheus' own rule tests: each symptom raises its alert and no other."""

import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from pdctl.deployment.exports.prometheus import RULES_FILE, alerts, render, rules
from tests.deployment.examples import split

HOURS = 8  # of history, in steps of a minute
STEPS = HOURS * 60
LAST = 60  # minutes at the end in which the symptom shows
SEEN = 30  # minutes of it, when the alerts are looked at


def labels(role: str, engine: str = "") -> str:
    return f'deployment="chat",role="{role}",engine="{engine or f"{role}-0"}"'


def steady(value: float) -> str:
    return f"{value}x{STEPS}"


def then(before: float, after: float, step: float = 0.0) -> str:
    """A value that changes for the last hour, by `step` more each minute."""
    return f"{before}x{STEPS - LAST} {after}+{step}x{LAST}"


def counted(before: float, after: float) -> str:
    """A counter that grows by so much a minute, and by another amount in the last hour."""
    return f"0+{before}x{STEPS - LAST} {before * (STEPS - LAST)}+{after}x{LAST}"


HEALTHY: Mapping[str, str] = {
    f"up{{{labels('prefill')}}}": steady(1),
    f"up{{{labels('decode')}}}": steady(1),
    f"up{{{labels('router', 'router')}}}": steady(1),
    f"sglang:num_queue_reqs{{{labels('prefill')}}}": steady(1),
    f"sglang:num_running_reqs{{{labels('decode')}}}": steady(24),
    f"sglang:num_decode_transfer_queue_reqs{{{labels('decode')}}}": steady(2),
    f"sglang:num_requests_total{{{labels('decode')}}}": counted(600, 600),
    f"sglang:num_transfer_failed_reqs_total{{{labels('decode')}}}": steady(0),
    f"sglang:num_bootstrap_failed_reqs_total{{{labels('prefill')}}}": steady(0),
    f"sglang:inter_token_latency_seconds_sum{{{labels('decode')}}}": counted(60, 60),
    f"sglang:inter_token_latency_seconds_count{{{labels('decode')}}}": counted(5000, 5000),
    f"sglang:token_usage{{{labels('decode')}}}": steady(0.5),
    f'smg_worker_health{{{labels("router", "router")},worker="http://d:1"}}': steady(1),
    f'smg_worker_cb_state{{{labels("router", "router")},worker="http://d:1"}}': steady(0),
    'pdctl_engines_desired{deployment="chat",role="pdctl",pool="decode"}': steady(1),
    'pdctl_engines_serving{deployment="chat",role="pdctl",pool="decode"}': steady(1),
    'pdctl_slo_target_ratio{deployment="chat",slo="ttft"}': steady(0.9),
    'pdctl_slo_observations_total{deployment="chat",slo="ttft"}': counted(600, 600),
    'pdctl_slo_missed_total{deployment="chat",slo="ttft"}': counted(6, 6),
}


@dataclass(frozen=True)
class Symptom:
    """What differs from a healthy deployment, and the alerts that it must raise."""

    name: str
    changes: Mapping[str, str]
    raises: frozenset[str]


def symptom(name: str, /, *raises: str, **changes: str) -> Symptom:
    """changes: the values of a healthy deployment's series that differ, by name of the metric."""
    by_series = {
        series: value
        for key, value in changes.items()
        for series in HEALTHY
        if series.startswith((f"sglang:{key}{{", f"{key}{{"))
    }
    assert len(by_series) == len(changes)
    return Symptom(name, by_series, frozenset(raises))


GROWS = then(1, 10, step=5)
FIRST = f"_x{STEPS - LAST + SEEN - 2} 1x10"
SLOWER = counted(60, 120)
SYMPTOMS = (
    symptom("nothing happens"),
    symptom("the prefill queue grows", "PdPrefillQueueBacksUp", num_queue_reqs=GROWS),
    symptom("the prefill queue stays deep", "PdPrefillQueueBacksUp", num_queue_reqs=then(1, 60)),
    symptom(
        "tokens come slower", "PdDecodeLatencyCreepsUp", inter_token_latency_seconds_sum=SLOWER
    ),
    symptom(
        "the queue grows and tokens come slower",
        "PdBothPoolsFallBehind",
        num_queue_reqs=GROWS,
        inter_token_latency_seconds_sum=SLOWER,
    ),
    symptom("transfers fail", "PdKvTransfersFail", num_transfer_failed_reqs_total=counted(0, 2)),
    symptom(
        "the bootstrap fails", "PdKvTransfersFail", num_bootstrap_failed_reqs_total=counted(0, 2)
    ),
    Symptom(
        "the first transfer fails, and its counter appears",
        {f"sglang:num_transfer_failed_reqs_total{{{labels('decode')}}}": FIRST},
        frozenset({"PdKvTransfersFail"}),
    ),
    symptom(
        "transfers leak slots",
        "PdKvTransfersStuck",
        num_decode_transfer_queue_reqs=then(2, 30),
        num_running_reqs=then(24, 1),
    ),
    symptom("transfers freeze", "PdKvTransfersStuck", num_requests_total=counted(600, 0)),
    symptom("the KV cache is full", "PdKvCacheFull", token_usage=then(0.5, 0.99)),
    symptom("the router's health checks fail", "PdRouterLostEngine", smg_worker_health=then(1, 0)),
    symptom("a circuit breaker opens", "PdRouterLostEngine", smg_worker_cb_state=then(0, 1)),
    symptom("an engine is missing", "PdEnginesMissing", pdctl_engines_serving=then(1, 0)),
    symptom(
        "every request misses the SLO", "PdSloBurnsFast", pdctl_slo_missed_total=counted(6, 600)
    ),
    Symptom(
        "a fifth of the requests miss the SLO for hours",
        {'pdctl_slo_missed_total{deployment="chat",slo="ttft"}': counted(120, 120)},
        frozenset({"PdSloBurnsSlowly"}),
    ),
    Symptom(
        "an engine does not answer",
        {f"up{{{labels('decode')}}}": then(1, 0)},
        frozenset({"PdEngineDown"}),
    ),
    Symptom(
        "the router does not answer",
        {f"up{{{labels('router', 'router')}}}": then(1, 0)},
        frozenset({"PdRouterDown"}),
    ),
)


def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed (apt-get install prometheus)")
    return found


def firing_in(one: Symptom, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / RULES_FILE).write_text(rules())
    series = {**HEALTHY, **one.changes}
    document = {
        "rule_files": [RULES_FILE],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": k, "values": v} for k, v in series.items()],
                "promql_expr_test": [
                    {
                        "expr": 'group by (alertname) (ALERTS{alertstate="firing"})',
                        "eval_time": f"{STEPS - LAST + SEEN}m",
                        "exp_samples": [
                            {"labels": f'{{alertname="{name}"}}', "value": 1}
                            for name in sorted(one.raises)
                        ],
                    }
                ],
            }
        ],
    }
    (folder / "test.yml").write_text(yaml.safe_dump(document))
    return subprocess.run(
        [promtool(), "test", "rules", "test.yml"], cwd=folder, capture_output=True, text=True
    )


@pytest.mark.slow
@pytest.mark.parametrize("one", SYMPTOMS, ids=lambda one: one.name)
def test_a_symptom_raises_its_alert_and_no_other(one: Symptom, tmp_path: Path) -> None:
    done = firing_in(one, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_symptom_that_raises_it() -> None:
    assert {alert.name for alert in alerts()} == {n for one in SYMPTOMS for n in one.raises}


def test_prometheus_accepts_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PDCTL_STATE_HOME", str(tmp_path))
    (tmp_path / RULES_FILE).write_text(rules())
    (tmp_path / "prometheus.yml").write_text(render(split(), ()))
    done = subprocess.run(
        [promtool(), "check", "config", "prometheus.yml"], cwd=tmp_path, capture_output=True
    )
    assert done.returncode == 0, done.stderr


def test_no_count_of_an_alert_is_a_long_fraction() -> None:
    """`increase` and means extrapolate: 3.1034482758620694 transfers."""
    bare = [one.name for one in alerts() if "{{ $value }}" in one.summary]
    assert bare == ["PdEnginesMissing"]  # a sum of gauges
