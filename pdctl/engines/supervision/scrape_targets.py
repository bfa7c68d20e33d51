"""List what a Prometheus should scrape, as its file_sd reads it."""

import json
from collections.abc import Iterator
from urllib.parse import urlsplit

from pdctl.deployment.records import HERE
from pdctl.engines.records import DeploymentState, ProcessState
from pdctl.hosts import in_url


def scrape_targets(state: DeploymentState, metrics_endpoint: str = "") -> str:
    """The engines, the router and pdctl's own metrics, each with its labels, as JSON.

    An engine is listed once it has served, so that one that loads its weights is not "down"; a
    deployment that ends lists nothing.

    Args:
        metrics_endpoint: HOST:PORT of pdctl's own metrics; "" if there are none.

    Source: https://prometheus.io/docs/prometheus/latest/configuration/configuration (file_sd).
    """
    if state.phase in ("stopping", "stopped", "failed"):
        return "[]\n"
    groups = [_group(state, one) for one in state.processes if _has_served(one)]
    if metrics_endpoint:
        groups.append(
            _labelled(state, metrics_endpoint, role="pdctl", engine="pdctl", host=state.host)
        )
    return json.dumps([group for group in groups if group["targets"]], indent=1) + "\n"


def _has_served(process: ProcessState) -> bool:
    if process.phase in ("stopped", "draining"):
        return False
    is_known = process.ready_after_s is not None or process.restarts > 0
    return is_known or process.phase in ("serving", "backoff", "failed")


def _group(state: DeploymentState, process: ProcessState) -> dict[str, object]:
    return _labelled(
        state,
        next(_addresses(process), ""),
        role=process.role,
        engine=process.name,
        host=state.host if process.node == HERE else process.node,
    )


def _addresses(process: ProcessState) -> Iterator[str]:
    """The address of a process's metrics: the router has a port for them, engines do not."""
    parts = urlsplit(process.url)
    port = process.metrics_port if process.role == "router" else parts.port
    if port is not None:
        yield f"{in_url(parts.hostname or '')}:{port}"


def _labelled(state: DeploymentState, address: str, **labels: str) -> dict[str, object]:
    return {
        "targets": [address] if address else [],
        "labels": {"deployment": state.name, **{k: v for k, v in labels.items() if v}},
    }
