"""HTTP as the clients of engines and router need it."""

from typing import Protocol


class Http(Protocol):
    """Single requests that leave from one node. The module `http` is the client of this node."""

    def request(
        self,
        method: str,
        url: str,
        *,
        timeout_s: float,
        body: object = None,
        is_authorized: bool = True,
    ) -> tuple[int, bytes] | None: ...

    def can_connect(self, url: str, *, timeout_s: float) -> bool: ...

    def first_event(
        self, url: str, body: object, *, timeout_s: float
    ) -> tuple[int, str, float] | None: ...
