"""The `data` of every verb's JSON, as types that `pdctl schema` turns into a schema."""

from dataclasses import dataclass
from typing import Any, Literal, TypedDict

from pdctl.doctor.records import Check
from pdctl.engines.records import DeploymentState
from pdctl.measurement.arms import ArmComparison, ArmResult
from pdctl.measurement.compare import Rehearsal
from pdctl.perf_model.fitting.identify import Disagreement
from pdctl.perf_model.intervals import Errors
from pdctl.perf_model.records import Basis, Measurement, Parallelism, Percentiles
from pdctl.status.autopilot.journal import Entry
from pdctl.status.explain.records import Explanation
from pdctl.status.records import Advice, DeploymentStatus, WhatIf
from pdctl.verdict.records import (
    Choice,
    Floor,
    Interval,
    OneDown,
    Rule,
    Sizing,
    StateLimits,
    Steady,
)
from pdctl.workload.records import Burstiness, Lengths, TraceFacts

# --- plan ---

Size = int | dict[str, int]  # of all engines, or by role


class _ArmSizes(TypedDict, total=False):
    """Parallelism of the engines; missing where nothing of it is known."""

    tp: Size
    pp: Size
    dp: Size
    ep: Size


class PlannedArm(_ArmSizes):
    """One layout and what is predicted of it."""

    layout: str
    num_gpus: int
    ttft_s: Percentiles | None
    tpot_s: Percentiles | None
    ttft_at_share_s: float | None
    tpot_at_share_s: float | None
    capacity_rps: float | None
    estimate_rps: float | None
    goodput_rps: float | None
    attainment: float | None
    keeps_up: bool | None
    meets_slo: bool | None
    gpus_needed: int | None
    one_down: list[OneDown]
    tokens_per_s_per_gpu: float | None
    usd_per_million_output_tokens: float | None
    kv_usage: dict[str, float] | None
    infeasible: str | None
    throughput_rps: float | None
    steady: Steady | None
    intervals: dict[str, Interval]


FlipData = TypedDict(
    "FlipData", {"what": str, "from": Choice, "to": Choice, "at": float, "meets_slo": bool}
)


class PlanProvenance(TypedDict):
    """The source of the figures, and factors between which nine of ten true ones lie."""

    basis: Basis
    profile: str | None
    band: float
    errors: Errors


class WorkloadData(TypedDict):
    """The requests, and how a file of them was read.

    narrowed_to: the model's context in tokens, where lengths spread less than usual to fit it.
    """

    origin: str
    isl: Lengths | None
    osl: Lengths | None
    rate_rps: float | None
    concurrency: float | None
    prefix_hit: float | None
    narrowed_to: int | None
    burstiness: Burstiness | None
    trace: TraceFacts | None
    text: str | None


class PlanData(TypedDict):
    """The verdict with everything it rests on."""

    verdict: Choice
    confidence: Literal["high", "medium", "low"]
    decided_by: Literal["rules", "evidence", "feasibility"]
    headline: str
    reason: str
    meets_slo: bool
    rate_rps: float | None
    rules: list[Rule]
    sizing: Sizing | None
    starts: list[Sizing]
    state_limits: StateLimits | None
    gpus_needed: int | None
    question: dict[str, Any]
    model: dict[str, Any]
    next: list[str]
    arms: dict[str, PlannedArm]
    sweep: list[PlannedArm]
    flips: list[FlipData]
    warnings: list[str]
    floors: list[Floor]
    provenance: PlanProvenance
    clients: int | None
    most_clients: int | None
    load: str | None
    workload: WorkloadData


class ModelList(TypedDict):
    """`plan --models`, the sizes of every bundled model."""

    models: list[dict[str, Any]]


# --- deployments ---


class WrittenFile(TypedDict):
    """`up -o`: the pd.yaml that was written."""

    file: str


class GpusOnNode(TypedDict):
    """The GPUs of one process on one node, by index; "" is this machine."""

    node: str
    gpus: list[int]


class ProcessCommand(TypedDict):
    """One process as `up --dry-run` would start it."""

    name: str
    places: list[GpusOnNode]
    argv: list[str]
    env: dict[str, str]


class DryRun(TypedDict):
    """`up --dry-run`: the commands, router first."""

    layout: str
    processes: list[ProcessCommand]


class Latencies(TypedDict):
    """Predicted latencies of one layout; null where nothing is predicted."""

    ttft_p99_s: float | None
    tpot_p99_s: float | None


class ScaleEffectData(TypedDict):
    """The predicted effect of a change on the traffic that was watched."""

    rate_rps: float
    watched_s: float
    basis: str
    before: Latencies
    after: Latencies


class ScaleData(TypedDict):
    """A change of the numbers of engines. effect: only with --dry-run, null where unknown."""

    name: str
    before: str
    layout: str
    revision: int
    changed: bool
    changes: list[str]
    state: DeploymentState | None
    dry_run: bool
    effect: ScaleEffectData | None
    effect_unknown: str


class AutopilotReport(TypedDict):
    """`autopilot --report`: every decision, oldest first."""

    name: str
    entries: list[Entry]


class Stopped(TypedDict):
    """One deployment that was stopped. killed: processes that had to be killed."""

    name: str
    killed: list[str]


class DownData(TypedDict):
    """The deployments that were stopped."""

    stopped: list[Stopped]


class LogLines(TypedDict):
    """Lines of the logs, or of the supervisor's decisions."""

    name: str
    lines: list[str]


class Bundle(TypedDict):
    """`logs --bundle`: the archive and the files in it."""

    name: str
    bundle: str
    files: list[str]


class Rendered(TypedDict):
    """A deployment for another program."""

    target: str
    text: str


class DoctorData(TypedDict):
    """Every check."""

    checks: list[Check]


# --- measurements ---


class MeasureData(TypedDict):
    """Both arms, and which one wins. up: the command that starts the winner, or ""."""

    arms: dict[str, ArmResult]
    comparison: ArmComparison
    up: str
    is_interrupted: bool


class ProfileData(TypedDict):
    """A profile without its measurements, which are in its file."""

    id: str
    gpu: str
    family: str
    architecture: str
    llm: str
    engine: str
    attention_backend: str
    parallelism: Parallelism
    num_params: float
    date: str
    command: str
    factors: dict[str, float]
    coefficients: dict[str, float]
    left_out_error: float


class CalibrationData(TypedDict):
    """A calibration. file: null where the profile was refused."""

    profile: ProfileData
    file: str | None
    num_measurements: int
    elapsed_s: float
    band: float
    uncertainty: float | None
    is_complete: bool
    unidentified: list[str]
    disagreements: list[Disagreement]
    given_up: list[Measurement]
    request_s: float | None
    is_simulated: bool
    notes: list[str]


# --- the command line itself ---


class HelpText(TypedDict):
    """One topic, in Markdown, or a verb's --help."""

    topic: str
    text: str


class HelpTopics(TypedDict):
    """Topic -> its title."""

    topics: dict[str, str]


class ManPages(TypedDict):
    """`help --man`: the files that were written."""

    files: list[str]


@dataclass(frozen=True)
class AdviceData(Advice):
    """The advice of a status. command: makes the change; "" without one."""

    command: str = ""


@dataclass(frozen=True)
class WhatIfData(WhatIf):
    """A what-if in a status. better_layout: the best one, if it is better beyond doubt; else ""."""

    is_match: bool = False
    better_layout: str = ""


@dataclass(frozen=True)
class StatusData(DeploymentStatus):
    """One sample of a whole deployment."""

    advice: AdviceData
    what_if: WhatIfData | None = None


DATA: dict[str, Any] = {
    "plan": PlanData | ModelList,
    "up": DeploymentState | WrittenFile | DryRun,
    "status": StatusData,
    "explain": Explanation,
    "autopilot": Entry | AutopilotReport,
    "scale": ScaleData,
    "down": DownData,
    "logs": LogLines | Bundle,
    "ls": list[DeploymentState],
    "rehearse": Rehearsal,
    "render": Rendered,
    "doctor": DoctorData,
    "measure": MeasureData,
    "calibrate": CalibrationData,
    "schema": dict[str, object],
    "help": HelpText | HelpTopics | ManPages,
}
