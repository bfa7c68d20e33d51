"""The free GPUs of a Slurm job, of all of Slurm, or of a Ray cluster, as a plan takes them."""

from collections.abc import Mapping

from pdctl.deployment.cluster_file import ClusterFile
from pdctl.engines.launchers import slurm_commands
from pdctl.engines.launchers.each_node import of_each
from pdctl.engines.launchers.protocol import Nodes
from pdctl.engines.launchers.registry import SLURM, launcher_named
from pdctl.engines.lifecycle.place import cluster_place
from pdctl.errors import EnvironmentProblem
from pdctl.inspection.cluster import cluster_of_nodes
from pdctl.inspection.gpus import is_free, rdma_bytes_per_s_per_gpu
from pdctl.inspection.records import Cluster, Gpu


def free_cluster(on: str, settings: ClusterFile) -> Cluster:
    """The free GPUs of the cluster that `--on` names; equal nodes, as many GPUs as that allows.

    Inside a Slurm job and on Ray every node looks at its own GPUs. Outside a job Slurm tells which
    GPUs no job has, and nobody knows the RDMA rate.
    Raises InvalidInput for another place, EnvironmentProblem without free GPUs of one known kind.
    """
    place = cluster_place(on)
    if place != SLURM:
        where = "this Slurm job" if on == SLURM else "this Ray cluster"
        return _as_nodes_see(launcher_named(place), where)
    slurm = settings.slurm
    free = {
        node: tuple(
            Gpu(index, slurm.gpu_type or kind, "", None, None)
            for kind, number in kinds.items()
            if slurm.gpu_type in (None, kind) or not kind
            for index in range(number)
        )
        for node, kinds in slurm_commands.free_kinds(slurm.partition).items()
    }
    if any(not gpu.name for gpus in free.values() for gpu in gpus):
        raise EnvironmentProblem(
            "Slurm does not say of which kind its free GPUs are.",
            hint="gpu_type: h200 under slurm: in cluster.yaml, or --gpus 2x8xH200",
            code="unknown_gpu",
        )
    return cluster_of_nodes(free, {}, where="Slurm")


def _as_nodes_see(launcher: Nodes, where: str) -> Cluster:
    names = launcher.nodes()
    found = of_each(names, lambda node: _gpus(launcher, node))
    rdma = {
        node: rdma_bytes_per_s_per_gpu(launcher.rdma_ports(node), len(gpus))
        for node, gpus in found.items()
        if gpus
    }
    return cluster_of_nodes(_free(found), rdma, where=where)


def _gpus(launcher: Nodes, node: str) -> tuple[Gpu, ...]:
    """The GPUs of a node; none on one without a driver, as the head of a Ray cluster often is."""
    try:
        return launcher.gpus(node)
    except EnvironmentProblem as problem:
        if problem.code == "no_gpu":
            return ()
        raise


def _free(found: Mapping[str, tuple[Gpu, ...]]) -> dict[str, tuple[Gpu, ...]]:
    return {node: tuple(filter(is_free, gpus)) for node, gpus in found.items()}
