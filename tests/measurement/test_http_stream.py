"""HTTP framing of answers that arrive byte by byte."""

import pytest

from pdctl.measurement.http_stream import BadAnswer, Exchange, StreamConnection
from tests.engines.sim.engines import run

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
CHUNKED = HEAD + b"5\r\nhello\r\n7;x=y\r\n, world\r\n0\r\n\r\n"
PLAIN = b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nwait"


def feed(pieces: list[bytes], *, closes: bool = False) -> tuple[Exchange, bytes]:
    """Feed an answer in pieces; return the data that the connection passed on."""
    buffer = memoryview(bytearray(1024))
    connection = StreamConnection(buffer)
    got: list[bytes] = []
    connection.exchange = exchange = Exchange(got.append)
    for piece in pieces:
        connection.get_buffer(-1)[: len(piece)] = piece
        connection.buffer_updated(len(piece))
    if closes:
        connection.connection_lost(None)
    return exchange, b"".join(got)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize(
    ("answer", "status", "body"), [(CHUNKED, 200, b"hello, world"), (PLAIN, 503, b"wait")]
)
def test_an_answer_is_the_same_however_it_is_cut(
    size: int, answer: bytes, status: int, body: bytes
) -> None:
    async def test() -> None:
        pieces = [answer[at : at + size] for at in range(0, len(answer), size)]
        exchange, got = feed(pieces)
        assert (exchange.status, got, exchange.done.done()) == (status, body, True)

    run(test)


def test_a_body_without_a_length_ends_with_the_connection() -> None:
    async def test() -> None:
        exchange, got = feed([b"HTTP/1.0 200 OK\r\n\r\n", b"all ", b"of it"], closes=True)
        assert (got, exchange.done.done()) == (b"all of it", True)
        await exchange.done

    run(test)


@pytest.mark.parametrize("answer", [CHUNKED[:-6], PLAIN[:-1], b"HTTP/1.1 200"])
def test_an_answer_cut_off_is_an_error(answer: bytes) -> None:
    async def test() -> None:
        exchange, _ = feed([answer], closes=True)
        with pytest.raises(BadAnswer):
            await exchange.done

    run(test)


@pytest.mark.parametrize(
    "answer", [b"SSH-2.0\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n", HEAD + b"zz\r\n", HEAD + b"-4\r\n"]
)
def test_an_answer_that_is_not_http_is_an_error(answer: bytes) -> None:
    async def test() -> None:
        exchange, _ = feed([answer])
        with pytest.raises(BadAnswer):
            await exchange.done

    run(test)
