"""Expand a deployment for machines that pdctl cannot inspect, such as those of an export."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pdctl.deployment.cluster_file import ClusterFile, on_cluster
from pdctl.deployment.expand import expand
from pdctl.deployment.ports import (
    BOOTSTRAP_FROM,
    DIST_INIT_FROM,
    HTTP_FROM,
    NCCL_FROM,
    ROUTER_METRICS_FROM,
    plan_ports,
)
from pdctl.deployment.ranks import with_followers
from pdctl.deployment.records import Deployment, Ports, ProcessSpec
from pdctl.deployment.resources import NEEDS, Place, choose_backend, parts
from pdctl.errors import InvalidInput
from pdctl.inspection.records import Cluster, SglangInstall

ASSUMED_SGLANG = "0.5.23"
LOGS = Path("logs")  # exports choose their own


@dataclass(frozen=True)
class Elsewhere:
    """A deployment expanded for nodes "0", "1", ... that nobody has looked at.

    specs: router first. notes: what was assumed, in sentences.
    """

    deployment: Deployment
    specs: tuple[ProcessSpec, ...]
    num_nodes: int
    notes: tuple[str, ...]


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
    packed = pack(sizes_of(deployment), cluster.gpus_per_node)
    num_nodes = 1 + max(int(place.node) for places in packed.values() for place in places)
    addresses = {str(i): address_of(i) for i in range(num_nodes)}
    install, backend, notes = _assumed(deployment, version)
    specs = expand(
        deployment,
        gpus={name: places[0].gpus for name, places in packed.items()},
        ports=plan_ports(deployment, lambda port: True),
        log_dir=LOGS,
        install=install,
        backend=backend,
        pdctl_python=python,
        nodes={"router": "0", **{name: places[0].node for name, places in packed.items()}},
        addresses=addresses,
    )
    engines = (with_followers(spec, packed[spec.name][1:], addresses) for spec in specs[1:])
    return Elsewhere(deployment, (specs[0], *engines), num_nodes, notes)


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
            f"{deployment.layout} needs {need} GPUs, and one machine of {have} x "
            f"{cluster.gpu.name} has {have}: a shell script starts one machine.",
            hint="pdctl render slurm or k8s for several",
        )
    install, backend, notes = _assumed(
        deployment, version, rdma=False, nvlink=cluster.gpu.peer_bytes_per_s is not None
    )
    specs = expand(
        deployment,
        gpus={name: places[0].gpus for name, places in pack(sizes_of(deployment), have).items()},
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


def pack(sizes: Mapping[str, int], gpus_per_node: int) -> dict[str, tuple[Place, ...]]:
    """The nodes and GPUs of engines, by name, on as few nodes as first fit finds.

    An engine with more GPUs than a node has equal parts on several. Engines are spread over the
    nodes, so that a lost node leaves some engines of each role where there are enough.

    Raises:
        InvalidInput: an engine cannot be divided equally.
    """
    num_nodes = len(_packed(sizes, gpus_per_node, _first_fit, 0)[1])
    try:
        placed, nodes = _packed(sizes, gpus_per_node, _emptiest, num_nodes)
    except IndexError:
        nodes = []
    if len(nodes) != num_nodes:
        placed, nodes = _packed(sizes, gpus_per_node, _first_fit, 0)
    return {name: placed[name] for name in sizes}


Free = list[list[int]]  # the free GPU numbers of each node


def _packed(
    sizes: Mapping[str, int], per_node: int, choose: Callable[[Free, int], list[int]], start: int
) -> tuple[dict[str, tuple[Place, ...]], Free]:
    free: Free = [list(range(per_node)) for _ in range(start)]
    placed: dict[str, tuple[Place, ...]] = {}
    for name in sorted(sizes, key=lambda name: -sizes[name]):
        num, each = parts(name, sizes[name], per_node)
        roomy = choose(free, each)[:num]
        while len(roomy) < num:
            free.append(list(range(per_node)))
            roomy.append(len(free) - 1)
        placed[name] = tuple(Place(str(i), tuple(free[i][:each])) for i in sorted(roomy))
        for i in roomy:
            del free[i][:each]
    return placed, free


def _first_fit(free: Free, each: int) -> list[int]:
    return [i for i, gpus in enumerate(free) if len(gpus) >= each]


def _emptiest(free: Free, each: int) -> list[int]:
    return sorted(_first_fit(free, each), key=lambda i: -len(free[i]))


def sizes_of(deployment: Deployment) -> dict[str, int]:
    """The GPUs of each engine, by name."""
    return {
        name: deployment.roles[role].parallelism.num_gpus
        for name, role in deployment.engine_names.items()
    }


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
    return install, backend, (f"{about}; KV moves by {path} (--transfer-backend to change it).",)
