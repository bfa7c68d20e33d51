"""GET from servers that behave, and from those that do not."""

import socket

import pytest

from pdctl.engines.clients.http import MAX_BODY_BYTES, Connection, GetFailed, first_event, request
from tests.status.servers import pages_server, raw_server


def get(url: str, path: str = "/x", timeout_s: float = 2.0) -> tuple[int, bytes]:
    connection = Connection(url)
    try:
        return connection.get(path, timeout_s)
    finally:
        connection.close()


def test_a_page_is_read_again_and_again_over_one_connection() -> None:
    with pages_server({"/x": (200, b"abc"), "/y": (503, b"")}) as url:
        connection = Connection(url)
        assert connection.get("/x?a=b", 2.0) == (200, b"abc")
        first = connection._socket
        assert connection.get("/y", 2.0) == (503, b"")
        assert connection.get("/z", 2.0)[0] == 404
        assert connection._socket is first
        connection.close()


def test_a_kept_connection_that_the_server_closed_is_opened_anew() -> None:
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
    with raw_server(answer, answer) as url:
        connection = Connection(url)
        assert connection.get("/", 2.0) == (200, b"ok")
        assert connection.get("/", 2.0) == (200, b"ok")
        connection.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nabcde",
        b"HTTP/1.0 200\r\nContent-Length: 5\r\nConnection: close\r\n\r\nabcde",
    ],
    ids=["chunked", "until closed", "1.0"],
)
def test_a_body_is_read_however_its_length_is_told(answer: bytes) -> None:
    with raw_server(answer) as url:
        assert get(url) == (200, b"abcde")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "connection was closed"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc", "connection was closed"),
        (b"garbage\r\n\r\n", "no HTTP answer"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n", "unreadable"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", "over 8 MiB"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (MAX_BODY_BYTES + 1), "over 8 MiB"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", "unreadable"),
        (b"HTTP/1.1 200 OK\r\n" + b"a" * 200_000, "unreadable"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"a" * (MAX_BODY_BYTES + 1), "over 8 MiB"),
    ],
)
def test_an_answer_that_is_none_says_why(answer: bytes, reason: str) -> None:
    with raw_server(answer) as url, pytest.raises(GetFailed, match=reason):
        get(url)


def test_a_server_that_dribbles_is_given_up_in_time() -> None:
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n" + b"a" * 1000
    with raw_server(answer, pause_s=0.02) as url, pytest.raises(GetFailed, match="in time"):
        get(url, timeout_s=0.2)


def test_nobody_there_is_said_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(GetFailed, match="connection refused"):
        get(f"http://127.0.0.1:{port}")


def test_the_api_key_is_sent_when_it_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PDCTL_API_KEY", "much-secret")
    assert "Authorization: Bearer much-secret" in Connection("http://h:1")._headers
    monkeypatch.delenv("PDCTL_API_KEY")
    assert "Authorization" not in Connection("http://h:1")._headers


def test_what_was_to_be_encrypted_never_goes_out_in_the_clear() -> None:
    """The key of an API is among it."""
    with pages_server({"/x": (200, b"abc")}) as url:
        assert request("GET", f"{url}/x", timeout_s=2.0) == (200, b"abc")
        secret = url.replace("http:", "https:")
        assert request("GET", f"{secret}/x", timeout_s=2.0) is None
        assert first_event(f"{secret}/x", {}, timeout_s=2.0) is None
