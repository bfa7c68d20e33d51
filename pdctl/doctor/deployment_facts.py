"""Facts about a running deployment, asked from its engines, router and logs."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pdctl.deployment.records import ProcessSpec
from pdctl.engines import log_file, state
from pdctl.engines.clients import http
from pdctl.engines.clients.router import RouterClient
from pdctl.engines.explain_log import LogExplanation, explain_end, explain_troubles
from pdctl.engines.records import DeploymentState, Listed
from pdctl.hosts import in_url
from pdctl.inspection.gpus import query_rdma_ports
from pdctl.status.records import RouterScrape, Scrape, Target
from pdctl.status.scrape import EngineScraper, Parallel, RouterScraper
from pdctl.status.targets import router_of_state, targets_of_router, targets_of_state

ROUTE = (
    "/route?prefill_dp_rank=-1&prefill_cp_rank=-1&target_tp_rank=-1&target_pp_rank=-1"
    "&engine_rank=-1&target_dp_group=-1"
)
ASK_TIMEOUT_S = 3.0


@dataclass(frozen=True)
class EngineReport:
    """Facts about one engine. info: its /server_info, empty without an answer.

    registry: its bootstrap /route. died_of: why it is not running.
    """

    target: Target
    info: Mapping[str, Any] = field(default_factory=dict)
    role: str = ""  # as reported: prefill, decode or null; "": not reported
    architectures: tuple[str, ...] = ()
    bootstrap_port: int | None = None  # as set by pdctl, or as reported
    registry: Mapping[str, Any] | None = None
    scrape: Scrape | None = None
    transfer_failures: float | None = None
    spec: ProcessSpec | None = None
    died_of: LogExplanation | None = None
    troubles: tuple[LogExplanation, ...] = ()

    @property
    def name(self) -> str:
        return self.target.name

    @property
    def host(self) -> str:
        return urlsplit(self.target.url).hostname or ""


@dataclass(frozen=True)
class DeploymentFacts:
    """A deployment at one moment. workers: the router's list; None: unknown.

    supervised: None if pdctl did not start it. has_rdma: on this machine; None: the engines may
    run elsewhere. has_key: the router demands an API key.
    """

    name: str
    router_url: str
    engines: tuple[EngineReport, ...]
    workers: tuple[Listed, ...] | None
    router: RouterScrape
    router_spec: ProcessSpec | None = None
    router_troubles: tuple[LogExplanation, ...] = ()
    supervised: bool | None = None
    has_rdma: bool | None = None
    has_key: bool = False

    def of_role(self, role: str) -> tuple[EngineReport, ...]:
        """The engines of one role that answer."""
        return tuple(e for e in self.engines if e.target.role == role and e.info)


def ask_deployment(found: DeploymentState) -> DeploymentFacts:
    """Ask all parts of a local deployment at once."""
    launch = state.read_launch(found.name)
    specs = {spec.name: spec for spec in launch.specs} if launch else {}
    url, metrics_port = router_of_state(found)
    router = specs.get("router")
    return _facts(
        found.name,
        url,
        targets_of_state(found),
        specs,
        metrics_port,
        router_spec=router,
        router_troubles=_troubles(router),
        supervised=state.is_supervised(found.name),
        has_rdma=any(port.state == "ACTIVE" for port in query_rdma_ports()),
    )


def ask_through_router(url: str, metrics_port: int | None = None) -> DeploymentFacts:
    """Ask every engine that a router lists, whoever started it.

    metrics_port: the router's Prometheus port. None: skip its metrics.
    Raises InvalidInput if `url` is not a URL, EngineFailed if no router answers there.
    """
    url = url.rstrip("/")
    return _facts(url, url, targets_of_router(url), {}, metrics_port)


def _facts(
    name: str,
    router_url: str,
    targets: Sequence[Target],
    specs: Mapping[str, ProcessSpec],
    metrics_port: int | None,
    **more: Any,
) -> DeploymentFacts:
    scraper = RouterScraper(router_url, metrics_port)
    workers = RouterClient(router_url).workers()
    given = {row.url: row.bootstrap_port for row in workers or ()}
    calls: dict[str, Callable[[], object]] = {
        target.name: _asker(target, specs.get(target.name), given.get(target.url))
        for target in targets
    }
    calls[""] = scraper.scrape
    answers = Parallel().call(calls, 4 * ASK_TIMEOUT_S)
    scraper.close()
    engines = (answers.get(target.name) or EngineReport(target) for target in targets)
    router = answers.get("")
    return DeploymentFacts(
        name=name,
        router_url=router_url,
        engines=tuple(e for e in engines if isinstance(e, EngineReport)),
        workers=workers,
        router=router if isinstance(router, RouterScrape) else RouterScrape(time.time(), False),
        has_key=_asks_for_key(router_url),
        **more,
    )


def _asker(
    target: Target, spec: ProcessSpec | None, listed_port: int | None
) -> Callable[[], EngineReport]:
    return lambda: _engine(target, spec, listed_port)


def _engine(target: Target, spec: ProcessSpec | None, listed_port: int | None) -> EngineReport:
    died = explain_end(_last_log(spec)) if target.phase in ("failed", "backoff") else None
    info = _first(target.url, "/server_info", "/get_server_info")
    if not info:
        return EngineReport(target, spec=spec, died_of=died, troubles=_troubles(spec))
    model = _first(target.url, "/model_info", "/get_model_info")
    scraper = EngineScraper(target)
    scrape = scraper.scrape(ASK_TIMEOUT_S)
    scraper.close()
    counters = scraper.metrics[1] if scraper.metrics else None
    port = spec.bootstrap_port if spec else None
    port = port or _port(info.get("disaggregation_bootstrap_port")) or listed_port
    shapes = model.get("architectures")
    return EngineReport(
        target=target,
        info=info,
        role=str(model.get("disaggregation_mode") or info.get("disaggregation_mode") or ""),
        architectures=tuple(map(str, shapes)) if isinstance(shapes, list) else (),
        bootstrap_port=port if target.role == "prefill" else None,
        registry=_registry(target, port) if target.role == "prefill" else None,
        scrape=scrape,
        # SGLang exports this counter only once it is above zero
        transfer_failures=(counters.transfer_failures or 0.0) if counters else None,
        spec=spec,
        died_of=died,
        troubles=_troubles(spec),
    )


def _registry(target: Target, port: int | None) -> Mapping[str, Any] | None:
    host = urlsplit(target.url).hostname or ""
    if not port:
        return None
    return http.get_object(f"http://{in_url(host)}:{port}{ROUTE}", timeout_s=ASK_TIMEOUT_S)


def _first(url: str, *paths: str) -> Mapping[str, Any]:
    for path in paths:
        found = http.get_object(url + path, timeout_s=ASK_TIMEOUT_S)
        if found:
            return found
    return {}


def _port(value: object) -> int | None:
    return value if isinstance(value, int) and 0 < value < 65536 else None


def _asks_for_key(router_url: str) -> bool:
    """True if the router refuses requests without an API key."""
    url = f"{router_url}/workers"
    answer = http.request("GET", url, timeout_s=ASK_TIMEOUT_S, is_authorized=False)
    return answer is not None and answer[0] in (401, 403)


def _last_log(spec: ProcessSpec | None) -> str:
    if spec is None:
        return ""
    return "\n".join(log_file.last_start(log_file.read_log_lines(Path(spec.log))))


def _troubles(spec: ProcessSpec | None) -> tuple[LogExplanation, ...]:
    return explain_troubles(_last_log(spec))
