"""The records of running processes: what state.json holds."""

from dataclasses import dataclass
from typing import Literal, NewType

from pdctl.deployment.records import HERE, ProcessRole, ProcessSpec

Handle = NewType("Handle", str)  # one process, in words that only its launcher understands


@dataclass(frozen=True)
class Switched:
    """The outcome of a role switch.

    why: the reason of a refusal. is_early: the engine refused only because it was not idle yet.
    """

    is_done: bool
    why: str = ""
    is_early: bool = False


@dataclass(frozen=True)
class GpuUse:
    """The user of a GPU's memory. by: in words; "" if the memory is nearly empty.

    is_named: the driver names a living process, so this is not the memory of a dead one.
    """

    by: str = ""
    is_named: bool = False


@dataclass(frozen=True)
class Readiness:
    """An engine's answer. is_wrong: it is a different engine, so waiting will not help."""

    is_ready: bool
    detail: str = ""
    is_wrong: bool = False


@dataclass(frozen=True)
class FirstRequest:
    """One request through the router. ttft_s: None when it failed; `detail` says why."""

    ttft_s: float | None
    detail: str = ""


Phase = Literal[
    "starting", "loading", "registering", "serving", "draining", "stopped", "backoff", "failed"
]
Failure = Literal["engine_failed", "not_ready"]
DeploymentPhase = Literal[
    "starting", "serving", "scaling", "degraded", "stopping", "stopped", "failed"
]


@dataclass(frozen=True)
class ProcessState:
    """One process of a deployment, as its supervisor last saw it."""

    name: str
    role: ProcessRole
    url: str
    phase: Phase
    handle: Handle | None  # None: it does not run
    started_at: float | None  # Unix seconds
    detail: str = ""  # "weights", "CUDA graphs 23/36", or why it failed
    progress: float | None = None  # 0..1 where the log gives it
    ready_after_s: float | None = None
    restarts: int = 0
    exit_code: int | None = None
    gpus: tuple[int, ...] = ()
    bootstrap_port: int | None = None
    metrics_port: int | None = None
    log: str = ""
    was_prefill: bool = False  # before its present role, in the same process
    node: str = HERE


@dataclass(frozen=True)
class DeploymentState:
    """A whole deployment: the content of state.json."""

    name: str
    phase: DeploymentPhase
    detail: str
    boot_id: str  # of the supervisor's machine; a different one means that it rebooted
    supervisor_pid: int
    supervisor_started_at: float
    updated_at: float
    detached: bool
    endpoint: str
    layout: str
    model: str
    processes: tuple[ProcessState, ...]
    first_request_ttft_s: float | None = None
    ready_after_s: float | None = None
    run_id: str = ""  # PDCTL_RUN in the environment of every process of this deployment
    failure: Failure | None = None
    failed_process: str = ""  # the process whose log shows the reason
    revision: int = 0  # of the launch that the supervisor follows
    host: str = ""  # the supervisor's machine; "" in states of older versions, which had only one
    lost_nodes: tuple[str, ...] = ()  # that have left the network


@dataclass(frozen=True)
class Launch:
    """The processes a supervisor has to run: the content of launch.json, written by commands."""

    run_id: str
    boot_id: str
    name: str
    layout: str
    model: str
    endpoint: str
    detached: bool
    cwd: str
    launched_at: float  # Unix seconds
    ready_timeout_s: float
    specs: tuple[ProcessSpec, ...]  # router first
    revision: int = 0  # counts the changes of a running deployment
    changes: tuple[str, ...] = ()  # the effects of the last change, with reasons, in sentences
    leaving: tuple[ProcessSpec, ...] = ()  # no longer wanted; they may still run
    drain_s: float = 60.0  # longest time for the requests of a leaving engine
    retired_ports: tuple[int, ...] = ()  # bootstrap ports of engines that left; not for reuse yet
    launcher: str = "local"  # a name in engines/launchers/registry.py; "slurm:42" in job 42
    host: str = ""  # the supervisor's machine
    has_key: bool = True  # the processes may have an API key
    previous_layout: str = ""  # before the last change, for `scale --undo`
    metrics_endpoint: str = ""  # HOST:PORT of pdctl's own metrics; "": none are served
    spans_endpoint: str = ""  # HOST:PORT of the OTLP collector (gRPC); "": no spans are sent
    what_if: bool = False  # replay the latest requests on other layouts every few minutes


@dataclass(frozen=True)
class Event:
    """One decision or observation of a supervisor: a line of events.jsonl."""

    at: float  # Unix seconds
    event: str  # "start", "crash", "register", ...
    process: str
    text: str


@dataclass(frozen=True)
class Listed:
    """An engine as the router lists it. bootstrap_port: None unless it was given one."""

    id: str
    url: str
    role: ProcessRole | None  # None: a type pdctl does not know
    is_healthy: bool
    bootstrap_port: int | None = None
