"""Hosts as people, Slurm and URLs write them: loopback, wildcards, IPv6, host lists. Pure."""

import ipaddress
import re

LOOPBACK = "127.0.0.1"
LOOPBACK_NAMES = (LOOPBACK, "localhost", "::1")
_RANGES = re.compile(r"\[(\d+(?:-\d+)?(?:,\d+(?:-\d+)?)*)\]")
_MOST_HOSTS = 10_000
_HERE = {"0.0.0.0": LOOPBACK, "::": "::1", "": LOOPBACK}  # wildcard -> where one reaches it


def bare(host: str) -> str:
    """The host without the brackets that URLs put around IPv6."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def in_url(host: str) -> str:
    """The host as it stands before a port: IPv6 in brackets."""
    return f"[{bare(host)}]" if ":" in bare(host) else host


def is_wildcard(host: str) -> bool:
    """True for a host that stands for every address of a machine."""
    return bare(host) in _HERE


def is_loopback(host: str) -> bool:
    """True where only this machine reaches a server at `host`."""
    if bare(host) == "localhost":
        return True
    try:
        return ipaddress.ip_address(bare(host)).is_loopback
    except ValueError:
        return False


def is_endpoint(text: str) -> bool:
    """True for HOST:PORT, with IPv6 in brackets."""
    host, _, port = text.rpartition(":")
    is_host = bool(host) and "/" not in host and (":" not in host or host.startswith("["))
    return is_host and port.isdecimal() and 1 <= int(port) <= 65535


def reachable_in_url(host: str) -> str:
    """The address, as it stands in a URL, at which this machine reaches a server on `host`."""
    return in_url(_HERE.get(bare(host), host))


def expanded(hosts: str) -> tuple[str, ...]:
    """The hosts that Slurm's short form means: node[01-03,07] is four; any other name is one.

    Raises ValueError for ranges that end before they begin, or of more than 10,000 hosts.
    """
    ranges = _RANGES.search(hosts)
    if ranges is None:
        return (hosts,)
    before, after = hosts[: ranges.start()], expanded(hosts[ranges.end() :])
    numbers = [one for part in ranges[1].split(",") for one in _numbers(part)]
    if len(numbers) * len(after) > _MOST_HOSTS:
        raise ValueError(f"means more than {_MOST_HOSTS:,} hosts")
    return tuple(f"{before}{number}{rest}" for number in numbers for rest in after)


def _numbers(part: str) -> tuple[str, ...]:
    first, _, last = part.partition("-")
    begin, end = int(first[-9:]), int((last or first)[-9:])
    if not begin <= end <= begin + _MOST_HOSTS:
        raise ValueError(f"has the range {part}")
    return tuple(str(number).zfill(len(first)) for number in range(begin, end + 1))
