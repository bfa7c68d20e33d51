"""The records of a deployment: what the user chose, and the processes it comes to."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pdctl.perf_model.records import Parallelism, Role

EngineKind = Literal["sglang", "sim"]
ProcessRole = Literal["colocated", "prefill", "decode", "router"]
# SGLang's --disaggregation-mode for each role
ROLE_OF_MODE: dict[str, Role] = {"null": "colocated", "prefill": "prefill", "decode": "decode"}
MODES: dict[Role, str] = {role: mode for mode, role in ROLE_OF_MODE.items()}


@dataclass(frozen=True)
class RolePlan:
    """The engines of one role. args: SGLang flags as a user types them, beyond what pdctl sets."""

    engines: int
    parallelism: Parallelism = Parallelism()
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RouterPlan:
    """Where the router listens and what else it is told."""

    host: str = "127.0.0.1"
    port: int = 30000
    policy: str | None = None
    args: tuple[str, ...] = ()


@dataclass(frozen=True)
class Deployment:
    """What pd.yaml says. Either `colocated` alone, or `prefill` and `decode`."""

    name: str
    model: str  # what --model-path takes, or a bundled name with engine "sim"
    roles: Mapping[Role, RolePlan]
    engine: EngineKind = "sglang"
    router: RouterPlan = RouterPlan()
    gpus: str | None = None  # "0-3,6" on this machine, or "8xH200" for simulated engines
    transfer_backend: str = "auto"
    python: str | None = None  # the interpreter that has SGLang
    trust_remote_code: bool = False
    sim_speed: float = 1.0
    ttft_slo_s: float | None = None
    tpot_slo_s: float | None = None
    predicted: Mapping[str, float] = field(default_factory=dict)  # "ttft_p50_s": 0.31, ...

    @property
    def total(self) -> int:
        return sum(role.engines for role in self.roles.values())

    @property
    def engine_names(self) -> dict[str, Role]:
        """Every engine's name and role, in the order they are started: prefill-0, decode-0, ..."""
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

    @property
    def layout(self) -> str:
        """2P6D or 8C."""
        letters: tuple[tuple[Role, str], ...] = (
            ("prefill", "P"),
            ("decode", "D"),
            ("colocated", "C"),
        )
        return "".join(f"{self.roles[r].engines}{x}" for r, x in letters if r in self.roles)


@dataclass(frozen=True)
class Ports:
    """The TCP ports of one process. None: it has no such port.

    dist_init: first of DIST_INIT_PORTS consecutive ones.
    """

    http: int
    bootstrap: int | None = None
    nccl: int | None = None
    dist_init: int | None = None
    metrics: int | None = None  # the router's Prometheus port; an engine's metrics are on http


@dataclass(frozen=True)
class ProcessSpec:
    """One process, fully resolved: what --dry-run prints and a launcher starts."""

    name: str  # "prefill-0", "router"
    role: ProcessRole
    argv: tuple[str, ...]
    env: Mapping[str, str]  # added to the launcher's own
    gpus: tuple[int, ...]
    host: str
    port: int
    log: Path
    bootstrap_port: int | None = None
    metrics_port: int | None = None  # the router's Prometheus port
    stop_grace_s: float = 60.0
    can_switch_role: bool = False  # it was, or will be, started able to change its role

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def shares_a_place_with(self, other: "ProcessSpec") -> bool:
        """Whether both need one GPU or one port, so that only one of them can run."""
        return self.url == other.url or bool(set(self.gpus) & set(other.gpus))
