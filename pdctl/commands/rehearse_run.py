"""Run `pdctl rehearse`: send a trace to simulated engines and compare with the prediction."""

import dataclasses
import math
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

from rich.live import Live

from pdctl.commands.deployment_options import (
    FILE,
    DeploymentOptions,
    build_deployment,
    origin_text,
)
from pdctl.commands.next_steps import chosen_arm
from pdctl.commands.options.engine_options import ROLES
from pdctl.commands.options.rehearsed_requests import Played, requests_to_play, without_refused
from pdctl.commands.parallel import spread_over_cores
from pdctl.commands.progress import progress_line, say
from pdctl.commands.screens import start_screen
from pdctl.console import can_redraw, err, show
from pdctl.deployment.build import deployment_of_arm
from pdctl.deployment.gpu_file import planned_kind
from pdctl.deployment.records import Deployment
from pdctl.engines.lifecycle.temporary import private, serving_temporarily
from pdctl.engines.records import DeploymentState
from pdctl.errors import InvalidInput
from pdctl.inspection.cluster import parse_gpus
from pdctl.inspection.llm import read_llm
from pdctl.measurement.compare import predict, rehearsed, rehearsed_fleet
from pdctl.measurement.load import load
from pdctl.measurement.results import LoadResult
from pdctl.paths import last_plan_path
from pdctl.perf_model.records import Parallelism
from pdctl.status.records import DeploymentStatus
from pdctl.status.targets import source_of_state
from pdctl.status.watch import Watch
from pdctl.tables.measure import rehearsal_view
from pdctl.tables.status_live import View, live_frame
from pdctl.units import format_rate, format_seconds
from pdctl.verdict.records import Question
from pdctl.verdict.sentences import write
from pdctl.verdict.verdict import decide
from pdctl.workload.records import Slo, Workload

DEFAULT_MODEL = "qwen3-32b"
DEFAULT_GPUS = "8xH200"
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
    gpus: str  # as --gpus of plan takes them
    trace: Path | None
    time_unit: str
    no_input: bool
    duration_s: float
    speed: float | None
    ttft_s: float | None
    tpot_s: float | None


def run_rehearsal(options: RehearseOptions, *, as_json: bool) -> None:
    """Rehearse, and show predicted figures beside observed ones."""
    real, origin = _kept_deployment(options)
    played = requests_to_play(
        options.trace,
        real.planned if real else None,
        duration_s=options.duration_s,
        time_unit=options.time_unit,
        no_input=options.no_input,
    )
    deployment = _simulated(options, real or _planned(options, played.workload), played)
    gpus = deployment.gpus or DEFAULT_GPUS
    cluster = parse_gpus(gpus, described=planned_kind(gpus, deployment.planned))
    llm = read_llm(deployment.model)
    fleet = rehearsed_fleet(deployment, llm, cluster)
    played = without_refused(played, fleet)
    say(f"Rehearses {origin}{_told(deployment, played)}")
    with serving_temporarily(
        deployment, ready_timeout_s=READY_TIMEOUT_S, tell=start_screen()
    ) as state:
        result, samples = _play(state, played, deployment.sim_speed)
    slo = Slo(deployment.ttft_slo_s, deployment.tpot_slo_s, deployment.attainment_slo)
    done = rehearsed(fleet, predict(fleet, played.requests, played.clients), result, samples, slo)
    data = dataclasses.asdict(done)
    show("rehearse", data, as_json=as_json, render=lambda: rehearsal_view(done))


def _kept_deployment(options: RehearseOptions) -> tuple[Deployment | None, str]:
    """The deployment that options, ./pd.yaml or the last plan describe, and which of them does.

    None: there is none, so one is planned first.
    """
    given = options.file or options.prefill is not None or options.total is not None
    kept = FILE.is_file() or last_plan_path().is_file()
    if not given and (options.model or not kept):
        return None, ""
    wanted = DeploymentOptions(
        model=options.model or (None if kept or options.file else DEFAULT_MODEL),
        file=options.file,
        prefill=options.prefill,
        total=options.total,
        tp=options.tp,
        engine="sim",
        no_input=True,
    )
    origin = origin_text(wanted)
    deployment = build_deployment(wanted, says_origin=False)
    return deployment, f"{origin}: " if origin else ""


def _simulated(options: RehearseOptions, real: Deployment, played: Played) -> Deployment:
    """The deployment with simulated engines on the GPUs to simulate."""
    span_s = 0.0 if played.clients else played.requests.arrival_s[-1]
    simulated = replace(
        real,
        engine="sim",
        gpus=options.gpus or _planned_gpus(real) or DEFAULT_GPUS,
        router=replace(real.router, policy=_policy(real)),
        sim_speed=options.speed or max(1.0, span_s / WALL_S),
        ttft_slo_s=options.ttft_s or real.ttft_slo_s,
        tpot_slo_s=options.tpot_s or real.tpot_slo_s,
    )
    return private(simulated, "rehearsal")


def _planned_gpus(real: Deployment) -> str | None:
    """The GPUs of the plan; a list of this machine's GPUs, as 0-3, names no kind."""
    if real.planned is not None:
        return real.planned.gpus
    return real.gpus if real.gpus and any(c.isalpha() for c in real.gpus) else None


def _policy(real: Deployment) -> str | None:
    """The router's policy; drawn prompts of one prefix would all go to one engine by prefix."""
    shares_one_prefix = real.planned is not None and real.planned.prefix_hit
    if shares_one_prefix and "colocated" in real.roles:
        return real.router.policy or "round_robin"
    return real.router.policy


def _planned(options: RehearseOptions, workload: Workload) -> Deployment:
    """The deployment that `plan` recommends."""
    model = options.model or DEFAULT_MODEL
    slo = Slo(options.ttft_s, options.tpot_s)
    fixed = {role: Parallelism(tp=options.tp) for role in ROLES} if options.tp else {}
    question = Question(
        llm=read_llm(model),
        cluster=parse_gpus(options.gpus or DEFAULT_GPUS),
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


def _told(deployment: Deployment, played: Played) -> str:
    """qwen3-32b, 6P2D on 2x8xH200: 200 requests at 5 req/s (prompts ...), SLOs, speed."""
    what = f"{deployment.model}, {deployment.layout} on simulated {deployment.gpus}"
    num, span_s = len(played.requests), played.requests.arrival_s[-1]
    if played.clients:
        how = f"from {played.clients} clients in a closed loop"
    else:
        how = f"in {span_s:.0f} s" + (f", {format_rate(num / span_s)} req/s" if span_s else "")
    levels = (("TTFT", deployment.ttft_slo_s), ("TPOT", deployment.tpot_slo_s))
    slos = [f"{name} {format_seconds(limit)}" for name, limit in levels if limit is not None]
    asked = f"; SLOs {', '.join(slos)}" if slos else ""
    noun = "request" if num == 1 else "requests"
    return (
        f"{what}: {num:,} {noun} {how} ({played.source}){asked}; "
        f"at {deployment.sim_speed:.3g} × speed"
    )


def _play(
    state: DeploymentState, played: Played, speed: float
) -> tuple[LoadResult, list[DeploymentStatus]]:
    """Send the requests from a thread, and sample the queues meanwhile."""
    results: list[LoadResult] = []
    problems: list[BaseException] = []

    def send() -> None:
        try:
            results.append(
                load(
                    state.endpoint,
                    played.requests,
                    speed=speed,
                    connections="new",
                    concurrency=played.clients,
                )
            )
        except BaseException as problem:  # noqa: BLE001 - the waiting thread raises it again
            problems.append(problem)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    until_s = math.inf if played.clients else played.requests.arrival_s[-1] / speed
    samples = _watch(state.name, sender, until_s)
    sender.join()
    if problems:
        raise problems[0]
    return results[0], samples


def _watch(name: str, sender: threading.Thread, until_s: float) -> list[DeploymentStatus]:
    """Take a sample every second while requests go out. Draws it on a terminal."""
    console = err()
    watch, samples, began = Watch(source_of_state(name)), [], time.monotonic()
    live = Live(console=console, auto_refresh=False) if can_redraw(sys.stderr) else None
    try:
        if live:
            live.start()
        while sender.is_alive():
            sample = watch.sample()
            if time.monotonic() - began <= until_s:
                samples.append(sample)
            if live:
                live.update(live_frame(sample, View(), *console.size).lines, refresh=True)
            sender.join(SAMPLE_EVERY_S)
    finally:
        if live:
            live.stop()
        watch.close()
    return samples
