"""Hosts as people and URLs write them: loopback, wildcards, IPv6 in brackets. Pure."""

import ipaddress

LOOPBACK = "127.0.0.1"
LOOPBACK_NAMES = (LOOPBACK, "localhost", "::1")
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
