"""Loopback and wildcard addresses: the one place that spells them."""

import re

LOOPBACK = "127.0.0.1"
LOOPBACK_NAMES = (LOOPBACK, "localhost", "::1")
_IPV4_LOOPBACK = re.compile(r"127(\.\d{1,3}){3}")
# an address that means every interface -> the loopback address that reaches such a server
_WILDCARDS = {"0.0.0.0": LOOPBACK, "::": "::1", "": LOOPBACK}


def is_loopback(host: str) -> bool:
    """True if only this machine reaches a server that listens on `host`."""
    bare = host.strip("[]")
    return bare in LOOPBACK_NAMES or bool(_IPV4_LOOPBACK.fullmatch(bare))


def reachable(host: str) -> str:
    """The host part of a URL with which this machine reaches a server that listens on `host`."""
    bare = host.strip("[]")
    here = _WILDCARDS.get(bare, bare)
    return f"[{here}]" if ":" in here else here
