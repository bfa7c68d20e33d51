"""`pdctl rehearse`: play a plan on simulated engines behind the real router."""

import dataclasses
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from pdctl.deployment.records import Deployment
from pdctl.errors import InvalidInput
from pdctl.workload.records import Requests, Slo, Workload

if TYPE_CHECKING:
    from pdctl.engines.records import DeploymentState
    from pdctl.inspection.records import Cluster, Llm
    from pdctl.measurement.results import LoadResult
    from pdctl.perf_model.records import Fleet
    from pdctl.status.records import DeploymentStatus


DEFAULT_MODEL = "qwen3-32b"
TRACE = "traces/conversation-40s.jsonl"
WALL_S = 20.0  # a rehearsal without --speed plays no longer than this
SAMPLE_EVERY_S = 1.0


@dataclass(frozen=True)
class RehearseOptions:
    """What `rehearse` was asked for. None or "": left to pdctl."""

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


def run_rehearsal(wish: RehearseOptions, *, as_json: bool) -> None:
    """Rehearse, and show predicted against observed."""
    from pdctl.console import show
    from pdctl.engines.lifecycle.temporary import serving
    from pdctl.inspection.cluster import parse_gpus
    from pdctl.inspection.llm import read_llm
    from pdctl.measurement.compare import predict, rehearsed, rehearsed_fleet
    from pdctl.tables.measure import rehearsal_view

    workload, requests = _requests(wish)
    deployment, gpus = _deployment(wish, workload)
    llm, cluster = read_llm(deployment.model), parse_gpus(gpus)
    fleet = rehearsed_fleet(deployment, llm, cluster)
    requests = _that_fit(fleet, requests)
    predicted = predict(fleet, requests)
    _introduce(deployment, llm, cluster, requests)
    with serving(deployment, ready_timeout_s=120.0, tell=_starting()) as state:
        result, samples = _play(state, requests, deployment.sim_speed)
    slo = Slo(deployment.ttft_slo_s, deployment.tpot_slo_s)
    done = rehearsed(fleet, requests, predicted, result, samples, slo)
    data = dataclasses.asdict(done)
    show("rehearse", data, as_json=as_json, render=lambda: rehearsal_view(done))


def _requests(wish: RehearseOptions) -> tuple[Workload, Requests]:
    """The first `duration_s` of the trace, and the workload they make."""
    from pdctl.commands.trace_input import read_given_trace, say_workload
    from pdctl.paths import profiles_dir
    from pdctl.workload.arrivals import head
    from pdctl.workload.describe import workload_from_trace

    path = wish.trace or profiles_dir() / TRACE
    trace = read_given_trace(path, time_unit=wish.time_unit, no_input=wish.no_input)
    if not trace.has_arrivals:
        raise InvalidInput(
            f"{path.name} has lengths but no times to play them at.", hint="--trace with timestamps"
        )
    count = sum(at <= wish.duration_s for at in trace.requests.arrival_s)
    requests = head(trace.requests, max(count, 1))
    workload = workload_from_trace(replace(trace, requests=requests), path.name)
    if wish.trace is not None:
        say_workload(workload)
    return workload, requests


def _that_fit(fleet: "Fleet", requests: Requests) -> Requests:
    """Without those that SGLang would refuse, which are named."""
    from pdctl.workload.arrivals import pick

    engine = fleet.colocated or fleet.prefill
    longest = engine.max_context if engine else 0
    places = [i for i, n in enumerate(requests.isl) if n + requests.osl[i] < longest]
    left_out = len(requests) - len(places)
    if not places:
        raise InvalidInput(
            f"All {left_out} requests are longer than the context of {longest:,} tokens.",
            hint="another model, or --trace with shorter requests",
        )
    if left_out:
        _say(f"{left_out} requests longer than the context of {longest:,} tokens are left out")
    return pick(requests, places) if left_out else requests


def _deployment(wish: RehearseOptions, workload: Workload) -> tuple[Deployment, str]:
    """The layout to rehearse, on simulated engines, and the GPUs it stands for."""
    span_s = workload.requests.arrival_s[-1] if workload.requests else 0.0
    chosen = _chosen(wish, workload)
    gpus = chosen.gpus if chosen.engine == "sim" and chosen.gpus else wish.gpus
    return replace(
        chosen,
        name=f"rehearsal-{os.getpid()}",
        engine="sim",
        gpus=gpus,
        router=replace(chosen.router, host="127.0.0.1"),
        sim_speed=wish.speed or max(1.0, span_s / WALL_S),
        ttft_slo_s=wish.ttft_s or chosen.ttft_slo_s,
        tpot_slo_s=wish.tpot_s or chosen.tpot_slo_s,
    ), gpus


def _chosen(wish: RehearseOptions, workload: Workload) -> Deployment:
    from pdctl.commands.deployment_options import FILE, DeploymentOptions, choose
    from pdctl.paths import last_plan_path

    given = wish.file or wish.prefill is not None or wish.total is not None
    kept = FILE.is_file() or last_plan_path().is_file()
    if given or (kept and not wish.model):
        options = DeploymentOptions(
            model=wish.model or (None if kept or wish.file else DEFAULT_MODEL),
            file=wish.file,
            prefill=wish.prefill,
            total=wish.total,
            tp=wish.tp,
            engine="sim",
            no_input=True,
        )
        return choose(options)
    return _planned(wish, workload)


def _planned(wish: RehearseOptions, workload: Workload) -> Deployment:
    from pdctl.commands.parallel import spread_over_cores
    from pdctl.commands.plan import chosen_arm
    from pdctl.commands.screens import progress_line
    from pdctl.deployment.build import deployment_of_arm
    from pdctl.inspection.cluster import parse_gpus
    from pdctl.inspection.llm import read_llm
    from pdctl.perf_model.records import Parallelism, Role
    from pdctl.verdict.records import Question
    from pdctl.verdict.verdict import decide

    model = wish.model or DEFAULT_MODEL
    slo = Slo(wish.ttft_s, wish.tpot_s)
    roles: tuple[Role, ...] = ("colocated", "prefill", "decode")
    fixed = {role: Parallelism(tp=wish.tp) for role in roles} if wish.tp else {}
    question = Question(
        llm=read_llm(model),
        cluster=parse_gpus(wish.gpus),
        workload=workload,
        slo=slo,
        parallelism=fixed,
    )
    with progress_line() as progress:
        verdict = decide(question, spread=spread_over_cores, progress=progress)
    _say(f"{verdict.headline}. {verdict.reason}")
    arm = chosen_arm(verdict)
    if arm is None:
        raise InvalidInput(f"There is nothing to rehearse: {verdict.unmet}", hint="--gpus, --tp")
    return deployment_of_arm(model, arm, slo)


def _introduce(deployment: Deployment, llm: "Llm", cluster: "Cluster", requests: Requests) -> None:
    what = f"{llm.name} · {deployment.layout} · simulated {cluster.gpu.name}"
    how = f"{len(requests)} requests in {requests.arrival_s[-1]:.0f} s"
    _say(f"{what} · {how}, {deployment.sim_speed:g} × as fast")


def _starting() -> "Callable[[DeploymentState], None]":
    from pdctl.commands.screens import LineScreen, LiveScreen, Screen
    from pdctl.console import err

    screen: Screen = LiveScreen("") if err().is_terminal else LineScreen()

    def tell(state: "DeploymentState") -> None:
        screen.show(state)
        if state.phase == "serving":
            screen.close()

    return tell


def _play(
    state: "DeploymentState", requests: Requests, speed: float
) -> "tuple[LoadResult, list[DeploymentStatus]]":
    """Send the requests from a thread and watch the queues meanwhile."""
    from pdctl.measurement.load import load

    results: list[LoadResult] = []
    problems: list[BaseException] = []

    def send() -> None:
        try:
            results.append(load(state.endpoint, requests, speed=speed, connections="new"))
        except BaseException as problem:  # noqa: BLE001 - raised again by the thread that waits
            problems.append(problem)

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    samples = _watch(state.name, sender, requests.arrival_s[-1] / speed)
    sender.join()
    if problems:
        raise problems[0]
    return results[0], samples


def _watch(name: str, sender: threading.Thread, until_s: float) -> "list[DeploymentStatus]":
    """Sample every second while requests are sent; live on a terminal."""
    import time

    from rich.live import Live

    from pdctl.console import err
    from pdctl.status.targets import source_of_state
    from pdctl.status.watch import Watch
    from pdctl.tables.status import status_view

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
                live.update(status_view(sample, console.width), refresh=True)
            sender.join(SAMPLE_EVERY_S)
    finally:
        if live:
            live.stop()
        watch.close()
    return samples


def _say(text: str) -> None:
    from pdctl.console import printable

    sys.stderr.write(printable(f"{text}\n"))


def rehearse(
    model: str = typer.Argument("", help="Bundled name, directory or cached model."),
    file: Path | None = typer.Option(None, "-f", "--file", help="The pd.yaml to rehearse."),
    prefill: int | None = typer.Option(None, "--prefill", help="Prefill engines; 0: colocated."),
    total: int | None = typer.Option(None, "--total", help="Engines in all."),
    tp: int | None = typer.Option(None, "--tp", help="Tensor parallel size of every engine."),
    gpus: str = typer.Option("8xH200", "--gpus", help="The GPUs to simulate: 8xH100, 2x8xH200."),
    trace: Path | None = typer.Option(None, help="Your requests; usual: 40 s of a public trace."),
    time_unit: str = typer.Option(
        "", "--time-unit", help="Unit of the trace's times: s, ms, us, ns. Default: found."
    ),
    duration: str = typer.Option("40s", help="How much of the trace to play."),
    speed: float | None = typer.Option(None, help="Times as fast; usual: done within 20 s."),
    ttft: str = typer.Option("", help="SLO of the time to first token: 1s."),
    tpot: str = typer.Option("", help="SLO of the time per output token: 30ms."),
    as_json: bool = typer.Option(False, "--json", help="One JSON object at the end."),
    no_input: bool = typer.Option(False, "--no-input", help="Never ask."),
) -> None:
    """Play requests on simulated engines behind the real router: no GPU, no download.

    Without --prefill, --total or -f the layout is what `pdctl plan` chooses for MODEL; without
    MODEL either, ./pd.yaml or the last plan, else a default. Ends with predicted against observed.

    \b
    Examples:
      pdctl rehearse qwen3-32b --prefill 5 --total 8
      pdctl rehearse deepseek-r1 --gpus 4x8xH200 --trace requests.jsonl --speed 4
    """
    from pdctl.units import parse_duration_s, positive
    from pdctl.workload.describe import parse_slo

    slo = parse_slo(ttft, tpot)
    wish = RehearseOptions(
        model=model,
        file=file,
        prefill=prefill,
        total=total,
        tp=tp,
        gpus=gpus,
        trace=trace,
        time_unit=time_unit,
        no_input=no_input or as_json,
        duration_s=parse_duration_s(duration, flag="--duration"),
        speed=None if speed is None else positive(speed, flag="--speed"),
        ttft_s=slo.ttft_s,
        tpot_s=slo.tpot_s,
    )
    run_rehearsal(wish, as_json=as_json)
