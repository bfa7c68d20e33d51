"""What the supervisor sees, wants and does, as values: the vocabulary of `supervisor.step`.

All times are seconds of one monotonic clock.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pdctl.deployment.records import ProcessRole, ProcessSpec
from pdctl.engines.records import Failure
from pdctl.engines.router_client import Listed


@dataclass(frozen=True)
class Limits:
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


DEFAULT_LIMITS = Limits()


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
class Taken:
    """Who has the memory of a GPU. by: in words, "" where it is all but empty.

    is_named: a living process is known to have it, so that no dead one's memory is the reason.
    """

    by: str = ""
    is_named: bool = False


@dataclass(frozen=True)
class GpuSeen:
    """A GPU on which an engine is to start.

    taken: None as long as nobody has said; since: when it was first found so, or first asked for;
    left_by: the role of the engine that last ended there, None: not known.
    """

    taken: Taken | None
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
