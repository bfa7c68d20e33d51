"""HTTP with deadlines: kept connections for polling, single requests for probes from threads."""

import http.client
import json
import socket
import sys
import time
from typing import Any, cast
from urllib.parse import SplitResult, urlsplit

from pdctl.engines.clients.api_key import authorization
from pdctl.engines.clients.protocol import Http

MAX_BODY_BYTES = 8 << 20
_MAX_HEAD_BYTES = 1 << 16
_READ_BYTES = 1 << 16


QUICK_S = 2.0  # a page that a healthy server has ready


class GetFailed(Exception):
    """No usable answer; the text gives the reason, for a person."""


class _Closed(Exception):
    """The server closed the connection before it answered."""


class Connection:
    """A kept connection to one server, for one thread at a time."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._is_tls = parts.scheme == "https"
        self._port = parts.port or (443 if self._is_tls else 80)
        self._path = parts.path.rstrip("/")
        lines = [f"Host: {parts.netloc.rpartition('@')[2]}", "Accept: */*"]
        lines += [f"{name}: {value}" for name, value in authorization().items()]
        self._headers = "\r\n".join(lines)
        self._socket: socket.socket | None = None
        self._buffer = b""
        self._deadline = 0.0

    def get(self, path: str, timeout_s: float) -> tuple[int, bytes]:
        """Status and body. Raises GetFailed unless a whole answer arrives in time."""
        self._deadline = time.monotonic() + timeout_s
        was_open = self._socket is not None
        try:
            return self._get(path)
        except (_Closed, BrokenPipeError, ConnectionResetError):
            # servers close kept connections at any time (uvicorn: after 5 s)
            self.close()
            if not was_open:
                raise GetFailed("the connection was closed") from None
        except (OSError, ValueError) as problem:
            raise self._failed(problem) from None
        try:
            return self._get(path)
        except (_Closed, OSError, ValueError) as problem:
            raise self._failed(problem) from None

    def close(self) -> None:
        """Drop the connection; the next request opens another."""
        if self._socket is not None:
            self._socket.close()
        self._socket, self._buffer = None, b""

    def _get(self, path: str) -> tuple[int, bytes]:
        if self._socket is None:
            self._socket = self._connect()
        request = f"GET {self._path}{path} HTTP/1.1\r\n{self._headers}\r\n\r\n"
        self._socket.settimeout(self._left_s())
        self._socket.sendall(request.encode("latin-1"))
        status, headers = _parse_head(self._read_until(b"\r\n\r\n", _MAX_HEAD_BYTES))
        body = self._body(status, headers)
        if headers.get("connection", "").lower() == "close":
            self.close()
        return status, body

    def _connect(self) -> socket.socket:
        plain = socket.create_connection((self._host, self._port), timeout=self._left_s())
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if not self._is_tls:
            return plain
        import ssl  # slow, and engines rarely speak TLS

        return ssl.create_default_context().wrap_socket(plain, server_hostname=self._host)

    def _body(self, status: int, headers: dict[str, str]) -> bytes:
        if status in (204, 304):
            return b""
        if "chunked" in headers.get("transfer-encoding", "").lower():
            return self._chunks()
        if "content-length" in headers:
            return self._read_exactly(_size(headers["content-length"], base=10))
        body = bytearray(self._buffer)
        while chunk := self._receive():
            body += chunk
            _size(str(len(body)), base=10)
        self.close()
        return bytes(body)

    def _chunks(self) -> bytes:
        body = bytearray()
        while True:
            line = self._read_until(b"\r\n", _MAX_HEAD_BYTES)
            size = _size(line.split(b";")[0].decode("latin-1"), base=16)
            body += self._read_exactly(size)
            _size(str(len(body)), base=10)
            if size == 0:
                while self._read_until(b"\r\n", _MAX_HEAD_BYTES):
                    pass  # trailers
                return bytes(body)
            self._read_exactly(2)

    def _read_until(self, mark: bytes, most: int) -> bytes:
        """The bytes before `mark`; consumes the mark too."""
        while (end := self._buffer.find(mark)) < 0:
            if len(self._buffer) > most:
                raise ValueError("unreadable answer")
            self._fill()
        found, self._buffer = self._buffer[:end], self._buffer[end + len(mark) :]
        return found

    def _read_exactly(self, size: int) -> bytes:
        parts, missing = [self._buffer[:size]], size - len(self._buffer)
        self._buffer = self._buffer[size:]
        while missing > 0:
            chunk = self._receive()
            if not chunk:
                raise _Closed
            parts.append(chunk[:missing])
            self._buffer = chunk[missing:]
            missing -= len(chunk)
        return b"".join(parts)

    def _fill(self) -> None:
        chunk = self._receive()
        if not chunk:
            raise _Closed
        self._buffer += chunk

    def _receive(self) -> bytes:
        assert self._socket is not None
        self._socket.settimeout(self._left_s())
        return self._socket.recv(_READ_BYTES)

    def _left_s(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def _failed(self, problem: Exception) -> GetFailed:
        self.close()
        if isinstance(problem, TimeoutError):
            return GetFailed("no answer in time")
        if isinstance(problem, ConnectionRefusedError):
            return GetFailed("connection refused")
        if isinstance(problem, _Closed):
            return GetFailed("the connection was closed")
        return GetFailed(getattr(problem, "strerror", None) or str(problem) or "no HTTP answer")


def _parse_head(head: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = head.decode("latin-1").split("\r\n")
    words = first.split(None, 2)
    if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdigit():
        raise ValueError("no HTTP answer")
    pairs = (line.partition(":") for line in lines)
    return int(words[1]), {name.strip().lower(): value.strip() for name, _, value in pairs}


def _size(text: str, *, base: int) -> int:
    try:
        size = int(text, base)
    except ValueError:
        raise ValueError("unreadable answer") from None
    if not 0 <= size <= MAX_BODY_BYTES:
        raise ValueError(f"answer over {MAX_BODY_BYTES >> 20} MiB")
    return size


def _connection(parts: SplitResult, timeout_s: float) -> http.client.HTTPConnection:
    is_tls = parts.scheme == "https"  # a key must not go out in the clear where TLS was asked for
    kind = http.client.HTTPSConnection if is_tls else http.client.HTTPConnection
    return kind(parts.hostname or "", parts.port, timeout=timeout_s)


def request(
    method: str, url: str, *, timeout_s: float, body: object = None, is_authorized: bool = True
) -> tuple[int, bytes] | None:
    """Status and body of the answer; None if no answer arrives in time.

    is_authorized: send the API key, if there is one.
    """
    parts = urlsplit(url)
    connection = _connection(parts, timeout_s)
    target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
    data = None if body is None else json.dumps(body)
    headers = {} if body is None else {"content-type": "application/json"}
    if is_authorized:
        headers |= authorization()
    try:
        connection.request(method, target, body=data, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read(MAX_BODY_BYTES)
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def can_connect(url: str, *, timeout_s: float) -> bool:
    """True if the machine of this URL is on the network: it accepts or refuses a connection."""
    parts = urlsplit(url)
    try:
        socket.create_connection((parts.hostname or "", parts.port or 80), timeout_s).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return True


def get_object(url: str, *, timeout_s: float, http: Http | None = None) -> dict[str, Any] | None:
    """The JSON object at `url`; None for anything else. http: the client to use; None: this one."""
    answer = (http or HERE_HTTP).request("GET", url, timeout_s=timeout_s)
    if answer is None or answer[0] != 200:
        return None
    return json_object(answer[1])


def json_object(body: bytes) -> dict[str, Any] | None:
    """The JSON object in `body`; None for anything else."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def first_event(url: str, body: object, *, timeout_s: float) -> tuple[int, str, float] | None:
    """Status and first line of a streamed answer, and the seconds until it arrived.

    The rest is read and dropped. None if there is no answer or the stream breaks off.
    """
    started = time.monotonic()
    parts = urlsplit(url)
    connection = _connection(parts, timeout_s)
    try:
        headers = {"content-type": "application/json", **authorization()}
        connection.request("POST", parts.path, body=json.dumps(body), headers=headers)
        answer = connection.getresponse()
        first = answer.readline(MAX_BODY_BYTES).decode("utf-8", errors="replace")
        first_s = time.monotonic() - started
        answer.read(MAX_BODY_BYTES)
        return answer.status, first.strip(), first_s
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


# a module satisfies the protocol, which mypy checks only where one is passed by name
HERE_HTTP = cast(Http, sys.modules[__name__])
