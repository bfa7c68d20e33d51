"""GET with a kept connection, a deadline for the whole answer, and a bound on its size."""

import http.client
import os
import time
from urllib.parse import urlsplit

MAX_BODY_BYTES = 8 << 20
API_KEY_VARIABLE = "PDCTL_API_KEY"  # sent as a bearer token, to engines and router


class GetFailed(Exception):
    """No usable answer; the text says why, for a person."""


class Connection:
    """One server, asked by one thread at a time."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.address = parts.netloc
        kind = (
            http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        )
        self._connection = kind(parts.hostname or "", parts.port, timeout=1.0)
        self._path = parts.path.rstrip("/")
        key = os.environ.get(API_KEY_VARIABLE)
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}

    def get(self, path: str, timeout_s: float) -> tuple[int, bytes]:
        """Status and body. Raises GetFailed when there is no whole answer in time."""
        deadline = time.monotonic() + timeout_s
        was_open = self._connection.sock is not None
        try:
            return self._get(path, deadline)
        except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
            # a server closes kept connections when it likes (uvicorn: after 5 s)
            self.close()
            if not was_open:
                raise GetFailed("the connection was closed") from None
        except (OSError, http.client.HTTPException, ValueError) as problem:
            raise self._failed(problem) from None
        try:
            return self._get(path, deadline)
        except (OSError, http.client.HTTPException, ValueError) as problem:
            raise self._failed(problem) from None

    def _get(self, path: str, deadline: float) -> tuple[int, bytes]:
        connection = self._connection
        connection.timeout = max(0.01, deadline - time.monotonic())
        if connection.sock is not None:
            connection.sock.settimeout(connection.timeout)
        connection.request("GET", self._path + path, headers=self._headers)
        answer = connection.getresponse()
        body = bytearray()
        while chunk := answer.read1(1 << 16):
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                raise ValueError("answer over 8 MiB")
            if time.monotonic() > deadline:
                raise TimeoutError
        return answer.status, bytes(body)

    def _failed(self, problem: Exception) -> GetFailed:
        self.close()
        if isinstance(problem, TimeoutError):
            return GetFailed("no answer in time")
        if isinstance(problem, ConnectionRefusedError):
            return GetFailed("connection refused")
        return GetFailed(getattr(problem, "strerror", None) or str(problem) or "no HTTP answer")

    def close(self) -> None:
        """Drop the connection; the next request opens another."""
        self._connection.close()
