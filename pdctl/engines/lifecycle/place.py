"""Choose where a deployment runs: this machine, a Slurm job or a Ray cluster; and where there."""

import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

from pdctl.deployment.cluster_file import ClusterFile, cluster_here
from pdctl.deployment.placement.places import (
    GpusByNode,
    Place,
    cautions_of_places,
    place_engines,
)
from pdctl.deployment.records import HERE, Deployment, ProcessSpec
from pdctl.deployment.resources import needs_gpus
from pdctl.engines.launchers import slurm_commands
from pdctl.engines.launchers.protocol import Nodes
from pdctl.engines.launchers.ray import cluster_address, required_address
from pdctl.engines.launchers.registry import LOCAL, RAY, SLURM
from pdctl.errors import EnvironmentProblem, InvalidInput
from pdctl.inspection.gpus import query_gpus, visible_gpus
from pdctl.inspection.records import Gpu
from pdctl.perf_model.records import Role

PLACES = ("auto", LOCAL, SLURM, RAY)


def choose_place(on: str, deployment: Deployment) -> str:
    """The launcher for a deployment; "slurm" alone where a job has to be submitted first.

    auto: this machine, unless it has too few GPUs and the command runs inside a Slurm job or on a
    host of a Ray cluster.

    Raises InvalidInput for an unknown place, EnvironmentProblem where one is wanted and absent.
    """
    if on not in PLACES:
        raise InvalidInput(
            f"--on {on!r} is not a place to run.", hint="--on auto, local, slurm or ray"
        )
    if on == "auto":
        on = _best_place(deployment)
    return LOCAL if on == LOCAL else _of_cluster(on)


def present_nodes(on: str) -> str:
    """The launcher for the nodes that are there now: those of a Slurm job or of a Ray cluster.

    Raises InvalidInput for another place, EnvironmentProblem where there are none.
    """
    launcher = cluster_place(on)
    if launcher == SLURM:
        raise EnvironmentProblem(
            "This shell does not run in a Slurm job.",
            hint="salloc --nodes=2 --gres=gpu:8, then pdctl doctor --on slurm",
            code="no_job",
        )
    return launcher


def cluster_place(on: str) -> str:
    """The launcher for Slurm or Ray; "slurm" alone outside a job. Raises as `choose_place`."""
    if on not in (SLURM, RAY):
        raise InvalidInput(f"--on {on!r} names no nodes.", hint="--on local, slurm or ray")
    return _of_cluster(on)


def _of_cluster(on: str) -> str:
    """The launcher for Slurm, with the job of this shell if there is one, or for Ray."""
    if on == RAY:
        return f"{RAY}:{required_address()}"
    if not slurm_commands.is_available():
        raise slurm_commands.no_slurm()
    job = slurm_commands.current_job()
    return f"{SLURM}:{job}" if job else SLURM


def _best_place(deployment: Deployment) -> str:
    if not needs_gpus(deployment) or deployment.num_gpus <= _num_gpus_here():
        return LOCAL
    if slurm_commands.current_job():
        return SLURM
    return RAY if cluster_address() else LOCAL


def _num_gpus_here() -> int:
    try:
        return len(visible_gpus(query_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES")))
    except EnvironmentProblem:
        return 0


def placed_engines(
    deployment: Deployment,
    held: Sequence[ProcessSpec],
    gpus: Mapping[str, tuple[Gpu, ...]],
    launcher: Nodes,
) -> dict[str, Place]:
    """The place of each engine on these nodes; those of `held` keep theirs.

    Only a cluster's file says how many GPUs pretended nodes have.
    Raises InvalidInput, EnvironmentProblem as `place_engines`.
    """
    if HERE in gpus:
        return place_engines(deployment, held, gpus)
    placed: dict[str, Place] = {}
    domains = told_domains(launcher, cluster_here())
    for part, nodes, cluster in _parts(deployment, launcher, gpus):
        own = {node: gpus[node] for node in nodes if node in gpus}
        if not own:
            raise EnvironmentProblem(
                f"No node of the job's part for {part.layout} is left.",
                hint="squeue --me shows your jobs",
                code="not_enough_gpus",
            )
        pretended = {node: cluster.gpus_of(node) for node in own}
        placed |= place_engines(part, held, own, pretended=pretended, domains=domains)
    return placed


def cautions_there(
    deployment: Deployment, placed: Mapping[str, Place], gpus: GpusByNode, launcher: Nodes
) -> tuple[str, ...]:
    """As `cautions_of_places`, and a sentence where simulated engines take more GPUs than exist."""
    own = cautions_of_places(deployment, placed, gpus)
    if deployment.engine != "sim" or HERE in gpus:
        return own
    used: Counter[str] = Counter()
    for place in placed.values():
        for part in (place, *place.others):
            used[part.node] += len(part.gpus)
    crowded = ", ".join(
        f"{used[node]} of {cluster.gpus_of(node)} on {node}"
        for _, nodes, cluster in _parts(deployment, launcher, gpus)
        for node in nodes
        if used[node] > cluster.gpus_of(node)
    )
    if not crowded:
        return own
    where = "gpus_per_node and hosts of cluster.yaml"
    text = f"Simulated engines take more GPUs than there are, {crowded} ({where}): real ones would"
    return (*own, f"{text} have no room.")


def told_domains(launcher: Nodes, cluster: ClusterFile) -> dict[str, str]:
    """The NVLink domains of nodes that cluster.yaml names, or else Slurm or Ray.

    Other nodes have the domain that their driver names, or one of their own; see `gpu_domains`.
    """
    return {**launcher.domains(), **cluster.domains}


def _parts(
    deployment: Deployment, launcher: Nodes, nodes: Collection[str]
) -> Iterator[tuple[Deployment, Collection[str], ClusterFile]]:
    """The deployment with its nodes and their settings: in parts where roles have their own."""
    cluster, own = cluster_here(), nodes_of_roles(deployment, launcher)
    for role, its_nodes in own.items():
        part = replace(deployment, roles={role: deployment.roles[role]})
        yield part, its_nodes, cluster.of_role(role)
    if not own:
        yield deployment, nodes, cluster


def nodes_of_roles(deployment: Deployment, launcher: Nodes) -> dict[Role, tuple[str, ...]]:
    """The nodes of each role in a heterogeneous job; {} where roles share their nodes."""
    groups, roles = launcher.node_groups(), tuple(deployment.roles)
    return dict(zip(roles, groups, strict=True)) if 1 < len(groups) == len(roles) else {}
