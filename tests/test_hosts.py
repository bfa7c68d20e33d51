"""Loopback, wildcards and brackets, in one place."""

import pytest

from pdctl import hosts


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.1.1", "localhost", "::1", "[::1]"])
def test_hosts_that_only_this_machine_reaches(host: str) -> None:
    assert hosts.is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "node-1", ""])
def test_hosts_that_others_reach(host: str) -> None:
    assert not hosts.is_loopback(host)


@pytest.mark.parametrize(
    ("host", "in_url"),
    [
        ("0.0.0.0", "127.0.0.1"),
        ("::", "[::1]"),
        ("[::]", "[::1]"),
        ("::1", "[::1]"),
        ("[::1]", "[::1]"),
        ("10.0.0.1", "10.0.0.1"),
        ("node-1", "node-1"),
    ],
)
def test_where_this_machine_reaches_a_server(host: str, in_url: str) -> None:
    assert hosts.reachable_in_url(host) == in_url
