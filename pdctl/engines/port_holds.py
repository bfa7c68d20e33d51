"""Hold ports between their choice and the moment their server listens.

A socket that is bound with SO_REUSEADDR and does not listen lets a server that sets it too bind
and listen, and refuses one that does not: so another pdctl, of whatever user, sees the port held.
"""

import socket
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager

from pdctl.deployment.records import ProcessSpec


def is_held(port: int) -> bool:
    """Whether somebody has this port, although a server might still be able to listen on it.

    True too for a minute after a server closed connections there.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return True
    return False


@contextmanager
def holding(specs: Iterable[ProcessSpec]) -> Iterator[None]:
    """Hold the HTTP and bootstrap ports of these processes while the block runs.

    Ignores: ports of NCCL, torch and the router's metrics, whose servers may not share a port.
    """
    with ExitStack() as sockets:
        for spec in specs:
            for port in (spec.port, spec.bootstrap_port):
                if port is not None:
                    _hold(port, sockets)
        yield


def _hold(port: int, sockets: ExitStack) -> None:
    held = sockets.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        held.bind(("", port))
    except OSError:
        return  # it was taken just now: its engine will say so
