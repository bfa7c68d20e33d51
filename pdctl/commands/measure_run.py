"""Run `pdctl measure`: start each arm in turn, send the load, stop the arm, compare."""

import asyncio
import dataclasses
import signal
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import typer

from pdctl.commands.measure_requests import (
    MeasureOptions,
    arms_of,
    check_options,
    connections_of,
    requests_at,
    slo_of,
    winner_command,
    workload_of,
)
from pdctl.commands.progress import progress_line, say
from pdctl.commands.screens import start_screen
from pdctl.commands.trace_input import say_workload
from pdctl.console import command_width, out, print_json, print_lines
from pdctl.deployment.records import Deployment
from pdctl.engines import state as engine_state
from pdctl.engines.lifecycle import running
from pdctl.engines.lifecycle.temporary import serving_temporarily
from pdctl.errors import EngineFailed, EnvironmentProblem, ExitCode, NotReady, PdctlError
from pdctl.inspection.cluster import cpu_cluster, detect_cluster, parse_gpus
from pdctl.inspection.llm import read_llm
from pdctl.inspection.records import Cluster, Llm
from pdctl.measurement.arm_run import Endpoint, Kept, play, predicted
from pdctl.measurement.arms import (
    ArmComparison,
    ArmLoad,
    ArmName,
    ArmResult,
    arm_result,
    compare_arms,
    measured_capacity_rps,
    next_rate,
)
from pdctl.measurement.calibration.engine_client import engines_of, facts_of_engines
from pdctl.measurement.engine_facts import EngineFacts, checked_url
from pdctl.measurement.load import fresh_seed
from pdctl.measurement.own_residuals import of_load
from pdctl.measurement.prediction import cluster_behind, cluster_of, profile_for
from pdctl.measurement.results import summary, write_result
from pdctl.perf_model.fitting.profiles import read_profile
from pdctl.perf_model.records import Profile, layout_text
from pdctl.perf_model.releases import why_unknown
from pdctl.perf_model.residuals import add_own_residuals
from pdctl.tables.measure import forecast_line, load_progress, measure_view
from pdctl.tables.tabs import tab_lines
from pdctl.text_lines import shell_lines
from pdctl.workload.records import Requests, Workload

PROGRESS_EVERY_S = 15.0


@dataclass
class Measured:
    """Results so far. problems: why an arm failed. rates: (rate, whether it held), by arm."""

    played: list[ArmLoad] = field(default_factory=list)
    problems: dict[ArmName, str] = field(default_factory=dict)
    rates: dict[ArmName, list[tuple[float, bool]]] = field(default_factory=dict)
    layouts: dict[ArmName, tuple[str, int]] = field(default_factory=dict)
    is_interrupted: bool = False


def run_measure(options: MeasureOptions) -> None:
    """Measure, show the comparison, and exit with the code for it."""
    check_options(options)
    slo_of(options)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    measured = Measured()
    deployments: dict[ArmName, Deployment] = {}
    try:
        if options.target:
            _target(options, measured)
        else:
            deployments = _both(options, measured)
    except KeyboardInterrupt:
        measured.is_interrupted = True
        say("\ninterrupted: stopped everything; the results so far follow")
    finally:
        signal.signal(signal.SIGTERM, before)
    _report(options, measured, deployments)


def _both(options: MeasureOptions, measured: Measured) -> dict[ArmName, Deployment]:
    """Run each arm in turn. Every other repeat reverses the order, so that drift hits both."""
    llm, workload = read_llm(options.model), workload_of(options)
    say_workload(workload)
    deployments = arms_of(options, llm, cluster_for(options), workload)
    for name, deployment in deployments.items():
        measured.layouts[name] = (deployment.layout, deployment.num_gpus)
    say(f"{llm.name} · {' against '.join(d.layout for d in deployments.values())}")
    for repeat in range(options.repeats):
        order = list(deployments) if repeat % 2 == 0 else list(deployments)[::-1]
        for name in order:
            if name in measured.problems:
                continue
            try:
                _arm(options, name, deployments[name], llm, workload, measured, repeat)
            except (EngineFailed, NotReady, EnvironmentProblem) as problem:
                if isinstance(problem, EnvironmentProblem) and not measured.played:
                    raise  # this machine lacks something; after a first load, only this arm fails
                measured.problems[name] = problem.message
                say(f"{deployments[name].layout} failed: {problem.message}")
    return deployments


def _arm(
    options: MeasureOptions,
    name: ArmName,
    deployment: Deployment,
    llm: Llm,
    workload: Workload,
    measured: Measured,
    repeat: int,
) -> None:
    """Start one arm, measure it, stop it."""
    with serving_temporarily(
        deployment, ready_timeout_s=options.timeout_s, tell=start_screen()
    ) as state:
        urls = [p.url for p in state.processes if p.role != "router"]
        facts = asyncio.run(facts_of_engines(urls))
        cluster = cluster_of(options.gpus, facts[0])
        endpoint = Endpoint(
            arm=name,
            url=state.endpoint,
            engines=facts,
            llm=llm,
            cluster=cluster,
            profile=_profile(options, facts[0], llm, cluster),
            policy=running.router_policy(state.endpoint),
            trouble=_trouble(state.name),
        )
        _loads(options, endpoint, workload, measured, repeat)


def _target(options: MeasureOptions, measured: Measured) -> None:
    """Measure an endpoint that is already running."""
    url = checked_url(options.target)
    facts = asyncio.run(facts_of_engines(engines_of([url])))
    llm = read_llm(options.model or facts[0].model)
    cluster = cluster_behind(options.gpus, facts[0])
    if cluster is None:
        say("no prediction: these engines do not report their GPUs (pass --gpus 8xH200)")
    measured.layouts["target"] = (layout_text(Counter(f.role for f in facts)), len(facts))
    endpoint = Endpoint(
        arm="target",
        url=url,
        engines=facts,
        llm=llm,
        cluster=cluster,
        profile=_profile(options, facts[0], llm, cluster) if cluster else None,
        policy=running.router_policy(url),
    )
    workload = workload_of(options)
    say_workload(workload)
    for repeat in range(options.repeats):
        _loads(options, endpoint, workload, measured, repeat)


def _profile(
    options: MeasureOptions, facts: EngineFacts, llm: Llm, cluster: Cluster
) -> Profile | None:
    if options.profile is not None:
        return read_profile(options.profile)
    return profile_for(facts, llm, cluster)


def cluster_for(options: MeasureOptions) -> Cluster:
    """The GPUs for which to plan the split."""
    if options.engine == "sim":
        return parse_gpus(options.gpus or f"{options.total * (options.sizes[0] or 1)}xH200")
    if "--device cpu" in options.args[0]:
        return cpu_cluster()
    return detect_cluster()


def _trouble(name: str) -> Callable[[], str]:
    """A function that names the dead processes of a deployment; "" if there are none."""

    def look() -> str:
        try:
            found = engine_state.read_state(name)
        except PdctlError:
            return ""
        if found is None:
            return ""
        dead = [
            p for p in found.processes if p.phase in ("failed", "backoff", "stopped") or p.restarts
        ]
        return "; ".join(f"{p.name} {p.detail or p.phase}" for p in dead)

    return look


def _loads(
    options: MeasureOptions, endpoint: Endpoint, workload: Workload, measured: Measured, repeat: int
) -> None:
    """Run the load asked for. With --find-knee, then search the highest rate, once per arm."""
    if not repeat:
        _say_guess(endpoint)
    requests = requests_at(options, workload, options.rate_rps, endpoint.llm)
    _play(options, endpoint, requests, measured, repeat=repeat, rate_rps=options.rate_rps)
    if options.find_knee and endpoint.arm not in measured.rates:
        _find_capacity(options, endpoint, workload, measured, repeat)


def _say_guess(endpoint: Endpoint) -> None:
    """Say what the prediction guesses: launch times that matter, a release not known."""
    if endpoint.fleet is None or endpoint.profile is not None or endpoint.engines[0].is_simulated:
        return
    if why := why_unknown(endpoint.engines[0].release):
        say(f"{why}. The prediction is for that one; pdctl calibrate measures yours.")
    if any(one.role == "prefill" and one.limits.eager for one in endpoint.engines):
        say(
            "This SGLang runs prefill engines without CUDA graphs, so this host's CPU limits short "
            "prompts. The prediction guesses by how much; pdctl calibrate measures it."
        )


def _find_capacity(
    options: MeasureOptions, endpoint: Endpoint, workload: Workload, measured: Measured, repeat: int
) -> None:
    """Run loads at other rates until the highest rate that meets the SLOs is known."""
    assert options.rate_rps is not None
    tried = [(options.rate_rps, _held(options, measured.played[-1]))]
    measured.rates[endpoint.arm] = tried
    while (rate := next_rate(tried, options.rate_rps)) is not None:
        aside = Measured(layouts=measured.layouts)
        again = requests_at(options, workload, rate, endpoint.llm)
        _play(options, endpoint, again, aside, repeat=repeat, rate_rps=rate)
        tried.append((rate, _held(options, aside.played[-1])))
        say(f"{rate:.3g} req/s: {'meets' if tried[-1][1] else 'misses'} the SLOs")


def _held(options: MeasureOptions, played: ArmLoad) -> bool:
    """True if the load met the SLOs."""
    slo = slo_of(options)
    share = summary(played.result, slo).attainment
    return share is not None and share >= slo.attainment


def _play(
    options: MeasureOptions,
    endpoint: Endpoint,
    requests: Requests,
    measured: Measured,
    *,
    repeat: int,
    rate_rps: float | None,
) -> None:
    """Run one load. If interrupted, keep the requests that have ended."""
    kept = Kept(endpoint.url, connections_of(options))
    layout = measured.layouts.get(endpoint.arm, ("", 0))[0] or endpoint.arm
    try:
        with progress_line(every_s=PROGRESS_EVERY_S) as show:
            label = f"{layout} · {repeat + 1} of {options.repeats}"
            played = asyncio.run(
                play(
                    endpoint,
                    requests,
                    kept,
                    repeat=repeat,
                    rate_rps=rate_rps,
                    seed=fresh_seed(),
                    concurrency=options.concurrency,
                    on_progress=lambda now: show(f"{label} · {load_progress(now)}"),
                    on_forecast=lambda forecast: say(f"{layout} · {forecast_line(forecast)}"),
                )
            )
    except KeyboardInterrupt:
        result = kept.result()
        if result.sent:
            guess = predicted(endpoint, result, requests)
            measured.played.append(ArmLoad(endpoint.arm, repeat, rate_rps, result, guess))
            if options.output is not None:
                write_result(options.output, result)
        raise
    measured.played.append(played)
    _keep_residual(endpoint, layout, played)
    if options.output is not None:
        write_result(options.output, played.result, played.forecast)


def _keep_residual(endpoint: Endpoint, layout: str, played: ArmLoad) -> None:
    """Add what the load was off by to the user's own runs, from which `plan` makes intervals."""
    if endpoint.cluster is None or not endpoint.engines:
        return
    gpu, is_fitted = endpoint.cluster.gpu.name, endpoint.profile is not None
    found = of_load(played, endpoint.llm, gpu, endpoint.engines, layout, is_fitted=is_fitted)
    add_own_residuals([found] if found else [])


def _report(
    options: MeasureOptions, measured: Measured, deployments: dict[ArmName, Deployment]
) -> None:
    """Show the comparison. The exit code says which arm won, or why none did."""
    slo = slo_of(options)
    arms = _results(options, measured)
    comparison = compare_arms(arms, measured.played, slo)
    winner = next((d for name, d in deployments.items() if name == comparison.winner), None)
    command = winner_command(options, winner) if winner else ""
    code = _code(measured, arms, comparison)
    if options.as_json:
        data = {
            "arms": {arm.name: dataclasses.asdict(arm) for arm in arms},
            "comparison": dataclasses.asdict(comparison),
            "up": command,
            "is_interrupted": measured.is_interrupted,
        }
        print_json("measure", data, status="ok" if code == ExitCode.DONE else "no")
    else:
        view = measure_view(arms, comparison, slo)
        out().print(view) if sys.stdout.isatty() else print_lines(tab_lines(view))
        if command:
            typer.echo("\n".join(["", *shell_lines(command, command_width(), head="next   ")]))
    if code != ExitCode.DONE:
        raise typer.Exit(code)


def _results(options: MeasureOptions, measured: Measured) -> list[ArmResult]:
    return [
        arm_result(
            name,
            layout,
            num_gpus,
            [one for one in measured.played if one.arm == name],
            slo_of(options),
            capacity_rps=measured_capacity_rps(measured.rates.get(name, ())),
            problem=measured.problems.get(name, ""),
        )
        for name, (layout, num_gpus) in measured.layouts.items()
    ]


def _code(measured: Measured, arms: list[ArmResult], comparison: ArmComparison) -> ExitCode:
    if measured.is_interrupted:
        return ExitCode.INTERRUPTED
    if measured.problems:
        return ExitCode.ENGINE_FAILED
    failing = arms and all(a.num_failed >= a.num_requests for a in arms)
    return ExitCode.ANSWER_IS_NO if comparison.winner == "neither" or failing else ExitCode.DONE
