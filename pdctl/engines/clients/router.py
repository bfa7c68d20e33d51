"""The router's REST interface for adding and removing engines (sglang-router 0.3)."""

from collections.abc import Mapping
from urllib.parse import urlsplit

from pdctl.deployment.records import ROLE_OF_WORKER_TYPE, WORKER_TYPES, ProcessRole
from pdctl.engines.clients import http as local_http
from pdctl.engines.clients.api_key import api_key
from pdctl.engines.clients.http import QUICK_S, get_object
from pdctl.engines.clients.protocol import Http
from pdctl.engines.records import Listed


class RouterClient:
    """The router at `url`. Nothing raises: a missing answer is None or False."""

    def __init__(self, url: str, *, timeout_s: float = QUICK_S, http: Http = local_http) -> None:
        self.url = url.rstrip("/")
        self._timeout_s = timeout_s
        self._http = http

    def is_alive(self) -> bool:
        """True if its process answers, with or without engines."""
        answer = self._http.request("GET", f"{self.url}/health", timeout_s=self._timeout_s)
        return answer is not None and answer[0] == 200

    def workers(self) -> tuple[Listed, ...] | None:
        """The engines on its list; None if it does not answer."""
        page = f"{self.url}/workers"
        return listed_engines(get_object(page, timeout_s=self._timeout_s, http=self._http))

    def add(self, url: str, role: ProcessRole, bootstrap_port: int | None) -> bool:
        """Add an engine; True if the router accepted it. It appears on the list 0.4 s later.

        The router would accept a prefill engine without its bootstrap port and hang every request.
        """
        if role == "router":
            return False
        body: dict[str, object] = {"url": url, "worker_type": WORKER_TYPES[role]}
        if role == "prefill":
            if bootstrap_port is None:
                return False
            body["bootstrap_port"] = bootstrap_port
        if (key := api_key()) is not None:  # the router's own requests to the engine need it
            body["api_key"] = key
        page = f"{self.url}/workers"
        answer = self._http.request("POST", page, body=body, timeout_s=self._timeout_s)
        return answer is not None and answer[0] in (200, 202)

    def remove(self, url: str) -> bool:
        """Remove an engine; True if it gets no more requests. Those in flight still finish."""
        rows = self.workers()
        if rows is None:
            return False
        done = [self._delete(row.id) for row in rows if row.url == url.rstrip("/")]
        return all(done)

    def _delete(self, worker_id: str) -> bool:
        path = f"{self.url}/workers/{worker_id}"
        answer = self._http.request("DELETE", path, timeout_s=self._timeout_s)
        return answer is not None and answer[0] in (200, 202, 204, 404)


def listed_engines(answer: Mapping[str, object] | None) -> tuple[Listed, ...] | None:
    """The engines in an answer of /workers that have a usable URL; None if it lists none."""
    rows = answer.get("workers") if answer else None
    if not isinstance(rows, list):
        return None
    return tuple(_listed(row) for row in rows if isinstance(row, dict) and _is_url(row.get("url")))


def _is_url(url: object) -> bool:
    """True if a request could be sent there; the router accepts any text as a URL."""
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
        role=ROLE_OF_WORKER_TYPE.get(str(row.get("worker_type"))),
        is_healthy=row.get("is_healthy") is True,
        bootstrap_port=port if isinstance(port, int) else None,
    )
