"""The free GPUs of a Slurm job, of all of Slurm, or of a Ray cluster, as a plan takes them."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from pdctl.deployment.cluster_file import ClusterFile
from pdctl.deployment.placement.places import gpu_domains
from pdctl.engines.launchers import slurm_commands
from pdctl.engines.launchers.each_node import of_each
from pdctl.engines.launchers.protocol import Nodes
from pdctl.engines.launchers.registry import SLURM, launcher_named
from pdctl.engines.lifecycle.node_hardware import with_owners
from pdctl.engines.lifecycle.place import cluster_place, told_domains
from pdctl.errors import EnvironmentProblem
from pdctl.inspection.cluster import cluster_of_nodes, gpus_of_each
from pdctl.inspection.gpus import is_free, rdma_bytes_per_s_per_gpu
from pdctl.inspection.records import Cluster, Gpu

SLURM_ITSELF = "Slurm"
_ONE_KIND = {SLURM_ITSELF: "gpu_type: h200 under slurm: in cluster.yaml, for `plan` and for `up`"}
NodeGpus = Mapping[str, tuple[Gpu, ...]]


@dataclass(frozen=True)
class FreeGpus:
    """The GPUs that a plan takes. notes: sentences about those that it leaves out, and NVLink."""

    cluster: Cluster
    notes: tuple[str, ...] = ()


def find_free_gpus(on: str, settings: ClusterFile) -> FreeGpus:
    """The free GPUs of the cluster that `--on` names, as far as `up` would use them.

    Inside a Slurm job and on Ray every node looks at its own GPUs. Outside a job Slurm tells which
    GPUs no job has, and nobody knows the RDMA rate.
    Raises InvalidInput for another place, EnvironmentProblem without free GPUs of one known kind.
    """
    place = cluster_place(on)
    if place == SLURM:
        return _outside_a_job(settings)
    launcher = launcher_named(place)
    found = of_each(launcher.nodes(), lambda node: _gpus(launcher, node))
    rdma = {
        node: rdma_bytes_per_s_per_gpu(launcher.rdma_ports(node), len(gpus))
        for node, gpus in found.items()
        if gpus
    }
    where = "this Slurm job" if on == SLURM else "this Ray cluster"
    told = told_domains(launcher, settings)
    return _as_used(with_owners(found), rdma, told, settings, where)


def _outside_a_job(settings: ClusterFile) -> FreeGpus:
    slurm = settings.slurm
    free = {
        node: tuple(
            Gpu(index, slurm.gpu_type or kind, "", None, None)
            for kind, number in kinds.items()
            if slurm.gpu_type in (None, kind) or not kind
            for index in range(number)
        )
        for node, kinds in slurm_commands.free_kinds(
            slurm.partition, is_exclusive=slurm.exclusive
        ).items()
    }
    if any(not gpu.name for gpus in free.values() for gpu in gpus):
        raise EnvironmentProblem(
            "Slurm does not say of which kind its free GPUs are.",
            hint="gpu_type: h200 under slurm: in cluster.yaml, or --gpus 2x8xH200",
            code="unknown_gpu",
        )
    # from outside `up` asks for several nodes of a domain only where NVLink surely joins them, and
    # nobody there knows which GPUs of one node it joins
    is_sure = settings.rdma.mnnvl or settings.place != "domain"
    told = {**slurm_commands.domains(slurm.domain), **settings.domains} if is_sure else {}
    domains = {node: told.get(node, node) for node in free}
    job = _one_job(free, settings.gpus_per_node)
    used = _as_used(job, {}, domains, settings, SLURM_ITSELF)
    left = gpus_of_each({node: gpus[len(job.get(node, ())) :] for node, gpus in free.items()})
    note = (
        f"One job has {settings.gpus_per_node} GPUs of each node (gpus_per_node in cluster.yaml) "
        f"or some of one node; also free: {left}."
    )
    return replace(used, notes=(*used.notes, note)) if left else used


def _one_job(free: NodeGpus, per_node: int) -> dict[str, tuple[Gpu, ...]]:
    """The GPUs that one job can have at once: whole nodes, or those of the emptiest node."""
    whole = {node: gpus[:per_node] for node, gpus in free.items() if len(gpus) >= per_node}
    most = max(free, key=lambda node: len(free[node]), default="")
    return whole or ({most: free[most]} if most else {})


def _as_used(
    found: NodeGpus,
    rdma: Mapping[str, float | None],
    told: Mapping[str, str],
    settings: ClusterFile,
    where: str,
) -> FreeGpus:
    """The free ones of these GPUs, of one NVLink domain where cluster.yaml asks for one."""
    free, domains, notes = _free(found), gpu_domains(found, told), []
    cluster = cluster_of_nodes(free, rdma, where=where, hint=_ONE_KIND.get(where))
    if settings.place == "domain" and len(domains) > 1:
        best = max(domains, key=lambda name: sum(map(len, _free(domains[name]).values())))
        found = {node: tuple(gpus) for node, gpus in domains[best].items()}
        left = gpus_of_each({n: [g for g in free[n] if g not in found.get(n, ())] for n in free})
        notes = [f"Takes one NVLink domain, {best} (place: domain); also free: {left or 'none'}."]
        free, domains = _free(found), gpu_domains(found, dict.fromkeys(found, best))
        cluster = cluster_of_nodes(free, rdma, where=where)
    # an engine is divided among machines by all GPUs that they have
    cluster = replace(cluster, largest_host=max(map(len, found.values())))
    if settings.place == "spread":
        notes.append("place: spread: `up` refuses a layout where one lost node would end a role.")
    joined, about = _joined(cluster, free, domains, is_sure=settings.rdma.mnnvl)
    return FreeGpus(joined, (*notes, *about))


def _joined(
    cluster: Cluster,
    free: NodeGpus,
    domains: Mapping[str, Mapping[str, Sequence[Gpu]]],
    *,
    is_sure: bool,
) -> tuple[Cluster, tuple[str, ...]]:
    """The cluster with domains as nodes where NVLink joins their nodes, and a sentence about it.

    is_sure: cluster.yaml says that it does; otherwise the drivers must.
    """
    shared = {name: nodes for name, own in domains.items() if len(nodes := _with_free(own)) > 1}
    racks = {
        name: nodes
        for name, nodes in shared.items()
        if is_sure or _is_one_fabric(domains[name].values())
    }
    if racks:
        about = (f"NVLink joins the nodes of a domain: {_listed(racks)}.",)
        return _in_racks(cluster, free, racks), about
    sure = "count as joined by NVLink only with rdma: {mnnvl: true} in cluster.yaml"
    about = (f"The nodes of an NVLink domain ({_listed(shared)}) {sure}.",)
    return cluster, about if shared else ()


def _free(nodes: Mapping[str, Sequence[Gpu]]) -> dict[str, tuple[Gpu, ...]]:
    return {node: tuple(filter(is_free, gpus)) for node, gpus in nodes.items()}


def _with_free(nodes: Mapping[str, Sequence[Gpu]]) -> list[str]:
    return [node for node, gpus in _free(nodes).items() if gpus]


def _listed(domains: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{name} has {', '.join(nodes)}" for name, nodes in domains.items())


def _is_one_fabric(nodes: Iterable[Sequence[Gpu]]) -> bool:
    """True if the drivers of all these nodes name the same NVLink fabric."""
    fabrics = {gpu.fabric for gpus in nodes for gpu in gpus}
    return len(fabrics) == 1 and "" not in fabrics


def _in_racks(cluster: Cluster, free: NodeGpus, racks: Mapping[str, Sequence[str]]) -> Cluster:
    """The cluster with each of these racks as one node."""
    rack_of = {node: rack for rack, nodes in racks.items() for node in nodes}
    sizes: Counter[str] = Counter()
    for node, gpus in free.items():
        sizes[rack_of.get(node, node)] += len(gpus)
    hosts = tuple(sorted(filter(None, map(len, free.values())), reverse=True))
    num_nodes = sum(size > 0 for size in sizes.values())
    return replace(cluster, num_nodes=num_nodes, gpus_per_node=max(sizes.values()), hosts=hosts)


def _gpus(launcher: Nodes, node: str) -> tuple[Gpu, ...]:
    """The GPUs of a node; none on one without a driver, as the head of a Ray cluster often is."""
    try:
        return launcher.gpus(node)
    except EnvironmentProblem as problem:
        if problem.code == "no_gpu":
            return ()
        raise
