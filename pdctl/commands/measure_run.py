"""What `measure` does: start each arm in turn, play the load, stop it, compare."""

import asyncio
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import typer

from pdctl.commands.measure_help import (
    cluster_behind,
    cluster_for,
    layout_of,
    profile_of,
    progress,
    say,
    say_what_is_guessed,
    trouble,
)
from pdctl.commands.measure_wish import (
    Wish,
    arms_of,
    check,
    connections_of,
    requests_at,
    slo_of,
    winner_command,
    workload_of,
)
from pdctl.errors import EngineFailed, EnvironmentProblem, ExitCode, NotReady
from pdctl.workload.records import Requests, Workload

if TYPE_CHECKING:
    from pdctl.deployment.records import Deployment
    from pdctl.inspection.records import Llm
    from pdctl.measurement.arms import ArmName, ArmResult, Played
    from pdctl.measurement.ruling import Ruling
    from pdctl.measurement.trial import Endpoint


@dataclass
class Measured:
    """What there is so far. problems: why an arm failed. knees: (rate, held) tried, by arm."""

    played: "list[Played]" = field(default_factory=list)
    problems: "dict[ArmName, str]" = field(default_factory=dict)
    knees: "dict[ArmName, list[tuple[float, bool]]]" = field(default_factory=dict)
    layouts: "dict[ArmName, tuple[str, int]]" = field(default_factory=dict)
    is_interrupted: bool = False


def run(wish: Wish) -> None:
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


def _both(wish: Wish, measured: Measured) -> "dict[ArmName, Deployment]":
    """Each arm in turn; with repeats the first goes last next time, so that drift hits both."""
    from pdctl.inspection.llm import read_llm

    llm, workload = read_llm(wish.model), workload_of(wish)
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
    wish: Wish,
    name: "ArmName",
    deployment: "Deployment",
    llm: "Llm",
    workload: Workload,
    measured: Measured,
    repeat: int,
) -> None:
    """Start one arm, measure it, stop it."""
    from pdctl.commands.starting import starting
    from pdctl.engines import running
    from pdctl.engines.session import serving
    from pdctl.measurement.calibrate_engines import facts_of
    from pdctl.measurement.trial import Endpoint

    with serving(deployment, ready_timeout_s=wish.timeout_s, tell=starting()) as state:
        urls = [p.url for p in state.processes if p.role != "router"]
        facts = asyncio.run(facts_of(urls))
        from pdctl.commands.calibrate_wish import cluster_of

        cluster = cluster_of(wish.gpus, facts[0])
        endpoint = Endpoint(
            arm=name,
            url=state.endpoint,
            engines=facts,
            llm=llm,
            cluster=cluster,
            profile=profile_of(wish, facts[0], llm, cluster),
            policy=running.router_policy(state.endpoint),
            trouble=trouble(state.name),
        )
        _loads(wish, endpoint, workload, measured, repeat)


def _target(wish: Wish, measured: Measured) -> None:
    """Measure what runs already."""
    from pdctl.engines import running
    from pdctl.inspection.llm import read_llm
    from pdctl.measurement.calibrate_engines import facts_of
    from pdctl.measurement.engine_facts import checked_url
    from pdctl.measurement.trial import Endpoint, engines_of

    url = checked_url(wish.target)
    facts = asyncio.run(facts_of(engines_of([url])))
    llm = read_llm(wish.model or facts[0].model)
    cluster = cluster_behind(wish.gpus, facts[0])
    if cluster is None:
        say("nothing is predicted: these engines do not say which GPUs they have (--gpus 8xH200)")
    measured.layouts["target"] = (layout_of([f.role for f in facts]), len(facts))
    endpoint = Endpoint(
        arm="target",
        url=url,
        engines=facts,
        llm=llm,
        cluster=cluster,
        profile=profile_of(wish, facts[0], llm, cluster) if cluster else None,
        policy=running.router_policy(url),
    )
    for repeat in range(wish.repeats):
        _loads(wish, endpoint, workload_of(wish), measured, repeat)


def _loads(
    wish: Wish, endpoint: "Endpoint", workload: Workload, measured: Measured, repeat: int
) -> None:
    """The load asked for; then, once, loads at other rates until the knee is found."""
    if not repeat:
        say_what_is_guessed(endpoint)
    requests = requests_at(wish, workload, wish.rate_rps, endpoint.llm)
    _play(wish, endpoint, requests, measured, repeat=repeat, rate_rps=wish.rate_rps)
    if not wish.find_knee or endpoint.arm in measured.knees:
        return
    from pdctl.measurement.knee import next_rate

    assert wish.rate_rps is not None
    tried = [(wish.rate_rps, _held(wish, measured.played[-1]))]
    measured.knees[endpoint.arm] = tried
    while (rate := next_rate(tried, wish.rate_rps)) is not None:
        aside = Measured(layouts=measured.layouts)
        again = requests_at(wish, workload, rate, endpoint.llm)
        _play(wish, endpoint, again, aside, repeat=repeat, rate_rps=rate)
        tried.append((rate, _held(wish, aside.played[-1])))
        say(f"{rate:.3g} req/s: {'holds' if tried[-1][1] else 'misses the service levels'}")


def _held(wish: Wish, played: "Played") -> bool:
    from pdctl.measurement.summary import summary

    slo = slo_of(wish)
    share = summary(played.result, slo).attainment
    return share is not None and share >= slo.attainment


def _play(
    wish: Wish,
    endpoint: "Endpoint",
    requests: Requests,
    measured: Measured,
    *,
    repeat: int,
    rate_rps: float | None,
) -> None:
    """One load; also what is left of it when it is interrupted."""
    from pdctl.measurement.arms import Played
    from pdctl.measurement.prompts import fresh_seed
    from pdctl.measurement.results import write_result
    from pdctl.measurement.trial import Kept, play, predicted
    from pdctl.tables.measure import forecast_line

    kept = Kept(endpoint.url, connections_of(wish))
    layout = measured.layouts.get(endpoint.arm, ("", 0))[0] or endpoint.arm
    try:
        with progress(f"{layout} · {repeat + 1} of {wish.repeats}") as tell:
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


def _report(wish: Wish, measured: Measured, deployments: "dict[ArmName, Deployment]") -> None:
    """Show it; the exit code says what it means."""
    import dataclasses

    from pdctl.console import out, print_json
    from pdctl.measurement.ruling import rule
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


def _results(wish: Wish, measured: Measured) -> "list[ArmResult]":
    from pdctl.measurement.arms import arm_result
    from pdctl.measurement.knee import knee_rps

    return [
        arm_result(
            name,
            layout,
            num_gpus,
            [one for one in measured.played if one.arm == name],
            slo_of(wish),
            knee_rps=knee_rps(measured.knees[name]) if name in measured.knees else None,
            problem=measured.problems.get(name, ""),
        )
        for name, (layout, num_gpus) in measured.layouts.items()
    ]


def _code(measured: Measured, arms: "list[ArmResult]", ruling: "Ruling") -> ExitCode:
    if measured.is_interrupted:
        return ExitCode.INTERRUPTED
    if measured.problems:
        return ExitCode.ENGINE_FAILED
    failing = arms and all(a.num_failed >= a.num_requests for a in arms)
    return ExitCode.ANSWER_IS_NO if ruling.winner == "neither" or failing else ExitCode.DONE
