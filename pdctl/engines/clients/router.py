"""The router's REST interface for its engines (sglang-router 0.3)."""

from collections.abc import Mapping
from urllib.parse import urlsplit

from pdctl.deployment.records import ProcessRole
from pdctl.engines.clients import http
from pdctl.engines.clients.api_key import api_key
from pdctl.engines.records import Listed

# the router calls a colocated engine regular
_WORKER_TYPES: dict[ProcessRole, str] = {
    "prefill": "prefill",
    "decode": "decode",
    "colocated": "regular",
}
_ROLES = {kind: role for role, kind in _WORKER_TYPES.items()}


class RouterClient:
    """The router at `url`. Nothing raises: no answer is None or False."""

    def __init__(self, url: str, *, timeout_s: float = 2.0) -> None:
        self.url = url.rstrip("/")
        self._timeout_s = timeout_s

    def is_alive(self) -> bool:
        """Whether its process answers; it does so without any engine."""
        answer = http.request("GET", f"{self.url}/health", timeout_s=self._timeout_s)
        return answer is not None and answer[0] == 200

    def readiness(self) -> bool:
        """Whether it has what it needs to serve: a healthy engine of every role."""
        answer = http.request("GET", f"{self.url}/readiness", timeout_s=self._timeout_s)
        return answer is not None and answer[0] == 200

    def workers(self) -> tuple[Listed, ...] | None:
        """The engines it knows; None when it does not say."""
        return listed_engines(http.get_object(f"{self.url}/workers", timeout_s=self._timeout_s))

    def add(self, url: str, role: ProcessRole, bootstrap_port: int | None) -> bool:
        """Whether it accepted the engine; it is listed some 0.4 s later.

        A prefill engine without its bootstrap port would be accepted and every request hang.
        """
        body: dict[str, object] = {"url": url, "worker_type": _WORKER_TYPES[role]}
        if role == "prefill":
            if bootstrap_port is None:
                return False
            body["bootstrap_port"] = bootstrap_port
        if (key := api_key()) is not None:  # for what the router asks the engine by itself
            body["api_key"] = key
        answer = http.request("POST", f"{self.url}/workers", body=body, timeout_s=self._timeout_s)
        return answer is not None and answer[0] in (200, 202)

    def remove(self, url: str) -> bool:
        """Whether it takes no more requests for the engine; those in flight are finished."""
        rows = self.workers()
        if rows is None:
            return False
        done = [self._delete(row.id) for row in rows if row.url == url.rstrip("/")]
        return all(done)

    def _delete(self, worker_id: str) -> bool:
        path = f"{self.url}/workers/{worker_id}"
        answer = http.request("DELETE", path, timeout_s=self._timeout_s)
        return answer is not None and answer[0] in (200, 202, 204, 404)


def listed_engines(answer: Mapping[str, object] | None) -> tuple[Listed, ...] | None:
    """The engines in an answer of /workers, without rows that have no usable URL; None: no list."""
    rows = answer.get("workers") if answer else None
    if not isinstance(rows, list):
        return None
    return tuple(_listed(row) for row in rows if isinstance(row, dict) and _is_url(row.get("url")))


def _is_url(url: object) -> bool:
    """Whether it is one that a request could be sent to; the router takes whatever it is given."""
    try:
        parts = urlsplit(url) if isinstance(url, str) and url.isascii() else None
        return parts is not None and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _listed(row: dict[str, object]) -> Listed:
    port = row.get("bootstrap_port")
    return Listed(
        id=str(row.get("id", "")),
        url=str(row["url"]).rstrip("/"),
        role=_ROLES.get(str(row.get("worker_type"))),
        is_healthy=row.get("is_healthy") is True,
        bootstrap_port=port if isinstance(port, int) else None,
    )
