"""The records of a verdict, as `plan --json` prints them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pdctl.inspection.records import Cluster, Llm
from pdctl.perf_model.intervals import Errors
from pdctl.perf_model.records import (
    Basis,
    Parallelism,
    Percentiles,
    Profile,
    QueueSample,
    Role,
    Serving,
    layout_text,
)
from pdctl.workload.records import Mix, Slo, Workload

Choice = Literal["pd", "colocated", "too_close"]
Favours = Literal["pd", "colocated", "neither", "unknown"]
Lean = Literal["pd", "colocated", "mixed"]


@dataclass(frozen=True)
class Speculation:
    """Speculative decoding: draft tokens per step, and tokens gained per step and request."""

    draft_tokens: int
    accept_length: float = 1.0

    @property
    def verify_tokens(self) -> int:
        """Tokens one request adds to a decode batch: its drafts and the one they follow."""
        return self.draft_tokens + 1


@dataclass(frozen=True)
class Site:
    """A question without its load: what decides which engines can be built, and how many.

    total: engines; None: as many as the GPUs hold. parallelism: fixed by the user, by role;
    a role that is missing is searched. args: SGLang's flags by role, as `up` takes them; serving:
    what they make of the engines, by role. policy: the router's; None: the one that `up` sets.
    """

    llm: Llm
    cluster: Cluster
    workload: Mix
    total: int | None = None
    parallelism: Mapping[Role, Parallelism] = field(default_factory=dict)
    speculation: Speculation | None = None
    profile: Profile | None = None
    attention_backend: str | None = None  # None: SGLang's default on the GPU
    args: Mapping[Role, tuple[str, ...]] = field(default_factory=dict)
    serving: Mapping[Role, Serving] = field(default_factory=dict)
    policy: str | None = None
    unused_profile: Profile | None = None  # of this GPU and family, but of another backend
    max_gpus: int | None = None  # use at most so many of the GPUs; None: all

    @property
    def release(self) -> str | None:
        """SGLang's, the same for every engine; None: the newest known."""
        return next((own.release for own in self.serving.values()), None)


@dataclass(frozen=True)
class Question(Site):
    """The question put to `pdctl plan`: a site, and the load it has to carry."""

    workload: Workload
    slo: Slo = Slo()
    seed: int = 0
    usd_per_gpu_hour: float | None = None


@dataclass(frozen=True)
class Rule:
    """One of the user's rules applied: a line with its value, threshold and what it favours."""

    id: str
    favours: Favours
    value: float | None
    threshold: float | None
    text: str  # the value in words, as shown: "mean 12,035 tokens, 66 % over 4K"
    source: str


@dataclass(frozen=True)
class Sizing:
    """Engines of each role. prefill = decode = None on a colocated verdict."""

    total: int
    prefill: int | None
    decode: int | None
    basis: Literal["quarter", "rate_match", "simulation"]


@dataclass(frozen=True)
class OneDown:
    """The failure of one engine of a role: the share of requests that still meet the SLOs."""

    role: Role
    attainment: float  # without SLOs: 1.0 where the others keep up, else 0.0


@dataclass(frozen=True)
class Steady:
    """The steady part of a closed loop: neither the burst it begins with nor its end."""

    ttft_s: Percentiles | None
    tpot_s: Percentiles | None
    throughput_rps: float | None
    attainment: float | None  # None: no SLO is given


@dataclass(frozen=True)
class Interval:
    """The two values between which a figure lies in nine of ten cases."""

    low: float
    high: float


@dataclass(frozen=True)
class Arm:
    """One layout and what is predicted of it at the rate compared at. None: not predicted.

    counts: engines by role.
    attainment: the share of requests that meet every SLO; goodput_rps: so many a second.
    capacity_rps: the highest rate at which the share asked for meets every SLO (without SLOs: at
    which it keeps up), whatever rate was asked about; estimate_rps: the same in closed form, where
    it was not simulated. keeps_up: False where the queue grows for ever. meets: whether enough
    requests meet the SLOs, at this rate or at a higher one (see by_chance). ttft_at_share_s,
    tpot_at_share_s: at the share of requests asked for. gpus_needed: the fewest GPUs with which
    this kind of deployment meets the SLOs at the rate.
    """

    counts: Mapping[Role, int]
    num_gpus: int
    parallelism: Mapping[Role, Parallelism]
    ttft_s: Percentiles | None = None
    tpot_s: Percentiles | None = None
    e2e_s: Percentiles | None = None
    ttft_at_share_s: float | None = None
    tpot_at_share_s: float | None = None
    goodput_rps: float | None = None
    attainment: float | None = None
    keeps_up: bool | None = None
    meets: bool | None = None
    capacity_rps: float | None = None
    estimate_rps: float | None = None
    tokens_per_s_per_gpu: float | None = None
    kv_usage: dict[str, float] | None = None
    gpus_needed: int | None = None
    one_down: tuple[OneDown, ...] = ()
    infeasible: str | None = None  # why it cannot run at all
    queues: tuple[QueueSample, ...] = ()
    throughput_rps: float | None = None  # answers per second to clients in a closed loop
    steady: Steady | None = None  # of a closed loop; the other figures are of the whole run
    intervals: Mapping[str, Interval] = field(default_factory=dict)  # by the name of the figure

    @property
    def layout(self) -> str:
        """2P6D or 8C."""
        return layout_text(self.counts)

    @property
    def num_engines(self) -> int:
        return sum(self.counts.values())

    def by_chance(self, share: float) -> bool:
        """True if fewer requests than that share meet the SLOs here, but enough at a higher rate.

        Attainment falls with the rate but for the luck of who meets whom.
        """
        return bool(self.meets and self.attainment is not None and self.attainment < share - 1e-9)


@dataclass(frozen=True)
class Flip:
    """A change of one input that changes the verdict. at: the value, in the unit of `what`."""

    what: str  # "tpot_s", "ttft_s", "rate_rps", "isl", "total", "concurrency"
    from_: Choice
    to: Choice
    at: float
    from_at: float | None = None  # the value asked about
    is_met: bool = True  # False: no layout meets the SLOs there; `to` carries more


@dataclass(frozen=True)
class Provenance:
    """The source of the step times, and the likely error of figures at a capacity.

    basis: "fitted" to this model's profile, "relative": to that of another model of its family.
    """

    basis: Basis
    profile: str | None
    errors: Errors


@dataclass(frozen=True)
class Floor:
    """The least that a layout takes: its latencies at a rate so low that nothing waits.

    prefill_s, transfer_s and decode_s are parts of them: of a long prompt, and one decode step.
    """

    layout: str
    rate_rps: float
    ttft_s: float | None
    tpot_s: float | None
    prefill_s: float = 0.0
    transfer_s: float = 0.0  # 0: nothing is split
    decode_s: float = 0.0


@dataclass(frozen=True)
class StateLimits:
    """The most requests that an engine of each kind can run, given the memory of their states."""

    decode: int
    colocated: int


@dataclass(frozen=True)
class Verdict:
    """The answer of `pdctl plan`: facts first, then the sentences that sentences.write makes.

    verdict: the arm that comes nearest where is_met is False. evidence: what the simulation alone
    says; lean: where the rules point. arms: "colocated" and "pd"; impossible: why an arm cannot be
    built. state_limits: where they make the arms' engines differ. is_met: False where the answer is
    no: no layout meets the SLOs at the rate, or keeps up with it, or nothing fits.
    """

    verdict: Choice
    confidence: Literal["high", "medium", "low"]
    decided_by: Literal["rules", "evidence", "feasibility"]
    rules: tuple[Rule, ...]
    sizing: Sizing | None  # None: nothing fits
    arms: dict[str, Arm]
    sweep: tuple[Arm, ...]
    flips: tuple[Flip, ...]
    provenance: Provenance
    evidence: Choice = "too_close"
    lean: Lean = "mixed"
    starts: tuple[Sizing, ...] = ()  # the first sizings by rule: N/4, and by rate where known
    rate_rps: float | None = None  # the rate the arms were compared at; None: a closed loop
    clients: int | None = None  # of a closed loop
    most_clients: int | None = None  # for which a layout meets the SLOs, where these are too many
    is_rate_asked: bool = False
    is_met: bool = True
    is_fewest: bool = False  # chosen because it needs fewer GPUs
    impossible: dict[str, str] = field(default_factory=dict)
    state_limits: StateLimits | None = None
    left_out: tuple[str, ...] = ()  # engines without room for one request, and why
    fits_on: str = ""  # where nothing fits: GPUs on which it would, as --gpus takes them
    floors: tuple[Floor, ...] = ()  # where the SLOs are below what any layout takes
    headline: str = ""
    reason: str = ""  # what the headline rests on
    unmet: str = ""  # why the answer is no
    warnings: tuple[str, ...] = ()


def fewest_gpus(arms: Mapping[str, Arm]) -> int | None:
    """The fewest GPUs with which either arm meets the SLOs; None: unknown, or never."""
    known = [arm.gpus_needed for arm in arms.values() if arm.gpus_needed is not None]
    return min(known, default=None)


def most_carried(arms: Mapping[str, Arm]) -> float:
    """The highest rate that any arm carries; 0: none meets the SLOs, or it is unknown."""
    return max((arm.capacity_rps or 0.0 for arm in arms.values()), default=0.0)
