"""cluster.yaml: facts about a cluster that are the same for every deployment on it."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

from pdctl.deployment.containers import read_container
from pdctl.deployment.records import PLACE_POLICIES, Container, Deployment, PlacePolicy
from pdctl.deployment.strict_yaml import Field, read_yaml
from pdctl.hosts import expanded
from pdctl.paths import user_config_dir
from pdctl.perf_model.records import Role

FILE = "cluster.yaml"
CURRENT = Path()
SCHEMA = 1
GpuRequest = Literal["gres", "gpus-per-node"]
ROLES: tuple[Role, ...] = ("prefill", "decode", "colocated")
KEYS = (
    "schema",
    "gpus_per_node",
    "hosts",
    "interface",
    "rdma",
    "python",
    "preamble",
    "models",
    "place",
    "stage",
    "images",
    "env",
    "container",
    *ROLES,
    "slurm",
    "kubernetes",
)
ROLE_KEYS = ("env", "image", "gpus_per_node", "slurm")
HOST_KEYS = ("gpus", "cards", "domain")
RDMA_KEYS = ("gid_index", "traffic_class", "mnnvl", "cards")
SLURM_KEYS = (
    "partition",
    "account",
    "qos",
    "constraint",
    "gpu_type",
    "gpu_request",
    "cpus_per_gpu",
    "exclusive",
    "time",
    "drain",
    "domain",
    "options",
)
_SLURM_TEXTS = ("partition", "account", "qos", "constraint", "gpu_type")
JOB_KEYS = ("time", "drain")  # the same for every part of a heterogeneous job
HET_KEYS = tuple(key for key in SLURM_KEYS if key not in (*JOB_KEYS, "domain"))
KUBERNETES_KEYS = ("image", "namespace", "gpu_resource", "model_claim", "shared_memory")


@dataclass(frozen=True)
class SlurmSettings:
    """The way to ask this site's Slurm for nodes. None: the site's default."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gpu_type: str | None = None
    gpu_request: GpuRequest = "gres"
    cpus_per_gpu: int | None = None
    exclusive: bool = False
    time_s: float | None = None
    drain_s: float = 120.0  # how long before the time limit the deployment is told to stop
    domain: str = "block"  # what tells NVLink domains: blocks, leaf switches, features by a pattern
    options: tuple[str, ...] = ()  # further sbatch options, as they are


@dataclass(frozen=True)
class KubernetesSettings:
    """The needs of this cluster's pods. model_claim: the volume claim that holds models."""

    image: str | None = None
    namespace: str = "default"
    gpu_resource: str = "nvidia.com/gpu"
    model_claim: str | None = None
    shared_memory: str = "64Gi"


@dataclass(frozen=True)
class RdmaSettings:
    """Settings of RDMA. None: as each library chooses. mnnvl: NVLink reaches other nodes.

    cards: those that engines may use; empty: all.
    """

    gid_index: int | None = None  # of RoCE v2
    traffic_class: int | None = None
    mnnvl: bool = False
    cards: tuple[str, ...] = ()


@dataclass(frozen=True)
class HostSettings:
    """A host that differs from the others. None: as the others."""

    gpus: int | None = None
    cards: tuple[str, ...] | None = None
    domain: str | None = None  # the NVLink domain that it shares with others


@dataclass(frozen=True)
class ClusterFile:
    """The content of cluster.yaml."""

    gpus_per_node: int = 8
    hosts: Mapping[str, HostSettings] = field(default_factory=dict)  # those that differ
    interface: str | None = None  # the network interface that engines listen on
    rdma: RdmaSettings = RdmaSettings()
    python: str | None = None  # the interpreter with SGLang, on every node
    preamble: str = ""  # bash, run on a node before anything else
    models: Mapping[str, str] = field(default_factory=dict)  # alias -> path or Hugging Face id
    env: Mapping[str, str] = field(default_factory=dict)
    role_env: Mapping[Role, Mapping[str, str]] = field(default_factory=dict)
    place: PlacePolicy = "auto"
    stage: str | None = None  # a folder on each node's own disk, for copies of the model
    images: Mapping[str, str] = field(default_factory=dict)  # alias -> name or file of an image
    container: Container | None = None
    role_image: Mapping[Role, str] = field(default_factory=dict)
    slurm: SlurmSettings = SlurmSettings()
    role_slurm: Mapping[Role, SlurmSettings] = field(default_factory=dict)  # other nodes of a role
    role_gpus: Mapping[Role, int] = field(default_factory=dict)  # GPUs of each of them
    kubernetes: KubernetesSettings = KubernetesSettings()

    def gpus_of(self, host: str) -> int:
        """The number of GPUs that a host should have."""
        own = self.hosts.get(host, HostSettings()).gpus
        return self.gpus_per_node if own is None else own

    def cards_of(self, host: str) -> tuple[str, ...]:
        """The RDMA cards that engines may use on a host; empty: all."""
        own = self.hosts.get(host, HostSettings()).cards
        return self.rdma.cards if own is None else own

    def of_role(self, role: Role) -> "ClusterFile":
        """The file for the nodes that engines of a role run on."""
        return replace(
            self,
            slurm=self.role_slurm.get(role, self.slurm),
            gpus_per_node=self.role_gpus.get(role, self.gpus_per_node),
        )

    @property
    def domains(self) -> dict[str, str]:
        """The NVLink domain of each host that has one."""
        return {name: host.domain for name, host in self.hosts.items() if host.domain}


def find_cluster_file(directory: Path) -> Path | None:
    """The cluster.yaml of a project, else the user's own; None where there is neither."""
    places = (directory / FILE, user_config_dir() / FILE)
    return next((path for path in places if path.is_file()), None)


def cluster_here(directory: Path = CURRENT) -> ClusterFile:
    """The cluster file of a directory or of the user; the defaults without one.

    Raises InvalidInput, naming file and line, for anything it does not understand.
    """
    found = find_cluster_file(directory)
    return read_cluster_file(found) if found is not None else ClusterFile()


def read_cluster_file(path: Path) -> ClusterFile:
    """The content of a cluster.yaml.

    Raises InvalidInput, naming file and line, for anything it does not understand.
    """
    top = read_yaml(path)
    keys = top.mapping(KEYS)
    if "schema" not in keys:
        raise top.problem("has no schema", hint=f"begin the file with schema: {SCHEMA}")
    if (version := keys["schema"].integer(at_least=1)) > SCHEMA:
        what = f"{version} is newer than {SCHEMA}, the one this pdctl reads"
        raise keys["schema"].problem(what, hint="a newer pdctl")
    usual = ClusterFile()
    slurm = _slurm(keys["slurm"], usual.slurm, SLURM_KEYS) if "slurm" in keys else usual.slurm
    roles = {role: keys[role].mapping(ROLE_KEYS) for role in ROLES if role in keys}
    return ClusterFile(
        gpus_per_node=_number(keys, "gpus_per_node") or usual.gpus_per_node,
        hosts=_hosts(keys["hosts"]) if "hosts" in keys else usual.hosts,
        interface=_text(keys, "interface"),
        rdma=_rdma(keys["rdma"]) if "rdma" in keys else usual.rdma,
        python=_text(keys, "python"),
        preamble=_text(keys, "preamble") or usual.preamble,
        models=keys["models"].texts() if "models" in keys else usual.models,
        place=read_place(keys["place"]) if "place" in keys else usual.place,
        stage=_folder(keys["stage"]) if "stage" in keys else None,
        env=keys["env"].texts() if "env" in keys else usual.env,
        role_env={role: own["env"].texts() if "env" in own else {} for role, own in roles.items()},
        images=keys["images"].texts() if "images" in keys else usual.images,
        container=read_container(keys["container"]) if "container" in keys else None,
        role_image={role: image for role, own in roles.items() if (image := _text(own, "image"))},
        slurm=slurm,
        role_slurm={
            role: _slurm(own["slurm"], slurm, HET_KEYS)
            for role, own in roles.items()
            if "slurm" in own
        },
        role_gpus={
            role: num for role, own in roles.items() if (num := _number(own, "gpus_per_node"))
        },
        kubernetes=_kubernetes(keys["kubernetes"]) if "kubernetes" in keys else usual.kubernetes,
    )


def on_cluster(deployment: Deployment, cluster: ClusterFile) -> Deployment:
    """A deployment with what the cluster file adds to it.

    The deployment's own settings win: its Python, its container with the images of its roles, and
    each variable of its environments.
    """
    own = deployment.container
    container = own or cluster.container
    if container is not None:
        container = replace(container, image=cluster.images.get(container.image, container.image))
    roles = {
        role: replace(
            plan,
            env={
                **network_env(cluster),
                **cluster.env,
                **cluster.role_env.get(role, {}),
                **plan.env,
            },
            image=_image(plan.image or (None if own else cluster.role_image.get(role)), cluster),
        )
        for role, plan in deployment.roles.items()
    }
    return replace(
        deployment,
        model=cluster.models.get(deployment.model, deployment.model),
        python=deployment.python or cluster.python,
        container=container,
        place=cluster.place if deployment.place == "auto" else deployment.place,
        roles=roles,
    )


def read_place(field: Field) -> PlacePolicy:
    """A policy by which engines get nodes. Raises InvalidInput for another word."""
    if field.text() not in PLACE_POLICIES:
        raise field.problem(f"must be {', '.join(PLACE_POLICIES)}, not {field.text()!r}")
    return cast(PlacePolicy, field.text())


def network_env(cluster: ClusterFile) -> dict[str, str]:
    """The same network for every library: NCCL, Gloo, NVSHMEM, UCX and Mooncake.

    Source: documentation of NCCL, NVSHMEM 3, UCX 1.18; InferenceX and srt-slurm (MNNVL).
    """
    interface, rdma = cluster.interface, cluster.rdma
    env = (
        dict.fromkeys(("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"), interface) if interface else {}
    )
    for variables, value in ((_GID_INDEX, rdma.gid_index), (_TRAFFIC_CLASS, rdma.traffic_class)):
        env |= dict.fromkeys(variables, str(value)) if value is not None else {}
    return env | (_MNNVL if rdma.mnnvl else {})


_GID_INDEX = ("NCCL_IB_GID_INDEX", "NVSHMEM_IB_GID_INDEX", "UCX_IB_GID_INDEX", "MC_GID_INDEX")
_TRAFFIC_CLASS = ("NCCL_IB_TC", "NVSHMEM_IB_TRAFFIC_CLASS", "UCX_IB_TRAFFIC_CLASS")
_MNNVL = {
    "NCCL_MNNVL_ENABLE": "1",
    "NCCL_CUMEM_ENABLE": "1",
    "MC_FORCE_MNNVL": "1",
    "SGLANG_MOONCAKE_CUSTOM_MEM_POOL": "True",
}


def _rdma(section: Field) -> RdmaSettings:
    keys = section.mapping(RDMA_KEYS)
    gid, traffic = (keys[key].integer(at_least=0) if key in keys else None for key in RDMA_KEYS[:2])
    mnnvl = "mnnvl" in keys and keys["mnnvl"].boolean()
    return RdmaSettings(gid, traffic, mnnvl, _cards(keys) or ())


def _hosts(section: Field) -> dict[str, HostSettings]:
    found: dict[str, HostSettings] = {}
    for name, host in section.mapping().items():
        keys = host.mapping(HOST_KEYS)
        gpus = keys["gpus"].integer(at_least=0) if "gpus" in keys else None
        try:
            names = expanded(name)
        except ValueError as problem:
            raise host.problem(str(problem)) from None
        settings = HostSettings(gpus, _cards(keys), _text(keys, "domain"))
        found |= dict.fromkeys(names, settings)
    return found


def _cards(keys: Mapping[str, Field]) -> tuple[str, ...] | None:
    return tuple(item.text() for item in keys["cards"].items()) if "cards" in keys else None


def cluster_text(gpus: Mapping[str, int], cards: Mapping[str, tuple[str, ...]]) -> str:
    """A cluster.yaml for hosts with these GPUs and RDMA cards.

    What most hosts have stands once; `hosts` has the others alone.
    """
    most = Counter(gpus.values()).most_common(1)[0][0]
    usual = Counter(cards.values()).most_common(1)[0][0]
    lines = [f"schema: {SCHEMA}", f"gpus_per_node: {most}"]
    if usual:
        lines.append(f"rdma: {{cards: [{', '.join(usual)}]}}")
    others = [
        f"  {host}: {{gpus: {gpus[host]}, cards: [{', '.join(cards[host])}]}}"
        for host in gpus
        if (gpus[host], cards[host]) != (most, usual)
    ]
    return "\n".join([*lines, *(("hosts:", *others) if others else ()), ""])


def _image(image: str | None, cluster: ClusterFile) -> str | None:
    return cluster.images.get(image, image) if image else None


def _slurm(section: Field, usual: SlurmSettings, known: tuple[str, ...]) -> SlurmSettings:
    """The settings of a section; what it leaves out is as in `usual`."""
    keys = section.mapping(known)
    found: dict[str, Any] = {key: _text(keys, key) for key in _SLURM_TEXTS if key in keys}
    if "gpu_request" in keys:
        found["gpu_request"] = _gpu_request(keys["gpu_request"])
    if "cpus_per_gpu" in keys:
        found["cpus_per_gpu"] = keys["cpus_per_gpu"].integer(at_least=1)
    if "exclusive" in keys:
        found["exclusive"] = keys["exclusive"].boolean()
    if "domain" in keys:
        found["domain"] = _told_by(keys["domain"])
    found |= {f"{key}_s": keys[key].seconds() for key in JOB_KEYS if key in keys}
    if "options" in keys:
        found["options"] = keys["options"].args()
    return replace(usual, **found)


def _kubernetes(section: Field) -> KubernetesSettings:
    keys = section.mapping(KUBERNETES_KEYS)
    usual = KubernetesSettings()
    return KubernetesSettings(
        image=_text(keys, "image"),
        namespace=_text(keys, "namespace") or usual.namespace,
        gpu_resource=_text(keys, "gpu_resource") or usual.gpu_resource,
        model_claim=_text(keys, "model_claim"),
        shared_memory=_text(keys, "shared_memory") or usual.shared_memory,
    )


def _gpu_request(value: Field) -> GpuRequest:
    if value.text() not in ("gres", "gpus-per-node"):
        raise value.problem(f"must be gres or gpus-per-node, not {value.text()!r}")
    return cast(GpuRequest, value.text())


def _told_by(value: Field) -> str:
    text = value.text()
    if text not in ("block", "switch") and not set("*?[") & set(text):
        raise value.problem(f"must be block, switch or a pattern of features, not {text!r}")
    return text


def _folder(value: Field) -> str:
    if not value.text().startswith("/"):
        raise value.problem(f"must be an absolute path, not {value.text()!r}")
    return value.text()


def _text(keys: Mapping[str, Field], key: str) -> str | None:
    return keys[key].text() if key in keys and not keys[key].is_null else None


def _number(keys: Mapping[str, Field], key: str) -> int | None:
    return keys[key].integer(at_least=1) if key in keys else None
