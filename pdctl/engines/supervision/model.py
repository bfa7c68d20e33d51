"""What the supervisor sees, wants and does, as values: the vocabulary of `supervisor.step`.

All times are seconds of one monotonic clock.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from pdctl.deployment.records import ProcessRole, ProcessSpec
from pdctl.engines.log_file import what_died
from pdctl.engines.records import Failure, GpuUse, Listed, Readiness, Switched


@dataclass(frozen=True)
class SupervisorLimits:
    """How patient the supervisor is."""

    backoff_s: float = 10.0  # before the first restart; doubles
    backoff_max_s: float = 300.0
    forget_crashes_s: float = 600.0  # of serving, after which a crash counts as the first
    give_up_crashes: int = 3
    give_up_window_s: float = 300.0
    # longer than any prefill step; SGLang's own watchdog ends a stuck engine at 300 s
    hang_s: float = 240.0
    drain_s: float = 60.0
    idle_s: float = 1.0  # without requests, before it counts as drained: one may be on its way
    register_again_s: float = 10.0
    wrong_s: float = 15.0  # an engine that answers as another one, before `up` fails
    ready_timeout_s: float = 7200.0
    first_request_tries: int = 3
    gpu_release_s: float = 10.0  # a driver gives back what a killed process had within seconds


DEFAULT_LIMITS = SupervisorLimits()


@dataclass(frozen=True)
class Process:
    """One process as observed, with what is remembered of it. It may be running or have ended."""

    spec: ProcessSpec
    running: bool
    since: float  # when it was started, or ended
    exit_code: int | None = None
    ready: bool = False  # its own readiness holds
    served: bool = False  # it has been serving, in this start or an earlier one
    serving_since: float | None = None
    crashes: tuple[float, ...] = ()
    given_up: str = ""  # why it is not started again
    lost: str = ""  # what its log says has ended within, while its main process lives on
    unanswered_since: float | None = None
    wrong_since: float | None = None
    listed: Listed | None = None  # the router's row of its URL
    register_sent: float | None = None
    deregister_sent: float | None = None
    idle_since: float | None = None  # out of the router, nothing inside
    num_left: int | None = None  # requests inside, while it drains
    was_prefill: bool = False  # this process has been a prefill engine before its present role
    switch_to: ProcessSpec | None = None  # it has been asked to become this, and not answered
    switch_failed: str = ""  # why it did not
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
    def is_serving(self) -> bool:
        """Requests reach it: running, ready, listed by the router as healthy."""
        if not self.running or not self.ready or self.terminate_sent is not None:
            return False
        return self.is_router or (self.listed is not None and self.listed.is_healthy)


@dataclass(frozen=True)
class Desired:
    """What should run, router first. stop: "drain" lets requests finish, "now" kills."""

    specs: tuple[ProcessSpec, ...]
    stop: Literal["", "drain", "now"] = ""


@dataclass(frozen=True)
class FirstRequestSeen:
    """What became of the one request through the router before `up` says ready."""

    state: Literal["not_sent", "sent", "passed", "failed"] = "not_sent"
    tries: int = 0
    detail: str = ""


@dataclass(frozen=True)
class GpuSeen:
    """A GPU on which an engine is to start.

    taken: None as long as nobody has said; since: when it was first found so, or first asked for;
    left_by: the role of the engine that last ended there, None: not known.
    """

    taken: GpuUse | None
    since: float
    left_by: ProcessRole | None = None


@dataclass(frozen=True)
class Observed:
    """Everything seen at one moment. was_ready: the whole fleet has been serving once.

    gpus: by index, those that engines wait for.
    """

    processes: Mapping[str, Process] = field(default_factory=dict)
    started_at: float = 0.0
    was_ready: bool = False
    first_request: FirstRequestSeen = FirstRequestSeen()
    gpus: Mapping[int, GpuSeen] = field(default_factory=dict)


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
    """The engine becomes `spec`, of the other role, without a restart."""

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
    """A process that ended and is not wanted any more leaves the books."""

    name: str
    why: str = ""


@dataclass(frozen=True)
class SendFirstRequest:
    why: str = ""


@dataclass(frozen=True)
class Fail:
    """The first start failed: everything is to be stopped."""

    name: str  # the process at fault; "" when none is
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
    process = observed.processes.get(spec.name)
    return process is not None and process.spec == spec and process.is_serving


def others_serve(process: Process, observed: Observed) -> bool:
    """Whether an engine of the same role serves and is to go on serving."""
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
    """The crashes that count after one more at `now`: long serving forgives earlier ones."""
    since = process.serving_since
    forgiven = since is not None and now - since >= limits.forget_crashes_s
    return (now,) if forgiven else (*process.crashes, now)


def started(spec: ProcessSpec, before: Process | None, now: float) -> Process:
    """A new start; crashes and having served are remembered of the same spec."""
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
    """It is gone. A crash, unless it was asked to end."""
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


def not_started(spec: ProcessSpec, before: Process | None, why: str, now: float) -> Process:
    """It could not even be started; counts as a crash."""
    crashes = before.crashes if before is not None and before.spec == spec else ()
    return Process(spec=spec, running=False, since=now, crashes=(*crashes, now), detail=why)


def checked(process: Process, answer: Readiness, now: float) -> Process:
    """After a readiness check."""
    wrong_since = (process.wrong_since or now) if answer.is_wrong else None
    detail = answer.detail or process.detail
    return replace(process, ready=answer.is_ready, wrong_since=wrong_since, detail=detail)


def answered(process: Process, is_alive: bool, now: float) -> Process:
    """After a sign of life, or the lack of one."""
    since = None if is_alive else (process.unanswered_since or now)
    return replace(process, unanswered_since=since)


def told(process: Process, text: str) -> Process:
    """After it has written more into its log."""
    return replace(process, lost=process.lost or what_died(text))


def leaves_router(process: Process, now: float) -> Process:
    """It was told to the router to send nothing more here: what was seen inside counts no more."""
    return replace(process, deregister_sent=now, register_sent=None, idle_since=None, num_left=None)


def drained(process: Process, num_left: int | None, now: float) -> Process:
    """After it was asked for the requests inside. None: it did not say."""
    since = (process.idle_since or now) if num_left == 0 else None
    return replace(process, idle_since=since, num_left=num_left)


def not_switched(process: Process, answer: Switched) -> Process:
    """It kept its role: tried again where a request was still inside."""
    after = replace(process, switch_to=None, idle_since=None)
    return after if answer.is_early else replace(after, switch_failed=answer.why or "refused")


def switched(
    processes: Mapping[str, Process], name: str, spec: ProcessSpec, now: float
) -> dict[str, Process]:
    """The engine `name` is another one now, in the same process; not ready until it was asked."""
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
    """After the router was asked what it lists."""
    after = replace(process, listed=row)
    return serving(after, now)


def serving(process: Process, now: float) -> Process:
    """Remember that it serves, and since when."""
    if not process.is_serving:
        return replace(process, serving_since=None)
    return replace(process, served=True, serving_since=process.serving_since or now, detail="")


def gpus_awaited(
    before: Mapping[int, GpuSeen],
    gpus: Iterable[int],
    left_by: Mapping[int, ProcessRole],
    now: float,
) -> dict[int, GpuSeen]:
    """What is known of the GPUs that engines wait for now; of others nothing is kept."""
    return {gpu: before.get(gpu) or GpuSeen(None, now, left_by.get(gpu)) for gpu in gpus}


def gpus_seen(
    before: Mapping[int, GpuSeen], taken: Mapping[int, GpuUse], now: float
) -> dict[int, GpuSeen]:
    """After a look at them: who has them, and since when they are free or taken."""
    return {
        gpu: _seen_again(seen, taken[gpu], now) if gpu in taken else seen
        for gpu, seen in before.items()
    }


def _seen_again(seen: GpuSeen, taken: GpuUse, now: float) -> GpuSeen:
    was_busy = seen.taken is None or bool(seen.taken.by)
    return replace(seen, taken=taken, since=seen.since if was_busy == bool(taken.by) else now)


def router_lost(process: Process) -> Process:
    """The router ended: whatever it knew of this engine is gone."""
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
