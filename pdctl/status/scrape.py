"""Read the load of all engines and the router in parallel, each with a deadline."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from urllib.parse import urlsplit

from pdctl.engines.clients.api_key import VARIABLE
from pdctl.engines.clients.http import Connection, GetFailed
from pdctl.engines.clients.sglang import LOADS_PATH
from pdctl.hosts import in_url
from pdctl.perf_model.records import Role
from pdctl.status.pages import (
    parse_engine_metrics,
    parse_get_load,
    parse_loads,
    parse_router_metrics,
    with_pools,
)
from pdctl.status.records import CounterSample, EngineSample, RouterScrape, Scrape, Target

TIMEOUT_S = 1.0
METRICS_EVERY_S = 5.0  # the histograms; they are hundreds of lines a page, the queues are not


class EngineScraper:
    """One engine, scraped repeatedly over one connection."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._connection = Connection(target.url)
        self._has_loads = True
        self._metrics_at = float("-inf")
        self.metrics: tuple[float, CounterSample] | None = None  # the last page of histograms
        self._gauges: EngineSample | None = None  # of that page

    def scrape(self, timeout_s: float = TIMEOUT_S) -> Scrape:
        """The engine's current numbers; a Scrape with a problem if it reports none."""
        deadline = time.monotonic() + timeout_s
        try:
            found = self._loads(deadline) if self._has_loads else None
            if found is None:
                return self._without_loads(deadline)
        except GetFailed as problem:
            return Scrape(at_s=time.time(), problem=str(problem))
        if time.monotonic() - self._metrics_at >= METRICS_EVERY_S:
            self._try_metrics(found.sample.role if found.sample else self.target.role, deadline)
        return (
            found
            if found.sample is None
            else replace(found, sample=with_pools(found.sample, self._gauges))
        )

    def read_metrics(self, timeout_s: float = TIMEOUT_S) -> tuple[float, CounterSample] | None:
        """The engine's counters and their time; None if it has no metrics."""
        found = self._try_metrics(self.target.role, time.monotonic() + timeout_s)
        return None if found is None else self.metrics

    def _loads(self, deadline: float) -> Scrape | None:
        status, body = self._get(LOADS_PATH, deadline)
        if status == 404:
            self._has_loads = False
            return None
        now = time.time()
        loads = parse_loads(body, self.target.role, now) if status == 200 else None
        if loads is None:
            raise GetFailed(_why(status))
        sample, counters, age_s = loads
        return Scrape(at_s=now, sample=sample, counters=counters, age_s=age_s)

    def _without_loads(self, deadline: float) -> Scrape:
        """An SGLang without /v1/loads: the gauges of /metrics, else /get_load."""
        role = self.target.role
        sample = self._try_metrics(role, deadline)
        if sample is not None:
            return Scrape(at_s=sample.at_s, sample=sample, counters=CounterSample())
        status, body = self._get("/get_load", deadline)
        sample = parse_get_load(body, role, time.time()) if status == 200 else None
        if sample is None:
            raise GetFailed(_why(status))
        return Scrape(at_s=sample.at_s, sample=sample, counters=CounterSample())

    def _try_metrics(self, role: Role, deadline: float) -> EngineSample | None:
        self._metrics_at = time.monotonic()
        try:
            status, body = self._get("/metrics", deadline)
        except GetFailed:
            return None
        if status != 200:
            return None
        now = time.time()
        sample, counters = parse_engine_metrics(body.decode("utf-8", "replace"), role, now)
        if sample.waiting is None and counters == CounterSample():
            return None  # some other page
        self.metrics = (now, counters)
        self._gauges = replace(sample, role=role)
        return self._gauges

    def _get(self, path: str, deadline: float) -> tuple[int, bytes]:
        return self._connection.get(path, max(0.05, deadline - time.monotonic()))

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def _why(status: int) -> str:
    if status in (401, 403):
        return f"it needs an API key (set {VARIABLE})"
    return "unreadable answer" if status == 200 else f"HTTP {status}"


class RouterScraper:
    """The router: its readiness, its request count and its circuit breakers."""

    def __init__(self, url: str, metrics_port: int | None = None) -> None:
        host = urlsplit(url).hostname or "127.0.0.1"
        self._router = Connection(url)
        # without a port of its own nothing is read: at the usual one another router may answer
        self._metrics = (
            Connection(f"http://{in_url(host)}:{metrics_port}") if metrics_port else None
        )

    def scrape(self, timeout_s: float = TIMEOUT_S) -> RouterScrape:
        """The router's current state; not alive if it does not answer."""
        deadline = time.monotonic() + timeout_s
        try:
            status, _ = self._router.get("/readiness", timeout_s)
        except GetFailed:
            return RouterScrape(at_s=time.time(), alive=False)
        requests, breakers = self._read_metrics(deadline)
        return RouterScrape(time.time(), True, status == 200, requests, breakers)

    def _read_metrics(self, deadline: float) -> tuple[float | None, dict[str, str]]:
        if self._metrics is None:
            return None, {}
        try:
            status, body = self._metrics.get("/metrics", max(0.05, deadline - time.monotonic()))
        except GetFailed:
            return None, {}
        return (
            parse_router_metrics(body.decode("utf-8", "replace")) if status == 200 else (None, {})
        )

    def close(self) -> None:
        """Close the connections."""
        self._router.close()
        if self._metrics is not None:
            self._metrics.close()


class Parallel:
    """Runs calls that may hang, each in a thread. Does not repeat a call that still hangs."""

    def __init__(self) -> None:
        self._running: dict[str, threading.Thread] = {}

    def call(self, calls: dict[str, Callable[[], object]], timeout_s: float) -> dict[str, object]:
        """The results that arrive within `timeout_s`, by name."""
        results: dict[str, object] = {}
        deadline = time.monotonic() + timeout_s
        started = [self._start(name, call, results) for name, call in calls.items()]
        for thread in started:
            if thread is not None:
                thread.join(max(0.0, deadline - time.monotonic()))
        return dict(results)

    def _start(
        self, name: str, call: Callable[[], object], results: dict[str, object]
    ) -> threading.Thread | None:
        before = self._running.get(name)
        if before is not None and before.is_alive():
            return None

        def run() -> None:
            results[name] = call()

        thread = threading.Thread(target=run, name=f"scrape {name}", daemon=True)
        self._running[name] = thread
        thread.start()
        return thread


def scrape_all(
    engines: Sequence[EngineScraper], router: RouterScraper | None, parallel: Parallel
) -> tuple[list[Scrape | None], RouterScrape | None]:
    """Scrape all engines and the router in parallel. None: no answer in time."""
    calls: dict[str, Callable[[], object]] = {e.target.name: e.scrape for e in engines}
    if router is not None:
        calls[""] = router.scrape
    results = parallel.call(calls, TIMEOUT_S * 1.5)
    scrapes = [results.get(engine.target.name) for engine in engines]
    answer = results.get("")
    return (
        [scrape if isinstance(scrape, Scrape) else None for scrape in scrapes],
        answer if isinstance(answer, RouterScrape) else None,
    )
