"""The records of a verdict, as `plan --json` prints them."""

from dataclasses import dataclass
from typing import Literal

from pdctl.perf_model.records import Basis, Parallelism, Percentiles

Choice = Literal["pd", "colocated", "too_close"]
Favours = Literal["pd", "colocated", "neither", "unknown"]


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
    """How many engines of each role. prefill = decode = None on a colocated verdict."""

    total: int
    prefill: int | None
    decode: int | None
    basis: Literal["quarter", "rate_match", "simulation"]


@dataclass(frozen=True)
class Arm:
    """One layout and what is predicted of it. None: not predicted."""

    layout: str
    num_gpus: int
    parallelism: dict[str, Parallelism]  # by role
    ttft_s: Percentiles | None = None
    tpot_s: Percentiles | None = None
    e2e_s: Percentiles | None = None
    goodput_rps: float | None = None
    attainment: float | None = None
    tokens_per_s_per_gpu: float | None = None
    kv_usage: dict[str, float] | None = None
    knee_rps: float | None = None  # highest rate sustained
    infeasible: str | None = None  # why it cannot run at all


@dataclass(frozen=True)
class Flip:
    """A change of one input that changes the verdict. at: the value, in the unit of `what`."""

    what: str  # "tpot_s", "rate_rps", "isl", "total"
    from_: Choice
    to: Choice
    at: float


@dataclass(frozen=True)
class Provenance:
    """Where the times came from. band: relative half-width, 0.25 for ±25 %."""

    basis: Basis
    profile: str | None
    band: float


@dataclass(frozen=True)
class Verdict:
    """The answer of `pdctl plan`."""

    verdict: Choice
    confidence: Literal["high", "medium", "low"]
    decided_by: Literal["rules", "evidence", "feasibility"]
    headline: str
    rules: tuple[Rule, ...]
    sizing: Sizing | None  # None: nothing fits
    arms: dict[str, Arm]  # "colocated" and "pd"
    sweep: tuple[Arm, ...]
    flips: tuple[Flip, ...]
    warnings: tuple[str, ...]
    provenance: Provenance
