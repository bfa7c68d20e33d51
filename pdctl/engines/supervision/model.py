"""The supervisor's records: observations, targets and actions, and how an event changes a process.

All times are seconds of one monotonic clock.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from pdctl.deployment.records import GpuPlace, ProcessRole, ProcessSpec
from pdctl.engines.log_file import what_died
from pdctl.engines.records import Failure, GpuUse, Listed, Readiness, Switched


@dataclass(frozen=True)
class SupervisorLimits:
    """The supervisor's time limits and retry counts."""

    backoff_s: float = 10.0  # before the first restart; doubles
    backoff_max_s: float = 300.0
    forget_crashes_s: float = 600.0  # after serving this long, a crash counts as the first
    give_up_crashes: int = 3
    give_up_window_s: float = 300.0
    # longer than any prefill step; SGLang's own watchdog kills a stuck engine after 300 s
    hang_s: float = 240.0
    drain_s: float = 60.0
    idle_s: float = 1.0  # without requests before an engine is drained: one may be in transit
    register_again_s: float = 10.0
    wrong_s: float = 15.0  # how long an engine may answer as another one before `up` fails
    ready_timeout_s: float = 7200.0
    first_request_tries: int = 3
    gpu_release_s: float = 10.0  # a driver frees a killed process's memory within seconds
    move_after_s: float = 60.0  # a node may be off the network this long and keep its engines


DEFAULT_LIMITS = SupervisorLimits()
NOT_STARTED = "could not be started"
CUT_OFF_AFTER = 3  # looks at a node, two seconds apart


@dataclass(frozen=True)
class Process:
    """One process, running or ended: the last observation and its history."""

    spec: ProcessSpec
    running: bool
    since: float  # when it started or ended
    exit_code: int | None = None
    ready: bool = False  # it passed its own readiness check
    served: bool = False  # it has served, in this start or an earlier one
    serving_since: float | None = None
    crashes: tuple[float, ...] = ()
    given_up: str = ""  # why it will not be restarted
    lost: str = ""  # a part that died according to the log, while the main process runs
    unanswered_since: float | None = None
    unreachable: int = 0  # how often in a row its node did not even refuse a connection
    wrong_since: float | None = None
    listed: Listed | None = None  # the router's row of its URL
    register_sent: float | None = None
    deregister_sent: float | None = None
    idle_since: float | None = None  # off the router's list and without requests
    num_left: int | None = None  # requests in the engine while it drains
    was_prefill: bool = False  # this process was a prefill engine before its present role
    switch_to: ProcessSpec | None = None  # the role it was asked to take; no answer yet
    switch_failed: str = ""  # why it did not take that role
    terminate_sent: float | None = None
    kill_sent: bool = False
    detail: str = ""

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def is_router(self) -> bool:
        return self.spec.role == "router"

    @property
    def is_cut_off(self) -> bool:
        """True if its node has left the network: it may serve again when the node is back."""
        return self.running and self.unreachable >= CUT_OFF_AFTER

    @property
    def is_serving(self) -> bool:
        """True if requests reach it: running, ready, and listed by the router as healthy."""
        if not self.running or not self.ready or self.terminate_sent is not None:
            return False
        if self.is_cut_off:
            return False
        return self.is_router or (self.listed is not None and self.listed.is_healthy)


@dataclass(frozen=True)
class Desired:
    """The processes that should run, router first. stop: "drain" finishes requests, "now" kills."""

    specs: tuple[ProcessSpec, ...]
    stop: Literal["", "drain", "now"] = ""


@dataclass(frozen=True)
class FirstRequestSeen:
    """The state of the one request through the router that `up` waits for."""

    state: Literal["not_sent", "sent", "passed", "failed"] = "not_sent"
    tries: int = 0
    detail: str = ""


@dataclass(frozen=True)
class GpuSeen:
    """A GPU on which an engine is about to start.

    taken: None until the driver has answered. since: when this state began. left_by: the role of
    the engine that last ended there; None if unknown.
    """

    taken: GpuUse | None
    since: float
    left_by: ProcessRole | None = None


@dataclass(frozen=True)
class LostNode:
    """A node that has left the network. probe: an engine of it, asked whether the node is back."""

    probe: ProcessSpec
    since: float


@dataclass(frozen=True)
class Observed:
    """Everything observed at one moment.

    was_ready: the whole deployment has served once. gpus: those that engines wait for. lost: by
    node.
    """

    processes: Mapping[str, Process] = field(default_factory=dict)
    started_at: float = 0.0
    was_ready: bool = False
    first_request: FirstRequestSeen = FirstRequestSeen()
    gpus: Mapping[GpuPlace, GpuSeen] = field(default_factory=dict)
    lost: Mapping[str, LostNode] = field(default_factory=dict)


@dataclass(frozen=True)
class Start:
    spec: ProcessSpec
    why: str = ""


@dataclass(frozen=True)
class Terminate:
    name: str
    why: str = ""


@dataclass(frozen=True)
class SwitchRole:
    """Turn the engine into `spec`, of the other role, without a restart."""

    name: str
    spec: ProcessSpec
    why: str = ""


@dataclass(frozen=True)
class Kill:
    name: str
    why: str = ""


@dataclass(frozen=True)
class Register:
    name: str
    why: str = ""


@dataclass(frozen=True)
class Deregister:
    name: str
    why: str = ""


@dataclass(frozen=True)
class GiveUp:
    name: str
    why: str = ""


@dataclass(frozen=True)
class Forget:
    """Drop the record of a process that has ended and is no longer wanted."""

    name: str
    why: str = ""


@dataclass(frozen=True)
class SendFirstRequest:
    why: str = ""


@dataclass(frozen=True)
class Fail:
    """Stop everything: the first start failed."""

    name: str  # the process at fault; "" if there is none
    failure: Failure
    why: str


Action = (
    Start
    | Terminate
    | SwitchRole
    | Kill
    | Register
    | Deregister
    | GiveUp
    | Forget
    | SendFirstRequest
    | Fail
)


def is_serving(spec: ProcessSpec, observed: Observed) -> bool:
    """True if exactly this process serves."""
    process = observed.processes.get(spec.name)
    return process is not None and process.spec == spec and process.is_serving


def others_serve(process: Process, observed: Observed) -> bool:
    """True if another engine of the same role serves and stays."""
    return any(
        other.spec.role == process.spec.role and other.is_serving and other.deregister_sent is None
        for other in observed.processes.values()
        if other.name != process.name
    )


def router_is_up(observed: Observed) -> bool:
    return any(p.is_router and p.running and p.ready for p in observed.processes.values())


def remember_crash(
    process: Process, now: float, limits: SupervisorLimits = DEFAULT_LIMITS
) -> tuple[float, ...]:
    """The crash times that count, with one more at `now`. Long service clears earlier ones."""
    since = process.serving_since
    forgiven = since is not None and now - since >= limits.forget_crashes_s
    return (now,) if forgiven else (*process.crashes, now)


def started(spec: ProcessSpec, before: Process | None, now: float) -> Process:
    """Record a start. The crashes and service of the same spec are kept."""
    if before is None or before.spec != spec:
        return Process(spec=spec, running=True, since=now)
    return Process(
        spec=spec,
        running=True,
        since=now,
        served=before.served,
        crashes=before.crashes,
        listed=before.listed,
    )


def ended(process: Process, exit_code: int | None, now: float, limits: SupervisorLimits) -> Process:
    """Record the end of a process: a crash unless it was told to end."""
    asked = process.terminate_sent is not None
    return Process(
        spec=process.spec,
        running=False,
        since=now,
        exit_code=exit_code,
        served=process.served,
        crashes=process.crashes if asked else remember_crash(process, now, limits),
        given_up=process.given_up,
        listed=process.listed,
        detail=process.detail,
    )


def not_started(
    spec: ProcessSpec, before: Process | None, why: str, now: float, *, is_crash: bool
) -> Process:
    """Record a failed start. is_crash: it counts as a crash, so that the next one waits longer."""
    same = before if before is not None and before.spec == spec else None
    crashes = same.crashes if same else ()
    return Process(
        spec=spec,
        running=False,
        since=now,
        served=same is not None and same.served,
        crashes=(*crashes, now) if is_crash else crashes,
        detail=f"{NOT_STARTED}: {why}",
    )


def checked(process: Process, answer: Readiness, now: float) -> Process:
    """Update the record with the answer to a readiness check."""
    wrong_since = (process.wrong_since or now) if answer.is_wrong else None
    detail = answer.detail or process.detail
    return replace(process, ready=answer.is_ready, wrong_since=wrong_since, detail=detail)


def answered(process: Process, is_alive: bool, now: float) -> Process:
    """Update the record with the answer to a health check, or its absence."""
    since = None if is_alive else (process.unanswered_since or now)
    return replace(process, unanswered_since=since)


def reached(process: Process, is_reachable: bool) -> Process:
    """Update the record with the answer to whether its node is on the network."""
    return replace(process, unreachable=0 if is_reachable else process.unreachable + 1)


def log_grew(process: Process, text: str) -> Process:
    """Update the record with newly read log text."""
    return replace(process, lost=process.lost or what_died(text))


def leaves_router(process: Process, now: float) -> Process:
    """Record that the router was told to stop sending requests. Discard earlier request counts."""
    return replace(process, deregister_sent=now, register_sent=None, idle_since=None, num_left=None)


def drained(process: Process, num_left: int | None, now: float) -> Process:
    """Update the record with the number of requests in the engine; None if it did not answer."""
    since = (process.idle_since or now) if num_left == 0 else None
    return replace(process, idle_since=since, num_left=num_left)


def not_switched(process: Process, answer: Switched) -> Process:
    """Record a refused role switch; it is retried if a request was still in the engine."""
    after = replace(process, switch_to=None, idle_since=None)
    return after if answer.is_early else replace(after, switch_failed=answer.why or "refused")


def switched(
    processes: Mapping[str, Process], name: str, spec: ProcessSpec, now: float
) -> dict[str, Process]:
    """Replace the record of `name` by one of `spec` for the same process, not yet ready."""
    before = processes[name]
    after = Process(
        spec=spec,
        running=True,
        since=now,
        served=True,
        crashes=before.crashes,
        was_prefill=before.was_prefill or before.spec.role == "prefill",
    )
    in_order = ((after.name, after) if key == name else (key, p) for key, p in processes.items())
    return {key: process for key, process in in_order if key != after.name or process is after}


def listed(process: Process, row: Listed | None, now: float) -> Process:
    """Update the record with the engine's row in the router's list."""
    after = replace(process, listed=row)
    return serving(after, now)


def serving(process: Process, now: float) -> Process:
    """Update since when the process has served."""
    if not process.is_serving:
        return replace(process, serving_since=None)
    return replace(process, served=True, serving_since=process.serving_since or now, detail="")


def gpus_awaited(
    before: Mapping[GpuPlace, GpuSeen],
    gpus: Iterable[GpuPlace],
    left_by: Mapping[GpuPlace, ProcessRole],
    now: float,
) -> dict[GpuPlace, GpuSeen]:
    """The records of the GPUs that engines wait for now; the others are dropped."""
    return {gpu: before.get(gpu) or GpuSeen(None, now, left_by.get(gpu)) for gpu in gpus}


def gpus_seen(
    before: Mapping[GpuPlace, GpuSeen], taken: Mapping[GpuPlace, GpuUse], now: float
) -> dict[GpuPlace, GpuSeen]:
    """Update the records with who uses each GPU, and since when it is free or in use."""
    return {
        gpu: _seen_again(seen, taken[gpu], now) if gpu in taken else seen
        for gpu, seen in before.items()
    }


def _seen_again(seen: GpuSeen, taken: GpuUse, now: float) -> GpuSeen:
    was_busy = seen.taken is None or bool(seen.taken.by)
    return replace(seen, taken=taken, since=seen.since if was_busy == bool(taken.by) else now)


def router_lost(process: Process) -> Process:
    """Record that the router ended and with it everything it knew about this engine."""
    if process.is_router:
        return process
    return replace(
        process,
        listed=None,
        register_sent=None,
        deregister_sent=None,
        idle_since=None,
        serving_since=None,
    )
