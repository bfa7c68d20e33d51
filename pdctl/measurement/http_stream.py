"""A lean HTTP/1.1 client for event streams: passes data on as soon as it arrives.

aiohttp used 25 µs of CPU per token here, half of it to wake a task (see docs/decisions).
Ignores: TLS, redirects, compression, trailers; SGLang and its router need none of them.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import MappingProxyType
from urllib.parse import urlsplit

OnData = Callable[[bytes], None]
_READ_BYTES = 1 << 16
_IDLE_S = 4.0  # servers close idle connections after five seconds or more; stay clear of that


class BadAnswer(Exception):
    """The answer is not valid HTTP, or it ended early."""


class Exchange:
    """One answer while it arrives."""

    def __init__(self, on_data: OnData) -> None:
        self.on_data = on_data
        self.status = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class StreamConnection(asyncio.BufferedProtocol):
    """One connection: reads one answer at a time and removes the HTTP framing.

    A plain Protocol would make asyncio allocate 256 KiB for every read, hence BufferedProtocol.
    """

    def __init__(self, incoming: memoryview) -> None:
        self._incoming = incoming  # shared by all connections; emptied before the next read
        self.transport: asyncio.Transport | None = None
        self.idle_since = 0.0
        self.exchange: Exchange | None = None
        self.is_reusable = True
        self._buffer = b""
        self._left: int | None = None  # bytes left of a known length; None: chunked, or to EOF
        self._in_head = True
        self._is_chunked = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def begin(self, exchange: Exchange, data: bytes) -> None:
        """Send a request whose answer goes to `exchange`."""
        assert self.transport is not None
        self.exchange, self._in_head, self._buffer = exchange, True, b""
        self.transport.write(data)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._incoming

    def buffer_updated(self, nbytes: int) -> None:
        data = self._incoming[:nbytes].tobytes()
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        try:
            if self._in_head:
                end = data.find(b"\r\n\r\n")
                if end < 0:
                    if len(data) > _READ_BYTES:
                        raise ValueError("the header does not end")
                    self._buffer = data
                    return
                self._read_head(data[:end])
                data = data[end + 4 :]
            if self._is_chunked:
                self._read_chunks(data)
            else:
                self._read_plain(data)
        except (ValueError, IndexError) as problem:
            self._fail(BadAnswer(f"not HTTP: {problem}"))

    def _read_head(self, head: bytes) -> None:
        lines = head.decode("latin-1").split("\r\n")
        fields = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            fields[name.strip().lower()] = value.strip().lower()
        assert self.exchange is not None
        self.exchange.status = int(lines[0].split(" ", 2)[1])
        self._is_chunked = "chunked" in fields.get("transfer-encoding", "")
        length = fields.get("content-length")
        self._left = int(length) if length is not None else None
        self.is_reusable = fields.get("connection", "") != "close" and (
            self._is_chunked or self._left is not None
        )
        self._in_head = False

    def _read_chunks(self, data: bytes) -> None:
        """Pass on the data of all complete chunks at once; keep an incomplete one."""
        at, size_of_data, pieces = 0, len(data), []
        is_last = False
        while at < size_of_data:
            line_end = data.find(b"\r\n", at)
            if line_end < 0:
                break
            size = int(data[at:line_end].partition(b";")[0], 16)
            if size < 0:
                raise ValueError(f"a chunk of {size} bytes")
            end = line_end + 2 + size
            if end + 2 > size_of_data:
                break
            at = end + 2
            if not size:
                is_last = True
                break
            pieces.append(data[line_end + 2 : end])
        self._buffer = data[at:]
        if pieces and self.exchange is not None:
            self.exchange.on_data(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if is_last:
            self._finish()

    def _read_plain(self, data: bytes) -> None:
        if data and self.exchange is not None:
            self.exchange.on_data(data)
        if self._left is not None:
            self._left -= len(data)
            if self._left <= 0:
                self._finish()

    def _finish(self) -> None:
        exchange, self.exchange = self.exchange, None
        self.idle_since = asyncio.get_running_loop().time()
        if exchange is not None and not exchange.done.done():
            exchange.done.set_result(None)

    def _fail(self, problem: Exception) -> None:
        self.is_reusable = False
        exchange, self.exchange = self.exchange, None
        if exchange is not None and not exchange.done.done():
            exchange.done.set_exception(problem)
        self.close()

    def connection_lost(self, problem: Exception | None) -> None:
        self.is_reusable = False
        reads_to_end = not self._in_head and not self._is_chunked and self._left is None
        if self.exchange is not None and reads_to_end and problem is None:
            self._finish()
        else:
            self._fail(BadAnswer(str(problem) if problem else "the connection was closed"))

    def close(self) -> None:
        if self.transport is not None:
            self.transport.close()


class HttpStream:
    """Client for requests to one host. keep: reuse idle connections."""

    def __init__(
        self,
        url: str,
        *,
        keep: bool,
        timeout_s: float,
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._path = parts.path.rstrip("/")
        fields = {
            "host": parts.netloc.rpartition("@")[2],
            "content-type": "application/json",
            "accept": "text/event-stream",
            "connection": "keep-alive" if keep else "close",
            **headers,
        }
        self._fields = "".join(f"{name}: {value}\r\n" for name, value in fields.items()) + "\r\n"
        self._keep = keep
        self._timeout_s = timeout_s
        self._free: list[StreamConnection] = []
        self._incoming = memoryview(bytearray(_READ_BYTES))
        self._loop = asyncio.get_running_loop()

    async def post(self, path: str, body: bytes, on_data: OnData) -> int:
        """Send a JSON body, pass the answer's body to `on_data` as it arrives, return the status.

        Raises OSError or BadAnswer, and TimeoutError after the time limit.
        """
        head = f"POST {self._path}{path} HTTP/1.1\r\ncontent-length: {len(body)}\r\n{self._fields}"
        exchange = Exchange(on_data)
        connection = self._take() or await self._connect()
        timer = self._loop.call_later(self._timeout_s, _expire, exchange)
        try:
            connection.begin(exchange, head.encode() + body)
            await exchange.done
        except BaseException:
            connection.close()
            raise
        finally:
            timer.cancel()
        if self._keep and connection.is_reusable:
            self._free.append(connection)
        else:
            connection.close()
        return exchange.status

    def close(self) -> None:
        for connection in self._free:
            connection.close()
        self._free.clear()

    def _take(self) -> StreamConnection | None:
        oldest = self._loop.time() - _IDLE_S
        while self._free:
            connection = self._free.pop()
            if connection.is_reusable and connection.idle_since > oldest:
                return connection
            connection.close()
        return None

    async def _connect(self) -> StreamConnection:
        _, connection = await asyncio.wait_for(
            self._loop.create_connection(
                lambda: StreamConnection(self._incoming), self._host, self._port
            ),
            self._timeout_s,
        )
        return connection


def _expire(exchange: Exchange) -> None:
    with suppress(asyncio.InvalidStateError):
        exchange.done.set_exception(asyncio.TimeoutError("no complete answer in time"))
