"""Run `pdctl rehearse`: send a trace to simulated engines and compare with the prediction."""

import dataclasses
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

from rich.live import Live

from pdctl.commands.deployment_options import FILE, ROLES, DeploymentOptions, build_deployment
from pdctl.commands.next_steps import chosen_arm
from pdctl.commands.parallel import spread_over_cores
from pdctl.commands.progress import progress_line, say
from pdctl.commands.screens import start_screen
from pdctl.commands.trace_input import read_given_trace, say_workload
from pdctl.console import err, show
from pdctl.deployment.build import deployment_of_arm
from pdctl.deployment.records import Deployment
from pdctl.engines.lifecycle.temporary import private, serving
from pdctl.engines.records import DeploymentState
from pdctl.errors import InvalidInput
from pdctl.inspection.cluster import parse_gpus
from pdctl.inspection.llm import read_llm
from pdctl.inspection.records import Cluster, Llm
from pdctl.measurement.compare import predict, rehearsed, rehearsed_fleet
from pdctl.measurement.load import load
from pdctl.measurement.results import LoadResult
from pdctl.paths import last_plan_path, profiles_dir
from pdctl.perf_model.records import Fleet, Parallelism
from pdctl.status.records import DeploymentStatus
from pdctl.status.targets import source_of_state
from pdctl.status.watch import Watch
from pdctl.tables.measure import rehearsal_view
from pdctl.tables.status import status_view
from pdctl.verdict.records import Question
from pdctl.verdict.sentences import write
from pdctl.verdict.verdict import decide
from pdctl.workload.arrivals import head, pick
from pdctl.workload.describe import workload_from_trace
from pdctl.workload.records import Requests, Slo, Workload

DEFAULT_MODEL = "qwen3-32b"
TRACE = "traces/conversation-40s.jsonl"
WALL_S = 20.0  # without --speed, a rehearsal takes no longer than this
SAMPLE_EVERY_S = 1.0
READY_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class RehearseOptions:
    """Options of `rehearse`. None or "": pdctl chooses."""

    model: str
    file: Path | None
    prefill: int | None
    total: int | None
    tp: int | None
    gpus: str
    trace: Path | None
    time_unit: str
    no_input: bool
    duration_s: float
    speed: float | None
    ttft_s: float | None
    tpot_s: float | None


def run_rehearsal(options: RehearseOptions, *, as_json: bool) -> None:
    """Rehearse, and show predicted figures beside observed ones."""
    workload, requests = _requests(options)
    deployment, gpus = _deployment(options, workload)
    llm, cluster = read_llm(deployment.model), parse_gpus(gpus)
    fleet = rehearsed_fleet(deployment, llm, cluster)
    requests = _drop_too_long(fleet, requests)
    predicted = predict(fleet, requests)
    _introduce(deployment, llm, cluster, requests)
    with serving(deployment, ready_timeout_s=READY_TIMEOUT_S, tell=start_screen()) as state:
        result, samples = _play(state, requests, deployment.sim_speed)
    slo = Slo(deployment.ttft_slo_s, deployment.tpot_slo_s)
    done = rehearsed(fleet, requests, predicted, result, samples, slo)
    data = dataclasses.asdict(done)
    show("rehearse", data, as_json=as_json, render=lambda: rehearsal_view(done))


def _requests(options: RehearseOptions) -> tuple[Workload, Requests]:
    """The first `duration_s` of the trace, and the workload that they make up."""
    path = options.trace or profiles_dir() / TRACE
    trace = read_given_trace(path, time_unit=options.time_unit, no_input=options.no_input)
    if not trace.has_arrivals:
        raise InvalidInput(
            f"{path.name} has lengths but no arrival times.", hint="--trace with timestamps"
        )
    count = sum(at <= options.duration_s for at in trace.requests.arrival_s)
    requests = head(trace.requests, max(count, 1))
    workload = workload_from_trace(replace(trace, requests=requests), path.name)
    if options.trace is not None:
        say_workload(workload)
    return workload, requests


def _drop_too_long(fleet: Fleet, requests: Requests) -> Requests:
    """Drop the requests that SGLang would refuse, and say how many."""
    engine = fleet.colocated or fleet.prefill
    longest = engine.max_context if engine else 0
    places = [i for i, n in enumerate(requests.isl) if n + requests.osl[i] < longest]
    num_dropped = len(requests) - len(places)
    if not places:
        raise InvalidInput(
            f"All {num_dropped} requests exceed the context of {longest:,} tokens.",
            hint="another model, or --trace with shorter requests",
        )
    if num_dropped:
        left_out = (
            "1 request that exceeds" if num_dropped == 1 else f"{num_dropped} requests that exceed"
        )
        say(f"left out {left_out} the context of {longest:,} tokens")
    return pick(requests, places) if num_dropped else requests


def _deployment(options: RehearseOptions, workload: Workload) -> tuple[Deployment, str]:
    """The deployment to rehearse, with simulated engines, and the GPUs to simulate."""
    span_s = workload.requests.arrival_s[-1] if workload.requests else 0.0
    real = _real_deployment(options, workload)
    gpus = real.gpus if real.engine == "sim" and real.gpus else options.gpus
    return replace(
        private(real, "rehearsal"),
        engine="sim",
        gpus=gpus,
        sim_speed=options.speed or max(1.0, span_s / WALL_S),
        ttft_slo_s=options.ttft_s or real.ttft_slo_s,
        tpot_slo_s=options.tpot_s or real.tpot_slo_s,
    ), gpus


def _real_deployment(options: RehearseOptions, workload: Workload) -> Deployment:
    """The deployment that the options, ./pd.yaml, the last plan or a new plan describe."""
    given = options.file or options.prefill is not None or options.total is not None
    kept = FILE.is_file() or last_plan_path().is_file()
    if not given and (options.model or not kept):
        return _planned(options, workload)
    wanted = DeploymentOptions(
        model=options.model or (None if kept or options.file else DEFAULT_MODEL),
        file=options.file,
        prefill=options.prefill,
        total=options.total,
        tp=options.tp,
        engine="sim",
        no_input=True,
    )
    return build_deployment(wanted)


def _planned(options: RehearseOptions, workload: Workload) -> Deployment:
    """The deployment that `plan` recommends."""
    model = options.model or DEFAULT_MODEL
    slo = Slo(options.ttft_s, options.tpot_s)
    fixed = {role: Parallelism(tp=options.tp) for role in ROLES} if options.tp else {}
    question = Question(
        llm=read_llm(model),
        cluster=parse_gpus(options.gpus),
        workload=workload,
        slo=slo,
        parallelism=fixed,
    )
    with progress_line() as progress:
        found = decide(question, spread=spread_over_cores, progress=progress, flips=False)
    verdict = write(question, found)
    say(f"{verdict.headline}. {verdict.reason}")
    arm = chosen_arm(verdict)
    if arm is None:
        raise InvalidInput(f"There is nothing to rehearse. {verdict.unmet}", hint="--gpus, --tp")
    return deployment_of_arm(model, arm, slo)


def _introduce(deployment: Deployment, llm: Llm, cluster: Cluster, requests: Requests) -> None:
    what = f"{llm.name} · {deployment.layout} · simulated {cluster.gpu.name}"
    how = f"{len(requests)} requests in {requests.arrival_s[-1]:.0f} s"
    say(f"{what} · {how} at {deployment.sim_speed:g} × speed")


def _play(
    state: DeploymentState, requests: Requests, speed: float
) -> tuple[LoadResult, list[DeploymentStatus]]:
    """Send the requests from a thread, and sample the queues meanwhile."""
    results: list[LoadResult] = []
    problems: list[BaseException] = []

    def send() -> None:
        try:
            results.append(load(state.endpoint, requests, speed=speed, connections="new"))
        except BaseException as problem:  # noqa: BLE001 - the waiting thread raises it again
            problems.append(problem)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    samples = _watch(state.name, sender, requests.arrival_s[-1] / speed)
    sender.join()
    if problems:
        raise problems[0]
    return results[0], samples


def _watch(name: str, sender: threading.Thread, until_s: float) -> list[DeploymentStatus]:
    """Take a sample every second while requests go out. Draws it on a terminal."""
    console = err()
    watch, samples, began = Watch(source_of_state(name)), [], time.monotonic()
    live = Live(console=console, auto_refresh=False) if console.is_terminal else None
    try:
        if live:
            live.start()
        while sender.is_alive():
            sample = watch.sample()
            if time.monotonic() - began <= until_s:
                samples.append(sample)
            if live:
                live.update(status_view(sample, *console.size), refresh=True)
            sender.join(SAMPLE_EVERY_S)
    finally:
        if live:
            live.stop()
        watch.close()
    return samples
