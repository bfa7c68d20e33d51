"""The records of a deployment: the user's choice, and the processes that follow from it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from pdctl.hosts import LOOPBACK
from pdctl.perf_model.records import Parallelism, Role, layout_text

EngineKind = Literal["sglang", "sim"]
ContainerRuntime = Literal["docker", "podman", "apptainer", "pyxis"]
ProcessRole = Literal["colocated", "prefill", "decode", "router"]
PlacePolicy = Literal["auto", "spread", "pack", "domain"]
PLACE_POLICIES: tuple[PlacePolicy, ...] = get_args(PlacePolicy)
GpuPlace = tuple[str, int]  # a GPU: its node and its index there
HERE = ""  # the node that this code runs on

# SGLang's --disaggregation-mode
MODES: Mapping[Role, str] = {"prefill": "prefill", "decode": "decode", "colocated": "null"}
# the names that the router and Miles have for roles
WORKER_TYPES: Mapping[Role, str] = {
    "prefill": "prefill",
    "decode": "decode",
    "colocated": "regular",
}
ROLE_OF_WORKER_TYPE: Mapping[str, Role] = {kind: role for role, kind in WORKER_TYPES.items()}


def role_of_mode(mode: object) -> Role | None:
    """The role of an engine that reports this disaggregation_mode; None for an unknown mode.

    SGLang reports "null" or None for colocated engines, depending on its version.
    """
    text = "null" if mode in (None, "", "None") else mode
    return next((role for role, name in MODES.items() if name == text), None)


@dataclass(frozen=True)
class Counts:
    """Engine counts that a command or an advice asks for. None: not given."""

    prefill: int | None = None
    decode: int | None = None
    total: int | None = None


@dataclass(frozen=True)
class Container:
    """The container that engines run in. gpus: it sees the GPUs of its host."""

    runtime: ContainerRuntime
    image: str
    python: str = "python3"  # inside, the interpreter that has SGLang
    mounts: tuple[str, ...] = ()  # HOST:CONTAINER or HOST:CONTAINER:ro
    devices: tuple[str, ...] = ()
    shared_memory: str | None = None  # of /dev/shm; None: that of the host
    ulimits: tuple[str, ...] = ("memlock=-1", "stack=67108864")
    options: tuple[str, ...] = ()  # further options of the runtime, as they are
    gpus: bool = True


@dataclass(frozen=True)
class RolePlan:
    """The engines of one role. args: the user's SGLang flags, besides those that pdctl sets.

    image: of their container, where it is not the deployment's.
    """

    engines: int
    parallelism: Parallelism = Parallelism()
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    image: str | None = None


@dataclass(frozen=True)
class RouterPlan:
    """The router's address, policy and the user's flags for it."""

    host: str = LOOPBACK
    port: int = 30000
    policy: str | None = None
    args: tuple[str, ...] = ()


@dataclass(frozen=True)
class PlannedFor:
    """The GPUs, the requests and the step times that a deployment was planned for.

    gpus: as --gpus of `plan` takes them. gpu_file, trace: absolute paths. Without a gpu_file pdctl
    knows their kind; without a trace, requests are drawn.
    Other fields are the options of `plan` with these names. None: not given.
    """

    gpus: str
    gpu_file: str | None = None
    trace: str | None = None
    time_unit: str | None = None
    skip_bad: bool = False
    isl: float | None = None
    osl: float | None = None
    isl_cv: float | None = None
    osl_cv: float | None = None
    prefix_hit: float | None = None
    rate: float | None = None
    concurrency: float | None = None
    spec_draft_tokens: int | None = None
    spec_accept_length: float | None = None
    profile: str | None = None
    seed: int = 0

    def file_of(self, gpus: str | None) -> str | None:
        """The file that describes the kind of these GPUs, if they are the planned ones."""
        return self.gpu_file if gpus == self.gpus else None


@dataclass(frozen=True)
class ObservePlan:
    """The part of a running deployment that others can see.

    metrics: HOST:PORT at which pdctl serves its own metrics; "": none. traces: HOST:PORT of the
    OTLP collector (gRPC) to which engines and router send the spans of every request; "": none.
    what_if: every few minutes the supervisor replays the latest requests on other layouts.
    """

    metrics: str = ""
    traces: str = ""
    what_if: bool = True


@dataclass(frozen=True)
class Deployment:
    """The content of pd.yaml. Roles are either `colocated` alone, or `prefill` and `decode`."""

    name: str
    model: str  # what --model-path takes, or a bundled name with engine "sim"
    roles: Mapping[Role, RolePlan]
    engine: EngineKind = "sglang"
    router: RouterPlan = RouterPlan()
    gpus: str | None = None  # "0-3,6" of each node, or "8xH200" for simulated engines
    place: PlacePolicy = "auto"  # of engines on nodes
    transfer_backend: str = "auto"
    python: str | None = None  # the interpreter that has SGLang
    container: Container | None = None  # of real engines; None: they run on their host
    trust_remote_code: bool = False
    request_times: bool = True  # engines log a line per request, for `pdctl explain`
    sim_speed: float = 1.0
    observe: ObservePlan = ObservePlan()
    ttft_slo_s: float | None = None
    tpot_slo_s: float | None = None
    attainment_slo: float = 0.9  # the share of requests that must meet both
    planned: PlannedFor | None = None
    predicted: Mapping[str, float] = field(default_factory=dict)  # "ttft_p50_s": 0.31, ...

    @property
    def can_replay(self) -> bool:
        """A what-if needs log lines of request times."""
        return self.observe.what_if and self.request_times

    @property
    def total(self) -> int:
        return sum(role.engines for role in self.roles.values())

    @property
    def engine_names(self) -> dict[str, Role]:
        """Role of each engine by name, in start order: prefill-0, decode-0, ..."""
        order: tuple[Role, ...] = ("colocated", "prefill", "decode")
        return {
            f"{role}-{i}": role
            for role in order
            if role in self.roles
            for i in range(self.roles[role].engines)
        }

    @property
    def num_gpus(self) -> int:
        return sum(role.engines * role.parallelism.num_gpus for role in self.roles.values())

    def gpus_of(self, engine: str) -> int:
        """The GPUs that one engine, by its name, takes."""
        return self.roles[self.engine_names[engine]].parallelism.num_gpus

    @property
    def layout(self) -> str:
        """2P6D or 8C."""
        return layout_text({role: plan.engines for role, plan in self.roles.items()})


@dataclass(frozen=True)
class Ports:
    """The TCP ports of one process. None: it has no such port.

    dist_init: the first of DIST_INIT_PORTS consecutive ports.
    """

    http: int
    bootstrap: int | None = None
    nccl: int | None = None
    dist_init: int | None = None
    metrics: int | None = None  # the router's Prometheus port; an engine's metrics are on http


@dataclass(frozen=True)
class Follower:
    """A rank after 0 of an engine larger than a node; it starts and ends with rank 0."""

    node: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    gpus: tuple[int, ...]
    log: Path


@dataclass(frozen=True)
class ProcessSpec:
    """One process, fully resolved: --dry-run prints it and a launcher starts it."""

    name: str  # "prefill-0", "router"
    role: ProcessRole
    argv: tuple[str, ...]
    env: Mapping[str, str]  # added to the launcher's own
    gpus: tuple[int, ...]
    host: str  # in its URL
    port: int
    log: Path  # on its node
    bootstrap_port: int | None = None
    metrics_port: int | None = None  # the router's Prometheus port
    stop_grace_s: float = 60.0
    can_switch_role: bool = False  # started with the flag that lets it change its role
    node: str = HERE  # the machine that runs it, by the name that its launcher gives
    followers: tuple[Follower, ...] = ()  # the other ranks, if it is larger than a node
    container: Container | None = None

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def parts(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        """Each of its nodes with the GPUs there; rank 0 first."""
        return ((self.node, self.gpus), *((f.node, f.gpus) for f in self.followers))

    @property
    def gpu_places(self) -> tuple[GpuPlace, ...]:
        """Its GPUs with their node."""
        return tuple((node, gpu) for node, gpus in self.parts for gpu in gpus)

    @property
    def needs_gpus(self) -> bool:
        """True if its GPUs are real: a simulated engine only carries their numbers."""
        return "CUDA_VISIBLE_DEVICES" in self.env

    def shares_a_place_with(self, other: "ProcessSpec") -> bool:
        """True if both need the same GPU or port, so that only one of them can run."""
        return self.url == other.url or bool(set(self.gpu_places) & set(other.gpu_places))
