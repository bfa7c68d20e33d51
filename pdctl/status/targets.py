"""Find the engines to watch, from a deployment's state or from a router's list."""

import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit, urlunsplit

from pdctl.deployment.records import HERE, Deployment, role_of_mode
from pdctl.engines import state
from pdctl.engines.clients.http import Connection, GetFailed
from pdctl.engines.lifecycle.meant import NONE_RUNS, meant_name, no_such_deployment
from pdctl.engines.records import DeploymentState
from pdctl.errors import EngineFailed, InvalidInput, PdctlError
from pdctl.hosts import in_url, is_loopback, is_wildcard
from pdctl.perf_model.records import Role
from pdctl.status.records import Target, Watched
from pdctl.status.scrape import TIMEOUT_S, Parallel

if TYPE_CHECKING:
    from pdctl.engines.records import Listed


_ORDER: dict[Role, int] = {"prefill": 0, "decode": 1, "colocated": 2}


def targets_of_state(state: DeploymentState) -> tuple[Target, ...]:
    """The engines in a deployment's state, prefill first."""
    found = [
        Target(
            one.name,
            one.role,
            one.url,
            one.phase,
            one.detail,
            gpus=one.gpus if one.node == HERE else (),
        )
        for one in state.processes
        if one.role != "router"
    ]
    return tuple(sorted(found, key=lambda target: _ORDER[target.role]))


def router_of_state(state: DeploymentState) -> tuple[str, int | None]:
    """The router's URL and its Prometheus port."""
    router = next((one for one in state.processes if one.role == "router"), None)
    return (router.url, router.metrics_port) if router else (state.endpoint, None)


def targets_of_router(url: str) -> tuple[Target, ...]:
    """The engines that a router lists, with the role that each of them reports.

    Raises InvalidInput if `url` is not a URL; EngineFailed if no router answers there.
    """
    from pdctl.engines.clients.router import RouterClient  # its HTTP client is slow to import

    parts = _parts(url)
    listed = RouterClient(url).workers()
    if listed is None:
        raise EngineFailed(
            f"No SGLang router answers at {url}.", hint="the URL of a router, as http://HOST:30000"
        )
    targets = named_targets(listed, parts.hostname or "")
    calls = {target.name: _asker(target) for target in targets}
    modes = Parallel().call(dict(calls), TIMEOUT_S)
    return tuple(_checked(target, modes.get(target.name)) for target in targets)


def served_model(target: Target) -> str:
    """The name of the model that an engine serves; "" if the engine does not report it."""
    info = _model_info(target)
    return str(info.get("served_model_name") or info.get("model_path") or "")


def model_path(target: Target) -> str:
    """The model that an engine has loaded, as it was named at launch; "" if it does not say."""
    return str(_model_info(target).get("model_path") or "")


def _parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return parts
    except ValueError:  # a port that is none
        pass
    has_port = re.fullmatch(r"[\w.-]+:\d+", url)
    meant = f"http://{url}" if has_port else "http://127.0.0.1:30000"
    raise InvalidInput(f"{url!r} is not the URL of a router.", hint=f"{meant} is one")


def named_targets(listed: Sequence["Listed"], router_host: str) -> list[Target]:
    """Engines as prefill-0, prefill-1, ..., decode-0, ... in the order of their addresses."""
    targets = []
    for role in _ORDER:
        urls = sorted(_reachable(one.url, router_host) for one in listed if one.role == role)
        targets += [Target(f"{role}-{i}", role, url) for i, url in enumerate(urls)]
    return targets


def _reachable(url: str, router_host: str) -> str:
    """Replace a loopback address by the router's host: the engine runs beside the router."""
    parts = urlsplit(url)
    if not _is_own(parts.hostname or "") or _is_own(router_host):
        return url
    return urlunsplit(parts._replace(netloc=f"{in_url(router_host)}:{parts.port}"))


def _is_own(host: str) -> bool:
    """True for a host that means the machine itself to each that reads it."""
    return is_loopback(host) or is_wildcard(host)


def _asker(target: Target) -> Callable[[], Role | None]:
    return lambda: role_of_mode(_model_info(target).get("disaggregation_mode", ...))


def _model_info(target: Target) -> dict[str, object]:
    connection = Connection(target.url)
    try:
        for path in ("/model_info", "/get_server_info"):
            status, body = connection.get(path, TIMEOUT_S)
            found = json.loads(body) if status == 200 else None
            if isinstance(found, dict) and "disaggregation_mode" in found:
                return found
    except (GetFailed, ValueError, RecursionError):
        pass
    finally:
        connection.close()
    return {}


def _checked(target: Target, runs_as: object) -> Target:
    if runs_as is None or runs_as == target.role:
        return target
    return replace(target, problem=f"registered as {target.role} but runs as {runs_as}")


RELIST_S = 5.0


def candidates() -> tuple[str, ...]:
    """The deployments that a bare `status` may mean: supervised ones, else all with a state."""
    names = state.list_names()
    return tuple(name for name in names if state.is_supervised(name)) or names


def only_name() -> str:
    """The only deployment. Raises StateConflict unless there is exactly one."""
    return meant_name(
        None,
        candidates(),
        hint="pdctl status {}",
        none_hint=f"{NONE_RUNS}; pdctl status --router http://HOST:30000 watches any other",
    )


def source_of_state(name: str) -> Callable[[], Watched]:
    """Follow a deployment's state.json. Raises StateConflict if there is none."""
    _required(name)
    chosen = _chosen(name)

    def read() -> Watched:
        watched = _watched(_required(name))
        if chosen is None:
            return watched
        is_sim = chosen.engine == "sim"
        targets = watched.targets
        return replace(
            watched,
            # the GPUs of simulated engines are only numbers
            targets=tuple(replace(one, gpus=()) for one in targets) if is_sim else targets,
            sim_speed=chosen.sim_speed if is_sim else None,
            ttft_slo_s=chosen.ttft_slo_s,
            tpot_slo_s=chosen.tpot_slo_s,
        )

    return read


_TELLING = ("\nslo:", "\nengine: sim")


def _chosen(name: str) -> Deployment | None:
    """The deployment that the user chose; None if it has neither SLOs nor simulated engines."""
    try:
        text = state.desired_path(name).read_text(encoding="utf-8")
        if not any(key in text for key in _TELLING):
            return None
        from pdctl.deployment.pd_yaml import parse_deployment  # YAML is slow to import

        return parse_deployment(text)
    except (OSError, ValueError, PdctlError):
        return None


def _required(name: str) -> DeploymentState:
    found = state.read_state(name)
    if found is not None:
        return found
    raise no_such_deployment(
        name, [other for other in state.list_names() if state.is_supervised(other)]
    )


def _watched(found: DeploymentState) -> Watched:
    url, metrics_port = router_of_state(found)
    return Watched(
        name=found.name,
        model=found.model,
        endpoint=found.endpoint,
        targets=targets_of_state(found),
        router_url=url,
        router_metrics_port=metrics_port,
        phase=found.phase,
        detail=found.detail,
        note=_supervision(found),
        router_problem=_router_problem(found),
    )


def _router_problem(found: DeploymentState) -> str:
    """The fate of a router that does not run, as a predicate; "" if it runs."""
    router = next((one for one in found.processes if one.role == "router"), None)
    if router is None or router.phase not in ("backoff", "failed", "starting", "loading"):
        return ""
    if router.phase in ("backoff", "failed"):
        return router.detail or "has ended"
    return "was restarted and does not answer yet" if router.restarts else ""


def _supervision(found: DeploymentState) -> str:
    if found.phase in ("stopped", "failed") or state.is_supervised(found.name):
        return ""
    return (
        f"its supervisor (pid {found.supervisor_pid}) is gone, so nothing restarts what fails "
        f"(pdctl up --resume --name {found.name} starts one)"
    )


def source_of_router(url: str, metrics_port: int | None = None) -> Callable[[], Watched]:
    """Follow the engines that a router lists, and read the list again every few seconds.

    metrics_port: the router's Prometheus port; None: unknown, its metrics are not read.

    Raises InvalidInput if `url` is not a URL; EngineFailed if no router answers there.
    """
    from pdctl.engines.clients.router import RouterClient  # its HTTP client is slow to import

    url = url.rstrip("/")
    targets = targets_of_router(url)
    watched = Watched(
        name=url,
        model=next((model for one in targets[:1] if (model := served_model(one))), ""),
        endpoint=url,
        targets=targets,
        router_url=url,
        router_metrics_port=metrics_port,
    )
    asked_at = time.monotonic()

    def read() -> Watched:
        nonlocal watched, asked_at
        if time.monotonic() - asked_at >= RELIST_S:
            asked_at = time.monotonic()
            listed = RouterClient(url, timeout_s=1.0).workers()
            known = {target.url for target in watched.targets}
            if listed is not None and {one.url for one in listed} != known:
                watched = replace(watched, targets=targets_of_router(url))
        return watched

    return read
