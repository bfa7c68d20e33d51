"""Serve what pdctl knows of a deployment to a Prometheus.

    python -m pdctl.status.exporter NAME HOST:PORT

A process beside the supervisor, which starts it and whose end it shares. It takes a sample when it
is asked, so without a Prometheus it costs nothing.
"""

import argparse
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from pdctl.deployment.build import scaled
from pdctl.deployment.exports import queries as q
from pdctl.deployment.pd_yaml import read_deployment
from pdctl.deployment.records import Deployment
from pdctl.engines import state
from pdctl.errors import PdctlError
from pdctl.hosts import bare
from pdctl.status.rates import histogram_delta, num_above
from pdctl.status.records import Cause, DeploymentStatus, Histogram, WhatIf
from pdctl.status.targets import source_of_state
from pdctl.status.watch import Watch
from pdctl.status.what_if_file import kept_what_if
from pdctl.workload.records import Slo

LEAST_S = 1.0  # between two samples, however often somebody asks
TARGET_SHARE = Slo().attainment


@dataclass
class SloCount:
    """Observations since the exporter began, and those that missed the limit."""

    limit_s: float
    observed: float = 0.0
    missed: float = 0.0
    last: dict[str, Histogram] = field(default_factory=dict)  # by URL of the engine

    def add(self, url: str, histogram: Histogram | None) -> None:
        """Count what an engine has observed since its last page; all of it after a restart."""
        if histogram is None:
            return
        before = self.last.get(url)
        self.last[url] = histogram
        if before is not None:
            added = histogram_delta(before, histogram) or histogram
            self.observed += added[-1][1]
            self.missed += num_above(added, self.limit_s)

    @property
    def budget_left(self) -> float:
        """The share of the error budget that is left; 1 before anything was observed."""
        allowed = self.observed * (1 - TARGET_SHARE)
        return 1 - self.missed / allowed if allowed else 1.0


class Exporter:
    """The metrics of one deployment, collected as prometheus_client asks for them.

    deployment: returns what the user wants at the moment. what_if: returns the last one.
    """

    def __init__(
        self,
        watch: Watch,
        deployment: Callable[[], Deployment],
        what_if: Callable[[], WhatIf | None],
    ) -> None:
        self._watch = watch
        self._deployment = deployment
        self._what_if = what_if
        wanted = deployment()
        limits = {"ttft": wanted.ttft_slo_s, "tpot": wanted.tpot_slo_s}
        self._slos = {name: SloCount(limit) for name, limit in limits.items() if limit is not None}
        self._lock = threading.Lock()
        self._sampled_s = float("-inf")
        self._metrics: tuple[Metric, ...] = ()

    def collect(self) -> tuple[Metric, ...]:
        """Every metric, from a sample that is at most LEAST_S old; none once it has ended."""
        with self._lock:
            if time.monotonic() - self._sampled_s >= LEAST_S:
                self._metrics = self._sample()
                self._sampled_s = time.monotonic()
            return self._metrics

    def _sample(self) -> tuple[Metric, ...]:
        try:
            status, wanted = self._watch.sample(), self._deployment()
        except PdctlError:
            return ()
        for url, page in self._watch.pages().items():
            for name, slo in self._slos.items():
                slo.add(url, getattr(page, name))
        return (
            *_engines(status, wanted),
            *_advice(status, wanted),
            *_slo_metrics(self._slos),
            *_what_if(self._what_if()),
        )


def _engines(status: DeploymentStatus, wanted: Deployment) -> Iterator[Metric]:
    desired = {role: plan.engines for role, plan in wanted.roles.items()}
    up = Counter(one.target.role for one in status.engines if one.health == "up")
    yield _gauge(q.DESIRED, "Engines that the deployment should have.", q.POOL, desired)
    serving = {role: up[role] for role in wanted.roles}
    yield _gauge(q.SERVING, "Engines that serve.", q.POOL, serving)
    predicted = {key[:-2]: s for key, s in wanted.predicted.items() if key.endswith("_s")}
    yield _gauge(q.PREDICTED, "Latencies that the plan predicted.", "quantity", predicted)


def _advice(status: DeploymentStatus, wanted: Deployment) -> Iterator[Metric]:
    cause, change = status.advice.cause, status.advice.change
    causes = {one: one == cause for one in get_args(Cause)}
    yield _gauge(q.ADVICE, "1 for the cause that pdctl sees.", "cause", causes)
    try:
        advised = scaled(wanted, change) if change is not None else wanted
    except PdctlError:  # the layout has changed since the sample
        advised = wanted
    engines = {role: plan.engines for role, plan in advised.roles.items()}
    yield _gauge(q.ADVISED, "Engines as pdctl advises.", q.POOL, engines)


def _what_if(look: WhatIf | None) -> Iterator[Metric]:
    """The last what-if; none once it is old or of another layout, or without SLOs."""
    if look is None or look.usual_ttft_s is not None:
        return
    shares = {one.layout: one.attainment for one in look.alternatives}
    shares[look.layout] = look.attainment
    yield _gauge(q.WHAT_IF, "Share within the SLOs on each layout, replayed.", "layout", shares)
    yield GaugeMetricFamily(q.WHAT_IF_SEEN, "Share within the SLOs as seen.", look.seen)
    yield GaugeMetricFamily(q.WHAT_IF_REPLAYED, "That share in today's replay.", look.replayed)


def _slo_metrics(slos: Mapping[str, SloCount]) -> Iterator[Metric]:
    limits = {name: one.limit_s for name, one in slos.items()}
    yield _gauge(q.SLO_SECONDS, "The limit.", "slo", limits)
    targets = dict.fromkeys(slos, TARGET_SHARE)
    yield _gauge(q.SLO_TARGET, "The share that has to meet the limit.", "slo", targets)
    left = {name: one.budget_left for name, one in slos.items()}
    yield _gauge(q.ERROR_BUDGET, "Share of the error budget left since the start.", "slo", left)
    observed = ((name, one.observed) for name, one in slos.items())
    yield _counter(q.SLO_OBSERVED, "Requests observed.", observed)
    missed = ((name, one.missed) for name, one in slos.items())
    yield _counter(q.SLO_MISSED, "Requests that missed the limit.", missed)


def _gauge(name: str, meaning: str, label: str, values: Mapping[Any, float]) -> Metric:
    family = GaugeMetricFamily(name, meaning, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _counter(name: str, meaning: str, values: Iterable[tuple[str, float]]) -> Metric:
    family = CounterMetricFamily(name, meaning, labels=["slo"])
    for key, value in values:
        family.add_metric([key], value)
    return family


def serve_metrics(name: str, endpoint: str) -> None:
    """Serve a deployment's metrics until this process ends. Raises OSError for a taken port."""
    desired = state.desired_path(name)
    exporter = Exporter(
        Watch(source_of_state(name)), lambda: read_deployment(desired), lambda: kept_what_if(name)
    )
    registry = CollectorRegistry()
    registry.register(exporter)
    host, _, port = endpoint.rpartition(":")
    start_http_server(int(port), addr=bare(host), registry=registry)
    threading.Event().wait()


def main() -> None:
    """Serve the deployment and the address of the command line."""
    parser = argparse.ArgumentParser(prog="python -m pdctl.status.exporter")
    parser.add_argument("name")
    parser.add_argument("endpoint")
    options = parser.parse_args()
    serve_metrics(options.name, options.endpoint)


if __name__ == "__main__":
    main()
