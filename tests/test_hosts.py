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


@pytest.mark.parametrize(
    ("written", "names"),
    [
        ("node7", ["node7"]),
        ("node[01-03,07]", ["node01", "node02", "node03", "node07"]),
        ("r[1-2]-gpu[9-10]", ["r1-gpu9", "r1-gpu10", "r2-gpu9", "r2-gpu10"]),
        ("[::1]", ["[::1]"]),
        ("node[]", ["node[]"]),
        ("node[a-c]", ["node[a-c]"]),
    ],
)
def test_the_short_form_of_slurm_means_its_hosts(written: str, names: list[str]) -> None:
    assert list(hosts.expanded(written)) == names


@pytest.mark.parametrize("written", ["n[5-1]", "n[1-999999999]", "n[0-9999][0-9999]"])
def test_a_list_of_too_many_hosts_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match="has the range|more than 10,000"):
        hosts.expanded(written)
