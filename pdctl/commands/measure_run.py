"""What `measure` does: start each arm in turn, play the load, stop it, compare."""

import asyncio
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import typer

from pdctl.commands.measure_requests import (
    MeasureOptions,
    arms_of,
    check,
    connections_of,
    requests_at,
    slo_of,
    winner_command,
    workload_of,
)
from pdctl.errors import EngineFailed, EnvironmentProblem, ExitCode, NotReady, PdctlError
from pdctl.measurement.prediction import cluster_behind
from pdctl.perf_model.records import layout_text
from pdctl.workload.records import Requests, Workload

if TYPE_CHECKING:
    from pdctl.deployment.records import Deployment
    from pdctl.inspection.records import Cluster, Llm
    from pdctl.measurement.arm_run import Endpoint
    from pdctl.measurement.arms import ArmComparison, ArmName, ArmResult, Played
    from pdctl.measurement.calibration.engine_client import EngineFacts
    from pdctl.measurement.results import LoadProgress
    from pdctl.perf_model.records import Profile


def measured_profile(
    wish: MeasureOptions, facts: "EngineFacts", llm: "Llm", cluster: "Cluster"
) -> "Profile | None":
    from pdctl.measurement.prediction import profile_for
    from pdctl.perf_model.fitting.profiles import read_profile

    if wish.profile is not None:
        return read_profile(wish.profile)
    return profile_for(facts, llm, cluster)


def say_what_is_guessed(endpoint: "Endpoint") -> None:
    """That a prediction knows nothing of how fast this host launches kernels, where it matters."""
    if endpoint.fleet is None or endpoint.profile is not None or endpoint.engines[0].is_simulated:
        return
    if any(one.role == "prefill" and one.limits.eager for one in endpoint.engines):
        say(
            "prefill engines of this SGLang have no CUDA graphs: how long a short prompt takes is "
            "up to this host's CPU, and guessed; pdctl calibrate measures it"
        )


def cluster_for(wish: MeasureOptions) -> "Cluster":
    """The GPUs to plan the split for."""
    from pdctl.inspection.cluster import cpu_cluster, detect_cluster, parse_gpus

    if wish.engine == "sim":
        return parse_gpus(wish.gpus or f"{wish.total * (wish.sizes[0] or 1)}xH200")
    if "--device cpu" in wish.args[0]:
        return cpu_cluster()
    return detect_cluster()


def trouble(name: str) -> "Callable[[], str]":
    """Says which process of a deployment has died, or ""."""
    from pdctl.engines import state

    def look() -> str:
        try:
            found = state.read_state(name)
        except PdctlError:
            return ""
        if found is None:
            return ""
        dead = [
            p for p in found.processes if p.phase in ("failed", "backoff", "stopped") or p.restarts
        ]
        return "; ".join(f"{p.name} {p.detail or p.phase}" for p in dead)

    return look


@contextmanager
def load_display(words: str) -> "Iterator[Callable[[LoadProgress], None]]":
    from pdctl.tables.measure import load_progress

    is_terminal = sys.stderr.isatty()
    last = [-1e9]

    def tell(now: "LoadProgress") -> None:
        if is_terminal:
            sys.stderr.write(f"\r\x1b[2K{words} · {load_progress(now)}")
            sys.stderr.flush()
        elif now.at_s - last[0] >= 15:
            last[0] = now.at_s
            say(f"{words} · {load_progress(now)}")

    try:
        yield tell
    finally:
        if is_terminal:
            sys.stderr.write("\r\x1b[2K")
            sys.stderr.flush()


def say(text: str) -> None:
    from pdctl.console import printable

    sys.stderr.write(printable(f"{text}\n"))


@dataclass
class Measured:
    """What there is so far. problems: why an arm failed. knees: (rate, held) tried, by arm."""

    played: "list[Played]" = field(default_factory=list)
    problems: "dict[ArmName, str]" = field(default_factory=dict)
    knees: "dict[ArmName, list[tuple[float, bool]]]" = field(default_factory=dict)
    layouts: "dict[ArmName, tuple[str, int]]" = field(default_factory=dict)
    is_interrupted: bool = False


def run_measure(wish: MeasureOptions) -> None:
    """Measure, show what came of it, and exit with what that means."""
    import signal

    check(wish)
    slo_of(wish)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    measured = Measured()
    deployments: dict[ArmName, Deployment] = {}
    try:
        if wish.target:
            _target(wish, measured)
        else:
            deployments = _both(wish, measured)
    except KeyboardInterrupt:
        measured.is_interrupted = True
        sys.stderr.write("\ninterrupted: what was measured is kept, everything is stopped\n")
    finally:
        signal.signal(signal.SIGTERM, before)
    _report(wish, measured, deployments)


def _both(wish: MeasureOptions, measured: Measured) -> "dict[ArmName, Deployment]":
    """Each arm in turn; with repeats the first goes last next time, so that drift hits both."""
    from pdctl.commands.trace_input import say_workload
    from pdctl.inspection.llm import read_llm

    llm, workload = read_llm(wish.model), workload_of(wish)
    say_workload(workload)
    deployments = arms_of(wish, llm, cluster_for(wish), workload)
    for name, deployment in deployments.items():
        measured.layouts[name] = (deployment.layout, deployment.num_gpus)
    say(f"{llm.name} · {' against '.join(d.layout for d in deployments.values())}")
    for repeat in range(wish.repeats):
        order = list(deployments) if repeat % 2 == 0 else list(deployments)[::-1]
        for name in order:
            if name in measured.problems:
                continue
            try:
                _arm(wish, name, deployments[name], llm, workload, measured, repeat)
            except (EngineFailed, NotReady, EnvironmentProblem) as problem:
                if isinstance(problem, EnvironmentProblem) and not measured.played:
                    raise  # this machine cannot do it; later it is an arm that failed
                measured.problems[name] = problem.message
                say(f"{deployments[name].layout} failed: {problem.message}")
    return deployments


def _arm(
    wish: MeasureOptions,
    name: "ArmName",
    deployment: "Deployment",
    llm: "Llm",
    workload: Workload,
    measured: Measured,
    repeat: int,
) -> None:
    """Start one arm, measure it, stop it."""
    from pdctl.commands.screens import starting
    from pdctl.engines.lifecycle import running
    from pdctl.engines.lifecycle.temporary import serving
    from pdctl.measurement.arm_run import Endpoint
    from pdctl.measurement.calibration.engines import facts_of

    with serving(deployment, ready_timeout_s=wish.timeout_s, tell=starting()) as state:
        urls = [p.url for p in state.processes if p.role != "router"]
        facts = asyncio.run(facts_of(urls))
        from pdctl.measurement.prediction import cluster_of

        cluster = cluster_of(wish.gpus, facts[0])
        endpoint = Endpoint(
            arm=name,
            url=state.endpoint,
            engines=facts,
            llm=llm,
            cluster=cluster,
            profile=measured_profile(wish, facts[0], llm, cluster),
            policy=running.router_policy(state.endpoint),
            trouble=trouble(state.name),
        )
        _loads(wish, endpoint, workload, measured, repeat)


def _target(wish: MeasureOptions, measured: Measured) -> None:
    """Measure what runs already."""
    from pdctl.commands.trace_input import say_workload
    from pdctl.engines.lifecycle import running
    from pdctl.inspection.llm import read_llm
    from pdctl.measurement.arm_run import Endpoint, engines_of
    from pdctl.measurement.calibration.engine_client import checked_url
    from pdctl.measurement.calibration.engines import facts_of

    url = checked_url(wish.target)
    facts = asyncio.run(facts_of(engines_of([url])))
    llm = read_llm(wish.model or facts[0].model)
    cluster = cluster_behind(wish.gpus, facts[0])
    if cluster is None:
        say("nothing is predicted: these engines do not say which GPUs they have (--gpus 8xH200)")
    measured.layouts["target"] = (layout_text(Counter(f.role for f in facts)), len(facts))
    endpoint = Endpoint(
        arm="target",
        url=url,
        engines=facts,
        llm=llm,
        cluster=cluster,
        profile=measured_profile(wish, facts[0], llm, cluster) if cluster else None,
        policy=running.router_policy(url),
    )
    workload = workload_of(wish)
    say_workload(workload)
    for repeat in range(wish.repeats):
        _loads(wish, endpoint, workload, measured, repeat)


def _loads(
    wish: MeasureOptions, endpoint: "Endpoint", workload: Workload, measured: Measured, repeat: int
) -> None:
    """The load asked for; then, once, loads at other rates until the knee is found."""
    if not repeat:
        say_what_is_guessed(endpoint)
    requests = requests_at(wish, workload, wish.rate_rps, endpoint.llm)
    _play(wish, endpoint, requests, measured, repeat=repeat, rate_rps=wish.rate_rps)
    if not wish.find_knee or endpoint.arm in measured.knees:
        return
    from pdctl.measurement.arms import next_rate

    assert wish.rate_rps is not None
    tried = [(wish.rate_rps, _held(wish, measured.played[-1]))]
    measured.knees[endpoint.arm] = tried
    while (rate := next_rate(tried, wish.rate_rps)) is not None:
        aside = Measured(layouts=measured.layouts)
        again = requests_at(wish, workload, rate, endpoint.llm)
        _play(wish, endpoint, again, aside, repeat=repeat, rate_rps=rate)
        tried.append((rate, _held(wish, aside.played[-1])))
        say(f"{rate:.3g} req/s: {'holds' if tried[-1][1] else 'misses the service levels'}")


def _held(wish: MeasureOptions, played: "Played") -> bool:
    from pdctl.measurement.results import summary

    slo = slo_of(wish)
    share = summary(played.result, slo).attainment
    return share is not None and share >= slo.attainment


def _play(
    wish: MeasureOptions,
    endpoint: "Endpoint",
    requests: Requests,
    measured: Measured,
    *,
    repeat: int,
    rate_rps: float | None,
) -> None:
    """One load; also what is left of it when it is interrupted."""
    from pdctl.measurement.arm_run import Kept, play, predicted
    from pdctl.measurement.arms import Played
    from pdctl.measurement.load import fresh_seed
    from pdctl.measurement.results import write_result
    from pdctl.tables.measure import forecast_line

    kept = Kept(endpoint.url, connections_of(wish))
    layout = measured.layouts.get(endpoint.arm, ("", 0))[0] or endpoint.arm
    try:
        with load_display(f"{layout} · {repeat + 1} of {wish.repeats}") as tell:
            played = asyncio.run(
                play(
                    endpoint,
                    requests,
                    kept,
                    repeat=repeat,
                    rate_rps=rate_rps,
                    seed=fresh_seed(),
                    concurrency=wish.concurrency,
                    on_progress=tell,
                    on_forecast=lambda forecast: say(f"{layout} · {forecast_line(forecast)}"),
                )
            )
    except KeyboardInterrupt:
        result = kept.result()
        if result.sent:
            guess = predicted(endpoint, result, requests)
            measured.played.append(Played(endpoint.arm, repeat, rate_rps, result, guess))
            if wish.output is not None:
                write_result(wish.output, result)
        raise
    measured.played.append(played)
    if wish.output is not None:
        write_result(wish.output, played.result, played.forecast)


def _report(
    wish: MeasureOptions, measured: Measured, deployments: "dict[ArmName, Deployment]"
) -> None:
    """Show it; the exit code says what it means."""
    import dataclasses

    from pdctl.console import out, print_json
    from pdctl.measurement.arms import rule
    from pdctl.tables.measure import measure_view

    slo = slo_of(wish)
    arms = _results(wish, measured)
    ruling = rule(arms, measured.played, slo)
    winner = next((d for name, d in deployments.items() if name == ruling.winner), None)
    command = winner_command(wish, winner) if winner else ""
    code = _code(measured, arms, ruling)
    if wish.as_json:
        data = {
            "arms": {arm.name: dataclasses.asdict(arm) for arm in arms},
            "ruling": dataclasses.asdict(ruling),
            "up": command,
            "is_interrupted": measured.is_interrupted,
        }
        print_json("measure", data, status="ok" if code == ExitCode.DONE else "no")
    else:
        out().print(measure_view(arms, ruling, slo))
        if command:
            typer.echo(f"\nnext   {command}")
    if code != ExitCode.DONE:
        raise typer.Exit(code)


def _results(wish: MeasureOptions, measured: Measured) -> "list[ArmResult]":
    from pdctl.measurement.arms import arm_result, measured_capacity_rps

    return [
        arm_result(
            name,
            layout,
            num_gpus,
            [one for one in measured.played if one.arm == name],
            slo_of(wish),
            knee_rps=measured_capacity_rps(measured.knees[name])
            if name in measured.knees
            else None,
            problem=measured.problems.get(name, ""),
        )
        for name, (layout, num_gpus) in measured.layouts.items()
    ]


def _code(measured: Measured, arms: "list[ArmResult]", ruling: "ArmComparison") -> ExitCode:
    if measured.is_interrupted:
        return ExitCode.INTERRUPTED
    if measured.problems:
        return ExitCode.ENGINE_FAILED
    failing = arms and all(a.num_failed >= a.num_requests for a in arms)
    return ExitCode.ANSWER_IS_NO if ruling.winner == "neither" or failing else ExitCode.DONE
