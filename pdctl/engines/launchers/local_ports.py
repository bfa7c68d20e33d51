"""Ports of this machine: free, held for a server, or claimed from other pdctl commands."""

import socket
from contextlib import ExitStack


def can_bind(port: int, *, shares: bool) -> bool:
    """True if a server can bind this port. shares: it sets SO_REUSEADDR."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        if shares:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def claim(port: int, sockets: ExitStack) -> None:
    """Keep other pdctl commands from choosing a port. The claim leaves the port itself alone."""
    try:
        sockets.enter_context(socket.socket(socket.AF_UNIX)).bind(_claim_address(port))
    except OSError:
        return  # claimed a moment ago; the server will report it


def is_claimed(port: int) -> bool:
    """True if another pdctl command has claimed this port."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.bind(_claim_address(port))
        except OSError:
            return True
    return False


def _claim_address(port: int) -> str:
    """An abstract socket address: one per network namespace, as ports are."""
    return f"\0pdctl-port-{port}"


def hold(port: int, sockets: ExitStack) -> None:
    """Occupy a port without listening. A server that sets SO_REUSEADDR can still bind it."""
    held = sockets.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        held.bind(("", port))
    except OSError:
        return  # taken a moment ago; the engine will report it
