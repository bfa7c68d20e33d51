"""Options of `measure`, and the requests, SLOs and deployments that follow from them."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from pdctl.commands.deployment_options import DeploymentOptions, build_deployment
from pdctl.commands.options.engine_options import ROLES
from pdctl.commands.parallel import spread_over_cores
from pdctl.commands.progress import progress_line
from pdctl.commands.trace_input import read_given_trace
from pdctl.deployment.records import Deployment
from pdctl.engines.lifecycle.temporary import private
from pdctl.errors import InvalidInput
from pdctl.inspection.records import Cluster, Llm
from pdctl.measurement.arms import ArmName
from pdctl.measurement.results import Connections
from pdctl.perf_model.records import Parallelism
from pdctl.units import positive
from pdctl.verdict.records import Question
from pdctl.verdict.rules import quarter
from pdctl.verdict.verdict import decide
from pdctl.workload.arrivals import head, make_requests, pick
from pdctl.workload.describe import parse_slo, workload_from_lengths, workload_from_trace
from pdctl.workload.records import Requests, Slo, Workload


@dataclass(frozen=True)
class MeasureOptions:
    """Options of `measure`, as typed. None or "": not given.

    lengths: --isl, --osl. spreads: --isl-cv, --osl-cv. slo: --ttft, --tpot, --attainment. sizes:
    tp, pp, dp, ep. args: SGLang flags for all, prefill and decode engines.
    """

    model: str
    lengths: tuple[float | None, float | None]
    spreads: tuple[float | None, float | None]
    rate_rps: float | None
    concurrency: int | None
    prefix_hit: float | None
    trace: Path | None
    time_unit: str
    duration_s: float
    total: int
    prefill: int | None
    repeats: int
    find_knee: bool
    target: str
    connections: str
    slo: tuple[str, str, float]
    engine: str
    gpus: str
    sizes: tuple[int | None, int | None, int | None, int | None]
    args: tuple[str, str, str]
    transfer_backend: str
    python: str | None
    profile: Path | None
    timeout_s: float
    seed: int
    output: Path | None
    as_json: bool
    no_input: bool


def check_options(options: MeasureOptions) -> None:
    """Raise InvalidInput if the options contradict each other or leave something out."""
    if not options.model and not options.target:
        raise InvalidInput(
            "No model given.", hint="pdctl measure MODEL --isl 8000 --osl 256 --rate 3"
        )
    if options.connections not in ("new", "kept"):
        raise InvalidInput(
            f"--connections must be new or kept, not {options.connections!r}.",
            hint="--connections new",
        )
    if options.repeats < 1:
        raise InvalidInput(
            f"--repeats must be at least 1, not {options.repeats}.", hint="--repeats 3"
        )
    if options.total < 2 and not options.target:
        raise InvalidInput(
            f"--total {options.total} is too few to split: a split needs one engine of each role.",
            hint="--total 2",
        )
    if options.trace is None and None in options.lengths:
        raise InvalidInput(
            "No requests given: pass --isl, --osl and --rate, or --trace FILE.",
            hint="--isl 8000 --osl 256 --rate 3",
        )
    _check_rate(options)


def _check_rate(options: MeasureOptions) -> None:
    if options.rate_rps is not None:
        positive(options.rate_rps, flag="--rate")
        if options.concurrency is not None:
            raise InvalidInput(
                "--rate and --concurrency cannot be combined.", hint="pass only one of them"
            )
    elif options.concurrency is not None:
        positive(options.concurrency, flag="--concurrency")
    elif options.trace is None:
        raise InvalidInput("No load given.", hint="--rate 3 or --concurrency 16")
    if options.find_knee and options.rate_rps is None:
        raise InvalidInput("--find-knee needs a rate to start from.", hint="--rate 3 --find-knee")
    if options.find_knee and not slo_of(options).is_given:
        raise InvalidInput(
            "--find-knee needs SLOs: it finds the highest rate at which they hold.",
            hint="--ttft 2s --tpot 30ms",
        )


def slo_of(options: MeasureOptions) -> Slo:
    """The SLOs. Raises InvalidInput if one cannot be read."""
    return parse_slo(*options.slo)


def workload_of(options: MeasureOptions) -> Workload:
    """The workload from which to draw requests."""
    if options.trace is None:
        return workload_from_lengths(
            isl=options.lengths[0],
            osl=options.lengths[1],
            rate_rps=options.rate_rps,
            concurrency=options.concurrency,
            prefix_hit=options.prefix_hit,
            isl_cv=options.spreads[0],
            osl_cv=options.spreads[1],
        )
    osl = options.lengths[1]
    trace = read_given_trace(
        options.trace,
        time_unit=options.time_unit,
        osl=None if osl is None else round(osl),
        no_input=options.no_input,
    )
    if not trace.has_arrivals and options.rate_rps is None and options.concurrency is None:
        raise InvalidInput(
            f"{options.trace.name} has lengths but no arrival times.", hint="--rate 3"
        )
    return workload_from_trace(trace, options.trace.name, rate_rps=options.rate_rps)


def requests_at(
    options: MeasureOptions, workload: Workload, rate_rps: float | None, llm: Llm
) -> Requests:
    """The requests of one load, except those that exceed the context."""
    if workload.requests is not None and rate_rps is None and options.concurrency is None:
        inside = sum(at <= options.duration_s for at in workload.requests.arrival_s)
        requests = head(workload.requests, max(inside, 1))
    else:
        rate = rate_rps or workload.rate_rps or float(options.concurrency or 1)
        num = max(2, round(rate * options.duration_s))
        requests = make_requests(workload, num=num, rate_rps=rate, seed=options.seed)
    longest = llm.max_context or 1 << 40
    places = [i for i, n in enumerate(requests.isl) if n + requests.osl[i] < longest]
    if not places:
        raise InvalidInput(
            f"Every request exceeds the context of {longest:,} tokens.",
            hint="a shorter --isl or --osl",
        )
    return requests if len(places) == len(requests) else pick(requests, places)


def connections_of(options: MeasureOptions) -> Connections:
    """The load generator's use of connections."""
    return "kept" if options.connections == "kept" else "new"


def arms_of(
    options: MeasureOptions, llm: Llm, cluster: Cluster, workload: Workload
) -> dict[ArmName, Deployment]:
    """Both arms, with the same number of engines."""
    prefill = options.prefill
    if prefill is None and options.total > 2:
        prefill = _planned_prefill(options, llm, cluster, workload)
    return {"colocated": _deployment(options, 0), "pd": _deployment(options, prefill or 1)}


def _deployment(options: MeasureOptions, prefill: int) -> Deployment:
    tp, pp, dp, ep = options.sizes
    every, for_prefill, for_decode = options.args
    wanted = DeploymentOptions(
        model=options.model,
        prefill=prefill,
        total=options.total,
        engine=options.engine,
        gpus=options.gpus or None,
        tp=tp,
        pp=pp,
        dp=dp,
        ep=ep,
        args=every or None,
        prefill_args=for_prefill or None if prefill else None,
        decode_args=for_decode or None if prefill else None,
        transfer_backend=options.transfer_backend,
        python=options.python,
        no_input=True,
    )
    return private(build_deployment(wanted), f"measure-{prefill}")


def _planned_prefill(
    options: MeasureOptions, llm: Llm, cluster: Cluster, workload: Workload
) -> int:
    """Number of prefill engines that `plan` chooses for the split. A quarter if it has none."""
    tp, pp, dp, ep = (size or 1 for size in options.sizes)
    question = Question(
        llm=llm,
        cluster=cluster.with_equal_nodes(1, max(cluster.num_gpus, options.total * tp * pp)),
        workload=workload,
        slo=slo_of(options),
        total=options.total,
        parallelism={role: Parallelism(tp, pp, dp, ep) for role in ROLES},
    )
    with progress_line() as progress:
        verdict = decide(question, spread=spread_over_cores, progress=progress, flips=False)
    arm = verdict.arms.get("pd")
    planned = arm.counts.get("prefill") if arm is not None and arm.infeasible is None else None
    return planned or quarter(options.total).prefill or 1


def winner_command(options: MeasureOptions, deployment: Deployment) -> str:
    """The `pdctl up` command line that starts this arm."""
    prefill = deployment.roles["prefill"].engines if "prefill" in deployment.roles else 0
    words = ["pdctl", "up", options.model, "--prefill", str(prefill), "--total", str(options.total)]
    for flag, size in zip(("--tp", "--pp", "--dp", "--ep"), options.sizes, strict=True):
        words += [flag, str(size)] if size else []
    for flag, text in zip(("--args", "--prefill-args", "--decode-args"), options.args, strict=True):
        words += [flag, text] if text and (prefill or flag == "--args") else []
    words += ["--engine", options.engine] if options.engine != "sglang" else []
    words += ["--gpus", options.gpus] if options.gpus else []
    words += ["--python", options.python] if options.python else []
    return shlex.join(words)
