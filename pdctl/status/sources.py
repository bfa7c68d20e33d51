"""Where a watch learns what to watch: the state directory, or a router's list of engines."""

import time
from collections.abc import Callable
from dataclasses import replace

from pdctl.engines import state
from pdctl.engines.records import FleetState
from pdctl.errors import PdctlError, StateConflict
from pdctl.status.records import Watched
from pdctl.status.targets import (
    model_of,
    router_of_state,
    targets_of_router,
    targets_of_state,
)

RELIST_S = 5.0


def candidates() -> tuple[str, ...]:
    """The deployments a bare `status` may mean: those with a supervisor, else any with a state."""
    names = state.list_names()
    return tuple(name for name in names if state.is_supervised(name)) or names


def only_name() -> str:
    """The deployment meant when none is named. Raises StateConflict unless there is exactly one."""
    names = candidates()
    if len(names) == 1:
        return names[0]
    if not names:
        raise StateConflict(
            "No deployment is running.",
            hint="pdctl up starts one; pdctl status --router http://HOST:30000 watches any other",
            code="not_running",
        )
    raise StateConflict(
        f"{len(names)} deployments are running: {', '.join(names)}.",
        hint=f"pdctl status {names[0]}",
        code="ambiguous_name",
    )


def source_of_state(name: str) -> Callable[[], Watched]:
    """Follows a deployment's state.json. Raises StateConflict when it is not there."""
    _required(name)
    ttft_slo_s, tpot_slo_s = _slos(name)

    def read() -> Watched:
        watched = _watched(_required(name))
        return replace(watched, ttft_slo_s=ttft_slo_s, tpot_slo_s=tpot_slo_s)

    return read


def _slos(name: str) -> tuple[float | None, float | None]:
    """TTFT and TPOT that the deployment is held against, in seconds; None where not given."""
    try:
        text = (state.state_dir(name) / "desired.yaml").read_text(encoding="utf-8")
        if "\nslo:" not in text:
            return None, None
        from pdctl.deployment.file import parse_deployment  # YAML is slow to import

        deployment = parse_deployment(text)
    except (OSError, ValueError, PdctlError):
        return None, None
    return deployment.ttft_slo_s, deployment.tpot_slo_s


def _required(name: str) -> FleetState:
    found = state.read_state(name)
    if found is not None:
        return found
    others = ", ".join(other for other in state.list_names() if other != name)
    raise StateConflict(
        f"No deployment {name!r} is running." + (f" There is: {others}." if others else ""),
        hint="pdctl ls",
        code="not_running",
    )


def _watched(found: FleetState) -> Watched:
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
    )


def _supervision(found: FleetState) -> str:
    if found.phase in ("stopped", "failed") or state.is_supervised(found.name):
        return ""
    return (
        f"its supervisor (pid {found.supervisor_pid}) is gone, so nothing restarts an engine; "
        f"the engines go on (pdctl down {found.name} stops them)"
    )


def source_of_router(url: str, metrics_port: int | None = None) -> Callable[[], Watched]:
    """Follows the engines a router lists; asks it anew every few seconds.

    metrics_port: its Prometheus port; None: the usual one.

    Raises InvalidInput when `url` is none, EngineFailed when no router answers there.
    """
    from pdctl.engines.router_client import RouterClient  # its HTTP client is slow to import

    url = url.rstrip("/")
    targets = targets_of_router(url)
    watched = Watched(
        name=url,
        model=next((model for one in targets[:1] if (model := model_of(one))), ""),
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
