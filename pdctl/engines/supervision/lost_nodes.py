"""Rules for nodes that have left the network: whose engines start again on other nodes. Pure."""

from collections.abc import Mapping

from pdctl.deployment.records import ProcessSpec
from pdctl.engines.supervision.model import Desired, LostNode, Observed, Process, SupervisorLimits


def lost_nodes(
    before: Mapping[str, LostNode], processes: Mapping[str, Process], now: float
) -> dict[str, LostNode]:
    """The lost nodes, with those that running processes have lost touch with since."""
    cut_off = (p.spec for p in processes.values() if p.is_cut_off)
    return {spec.node: LostNode(spec, now) for spec in cut_off} | dict(before)


def nodes_to_leave(
    desired: Desired, observed: Observed, now: float, limits: SupervisorLimits
) -> tuple[str, ...]:
    """Lost nodes whose engines are due to start elsewhere.

    None while the deployment starts or stops. None if more than half of its nodes seem lost: then
    the supervisor's own node is the likelier one to be cut off. Ignores: the router, whose address
    clients know.
    """
    if not observed.was_ready or desired.stop:
        return ()
    engines = [spec for spec in desired.specs if spec.role != "router"]
    used = {node for spec in engines for node in nodes_of(spec)}
    lost = used & observed.lost.keys()
    if 2 * len(lost) > len(used):
        return ()
    late = {n for n in lost if now - observed.lost[n].since >= limits.move_after_s}
    return tuple(sorted(late))


def nodes_of(spec: ProcessSpec) -> tuple[str, ...]:
    """Every node that an engine runs on."""
    return (spec.node, *(follower.node for follower in spec.followers))
