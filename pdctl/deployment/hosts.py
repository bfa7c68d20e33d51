"""Loopback and wildcard addresses: the one place that spells them."""

LOOPBACK = "127.0.0.1"
LOOPBACK_NAMES = (LOOPBACK, "localhost", "::1")
# an address that means every interface -> the loopback address that reaches such a server
_WILDCARDS = {"0.0.0.0": LOOPBACK, "::": "::1", "": LOOPBACK}


def is_loopback(host: str) -> bool:
    """True if only this machine reaches a server that listens on `host`."""
    return host.strip("[]") in LOOPBACK_NAMES


def reachable(host: str) -> str:
    """The host part of a URL with which this machine reaches a server that listens on `host`."""
    bare = host.strip("[]")
    here = _WILDCARDS.get(bare, bare)
    return f"[{here}]" if ":" in here else here
