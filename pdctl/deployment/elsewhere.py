"""Expand a deployment for machines that pdctl cannot inspect, such as those of an export."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pdctl.deployment.cluster_file import ClusterFile, on_cluster
from pdctl.deployment.expand import expand
from pdctl.deployment.placement.places import Place, wanted_places
from pdctl.deployment.placement.policy import NoRoom, Unplaced, choose_nodes
from pdctl.deployment.ports import (
    BOOTSTRAP_FROM,
    DIST_INIT_FROM,
    HTTP_FROM,
    NCCL_FROM,
    ROUTER_METRICS_FROM,
    plan_ports,
)
from pdctl.deployment.ranks import with_followers
from pdctl.deployment.records import Deployment, PlacePolicy, Ports, ProcessSpec
from pdctl.deployment.resources import NEEDS, choose_backend
from pdctl.errors import InvalidInput
from pdctl.inspection.records import Cluster, SglangInstall

ASSUMED_SGLANG = "0.5.23"
LOGS = Path("logs")  # exports choose their own


@dataclass(frozen=True)
class Elsewhere:
    """A deployment expanded for nodes "0", "1", ... that nobody has looked at.

    specs: router first. notes: what was assumed, in sentences. kinds: of nodes.
    """

    deployment: Deployment
    specs: tuple[ProcessSpec, ...]
    num_nodes: int
    notes: tuple[str, ...]
    kinds: "tuple[NodeKind, ...]" = ()


def expand_on_nodes(
    deployment: Deployment,
    cluster: ClusterFile,
    *,
    address_of: Callable[[int], str],
    python: str,
    version: str = ASSUMED_SGLANG,
) -> Elsewhere:
    """Every process of a deployment on as few nodes as hold it, engines spread over them.

    Args:
        address_of: the address of a node as the export writes it.
        python: the interpreter of pdctl there.
        version: of SGLang there.

    Raises:
        InvalidInput: an engine cannot be divided equally among nodes, or cannot run.
    """
    deployment = on_cluster(deployment, cluster)
    kinds = node_kinds(deployment, cluster)
    packed = {name: place for kind in kinds for name, place in kind.places.items()}
    num_nodes = sum(kind.num_nodes for kind in kinds)
    addresses = {str(i): address_of(i) for i in range(num_nodes)}
    install, backend, notes = _assumed(deployment, version)
    specs = expand(
        deployment,
        gpus={name: place.gpus for name, place in packed.items()},
        ports=plan_ports(deployment, lambda port: True),
        log_dir=LOGS,
        install=install,
        backend=backend,
        pdctl_python=python,
        nodes={"router": "0", **{name: place.node for name, place in packed.items()}},
        addresses=addresses,
    )
    engines = (with_followers(spec, packed[spec.name].others, addresses) for spec in specs[1:])
    return Elsewhere(deployment, (specs[0], *engines), num_nodes, notes, kinds)


def expand_on_machine(
    deployment: Deployment, cluster: Cluster, *, version: str = ASSUMED_SGLANG
) -> Elsewhere:
    """Every process of a deployment on one machine with these GPUs, which need not be this one.

    Raises:
        InvalidInput: it needs more GPUs than the machine has, or cannot run.
    """
    have, need = cluster.gpus_per_node, deployment.num_gpus
    if need > have:
        raise InvalidInput(
            f"{deployment.layout} needs {need} GPUs, but a shell script starts one machine, which "
            f"has {have} × {cluster.gpu.name}.",
            hint="pdctl render slurm or k8s for several",
        )
    alone = ClusterFile(gpus_per_node=have)
    install, backend, notes = _assumed(
        deployment, version, rdma=False, nvlink=cluster.gpu.peer_bytes_per_s is not None
    )
    specs = expand(
        deployment,
        gpus={name: place.gpus for name, place in pack(deployment, alone).items()},
        ports=plan_ports(deployment, lambda port: True),
        log_dir=LOGS,
        install=install,
        backend=backend,
        pdctl_python="python3",
    )
    return Elsewhere(deployment, specs, 1, notes)


def expand_in_pods(
    deployment: Deployment, cluster: ClusterFile, *, address: str, version: str = ASSUMED_SGLANG
) -> Elsewhere:
    """A deployment whose every engine is alone at its address, so that all have the same ports.

    Raises:
        InvalidInput: it cannot run.
    """
    deployment = on_cluster(deployment, cluster)
    install, backend, notes = _assumed(replace(deployment, python=None, container=None), version)
    names = deployment.engine_names
    engine = Ports(HTTP_FROM, BOOTSTRAP_FROM, NCCL_FROM, DIST_INIT_FROM)
    router = Ports(deployment.router.port, metrics=ROUTER_METRICS_FROM)
    specs = expand(
        deployment,
        gpus=dict.fromkeys(names, (0,)),
        ports={"router": router, **dict.fromkeys(names, engine)},
        log_dir=LOGS,
        install=install,
        backend=backend,
        pdctl_python="python3",
        nodes=dict.fromkeys(("router", *names), "pod"),
        addresses={"pod": address},
    )
    return Elsewhere(deployment, specs, len(names), notes)


@dataclass(frozen=True)
class NodeKind:
    """Nodes of one kind and the part of a deployment that runs there. cluster: of these nodes.

    first: the number of its first node.
    """

    deployment: Deployment
    cluster: ClusterFile
    first: int
    places: Mapping[str, Place]

    @property
    def num_nodes(self) -> int:
        return len({node for place in self.places.values() for node in place.nodes})


def node_kinds(deployment: Deployment, cluster: ClusterFile) -> tuple[NodeKind, ...]:
    """The nodes of a deployment: of one kind, or one kind for prefill and one for decode.

    Raises InvalidInput as `pack`, and for a wish that two kinds of nodes cannot meet.
    """
    roles = deployment.roles
    if len(roles) == 1 or not ({*cluster.role_slurm, *cluster.role_gpus} & {*roles}):
        return (NodeKind(deployment, cluster, 0, pack(deployment, cluster)),)
    if deployment.place == "domain":
        raise InvalidInput(
            "Prefill and decode have nodes of their own in cluster.yaml, and share no NVLink.",
            hint="--place spread, or no slurm: and gpus_per_node: under prefill: and decode:",
        )
    found: list[NodeKind] = []
    for role in roles:
        part = replace(deployment, roles={role: roles[role]})
        first = sum(kind.num_nodes for kind in found)
        places = pack(part, cluster.of_role(role), first=first)
        found.append(NodeKind(part, cluster.of_role(role), first, places))
    return tuple(found)


def pack(deployment: Deployment, cluster: ClusterFile, *, first: int = 0) -> dict[str, Place]:
    """The nodes "0", "1", ... and GPUs of each engine by name, on as few nodes as hold them all.

    The deployment's policy puts them there. An engine with more GPUs than a node has equal parts on
    several. first: the number of the first node.

    Raises:
        InvalidInput: an engine cannot be divided equally, or the policy needs another cluster.
    """
    wanted = wanted_places(deployment, tuple(deployment.engine_names), cluster.gpus_per_node)
    packed = _on_some_nodes(wanted, cluster, sum(engine.num_nodes for engine in wanted), "pack")
    num_nodes = len({node for nodes in packed.values() for node in nodes})
    if deployment.place == "spread" and any(plan.engines > 1 for plan in deployment.roles.values()):
        num_nodes = max(num_nodes, 1 + max(engine.num_nodes for engine in wanted))
    if deployment.place == "domain" and num_nodes > 1 and not cluster.rdma.mnnvl:
        raise InvalidInput(
            f"{deployment.layout} needs {num_nodes} nodes of {cluster.gpus_per_node} GPUs, and "
            "here NVLink reaches no other node.",
            hint="rdma: {mnnvl: true} in cluster.yaml where it does; otherwise --place spread",
        )
    chosen = _on_some_nodes(wanted, cluster, num_nodes, deployment.place)
    return _numbered_gpus(wanted, chosen, first)


def _on_some_nodes(
    wanted: Sequence[Unplaced], cluster: ClusterFile, num_nodes: int, policy: PlacePolicy
) -> dict[str, tuple[str, ...]]:
    free = {str(i): cluster.gpus_per_node for i in range(num_nodes)}
    chosen = choose_nodes(wanted, free, policy=policy)
    if isinstance(chosen, NoRoom):
        raise AssertionError("packing the engines found this number of nodes")
    return chosen


def _numbered_gpus(
    wanted: Sequence[Unplaced], chosen: Mapping[str, tuple[str, ...]], first: int
) -> dict[str, Place]:
    used: Counter[str] = Counter()
    placed = {}
    for engine in wanted:
        parts = []
        for number in sorted(map(int, chosen[engine.name])):
            node = str(first + number)
            parts.append(Place(node, tuple(range(used[node], used[node] + engine.each))))
            used[node] += engine.each
        placed[engine.name] = replace(parts[0], others=tuple(parts[1:]))
    return placed


def _assumed(
    deployment: Deployment, version: str, *, rdma: bool = True, nvlink: bool = False
) -> tuple[SglangInstall | None, str | None, tuple[str, ...]]:
    """SGLang and the KV backend as they should be there, and sentences that say so."""
    if deployment.engine == "sim":
        return None, None, ("Simulated engines.",)
    python = deployment.container.python if deployment.container else deployment.python
    install = SglangInstall(python or "python3", version, tuple(NEEDS.values()), None)
    about = f"Flags are those of SGLang {version}"
    if "prefill" not in deployment.roles:
        return install, None, (f"{about}.",)
    backend, path = choose_backend(
        install, requested=deployment.transfer_backend, rdma=rdma, nvlink=nvlink
    )
    return install, backend, (f"{about}; KV moves by {path} (change it with --transfer-backend).",)
