"""The GPUs and RDMA ports of the nodes, as a deployment that starts may use them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pdctl.deployment.cluster_file import cluster_here
from pdctl.deployment.nics import only_cards
from pdctl.deployment.records import Deployment
from pdctl.deployment.resources import needs_gpus
from pdctl.engines import state
from pdctl.engines.launchers.protocol import Nodes
from pdctl.engines.lifecycle import running
from pdctl.inspection.records import Gpu, RdmaPort


def gpus_of_nodes(
    deployment: Deployment, launcher: Nodes, nodes: Sequence[str]
) -> dict[str, tuple[Gpu, ...]]:
    """The GPUs of every node; those of deployments that are still loading are marked as taken."""
    if not needs_gpus(deployment):
        return dict.fromkeys(nodes, ())
    return with_owners({node: launcher.gpus(node) for node in nodes})


def with_owners(gpus: Mapping[str, tuple[Gpu, ...]]) -> dict[str, tuple[Gpu, ...]]:
    """The GPUs of nodes; those of deployments that are still loading are marked as taken."""
    owners = {
        place: name
        for name in running.names()
        if (launch := state.read_launch(name))
        for spec in (*launch.specs, *launch.leaving)
        if spec.needs_gpus
        for place in spec.gpu_places
    }
    return {
        node: tuple(_owned(gpu, owners.get((node, gpu.index))) for gpu in found)
        for node, found in gpus.items()
    }


def _owned(gpu: Gpu, owner: str | None) -> Gpu:
    if owner is None or gpu.problem is not None:
        return gpu
    return replace(gpu, problem=f"deployment {owner}")


def rdma_of_nodes(
    deployment: Deployment, launcher: Nodes, nodes: Sequence[str]
) -> dict[str, tuple[RdmaPort, ...]]:
    """The RDMA ports of the cards that cluster.yaml names for each node, or of all its cards."""
    if not needs_gpus(deployment):
        return dict.fromkeys(nodes, ())
    cluster = cluster_here()
    return {n: only_cards(launcher.rdma_ports(n), cluster.cards_of(n)) for n in nodes}
