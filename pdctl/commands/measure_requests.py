"""What `measure` was asked for: the requests, the service levels, the two arms."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pdctl.errors import InvalidInput
from pdctl.workload.describe import parse_slo
from pdctl.workload.records import Requests, Slo, Workload

if TYPE_CHECKING:
    from pdctl.deployment.records import Deployment
    from pdctl.inspection.records import Cluster, Llm
    from pdctl.measurement.arms import ArmName
    from pdctl.measurement.results import Connections


@dataclass(frozen=True)
class MeasureOptions:
    """The flags of `measure`, as typed. None or "": not given.

    lengths: --isl, --osl. spreads: --isl-cv, --osl-cv. slo: --ttft, --tpot, --attainment.
    sizes: tp, pp, dp, ep. args: for all, prefill and decode engines.
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


def check(wish: MeasureOptions) -> None:
    """Nothing, if the flags go together; InvalidInput otherwise."""
    if not wish.model and not wish.target:
        raise InvalidInput(
            "No model is given.", hint="pdctl measure MODEL --isl 8000 --osl 256 --rate 3"
        )
    if wish.connections not in ("new", "kept"):
        raise InvalidInput(
            f"--connections must be new or kept, not {wish.connections!r}.",
            hint="--connections new",
        )
    if wish.repeats < 1:
        raise InvalidInput(f"--repeats must be at least 1, not {wish.repeats}.", hint="--repeats 3")
    if wish.total < 2 and not wish.target:
        raise InvalidInput(
            f"--total {wish.total} leaves nothing to split: a split needs one engine of each role.",
            hint="--total 2",
        )
    if wish.trace is None and None in wish.lengths:
        raise InvalidInput(
            "The requests are missing.", hint="--isl 8000 --osl 256 --rate 3, or --trace FILE"
        )
    _check_rate(wish)


def _check_rate(wish: MeasureOptions) -> None:
    from pdctl.units import positive

    if wish.rate_rps is not None:
        positive(wish.rate_rps, flag="--rate")
        if wish.concurrency is not None:
            raise InvalidInput("--rate and --concurrency exclude one another.", hint="drop one")
    elif wish.concurrency is not None:
        positive(wish.concurrency, flag="--concurrency")
    elif wish.trace is None:
        raise InvalidInput("How many requests is missing.", hint="--rate 3, or --concurrency 16")
    if wish.find_knee and wish.rate_rps is None:
        raise InvalidInput("--find-knee needs a rate to begin with.", hint="--rate 3 --find-knee")
    if wish.find_knee and not slo_of(wish).is_given:
        raise InvalidInput(
            "--find-knee needs service levels: the knee is where they are missed.",
            hint="--ttft 2s --tpot 30ms",
        )


def slo_of(wish: MeasureOptions) -> Slo:
    """The service levels asked for."""
    return parse_slo(*wish.slo)


def workload_of(wish: MeasureOptions) -> Workload:
    """The workload the requests are drawn from."""
    from pdctl.workload.describe import workload_from_lengths, workload_from_trace

    if wish.trace is None:
        return workload_from_lengths(
            isl=wish.lengths[0],
            osl=wish.lengths[1],
            rate_rps=wish.rate_rps,
            concurrency=wish.concurrency,
            prefix_hit=wish.prefix_hit,
            isl_cv=wish.spreads[0],
            osl_cv=wish.spreads[1],
        )
    from pdctl.commands.trace_input import read_given_trace

    osl = wish.lengths[1]
    trace = read_given_trace(
        wish.trace,
        time_unit=wish.time_unit,
        osl=None if osl is None else round(osl),
        no_input=wish.no_input,
    )
    if not trace.has_arrivals and wish.rate_rps is None and wish.concurrency is None:
        raise InvalidInput(
            f"{wish.trace.name} has lengths but no times to play them at.", hint="--rate 3"
        )
    return workload_from_trace(trace, wish.trace.name, rate_rps=wish.rate_rps)


def requests_at(
    wish: MeasureOptions, workload: Workload, rate_rps: float | None, llm: "Llm"
) -> Requests:
    """The requests of one load, without those longer than the context."""
    from pdctl.workload.arrivals import head, make_requests, pick

    if workload.requests is not None and rate_rps is None and wish.concurrency is None:
        inside = sum(at <= wish.duration_s for at in workload.requests.arrival_s)
        requests = head(workload.requests, max(inside, 1))
    else:
        rate = rate_rps or workload.rate_rps or float(wish.concurrency or 1)
        num = max(2, round(rate * wish.duration_s))
        requests = make_requests(workload, num=num, rate_rps=rate, seed=wish.seed)
    longest = llm.max_context or 1 << 40
    places = [i for i, n in enumerate(requests.isl) if n + requests.osl[i] < longest]
    if not places:
        raise InvalidInput(
            f"All requests are longer than the context of {longest:,} tokens.",
            hint="a shorter --isl or --osl",
        )
    return requests if len(places) == len(requests) else pick(requests, places)


def connections_of(wish: MeasureOptions) -> "Connections":
    return "kept" if wish.connections == "kept" else "new"


def arms_of(
    wish: MeasureOptions, llm: "Llm", cluster: "Cluster", workload: Workload
) -> "dict[ArmName, Deployment]":
    """Both arms, of equal GPUs."""
    prefill = wish.prefill
    if prefill is None and wish.total > 2:
        prefill = _planned_prefill(wish, llm, cluster, workload)
    return {"colocated": _deployment(wish, 0), "pd": _deployment(wish, prefill or 1)}


def _deployment(wish: MeasureOptions, prefill: int) -> "Deployment":
    from pdctl.commands.deployment_options import DeploymentOptions, choose
    from pdctl.engines.lifecycle.temporary import private

    tp, pp, dp, ep = wish.sizes
    every, for_prefill, for_decode = wish.args
    options = DeploymentOptions(
        model=wish.model,
        prefill=prefill,
        total=wish.total,
        engine=wish.engine,
        gpus=wish.gpus or None,
        tp=tp,
        pp=pp,
        dp=dp,
        ep=ep,
        args=every or None,
        prefill_args=for_prefill or None if prefill else None,
        decode_args=for_decode or None if prefill else None,
        transfer_backend=wish.transfer_backend,
        python=wish.python,
        no_input=True,
    )
    return private(choose(options), f"measure-{prefill}")


def _planned_prefill(
    wish: MeasureOptions, llm: "Llm", cluster: "Cluster", workload: Workload
) -> int:
    """How many prefill engines `plan` gives the split; a quarter where it gives none."""
    from pdctl.commands.parallel import spread_over_cores
    from pdctl.commands.screens import progress_line
    from pdctl.perf_model.records import Parallelism, Role
    from pdctl.verdict.records import Question
    from pdctl.verdict.rules import quarter
    from pdctl.verdict.verdict import decide

    roles: tuple[Role, ...] = ("colocated", "prefill", "decode")
    tp, pp, dp, ep = (size or 1 for size in wish.sizes)
    question = Question(
        llm=llm,
        cluster=replace(
            cluster, num_nodes=1, gpus_per_node=max(cluster.num_gpus, wish.total * tp * pp)
        ),
        workload=workload,
        slo=slo_of(wish),
        total=wish.total,
        parallelism={role: Parallelism(tp, pp, dp, ep) for role in roles},
    )
    with progress_line() as progress:
        verdict = decide(question, spread=spread_over_cores, progress=progress)
    arm = verdict.arms.get("pd")
    planned = arm.num_engines[0] if arm is not None and arm.infeasible is None else None
    return planned or quarter(wish.total).prefill or 1


def winner_command(wish: MeasureOptions, deployment: "Deployment") -> str:
    """The `up` line of an arm."""
    import shlex

    prefill = deployment.roles["prefill"].engines if "prefill" in deployment.roles else 0
    words = ["pdctl", "up", wish.model, "--prefill", str(prefill), "--total", str(wish.total)]
    for flag, size in zip(("--tp", "--pp", "--dp", "--ep"), wish.sizes, strict=True):
        words += [flag, str(size)] if size else []
    for flag, text in zip(("--args", "--prefill-args", "--decode-args"), wish.args, strict=True):
        words += [flag, text] if text and (prefill or flag == "--args") else []
    words += ["--engine", wish.engine] if wish.engine != "sglang" else []
    words += ["--gpus", wish.gpus] if wish.gpus else []
    words += ["--python", wish.python] if wish.python else []
    return shlex.join(words)
