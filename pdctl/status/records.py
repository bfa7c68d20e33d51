"""Records of status: a sample of one engine, the deployment at one moment, and advice."""

from dataclasses import dataclass, field
from typing import Literal

from pdctl.deployment.records import Counts
from pdctl.inspection.records import GpuLoad
from pdctl.perf_model.records import Role

MATCHES_WITHIN = 0.10  # of the share of requests that meets the SLOs

EngineHealth = Literal["up", "starting", "unreachable", "failed", "stale"]


@dataclass(frozen=True)
class Target:
    """The address of an engine. role: the role it was started or registered with.

    gpus: its GPUs on this machine; empty where there are none or they are elsewhere.
    """

    name: str
    role: Role
    url: str
    phase: str = "serving"
    detail: str = ""
    problem: str = ""  # a fault in how the engine is set up
    gpus: tuple[int, ...] = ()


@dataclass(frozen=True)
class EngineSample:
    """Numbers that one engine reported at one moment. None: it did not report that number.

    at_s: when the engine took the numbers, in Unix seconds, by its own clock if it sends one.
    ttft_bound_s, itl_bound_s: upper bound of the histogram's first bucket. A percentile equal to
    it is known only to lie below it.
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
    state_usage: float | None = None  # of a hybrid model's state pool, 0..1
    tokens_per_s: float | None = None
    ttft_p50_s: float | None = None
    ttft_p99_s: float | None = None
    ttft_bound_s: float | None = None
    itl_p50_s: float | None = None
    itl_p99_s: float | None = None
    itl_bound_s: float | None = None
    transfer_gb_per_s: float | None = None
    transfer_latency_s: float | None = None  # of the last KV transfer that finished
    transfer_failures: int | None = None
    requests_total: float | None = None
    busy_share: float | None = None  # share of wall time in prefill forward passes, 0..1
    prefill_s_per_token: float | None = None  # busy time per prompt token computed


# upper bounds in seconds (the last one infinite) and the observations at or below each
Histogram = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class CounterSample:
    """Totals since an engine's start. None: the engine does not count that.

    decode_b, decode_t, decode_bt, decode_g: sums over decode steps of the batch size, the step time
    (s), batch size x step time, and the tokens.
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
    tpot: Histogram | None = None  # of whole requests; SGLang counts it from 0.5.23 on


@dataclass(frozen=True)
class Scrape:
    """One answer of one engine. sample and counters are None if the answer held none.

    at_s: when the answer arrived, in Unix seconds of this machine.
    age_s: the age of the numbers at that time, by the engine's own clock.
    """

    at_s: float
    sample: EngineSample | None = None
    counters: CounterSample | None = None
    age_s: float = 0.0
    problem: str = ""


@dataclass(frozen=True)
class RouterScrape:
    """One answer of the router. None: it did not report that number.

    breakers: engine URL -> state of its circuit breaker.
    """

    at_s: float
    alive: bool
    ready: bool = False
    requests: float | None = None
    breakers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class EngineMoment:
    """One engine at one moment, to compare it with the other engines of its role.

    queued: requests in all its queues. prefill_s_per_token: busy time per prompt token computed.
    """

    name: str
    role: Role
    health: EngineHealth
    queued: float | None = None
    running: float | None = None
    itl_s: float | None = None
    prefill_s_per_token: float | None = None


@dataclass(frozen=True)
class Moment:
    """Totals over a deployment at one moment, the input of advice. None: unknown.

    Queues count requests over all engines of the role; kv_usage is the mean over decode engines,
    0..1; itl_s is the mean gap between output tokens since the previous moment; requests is a
    running total. counted_by: whose total it is; totals of the router and of the engines differ.
    transfer_latency_s: mean over prefill engines, for the last finished transfer.
    """

    at_s: float
    num_prefill: int
    num_decode: int
    num_colocated: int = 0
    waiting: float | None = None  # at prefill (or colocated) engines
    bootstrap: float | None = None
    inflight: float | None = None
    prealloc: float | None = None
    transfer: float | None = None
    decode_waiting: float | None = None
    running: float | None = None
    kv_usage: float | None = None
    itl_s: float | None = None
    ttft_s: float | None = None
    busy_share: float | None = None  # mean over prefill engines
    transfer_latency_s: float | None = None
    requests: float | None = None
    counted_by: str = ""  # router, engines
    restarted: bool = False  # an engine's counters started over
    engines: tuple[EngineMoment, ...] = ()


@dataclass(frozen=True)
class EngineStatus:
    """One row of the status table. sample: the last one received, even if stale."""

    target: Target
    health: EngineHealth
    sample: EngineSample | None
    age_s: float | None
    breaker: Literal["closed", "open", "half-open"] | None = None
    problem: str = ""
    gpu: GpuLoad | None = None  # all its GPUs together


Cause = Literal[
    "prefill_bound",
    "decode_bound",
    "overloaded",  # prefill and decode both, or every colocated engine
    "network_bound",
    "stuck_transfers",
    "sick_engine",
    "misconfigured",
    "healthy",
    "not_enough_evidence",
]


@dataclass(frozen=True)
class Evidence:
    """The numbers behind an advice, at the end of the window it looked at. None: unknown.

    Queues are requests over all engines of the role, shares 0..1. backlog_s: seconds that prefill
    needs for its queue at the pace it showed in this window.
    """

    watched_s: float = 0.0
    requests: float | None = None
    waiting: float | None = None
    backlog_s: float | None = None
    inflight: float | None = None
    prealloc: float | None = None
    transfer: float | None = None
    kv_usage: float | None = None
    itl_s: float | None = None
    prefill_busy: float | None = None
    transfer_latency_s: float | None = None


@dataclass(frozen=True)
class Advice:
    """A cause and the change it calls for.

    what: the cause as a sentence. why: the numbers that show it, as text. engine: the one at fault,
    "" if it is not a single engine. change: None if other engine counts would not help.
    """

    cause: Cause
    what: str
    why: str = ""
    evidence: Evidence = Evidence()
    change: Counts | None = None
    engine: str = ""


@dataclass(frozen=True)
class Alternative:
    """One layout replayed. attainment: share of the requests that meet the SLOs, 0..1.

    Both it and gain are without the queue that the window began with. gain: over the replay of
    today's layout, in the same share. gain_low: its lower bound at 95 %, if this replay is off by
    as much as today's and the gain counts from what was seen.
    """

    layout: str
    num_prefill: int
    num_decode: int
    attainment: float
    gain: float
    gain_low: float


@dataclass(frozen=True)
class WhatIf:
    """The layouts of the same GPUs for the requests of a window, best first.

    seen, replayed: share that met the SLOs, over the requests whose times are known, as measured
    and in the replay of today's layout. attainment: of that replay over all requests. by_whole: the
    times in the logs contradict whole times, so that seen and replayed are the share whose whole
    time is within what both limits allow together. usual_ttft_s, usual_tpot_s: today's medians,
    which are the limits where no SLOs are given.
    """

    at_s: float
    layout: str
    num_requests: int
    rate_rps: float
    window_s: float
    seen: float
    replayed: float
    attainment: float
    alternatives: tuple[Alternative, ...]
    prefill_factor: float = 1.0
    decode_factor: float = 1.0
    by_whole: bool = False
    usual_ttft_s: float | None = None
    usual_tpot_s: float | None = None

    @property
    def mismatch(self) -> float:
        """The distance between the replay of today's layout and the requests seen, 0..1."""
        return abs(self.seen - self.replayed)

    @property
    def is_match(self) -> bool:
        return self.mismatch <= MATCHES_WITHIN

    @property
    def best(self) -> Alternative | None:
        """The best layout if it is better beyond doubt; None: today's is as good."""
        sure = [one for one in self.alternatives if one.gain_low > 0]
        return sure[0] if sure and self.is_match else None

    def of(self, layout: str) -> Alternative | None:
        """The alternative with this layout."""
        return next((one for one in self.alternatives if one.layout == layout), None)


@dataclass(frozen=True)
class JobLimit:
    """The time limit of the Slurm job with this number. ends_at_s: Unix seconds; None: unknown."""

    number: str
    ends_at_s: float | None = None
    is_unlimited: bool = False


@dataclass(frozen=True)
class DeploymentStatus:
    """One sample of a whole deployment. is_ours: pdctl started it and can change it."""

    name: str
    model: str
    layout: str
    endpoint: str
    at_s: float
    verdict: Literal["serving", "starting", "scaling", "degraded", "down"]
    verdict_text: str
    engines: tuple[EngineStatus, ...]
    advice: Advice
    is_ours: bool = True
    sim_speed: float | None = None  # of simulated engines; 10: ten times real time
    requests_per_s: float | None = None
    ttft_p50_s: float | None = None
    ttft_p99_s: float | None = None
    ttft_bound_s: float | None = None  # a percentile equal to it lies below it
    itl_p50_s: float | None = None
    itl_p99_s: float | None = None
    itl_bound_s: float | None = None
    ttft_slo_s: float | None = None
    tpot_slo_s: float | None = None
    notes: tuple[str, ...] = ()  # sentences on engines that run slower than they could
    job: JobLimit | None = None  # that the deployment runs in; None outside Slurm
    watched_s: float = 0.0  # how long samples have been taken
    what_if: WhatIf | None = None  # the last one, if it is recent
    what_if_unknown: str = ""  # why there is none, as a sentence, where one was asked for
    history: dict[str, tuple[float, ...]] = field(default_factory=dict)  # engine -> queue lengths


@dataclass(frozen=True)
class Watched:
    """A deployment to watch, from its state or from a router.

    phase: the supervisor's phase for the deployment; None if pdctl did not start it.
    note: a fault of the watch itself, as a sentence. router_problem: how the router ended.
    sim_speed: of simulated engines; None for real ones.
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
    router_problem: str = ""
    sim_speed: float | None = None
    ttft_slo_s: float | None = None
    tpot_slo_s: float | None = None
