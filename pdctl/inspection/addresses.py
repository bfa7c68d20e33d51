"""The network address on which this machine reaches other machines."""

import socket
from collections.abc import Mapping, Sequence

from pdctl.errors import EnvironmentProblem

# bridges and tunnels of containers and virtual machines: no other machine reaches them
_INTERNAL = ("docker", "br-", "virbr", "veth", "cni", "flannel", "podman", "lxc", "lo")
HINT = "interface: NAME in cluster.yaml"


def own_address(
    interface: str | None,
    peer: str,
    *,
    addresses: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """The IPv4 address of this machine that other machines reach.

    Args:
        interface: its network interface; None: the one on the way to `peer`.
        peer: an address of another machine, or of this one, on that network.
        addresses: the addresses of each interface; this machine's by default.

    Raises:
        EnvironmentProblem: there is no such interface or address, or it is a loopback, link-local
            or container bridge address.
    """
    known = _interfaces() if addresses is None else addresses
    if interface is not None:
        return _of_interface(interface, known)
    found = _towards(peer)
    name = next((name for name, own in known.items() if found in own), "")
    if not _is_reachable(name, found):
        where = f"{name} {found}".strip()
        raise EnvironmentProblem(
            f"the address of {socket.gethostname()} is {where}, which no other host reaches.",
            hint=f"{HINT}; there are {_listed(known)}",
            code="no_address",
        )
    return found


def _of_interface(interface: str, known: Mapping[str, Sequence[str]]) -> str:
    found = [one for one in known.get(interface, ()) if _is_reachable(interface, one)]
    if found:
        return found[0]
    has = "has no address that other hosts reach" if interface in known else "does not exist"
    raise EnvironmentProblem(
        f"interface {interface} {has} on {socket.gethostname()}.",
        hint=f"{HINT}; there are {_listed(known)}",
        code="no_address",
    )


def _is_reachable(interface: str, address: str) -> bool:
    return not (
        interface.startswith(_INTERNAL)
        or address.startswith(("127.", "169.254.", "0."))
        or not address
    )


def _listed(known: Mapping[str, Sequence[str]]) -> str:
    good = (
        f"{name} ({one})" for name, own in known.items() for one in own if _is_reachable(name, one)
    )
    return ", ".join(good) or "none"


def _towards(peer: str) -> str:
    """The source address of packets to `peer`; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((peer, 9))
            return str(probe.getsockname()[0])
        except OSError:
            return ""


def _interfaces() -> Mapping[str, Sequence[str]]:
    import psutil

    return {
        name: [one.address for one in found if one.family == socket.AF_INET]
        for name, found in psutil.net_if_addrs().items()
    }
