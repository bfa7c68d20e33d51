"""A deployment that is nobody else's business: its own name, and a router on a free port."""

import os
import socket
from dataclasses import replace

from pdctl.deployment.records import Deployment


def private(deployment: Deployment, purpose: str) -> Deployment:
    """`deployment` so that it runs beside any other: PURPOSE-PID on a port nobody listens on."""
    router = replace(deployment.router, host="127.0.0.1", port=free_port())
    return replace(deployment, name=f"{purpose}-{os.getpid()}", router=router)


def free_port() -> int:
    """A port nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
