"""The rate at which one node sends to another over TCP.

`python -m pdctl.doctor.tcp_rate` is the part that runs on a node.
"""

import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from pdctl.engines.launchers.protocol import Door, Nodes

STREAMS = 8  # one connection does not fill a fast port
SENDS_FOR_S = 2.0
MEET_WITHIN_S = 10.0
CHUNK = bytes(1 << 20)


def tcp_bytes_per_s(launcher: Nodes, source: str, target: str) -> float:
    """The bytes per second that arrive at `target` while `source` sends on several connections.

    Raises EnvironmentProblem if they do not meet.
    Ignores: RDMA, and what Python cannot move (some GB/s on each core).
    """
    door = (launcher.address(target), launcher.any_free_port(target))
    with ThreadPoolExecutor(1) as other:
        receiver = other.submit(_on, launcher, target, "receive", door)
        sent = _on(launcher, source, "send", door)
        receiver.result()
    return float(sent)


def _on(launcher: Nodes, node: str, do: str, door: Door) -> str:
    argv = (sys.executable, "-m", "pdctl.doctor.tcp_rate", do, door[0], str(door[1]))
    return launcher.run(node, argv, timeout_s=3 * MEET_WITHIN_S)


# on the nodes


def receive(door: Door) -> None:
    """Accept STREAMS connections and read each to its end."""
    with socket.create_server(door, backlog=STREAMS) as server:
        server.settimeout(MEET_WITHIN_S)
        with ThreadPoolExecutor(STREAMS) as each:
            tuple(each.map(_read, [server.accept()[0] for _ in range(STREAMS)]))


def _read(stream: socket.socket) -> None:
    buffer = bytearray(len(CHUNK))
    stream.settimeout(MEET_WITHIN_S)
    with stream:
        while stream.recv_into(buffer):
            pass


def send(door: Door, for_s: float = SENDS_FOR_S) -> float:
    """Send on STREAMS connections; the bytes per second that the other side has read."""
    with ExitStack() as opened:
        streams = [opened.enter_context(_connected(door)) for _ in range(STREAMS)]
        began = time.monotonic()
        with ThreadPoolExecutor(STREAMS) as each:
            sent = sum(each.map(lambda stream: _write(stream, began + for_s), streams))
        return sent / (time.monotonic() - began)


def _connected(door: Door) -> socket.socket:
    """A connection, tried until the receiver listens."""
    deadline = time.monotonic() + MEET_WITHIN_S
    while True:
        try:
            return socket.create_connection(door, timeout=MEET_WITHIN_S)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _write(stream: socket.socket, until: float) -> int:
    sent = 0
    while time.monotonic() < until:
        stream.sendall(CHUNK)
        sent += len(CHUNK)
    stream.shutdown(socket.SHUT_WR)
    stream.recv(1)  # the end of the other side: it has read everything
    return sent


def main(do: str, address: str, port: str) -> None:
    """Receive, or send and print the rate."""
    door = (address, int(port))
    if do == "send":
        sys.stdout.write(f"{send(door)}\n")
    else:
        receive(door)


if __name__ == "__main__":
    main(*sys.argv[1:])
