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
class FleetStatus:
    """One sample of a whole deployment."""

    name: str
    model: str
    layout: str
    endpoint: str
    at_s: float
    verdict: Literal["serving", "starting", "degraded", "down"]
    verdict_text: str
    engines: tuple[EngineStatus, ...]
    advice: Advice
    requests_per_s: float | None = None
    history: dict[str, tuple[float, ...]] = field(default_factory=dict)  # engine -> queue lengths
