"""A real Prometheus over simulated engines: every query answers, and faults raise their alerts."""

import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pdctl.deployment.exports.grafana import dashboard, rows
from pdctl.deployment.exports.prometheus import RULES_FILE
from tests.e2e.cli import Cli, free_port, until

PD = """
schema: 1
name: chat
model: llama-3.1-8b
engine: sim
gpus: 4xH100
prefill: {{engines: 1}}
decode: {{engines: 2, args: "{decode_args}"}}
router: {{port: {router}}}
observe: {{metrics: "127.0.0.1:{metrics}"}}
slo: {{ttft: 200ms, tpot: 30ms}}
predicted: {{ttft_p50_s: 0.1}}
"""
PROMPT = [7] * 16_000  # takes an H100 most of a second


@dataclass(frozen=True)
class Prometheus:
    """A running Prometheus."""

    url: str
    seen: set[str] = field(default_factory=set)

    def get(self, path: str, **query: str) -> Any:
        asked = f"{self.url}{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(asked, timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as problem:
            raise AssertionError(f"{query}: {problem.read().decode()}") from problem

    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(self.url + "/-/ready", timeout=10) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def values(self, expr: str) -> list[Any]:
        found = self.get("/api/v1/query", query=expr)["result"]
        assert isinstance(found, list)
        return found

    def have_fired(self, names: set[str]) -> bool:
        """True once each of these alerts has fired, at whatever time."""
        self.seen.update(self.firing())
        return names <= self.seen

    def firing(self) -> set[str]:
        alerts = self.get("/api/v1/alerts")["alerts"]
        return {one["labels"]["alertname"] for one in alerts if one["state"] == "firing"}


@pytest.fixture
def prometheus(cli: Cli, request: pytest.FixtureRequest) -> Iterator[Prometheus]:
    """A deployment, and a Prometheus that was set up with what `render` prints.

    Its parameter: flags for the decode engines.
    """
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("Prometheus is not installed (apt-get install prometheus)")
    router = free_port()
    metrics = free_port(router + 1)
    port = free_port(metrics + 1)
    (cli.cwd / "pd.yaml").write_text(
        PD.format(router=router, metrics=metrics, decode_args=getattr(request, "param", ""))
    )
    assert cli.run("up", "-d").returncode == 0
    config, rules = (cli.run("render", what).stdout for what in ("prometheus", "prometheus-rules"))
    (cli.cwd / "prometheus.yml").write_text(re.sub(r"\b(15|5)s\b", "1s", config))
    (cli.cwd / RULES_FILE).write_text(in_seconds(rules))
    command = [program, "--config.file=prometheus.yml", f"--storage.tsdb.path={cli.cwd}/data"]
    with (cli.cwd / "prometheus.log").open("w") as log:
        running = subprocess.Popen(
            [*command, f"--web.listen-address=127.0.0.1:{port}"], cwd=cli.cwd, stderr=log
        )
        try:
            found = Prometheus(f"http://127.0.0.1:{port}")
            until(found.is_ready)
            yield found
        finally:
            running.terminate()
            running.wait()


def in_seconds(rules: str) -> str:
    """The rules with every minute as a second, so that a fault need not last for minutes."""
    shorter = re.sub(r"\b(\d+)h\b", lambda found: f"{int(found[1]) * 60}s", rules)
    return re.sub(r"\b(\d+)m\b", r"\1s", shorter.replace(":15s]", ":1s]"))


@contextmanager
def load(cli: Cli, num_clients: int, prompt: list[int], num_tokens: int = 16) -> Iterator[None]:
    """Clients that send one request after the other."""
    url = cli.state("chat")["endpoint"] + "/generate"
    over = threading.Event()

    numbers = itertools.count()  # as the first token: no two prompts share a prefix

    def client() -> None:
        while not over.is_set():
            body = {
                "input_ids": [next(numbers), *prompt],
                "sampling_params": {"max_new_tokens": num_tokens, "ignore_eos": True},
            }
            request = urllib.request.Request(
                url, json.dumps(body).encode(), {"content-type": "application/json"}
            )
            try:
                urllib.request.urlopen(request, timeout=60).read()
            except OSError:
                over.wait(0.2)

    clients = [threading.Thread(target=client, daemon=True) for _ in range(num_clients)]
    for one in clients:
        one.start()
    try:
        yield
    finally:
        over.set()


def expressions() -> list[str]:
    """What the dashboard asks, as Grafana fills it in."""
    shown = [query.expr for row in rows() for panel in row.panels for query in panel.queries]
    return [one.replace("$deployment", "chat").replace("$__rate_interval", "10s") for one in shown]


def test_every_query_of_the_dashboard_answers(cli: Cli, prometheus: Prometheus) -> None:
    with load(cli, 4, PROMPT[:500]):
        until(lambda: bool(prometheus.values("up")))
        empty = set(expressions())

        def is_replayed() -> bool:
            told = cli.run("status", "chat", "--what-if", "--window", "20s", "--json").stdout
            return json.loads(told)["data"]["what_if"] is not None

        until(is_replayed)

        def all_answer() -> bool:
            empty.difference_update({one for one in empty if prometheus.values(one)})
            return not empty

        try:
            until(all_answer)
        finally:
            assert not empty
    variable = json.loads(dashboard())["templating"]["list"][1]["query"]["query"]
    assert variable == 'label_values(up{role="router"}, deployment)'
    assert prometheus.values('up{role="router",deployment="chat"} == 1')


@contextmanager
def frozen(cli: Cli, name: str) -> Iterator[None]:
    """A process that neither works nor answers."""
    process = next(p for p in cli.state("chat")["processes"] if p["name"] == name)
    pid = int(process["handle"].split("@")[0])
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def is_up(prometheus: Prometheus) -> bool:
    return len(prometheus.values("up == 1")) == 5


def test_an_overload_and_a_frozen_engine_raise_their_alerts(
    cli: Cli, prometheus: Prometheus
) -> None:
    until(lambda: is_up(prometheus))
    assert prometheus.firing() == set()
    overload = {"PdPrefillQueueBacksUp", "PdSloBurnsFast", "PdSloBurnsSlowly"}
    with load(cli, 48, PROMPT):
        until(lambda: prometheus.have_fired(overload))
    with frozen(cli, "decode-1"):
        lost = {"PdEngineDown", "PdRouterLostEngine", "PdEnginesMissing"}
        until(lambda: prometheus.have_fired(lost))


def test_a_frozen_prefill_engine_and_router_raise_their_alerts(
    cli: Cli, prometheus: Prometheus
) -> None:
    until(lambda: is_up(prometheus))
    with load(cli, 8, PROMPT), frozen(cli, "prefill-0"):
        until(lambda: prometheus.have_fired({"PdKvTransfersStuck"}))
    with frozen(cli, "router"):
        until(lambda: prometheus.have_fired({"PdRouterDown"}))


def test_a_dead_prefill_engine_fails_transfers(cli: Cli, prometheus: Prometheus) -> None:
    until(lambda: is_up(prometheus))
    prefill = next(p for p in cli.state("chat")["processes"] if p["name"] == "prefill-0")
    with load(cli, 8, PROMPT):
        until(lambda: bool(prometheus.values("sglang:num_decode_transfer_queue_reqs > 0")))
        os.kill(int(prefill["handle"].split("@")[0]), signal.SIGKILL)
        until(lambda: prometheus.have_fired({"PdKvTransfersFail"}))


def test_slower_decode_and_then_both_raise_their_alerts(cli: Cli, prometheus: Prometheus) -> None:
    until(lambda: is_up(prometheus))
    with load(cli, 2, PROMPT[:100], 200):  # an hour of the past, in seconds
        until(lambda: bool(prometheus.values("deployment:pd_itl_seconds:mean5m offset 20s")))
    with load(cli, 200, PROMPT[:100], 400):
        until(lambda: prometheus.have_fired({"PdDecodeLatencyCreepsUp"}))
        with load(cli, 24, PROMPT):
            until(lambda: prometheus.have_fired({"PdBothPoolsFallBehind"}))


@pytest.mark.parametrize(
    "prometheus", ["--max-total-tokens 6000 --num-reserved-decode-tokens 8"], indirect=True
)
def test_a_full_kv_cache_raises_its_alert(cli: Cli, prometheus: Prometheus) -> None:
    until(lambda: is_up(prometheus))
    with load(cli, 64, PROMPT[:50], 400):
        until(lambda: prometheus.have_fired({"PdKvCacheFull"}))


def test_targets_follow_the_deployment(cli: Cli, prometheus: Prometheus) -> None:
    until(lambda: len(prometheus.values('up{role="decode"} == 1')) == 2)
    assert cli.run("scale", "chat", "--prefill", "2").returncode == 0
    until(lambda: len(prometheus.values('up{role="prefill"} == 1')) == 2)
    assert {one["metric"]["engine"] for one in prometheus.values('up{role="prefill"} == 1')} == {
        "prefill-0",
        "prefill-1",
    }
    listed = cli.home / "chat" / "prometheus-targets.json"
    assert cli.run("down", "chat").returncode == 0
    assert Path(listed).read_text() == "[]\n"
