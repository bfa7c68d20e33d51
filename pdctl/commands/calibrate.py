"""`pdctl calibrate`: measure step times of an engine, so that `plan` is about this machine."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from pdctl.errors import ExitCode, InvalidInput

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pdctl.deployment.records import Deployment
    from pdctl.inspection.records import Cluster, Llm
    from pdctl.measurement.calibration.adaptive import Progress
    from pdctl.measurement.calibration.engine_client import EngineFacts
    from pdctl.measurement.calibration.engines import Calibration
    from pdctl.perf_model.records import Measurement, StepTimes


LIVE_NOTE = (
    "From counters of engines at work: prefill without its attention (how long the prompts of a "
    "step were is not counted), KV transfer and cached prefixes stay at the roofline."
)
LOGS_NOTE = (
    "From log lines: only steps with others waiting before them; KV transfer and reading of "
    "weights stay at the roofline."
)


def watched(wish: "CalibrateOptions") -> "Calibration":
    """A calibration without asking the engines for anything."""
    return _from_logs(wish) if wish.from_logs else _from_urls(wish)


def _from_urls(wish: "CalibrateOptions") -> "Calibration":
    import asyncio

    from pdctl.inspection.llm import read_llm
    from pdctl.measurement.arm_run import engines_of
    from pdctl.measurement.calibration.engines import facts_of, roofline_of
    from pdctl.measurement.calibration.passive import WANTED, steps_of_loads, watch_loads
    from pdctl.measurement.prediction import cluster_of

    facts = asyncio.run(facts_of(engines_of(wish.from_urls)))
    llm = read_llm(wish.model or facts[0].model)
    cluster = cluster_of(wish.gpus, facts[0])
    histories = asyncio.run(watch_loads(facts, wish.window_s, tell=_telling(wish.window_s)))
    steps = [
        step
        for one, loads in zip(facts, histories, strict=True)
        for step in steps_of_loads(loads, one.role, one.limits.chunk)
    ]
    if not steps:
        raise InvalidInput(
            f"In {wish.window_s:g} s the {len(facts)} engines did nothing that tells step times.",
            hint="--window 5min, while they have requests",
            code="idle",
        )
    roofline = roofline_of(facts[0], llm, cluster)
    return kept(_fitted(steps, roofline, WANTED, llm, cluster, facts[0], wish), wish.output)


def _from_logs(wish: "CalibrateOptions") -> "Calibration":
    from pdctl.inspection.cluster import detect_cluster, parse_gpus
    from pdctl.inspection.llm import read_llm
    from pdctl.measurement.calibration.engine_client import facts_of_log
    from pdctl.measurement.calibration.engines import roofline_of
    from pdctl.measurement.calibration.passive import WANTED_OF_LOGS, read_step_log

    steps = [step for path in wish.from_logs for step in read_step_log(path)]
    llm = read_llm(wish.model)
    cluster = parse_gpus(wish.gpus) if wish.gpus else detect_cluster()
    facts = facts_of_log(wish.from_logs[0], wish.sizes)
    roofline = roofline_of(facts, llm, cluster)
    return kept(_fitted(steps, roofline, WANTED_OF_LOGS, llm, cluster, facts, wish), wish.output)


def _fitted(
    steps: "Sequence[Measurement]",
    roofline: "StepTimes",
    wanted: Sequence[str],
    llm: "Llm",
    cluster: "Cluster",
    facts: "EngineFacts",
    wish: "CalibrateOptions",
) -> "Calibration":
    from pdctl.measurement.calibration.adaptive import CalibrationRun
    from pdctl.measurement.calibration.engines import calibration
    from pdctl.perf_model.fitting.identify import fit_identified

    fit, unidentified = fit_identified(steps, roofline, wanted=wanted)
    taken = CalibrationRun(
        measurements=tuple(steps),
        fit=fit,
        unidentified=unidentified,
        uncertainty=None,
        elapsed_s=wish.window_s if wish.from_urls else 0.0,
        given_up=(),
        is_complete=True,
    )
    kinds = {step.kind for step in steps}
    missing = [kind for kind in ("prefill", "decode") if kind not in kinds]
    notes = [LOGS_NOTE if wish.from_logs else LIVE_NOTE]
    notes += [f"No {kind} steps were seen: they stay at the roofline." for kind in missing]
    return calibration(
        taken,
        roofline,
        llm,
        cluster,
        facts,
        command=command_line(),
        notes=tuple(notes),
    )


def _telling(window_s: float) -> "Callable[[float], None]":
    import sys

    if not sys.stderr.isatty():
        return lambda elapsed_s: None

    def tell(elapsed_s: float) -> None:
        sys.stderr.write(f"\r\x1b[2Kwatching · {elapsed_s:.0f} s of {window_s:.0f} s")
        sys.stderr.flush()

    return tell


@dataclass(frozen=True)
class CalibrateOptions:
    """What `calibrate` was asked for. sizes: tp, pp, dp, ep."""

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


def kept(found: "Calibration", output: Path | None) -> "Calibration":
    """The calibration with its profile in a file, unless it disagrees with itself.

    Those of simulated engines lie apart, where `plan` does not look.
    """
    from dataclasses import replace

    from pdctl.measurement.calibration.engines import keep_as, keep_profile
    from pdctl.paths import user_profiles_dir

    if found.disagreements:
        return found
    if output is not None:
        profile, file = keep_as(found.profile, output)
    else:
        home = user_profiles_dir()
        profile, file = keep_profile(
            found.profile, home / "simulated" if found.is_simulated else home
        )
    return replace(found, profile=profile, file=file)


@contextmanager
def step_log(path: Path | None) -> "Iterator[Callable[[Measurement], None]]":
    """Appends measured steps to a JSONL file as they come, so that they outlast what fails."""
    from pdctl.perf_model.fitting.profiles import measurement_line

    if path is None:
        yield lambda step: None
        return
    with path.open("a", encoding="utf-8") as out:

        def keep(step: "Measurement") -> None:
            out.write(f"{measurement_line(step)}\n")
            out.flush()

        yield keep


def command_line() -> str:
    """This command, to do it again."""
    import shlex

    return shlex.join(["pdctl", *sys.argv[1:]])[:2000]


def run_calibrate(wish: CalibrateOptions, *, as_json: bool) -> None:
    """Calibrate, show what came of it, and exit 3 where it is not to be believed."""
    import dataclasses

    from pdctl.console import out, print_json
    from pdctl.tables.measure import calibration_view, where_lines

    _check(wish)
    found = _calibration(wish)
    if as_json:
        status = "ok" if found.file else "no"
        print_json("calibrate", _plain(dataclasses.asdict(found)), status=status)
    else:
        out().print(calibration_view(found))
        for line in where_lines(found):
            typer.echo(line)
    if found.file is None:
        raise typer.Exit(ExitCode.ANSWER_IS_NO)


def _calibration(wish: CalibrateOptions) -> "Calibration":
    if wish.from_urls or wish.from_logs:
        found = watched(wish)
        with step_log(wish.steps) as keep:
            for step in found.profile.measurements:
                keep(step)
        return found
    if wish.urls:
        return _measured(wish, wish.urls, clock_rate=wish.sim_speed)
    from pdctl.commands.screens import starting
    from pdctl.engines.lifecycle.temporary import serving

    deployment = _deployment(wish)
    with serving(deployment, ready_timeout_s=wish.timeout_s, tell=starting()) as state:
        urls = [p.url for p in state.processes if p.role != "router"]
        return _measured(wish, urls, clock_rate=deployment.sim_speed)


def _deployment(wish: CalibrateOptions) -> "Deployment":
    """One engine; or with --transfer one of each role."""
    from pdctl.commands.deployment_options import DeploymentOptions, choose
    from pdctl.engines.lifecycle.temporary import private

    tp, pp, dp, ep = wish.sizes
    options = DeploymentOptions(
        model=wish.model,
        prefill=1 if wish.transfer else 0,
        total=2 if wish.transfer else 1,
        engine=wish.engine,
        gpus=wish.gpus or None,
        tp=tp,
        pp=pp,
        dp=dp,
        ep=ep,
        args=wish.args or None,
        decode_args=wish.decode_args or None,
        transfer_backend=wish.transfer_backend,
        python=wish.python,
        sim_speed=wish.sim_speed,
        no_input=True,
    )
    return private(choose(options), "calibrate")


def _measured(
    wish: CalibrateOptions, urls: "list[str] | tuple[str, ...]", *, clock_rate: float
) -> "Calibration":
    """Measure what answers at these addresses."""
    import asyncio

    from pdctl.inspection.llm import read_llm
    from pdctl.measurement.calibration.engines import calibrate_engines, facts_of
    from pdctl.measurement.prediction import cluster_of
    from pdctl.perf_model.fitting.profiles import named_profile

    earlier = named_profile(wish.earlier) if wish.earlier else None
    facts = asyncio.run(facts_of(urls))
    llm = read_llm(wish.model or facts[0].model)
    cluster = cluster_of(wish.gpus, facts[0])
    with calibration_display() as tell, step_log(wish.steps) as keep:
        found = asyncio.run(
            calibrate_engines(
                facts,
                llm,
                cluster,
                budget_s=wish.budget_s,
                clock_rate=clock_rate,
                command=command_line(),
                earlier=earlier,
                tell=tell,
                keep=keep,
            )
        )
    return kept(found, wish.output)


@contextmanager
def calibration_display() -> "Iterator[Callable[[Progress], None]]":
    """Says on stderr what is measured now; on a terminal in one line."""
    from pdctl.tables.measure import calibration_progress

    is_terminal = sys.stderr.isatty()
    said = [-1e9]

    def tell(now: "Progress") -> None:
        if is_terminal:
            sys.stderr.write(f"\r\x1b[2K{calibration_progress(now)}")
            sys.stderr.flush()
        elif now.elapsed_s - said[0] >= 10:
            said[0] = now.elapsed_s
            sys.stderr.write(f"{calibration_progress(now)}\n")

    try:
        yield tell
    finally:
        if is_terminal:
            sys.stderr.write("\r\x1b[2K")
            sys.stderr.flush()


def _check(wish: CalibrateOptions) -> None:
    ways = [bool(wish.urls), bool(wish.from_urls), bool(wish.from_logs)]
    if sum(ways) > 1:
        raise InvalidInput(
            "--url, --from and --from-logs exclude one another.", hint="choose one of them"
        )
    if not wish.model and not any((wish.urls, wish.from_urls)):
        raise InvalidInput(
            "No model is given.", hint="pdctl calibrate MODEL --tp 1", code="no_model"
        )
    if wish.output is not None and wish.output.exists():
        raise InvalidInput(
            f"{wish.output} is there already and was left as it is.", hint="-o another file"
        )


def _plain(value: object) -> object:
    """Without the measurements: they are in the file."""
    if isinstance(value, dict):
        profile = value.get("profile")
        if isinstance(profile, dict):
            value["profile"] = {
                k: v for k, v in profile.items() if k not in ("measurements", "residuals")
            }
    return value


EXAMPLES = """\b
Examples:
  pdctl calibrate /models/llama-8b --tp 2
  pdctl calibrate /models/llama-8b --from http://127.0.0.1:30000
"""


def calibrate(
    model: str = typer.Argument(
        "", help="Directory with config.json, cached model or bundled name.", show_default=False
    ),
    tp: int = typer.Option(1, "--tp", help="Tensor parallel size of the engine."),
    pp: int = typer.Option(None, "--pp", help="Pipeline parallel size."),
    dp: int = typer.Option(None, "--dp", help="Attention data parallel size, inside tp."),
    ep: int = typer.Option(None, "--ep", help="Expert parallel size, inside tp."),
    engine: str = typer.Option("sglang", "--engine", help="sglang, or sim to try it out."),
    url: list[str] = typer.Option(
        [], "--url", help="Of a running idle engine; twice for prefill and decode."
    ),
    transfer: bool = typer.Option(
        False, "--transfer", help="Start a prefill and a decode engine; measure KV transfer too."
    ),
    gpus: str = typer.Option(
        "", "--gpus", help="Which GPUs here: 0-3,6. With --engine sim or --url: which kind, 8xH200."
    ),
    args: str = typer.Option("", "--args", help="SGLang flags for the engine."),
    decode_args: str = typer.Option("", "--decode-args", help="With --transfer: for decode."),
    transfer_backend: str = typer.Option("auto", "--transfer-backend", help="How KV moves."),
    python: str = typer.Option(None, "--python", help="The Python that has SGLang."),
    sim_speed: float = typer.Option(
        1.0, "--sim-speed", help="Simulated: 10 runs ten times faster."
    ),
    budget: str = typer.Option("4min", "--budget", help="How long to measure at most."),
    from_url: list[str] = typer.Option(
        [], "--from", help="Only watch this engine, or deployment, at work; repeat for more."
    ),
    window: str = typer.Option("1min", "--window", help="How long to watch with --from."),
    from_logs: list[Path] = typer.Option(
        [], "--from-logs", help="Read engine logs of a running deployment; repeat for more."
    ),
    output: Path = typer.Option(None, "-o", "--output", help="Write the profile to this file."),
    earlier: str = typer.Option(
        "", "--with", help="Fit together with this profile of the same kind of engine."
    ),
    steps: Path = typer.Option(
        None, "--steps", help="Append every measured step to this JSONL, also of a refused profile."
    ),
    timeout: str = typer.Option("2h", "--timeout", help="How long to wait until it serves."),
    api_key_file: Path | None = typer.Option(
        None, "--api-key-file", help="Holds the engines' API key; else PDCTL_API_KEY."
    ),
    as_json: bool = typer.Option(False, "--json", help="One JSON object on stdout."),
    no_input: bool = typer.Option(False, "--no-input", help="Never ask."),
) -> None:
    """Measure the step times of one engine in minutes; `plan` then uses them."""
    from pdctl.engines.clients.api_key import use_key_file
    from pdctl.units import parse_duration_s

    use_key_file(api_key_file)
    wish = CalibrateOptions(
        model=model,
        sizes=(tp, pp or 1, dp or 1, ep or 1),
        engine=engine,
        urls=tuple(url),
        transfer=transfer,
        gpus=gpus,
        args=args,
        decode_args=decode_args,
        transfer_backend=transfer_backend,
        python=python,
        sim_speed=sim_speed,
        budget_s=parse_duration_s(budget, flag="--budget"),
        from_urls=tuple(from_url),
        window_s=parse_duration_s(window, flag="--window"),
        from_logs=tuple(from_logs),
        output=output,
        earlier=earlier,
        steps=steps,
        timeout_s=parse_duration_s(timeout, flag="--timeout"),
        no_input=no_input or as_json,
    )
    run_calibrate(wish, as_json=as_json)


calibrate.__doc__ = f"{calibrate.__doc__}\n\n{EXAMPLES}"
