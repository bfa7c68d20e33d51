"""The records of status: one sample of one engine, and the fleet at one moment."""

from dataclasses import dataclass, field
from typing import Literal

from pdctl.perf_model.records import Role

EngineHealth = Literal["up", "starting", "unreachable", "failed", "stale"]


@dataclass(frozen=True)
class Target:
    """Where an engine answers, whoever started it. role: what it was started or registered as."""

    name: str
    role: Role
    url: str
    phase: str = "serving"
    detail: str = ""
    problem: str = ""  # what is wrong with how it is set up


@dataclass(frozen=True)
class EngineSample:
    """What one engine said at one moment. None: it did not say.

    at_s: when the engine took the numbers (its own clock where it gives one), Unix seconds.
    """

    at_s: float
    role: Role
    running: int | None = None
    waiting: int | None = None
    bootstrap: int | None = None
    inflight: int | None = None
    prealloc: int | None = None
    transfer: int | None = None
    retracted: int | None = None
    kv_usage: float | None = None
    tokens_per_s: float | None = None
    ttft_p50_s: float | None = None
    ttft_p99_s: float | None = None
    itl_p50_s: float | None = None
    itl_p99_s: float | None = None
    transfer_gb_per_s: float | None = None
    transfer_failures: int | None = None
    requests_total: float | None = None
    busy_share: float | None = None  # of wall time in prefill forward passes, 0..1


# upper bounds in seconds (the last one infinite) and how many observations were at or below each
Histogram = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class CounterSample:
    """What an engine has counted since its start. None: it does not count that.

    decode_b, decode_t, decode_bt, decode_g: over decode steps, the sums of the batch, of the step
    time (s), of batch x step time and of tokens.
    """

    prefill_tokens: float | None = None
    cached_tokens: float | None = None
    prefill_busy_s: float | None = None
    decode_steps: float | None = None
    decode_b: float | None = None
    decode_t: float | None = None
    decode_bt: float | None = None
    decode_g: float | None = None
    decode_tokens: float | None = None
    requests: float | None = None
    transfer_failures: float | None = None
    ttft: Histogram | None = None
    itl: Histogram | None = None


@dataclass(frozen=True)
class Scrape:
    """One answer of one engine. sample and counters are None when it gave none.

    at_s: when it answered, Unix seconds of this machine.
    age_s: how old the numbers were then, by the engine's own clock.
    """

    at_s: float
    sample: EngineSample | None = None
    counters: CounterSample | None = None
    age_s: float = 0.0
    problem: str = ""


@dataclass(frozen=True)
class RouterScrape:
    """One answer of the router. None: it did not say.

    breakers: engine URL -> state of its circuit breaker.
    """

    at_s: float
    alive: bool
    ready: bool = False
    requests: float | None = None
    breakers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Moment:
    """The sums of a fleet at one moment: what advice is given from. None: unknown.

    Queues are in requests over all engines of the role; kv_usage is decode's mean, 0..1;
    itl_s the mean gap between output tokens since the moment before; requests counts up.
    """

    at_s: float
    num_prefill: int
    num_decode: int
    num_colocated: int = 0
    waiting: float | None = None  # of prefill (or colocated) engines
    bootstrap: float | None = None
    inflight: float | None = None
    prealloc: float | None = None
    transfer: float | None = None
    decode_waiting: float | None = None
    running: float | None = None
    kv_usage: float | None = None
    itl_s: float | None = None
    ttft_s: float | None = None
    busy_share: float | None = None  # of prefill engines
    requests: float | None = None
    restarted: bool = False  # an engine's counters began anew


@dataclass(frozen=True)
class EngineStatus:
    """One row of the status table. sample: the last one that arrived, even when stale."""

    target: Target
    health: EngineHealth
    sample: EngineSample | None
    age_s: float | None
    breaker: Literal["closed", "open", "half-open"] | None = None
    problem: str = ""


@dataclass(frozen=True)
class Advice:
    """What to change, with its evidence and its command; or that there is not enough evidence."""

    kind: Literal[
        "more_prefill", "fewer_prefill", "scale_up", "network", "steady", "not_enough_evidence"
    ]
    text: str
    evidence: str = ""
    command: str = ""


@dataclass(frozen=True)
class DeploymentStatus:
    """One sample of a whole deployment."""

    name: str
    model: str
    layout: str
    endpoint: str
    at_s: float
    verdict: Literal["serving", "starting", "scaling", "degraded", "down"]
    verdict_text: str
    engines: tuple[EngineStatus, ...]
    advice: Advice
    requests_per_s: float | None = None
    ttft_p50_s: float | None = None
    ttft_p99_s: float | None = None
    itl_p50_s: float | None = None
    itl_p99_s: float | None = None
    ttft_slo_s: float | None = None
    tpot_slo_s: float | None = None
    notes: tuple[str, ...] = ()  # sentences on engines that no longer run as their profile has it
    watched_s: float = 0.0  # how long samples have been taken
    history: dict[str, tuple[float, ...]] = field(default_factory=dict)  # engine -> queue lengths


@dataclass(frozen=True)
class Watched:
    """What to watch, from a deployment's state or from a router.

    phase: what the supervisor says of the whole; None on a deployment pdctl did not start.
    note: what is wrong with the watch itself, as a sentence.
    """

    name: str
    model: str
    endpoint: str
    targets: tuple[Target, ...]
    router_url: str
    router_metrics_port: int | None = None
    phase: str | None = None
    detail: str = ""
    note: str = ""
    ttft_slo_s: float | None = None
    tpot_slo_s: float | None = None
