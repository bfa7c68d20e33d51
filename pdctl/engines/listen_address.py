"""The address of this machine that a server listens on, for the host a user named."""

import socket

from pdctl import hosts
from pdctl.errors import InvalidInput

HINT = "--host 127.0.0.1 for this machine only, --host 0.0.0.0 for every interface"


def listen_address(host: str) -> str:
    """`host` as an IP address, IPv6 without brackets; IPv4 first, where a name has both.

    The router takes no names. Raises InvalidInput for a name nobody knows, and for an address
    that this machine does not have.
    """
    name = hosts.bare(host)
    try:
        found = socket.getaddrinfo(name, 0, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise InvalidInput(
            f"--host {host!r} is neither an address nor a name this machine can resolve.",
            hint=HINT,
            code="bad_host",
        ) from None
    for family, _, _, _, address in sorted(found, key=lambda one: one[0] != socket.AF_INET):
        text = str(address[0])
        if "%" not in text and _can_bind(family, text):
            return text
    raise InvalidInput(
        f"--host {host!r} is not an address of this machine.", hint=HINT, code="bad_host"
    )


def _can_bind(family: int, address: str) -> bool:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True
