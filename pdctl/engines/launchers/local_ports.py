"""Ports of this machine: free, held for a server, or claimed from other pdctl commands."""

import resource
import socket
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from pdctl.deployment.records import ProcessSpec
from pdctl.engines.launchers.protocol import Door
from pdctl.errors import EnvironmentProblem
from pdctl.hosts import LOOPBACK

CONNECT_WITHIN_S = 3.0
MAX_AT_ONCE = 64
MAX_OPEN_FILES = 65535  # as SGLang sets for itself


class Claims:
    """The ports that this process keeps other pdctl commands off, until it ends."""

    def __init__(self) -> None:
        self._sockets: dict[int, ExitStack] = {}

    def keep(self, ports: Collection[int]) -> None:
        """Claim these ports and no others. One that another command has claimed stays its own."""
        for port in self._sockets.keys() - set(ports):
            self._sockets.pop(port).close()
        allow_open_files()
        for port in set(ports) - self._sockets.keys():
            held = ExitStack()
            if claim(port, held):
                self._sockets[port] = held


class LocalPorts:
    """The ports of this machine, as a launcher answers for them."""

    _claims: Claims

    def is_port_free(self, node: str, port: int, *, is_strict: bool = False) -> bool:
        """True if a server can listen on this port, and no other pdctl has claimed it.

        is_strict: also false while the port is held, and for a minute after a server closed
        connections on it.
        """
        if not can_bind(port, shares=True) or is_claimed(port):
            return False
        return not is_strict or can_bind(port, shares=False)

    def claim_ports(self, specs: Sequence[ProcessSpec]) -> None:
        from pdctl.deployment.flags import opened_ports  # `ls` and `status` start sooner without

        opened = (port for spec in specs for ports in opened_ports(spec) for port in ports)
        self._claims.keep(frozenset(opened))

    @contextmanager
    def hold_ports(
        self, node: str, ports: Collection[int], *, unshared: Collection[int] = ()
    ) -> Iterator[None]:
        """Hold ports while the block runs.

        unshared: ports of servers that do not set SO_REUSEADDR, such as the router's metrics.
        Raises EnvironmentProblem if another command has claimed one since it was free.
        """
        allow_open_files()
        with ExitStack() as sockets:
            for port in {*ports, *unshared}:
                if not claim(port, sockets):
                    raise _claimed_meanwhile(port)
            for port in ports:
                hold(port, sockets)
            yield

    def any_free_port(self, node: str) -> int:
        with socket.socket() as probe:
            probe.bind((LOOPBACK, 0))
            return int(probe.getsockname()[1])

    @contextmanager
    def listening(self, node: str, address: str, ports: Collection[int]) -> Iterator[None]:
        with ExitStack() as sockets:
            for port in ports:
                listen(address, port, sockets)
            yield

    def unreached(self, node: str, doors: Collection[Door]) -> tuple[Door, ...]:
        from concurrent.futures import ThreadPoolExecutor  # `ls` and `status` start sooner without

        with ThreadPoolExecutor(MAX_AT_ONCE) as each:
            found = dict(zip(doors, each.map(opens, doors), strict=True))
        return tuple(door for door, is_open in found.items() if not is_open)


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


def allow_open_files() -> None:
    """Let this process have as many descriptors as it may: each port takes one or two."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def claim(port: int, sockets: ExitStack) -> bool:
    """Keep other pdctl commands from choosing a port. The claim leaves the port itself alone.

    False if another one has claimed it.
    """
    try:
        claimed = socket.socket(socket.AF_UNIX)
    except OSError:
        return True  # no descriptor is left, and the port most likely stays free
    try:
        claimed.bind(_claim_address(port))
    except OSError:
        claimed.close()
        return False
    sockets.enter_context(claimed)
    return True


def _claimed_meanwhile(port: int) -> EnvironmentProblem:
    return EnvironmentProblem(
        f"Another pdctl command took port {port} a moment ago.",
        hint="run the command again: it chooses another port",
        code="port_in_use",
    )


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
    try:
        held = sockets.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("", port))
    except OSError:
        return  # taken a moment ago, which the engine will report; or no descriptor is left


def listen(address: str, port: int, sockets: ExitStack) -> None:
    """Listen on a port until `sockets` is closed. Raises EnvironmentProblem if it is taken.

    It accepts nobody: a server that closes an accepted connection could not bind the port again
    for a minute, and the engine that comes next needs it at once.
    """
    server = sockets.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        server.bind((address, port))
        server.listen(socket.SOMAXCONN)
    except OSError as problem:
        raise EnvironmentProblem(
            f"nothing can listen on {address}:{port}: {problem.strerror}.",
            hint="run the command again: it chooses another port",
            code="port_in_use",
        ) from problem


def opens(door: Door, *, within_s: float = CONNECT_WITHIN_S) -> bool:
    """True if a connection from this machine to a door succeeds."""
    try:
        socket.create_connection(door, timeout=within_s).close()
    except OSError:
        return False
    return True
