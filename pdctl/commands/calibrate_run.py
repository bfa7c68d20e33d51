"""Run `pdctl calibrate`: measure, watch or read engines, keep the profile, show the result."""

import asyncio
import dataclasses
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from pdctl.commands.deployment_options import DeploymentOptions, build_deployment
from pdctl.commands.progress import progress_line
from pdctl.commands.screens import start_screen
from pdctl.console import command_width, out, print_json
from pdctl.deployment.records import Deployment
from pdctl.engines.lifecycle.temporary import private, serving_temporarily
from pdctl.errors import ExitCode, InvalidInput
from pdctl.inspection.llm import read_llm
from pdctl.measurement.calibration.engine_client import facts_of_engines
from pdctl.measurement.calibration.engines import calibrate_engines
from pdctl.measurement.calibration.passive import calibrate_from_loads, calibrate_from_logs
from pdctl.measurement.calibration.result import Calibration, already_exists, kept, step_log
from pdctl.measurement.prediction import cluster_of
from pdctl.perf_model.fitting.profiles import named_profile
from pdctl.tables.measure import calibration_progress, calibration_view, where_lines
from pdctl.text_lines import wrapped

PROGRESS_EVERY_S = 10.0


@dataclass(frozen=True)
class CalibrateOptions:
    """Options of `calibrate`. sizes: tp, pp, dp, ep."""

    model: str
    sizes: tuple[int, int, int, int]
    engine: str
    urls: tuple[str, ...]
    transfer: bool
    gpus: str
    args: str
    decode_args: str
    transfer_backend: str
    python: str | None
    sim_speed: float
    budget_s: float
    from_urls: tuple[str, ...]
    window_s: float
    from_logs: tuple[Path, ...]
    output: Path | None
    earlier: str
    steps: Path | None
    timeout_s: float
    no_input: bool


def run_calibrate(options: CalibrateOptions, *, as_json: bool) -> None:
    """Calibrate and show the result. Exit with 3 if the profile was refused."""
    _check(options)
    found = _calibration(options)
    if as_json:
        status = "ok" if found.file else "no"
        print_json("calibrate", _without_steps(dataclasses.asdict(found)), status=status)
    else:
        out().print(calibration_view(found))
        for line in where_lines(found):
            typer.echo(wrapped(line, command_width()))
    if found.file is None:
        raise typer.Exit(ExitCode.ANSWER_IS_NO)


def _check(options: CalibrateOptions) -> None:
    sources = [bool(options.urls), bool(options.from_urls), bool(options.from_logs)]
    if sum(sources) > 1:
        raise InvalidInput(
            "--url, --from and --from-logs cannot be combined.", hint="pass only one of them"
        )
    if not options.model and not any((options.urls, options.from_urls)):
        raise InvalidInput("No model given.", hint="pdctl calibrate MODEL --tp 1", code="no_model")
    if options.output is not None and options.output.exists():
        raise already_exists(options.output)


def _calibration(options: CalibrateOptions) -> Calibration:
    if options.from_urls or options.from_logs:
        return _watched(options)
    if options.urls:
        return _measured(options, options.urls, clock_rate=options.sim_speed)
    deployment = _deployment(options)
    with serving_temporarily(
        deployment, ready_timeout_s=options.timeout_s, tell=start_screen()
    ) as state:
        urls = [p.url for p in state.processes if p.role != "router"]
        return _measured(options, urls, clock_rate=deployment.sim_speed)


def _watched(options: CalibrateOptions) -> Calibration:
    """Calibrate from counters or logs, without sending requests to the engines."""
    if options.from_logs:
        found = calibrate_from_logs(
            options.from_logs,
            model=options.model,
            gpus=options.gpus,
            sizes=options.sizes,
            command=own_command_line(),
        )
    else:
        with progress_line() as show:
            found = calibrate_from_loads(
                options.from_urls,
                model=options.model,
                gpus=options.gpus,
                window_s=options.window_s,
                command=own_command_line(),
                tell=lambda at_s: show(f"watching · {at_s:.0f} s of {options.window_s:.0f} s"),
            )
    found = kept(found, options.output)
    with step_log(options.steps) as keep:
        for step in found.profile.measurements:
            keep(step)
    return found


def _measured(options: CalibrateOptions, urls: Sequence[str], *, clock_rate: float) -> Calibration:
    """Calibrate the engines at these addresses with synthetic requests."""
    earlier = named_profile(options.earlier) if options.earlier else None
    facts = asyncio.run(facts_of_engines(urls))
    llm = read_llm(options.model or facts[0].model)
    cluster = cluster_of(options.gpus, facts[0])
    with progress_line(every_s=PROGRESS_EVERY_S) as show, step_log(options.steps) as keep:
        found = asyncio.run(
            calibrate_engines(
                facts,
                llm,
                cluster,
                budget_s=options.budget_s,
                clock_rate=clock_rate,
                command=own_command_line(),
                earlier=earlier,
                tell=lambda now: show(calibration_progress(now)),
                keep=keep,
            )
        )
    return kept(found, options.output)


def _deployment(options: CalibrateOptions) -> Deployment:
    """The engines to start: one, or with --transfer one of each role."""
    tp, pp, dp, ep = options.sizes
    wanted = DeploymentOptions(
        model=options.model,
        prefill=1 if options.transfer else 0,
        total=2 if options.transfer else 1,
        engine=options.engine,
        gpus=options.gpus or None,
        tp=tp,
        pp=pp,
        dp=dp,
        ep=ep,
        args=options.args or None,
        decode_args=options.decode_args or None,
        transfer_backend=options.transfer_backend,
        python=options.python,
        sim_speed=options.sim_speed,
        no_input=True,
    )
    return private(build_deployment(wanted), "calibrate")


def own_command_line() -> str:
    """The command that is running, to be kept in the profile."""
    return shlex.join(["pdctl", *sys.argv[1:]])[:2000]


def _without_steps(value: dict[str, object]) -> dict[str, object]:
    """Drop the measurements from the profile, and the surprises: files have both."""
    del value["surprises"]
    profile = value.get("profile")
    if isinstance(profile, dict):
        value["profile"] = {
            k: v for k, v in profile.items() if k not in ("measurements", "residuals")
        }
    return value
