"""What a running deployment says of itself, for the doctor's rules."""

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
from pdctl.engines.explain_log import Explanation, explain_end, explain_troubles
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
TIMEOUT_S = 3.0


@dataclass(frozen=True)
class EngineSeen:
    """One engine. info: its /server_info; empty: no answer. registry: its bootstrap /route."""

    target: Target
    info: Mapping[str, Any] = field(default_factory=dict)
    role: str = ""  # as it says: prefill, decode, null; "": it does not say
    architectures: tuple[str, ...] = ()
    bootstrap_port: int | None = None  # as pdctl gave it, or the engine says it
    registry: Mapping[str, Any] | None = None
    scrape: Scrape | None = None
    transfer_failures: float | None = None
    spec: ProcessSpec | None = None
    died_of: Explanation | None = None  # where it does not run
    troubles: tuple[Explanation, ...] = ()

    @property
    def name(self) -> str:
        return self.target.name

    @property
    def host(self) -> str:
        return urlsplit(self.target.url).hostname or ""


@dataclass(frozen=True)
class DeploymentFacts:
    """A deployment at one moment. workers: the router's list; None: it does not say."""

    name: str
    router_url: str
    engines: tuple[EngineSeen, ...]
    workers: tuple[Listed, ...] | None
    router: RouterScrape
    router_spec: ProcessSpec | None = None
    router_troubles: tuple[Explanation, ...] = ()
    supervised: bool | None = None  # None: pdctl did not start it
    has_rdma: bool | None = None  # of this machine; None: the engines may be elsewhere
    has_key: bool = False

    def of_role(self, role: str) -> tuple[EngineSeen, ...]:
        """The engines of one role that answer."""
        return tuple(e for e in self.engines if e.target.role == role and e.info)


def look(found: DeploymentState) -> DeploymentFacts:
    """Ask every part of a deployment of this machine, all at once."""
    launch = state.read_launch(found.name)
    specs = {spec.name: spec for spec in launch.specs} if launch else {}
    url, metrics_port = router_of_state(found)
    router = specs.get("router")
    return _seen(
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


def look_through_router(url: str, metrics_port: int | None = None) -> DeploymentFacts:
    """Ask every engine a router lists, whoever started them.

    metrics_port: its Prometheus port; None: unknown, its metrics are not read.

    Raises InvalidInput when `url` is none, EngineFailed when no router answers there.
    """
    url = url.rstrip("/")
    return _seen(url, url, targets_of_router(url), {}, metrics_port)


def _seen(
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
    answers = Parallel().call(calls, 4 * TIMEOUT_S)
    scraper.close()
    engines = (answers.get(target.name) or EngineSeen(target) for target in targets)
    router = answers.get("")
    return DeploymentFacts(
        name=name,
        router_url=router_url,
        engines=tuple(e for e in engines if isinstance(e, EngineSeen)),
        workers=workers,
        router=router if isinstance(router, RouterScrape) else RouterScrape(time.time(), False),
        has_key=_asks_for_key(router_url),
        **more,
    )


def _asker(
    target: Target, spec: ProcessSpec | None, listed_port: int | None
) -> Callable[[], EngineSeen]:
    return lambda: _engine(target, spec, listed_port)


def _engine(target: Target, spec: ProcessSpec | None, listed_port: int | None) -> EngineSeen:
    died = explain_end(_last_log(spec)) if target.phase in ("failed", "backoff") else None
    info = _first(target.url, "/server_info", "/get_server_info")
    if not info:
        return EngineSeen(target, spec=spec, died_of=died, troubles=_troubles(spec))
    model = _first(target.url, "/model_info", "/get_model_info")
    scraper = EngineScraper(target)
    scrape = scraper.scrape(TIMEOUT_S)
    scraper.close()
    counters = scraper.metrics[1] if scraper.metrics else None
    port = spec.bootstrap_port if spec else None
    port = port or _port(info.get("disaggregation_bootstrap_port")) or listed_port
    shapes = model.get("architectures")
    return EngineSeen(
        target=target,
        info=info,
        role=str(model.get("disaggregation_mode") or info.get("disaggregation_mode") or ""),
        architectures=tuple(map(str, shapes)) if isinstance(shapes, list) else (),
        bootstrap_port=port if target.role == "prefill" else None,
        registry=_registry(target, port) if target.role == "prefill" else None,
        scrape=scrape,
        # SGLang shows this counter only once it is above zero
        transfer_failures=(counters.transfer_failures or 0.0) if counters else None,
        spec=spec,
        died_of=died,
        troubles=_troubles(spec),
    )


def _registry(target: Target, port: int | None) -> Mapping[str, Any] | None:
    host = urlsplit(target.url).hostname or ""
    return (
        http.get_object(f"http://{in_url(host)}:{port}{ROUTE}", timeout_s=TIMEOUT_S)
        if port
        else None
    )


def _first(url: str, *paths: str) -> Mapping[str, Any]:
    for path in paths:
        found = http.get_object(url + path, timeout_s=TIMEOUT_S)
        if found:
            return found
    return {}


def _port(value: object) -> int | None:
    return value if isinstance(value, int) and 0 < value < 65536 else None


def _asks_for_key(router_url: str) -> bool:
    """Whether the router turns away who has no key."""
    answer = http.request("GET", f"{router_url}/workers", timeout_s=TIMEOUT_S, is_authorized=False)
    return answer is not None and answer[0] in (401, 403)


def _last_log(spec: ProcessSpec | None) -> str:
    if spec is None:
        return ""
    return "\n".join(log_file.last_start(log_file.read_lines(Path(spec.log))))


def _troubles(spec: ProcessSpec | None) -> tuple[Explanation, ...]:
    return explain_troubles(_last_log(spec))
