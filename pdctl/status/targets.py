"""Which engines to watch: those of a deployment's state, or those a router lists."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit, urlunsplit

from pdctl.engines.records import FleetState
from pdctl.errors import EngineFailed, InvalidInput
from pdctl.perf_model.records import Role
from pdctl.status.http_get import Connection, GetFailed
from pdctl.status.records import Target
from pdctl.status.scrape import TIMEOUT_S, Parallel

if TYPE_CHECKING:
    from pdctl.engines.router_client import Listed

_ORDER: dict[Role, int] = {"prefill": 0, "decode": 1, "colocated": 2}
_MODES: dict[str, Role] = {"prefill": "prefill", "decode": "decode", "null": "colocated"}
_LOOPBACK = ("127.0.0.1", "localhost", "::1", "0.0.0.0")


def targets_of_state(state: FleetState) -> tuple[Target, ...]:
    """The engines of a deployment as its supervisor last saw them, prefill first."""
    found = [
        Target(one.name, one.role, one.url, one.phase, one.detail)
        for one in state.processes
        if one.role != "router"
    ]
    return tuple(sorted(found, key=lambda target: _ORDER[target.role]))


def router_of_state(state: FleetState) -> tuple[str, int | None]:
    """The router's URL and its Prometheus port."""
    router = next((one for one in state.processes if one.role == "router"), None)
    return (router.url, router.metrics_port) if router else (state.endpoint, None)


def targets_of_router(url: str) -> tuple[Target, ...]:
    """The engines a router lists, whoever started them, each asked for its role.

    Raises InvalidInput when `url` is none, EngineFailed when no router answers there.
    """
    from pdctl.engines.router_client import RouterClient  # its HTTP client is slow to import

    parts = _parts(url)
    listed = RouterClient(url).workers()
    if listed is None:
        raise EngineFailed(
            f"No SGLang router answers at {url}.", hint="--router http://HOST:30000 of a router"
        )
    targets = named_targets(listed, parts.hostname or "")
    calls = {target.name: _asker(target) for target in targets}
    modes = Parallel().call(dict(calls), TIMEOUT_S)
    return tuple(_checked(target, modes.get(target.name)) for target in targets)


def model_of(target: Target) -> str:
    """The model an engine serves, as it names it; empty when it does not say."""
    info = _model_info(target)
    return str(info.get("served_model_name") or info.get("model_path") or "")


def _parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return parts
    except ValueError:  # a port that is none
        pass
    raise InvalidInput(f"{url!r} is not the URL of a router.", hint="http://127.0.0.1:30000 is one")


def named_targets(listed: Sequence["Listed"], router_host: str) -> list[Target]:
    """Engines as prefill-0, prefill-1, ..., decode-0, ... in the order of their addresses."""
    targets = []
    for role in _ORDER:
        urls = sorted(_reachable(one.url, router_host) for one in listed if one.role == role)
        targets += [Target(f"{role}-{i}", role, url) for i, url in enumerate(urls)]
    return targets


def _reachable(url: str, router_host: str) -> str:
    """An engine at the router's own loopback is on the router's host."""
    parts = urlsplit(url)
    if parts.hostname not in _LOOPBACK or router_host in _LOOPBACK:
        return url
    host = f"[{router_host}]" if ":" in router_host else router_host
    return urlunsplit(parts._replace(netloc=f"{host}:{parts.port}"))


def _asker(target: Target) -> Callable[[], Role | None]:
    return lambda: _MODES.get(str(_model_info(target).get("disaggregation_mode")))


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
