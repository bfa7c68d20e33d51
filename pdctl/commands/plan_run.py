"""Run `pdctl plan`: turn options into a question, decide, keep the plan and show the answer."""

import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from pdctl.commands.command_line.overwrite import write_output
from pdctl.commands.deployment_options import FILE, ask_model
from pdctl.commands.next_steps import chosen_arm, keep_plan, next_steps
from pdctl.commands.options.engine_options import EngineOptions
from pdctl.commands.options.parameters import options_from
from pdctl.commands.options.plan_engines import asked_engines, fixed_parallelism
from pdctl.commands.options.plan_gpus import asked_gpus
from pdctl.commands.options.plan_options import PlanOptions
from pdctl.commands.parallel import spread_over_cores
from pdctl.commands.progress import progress_line, say
from pdctl.commands.trace_input import clients_given, read_given_trace, say_workload
from pdctl.console import ask, command_width, err, interactive, out, print_json, printable, show
from pdctl.deployment.pd_yaml import origin_of, read_deployment
from pdctl.deployment.resources import needs_gpus
from pdctl.engines.launchers.registry import LOCAL
from pdctl.errors import ExitCode, InvalidInput
from pdctl.inspection.llm import bundled_names, read_llm
from pdctl.inspection.model_files import absolute_model
from pdctl.inspection.records import Llm
from pdctl.paths import last_plan_path
from pdctl.perf_model.fitting.profiles import find_own_profile, find_profile, named_profile
from pdctl.perf_model.releases import NEWEST_READ, numbers
from pdctl.units import parse_duration_s, parse_rate_rps, parse_tokens, positive
from pdctl.verdict.data import model_data, verdict_data
from pdctl.verdict.rate_curves import rate_curves
from pdctl.verdict.records import Question, Speculation, Verdict
from pdctl.verdict.sentences import write
from pdctl.verdict.verdict import decide, decide_fewest
from pdctl.workload.arrivals import tail
from pdctl.workload.describe import parse_slo, workload_from_lengths, workload_from_trace
from pdctl.workload.records import Trace, Workload

if TYPE_CHECKING:
    from rich.console import RenderableType

PIPED_WIDTH = 120


def question_of(options: PlanOptions) -> tuple[PlanOptions, Question]:
    """The options, completed from a deployment, the last plan or answers; and their question.

    Raises InvalidInput for a bad value, EnvironmentProblem without GPUs to plan for.
    """
    slo = parse_slo(options.ttft, options.tpot, options.attainment)
    speculation = _speculation(options)
    options = _of_last_plan(_of_router(_of_deployment(options)))
    options = replace(options, model=model_path_of(options))
    llm = read_llm(options.model)
    cluster, usd_per_gpu_hour = asked_gpus(
        options.gpus, options.gpu_file, options.on, no_input=options.no_input
    )
    llm = _guessing(llm, cluster.gpu.guesses)
    engines = options_from(EngineOptions, vars(options))
    parallelism = fixed_parallelism(engines, llm)
    options = _asked(options)
    workload = _workload(options, llm.max_context)
    question = Question(
        llm=llm,
        cluster=cluster,
        workload=workload,
        slo=slo,
        total=_at_least(options.total, 1, "--total"),
        parallelism=parallelism,
        speculation=speculation,
        seed=options.seed,
        usd_per_gpu_hour=usd_per_gpu_hour,
    )
    question = of_release(with_engine_flags(question, engines), options.release)
    return options, _with_profile(question, options)


def with_engine_flags(question: Question, engines: EngineOptions) -> Question:
    """The question with SGLang's flags and the router's policy. Raises as `asked_engines`."""
    return replace(question, **vars(asked_engines(question.llm, engines)))


def of_release(question: Question, release: str) -> Question:
    """The question about engines of this release of SGLang; "": the newest that is known.

    Raises InvalidInput for a text that does not begin with a number.
    """
    if not release:
        return question
    if not numbers(release):
        raise InvalidInput(
            f"--release {release[:40]!r} is not a release of SGLang.",
            hint=f"--release {NEWEST_READ}",
        )
    serving = {role: replace(own, release=release) for role, own in question.serving.items()}
    return replace(question, serving=serving)


def model_path_of(options: PlanOptions) -> str:
    """The model given; else that of ./pd.yaml, of the last plan, or an answer on a terminal."""
    model = absolute_model(options.model) or _of_last_plan(options, takes_gpus=False).model
    if model:
        return model
    if not interactive(no_input=options.no_input):
        raise InvalidInput(
            "No model is given, and there is neither ./pd.yaml nor an earlier plan.",
            hint="pdctl plan llama-3.1-8b --gpus 8xH100",
        )
    return ask_model(default="llama-3.1-8b")


def _of_last_plan(options: PlanOptions, *, takes_gpus: bool = True) -> PlanOptions:
    """The options; without a model, with the model and the GPUs of ./pd.yaml or the last plan."""
    path = next((path for path in (FILE, last_plan_path()) if path.is_file()), None)
    if options.model or path is None:
        return options
    found = read_deployment(path)
    gpus, gpu_file = "", options.gpu_file
    if takes_gpus and found.planned is not None and not _names_gpus(options):
        gpus = found.planned.gpus
        gpu_file = Path(found.planned.gpu_file) if found.planned.gpu_file else None
    origin = str(path) if path == FILE else f"the plan of {origin_of(path)}"
    what, on = ("model and GPUs", f" on {gpus}") if gpus else ("model", "")
    say(f"  Taking the {what} of {origin}: {found.model}{on}.")
    return replace(options, model=found.model, gpus=options.gpus or gpus, gpu_file=gpu_file)


def _names_gpus(options: PlanOptions) -> bool:
    return bool(options.gpus or options.gpu_file) or options.on != LOCAL


def _of_deployment(options: PlanOptions) -> PlanOptions:
    """The options with the model and the described GPUs of the deployment that --from names."""
    if not options.from_url:
        return options
    from pdctl.engines.lifecycle import running  # slow to import, as all that is imported below
    from pdctl.engines.state import desired_path

    if options.from_url not in running.names():
        return options
    deployment = read_deployment(desired_path(options.from_url))
    if not options.model:
        say(f"  Taking the model of {options.from_url}: {deployment.model}.")
    described = "" if needs_gpus(deployment) else deployment.gpus or ""
    return replace(
        options,
        model=options.model or deployment.model,
        gpus=options.gpus if _names_gpus(options) else described,
    )


def _of_router(options: PlanOptions) -> PlanOptions:
    """The options; without a model, with the one that engines behind the URL of --from serve."""
    url = options.from_url
    if options.model or not set("/:") & set(url):
        return options
    from pdctl.status.targets import model_path, targets_of_router

    model = next(filter(None, map(model_path, targets_of_router(url)[:1])), "")
    if model:
        say(f"  Taking the model that {url} serves: {model}.")
    return replace(options, model=model)


def mean_prompt_tokens(options: PlanOptions) -> float | None:
    """The mean prompt of --isl or of a file of requests; None: not given."""
    isl = None if options.from_url else _workload(options).isl
    return isl.mean if isl else None


def _speculation(options: PlanOptions) -> Speculation | None:
    drafts = _at_least(options.draft_tokens, 1, "--spec-draft-tokens")
    if drafts is None:
        if options.accept_length is not None:
            raise InvalidInput(
                "--spec-accept-length needs --spec-draft-tokens.", hint="--spec-draft-tokens 3"
            )
        return None
    accepted = 1.0 if options.accept_length is None else options.accept_length
    positive(accepted, flag="--spec-accept-length")
    if not 1 <= accepted <= drafts + 1:
        raise InvalidInput(
            f"--spec-accept-length must be from 1 to {drafts + 1}, not {accepted:g}.",
            hint=f"--spec-accept-length {min(2, drafts + 1)}",
        )
    return Speculation(drafts, accepted)


def _guessing(llm: Llm, guesses: tuple[str, ...]) -> Llm:
    """The LLM with what else its figures rest on, so that a verdict on them is never sure."""
    return replace(llm, guesses=(*llm.guesses, *guesses), assumptions=(*llm.assumptions, *guesses))


def _asked(options: PlanOptions) -> PlanOptions:
    """The options with what a person typed for lengths and rate that were not given."""
    files = options.trace or options.lengths or options.from_url
    given = options.isl is not None or options.osl is not None
    if files or given or not interactive(no_input=options.no_input):
        return options
    isl = _number("Mean prompt tokens (Enter: unknown)?", "--isl")
    if isl is None:
        return options
    return replace(
        options,
        isl=isl,
        osl=_number("Mean output tokens?", "--osl", "500"),
        rate=options.rate or _number("Requests per second (Enter: unknown)?", "--rate"),
    )


def _number(question: str, flag: str, default: str = "") -> float | None:
    parse = parse_rate_rps if flag == "--rate" else parse_tokens

    def number(text: str) -> float | None:
        return parse(text, flag=flag) if text else None

    return number(ask(question, default=default, flag=flag, no_input=False, check=number))


def _workload(options: PlanOptions, max_context: int | None = None) -> Workload:
    if options.rate is not None and options.concurrency is not None:
        raise InvalidInput("--rate and --concurrency cannot be combined.", hint="drop one")
    if options.from_url:
        return _live(options)
    clients = clients_given(options.concurrency)
    file = options.trace or options.lengths
    if file is None:
        return workload_from_lengths(
            isl=options.isl,
            osl=options.osl,
            rate_rps=options.rate,
            concurrency=clients,
            prefix_hit=options.prefix_hit,
            isl_cv=options.isl_cv,
            osl_cv=options.osl_cv,
            max_context=max_context,
        )
    drawn = {
        "--isl": options.isl,
        "--isl-cv": options.isl_cv,
        "--osl-cv": options.osl_cv,
        "--prefix-hit": options.prefix_hit,
    }
    for flag, value in drawn.items():
        if value is not None:
            raise InvalidInput(
                f"{flag} describes requests to draw, but {file.name} has recorded ones.",
                hint=f"drop {flag}",
            )
    trace = read_given_trace(
        file,
        time_unit=options.time_unit,
        skip_bad=options.skip_bad,
        osl=None if options.osl is None else round(positive(options.osl, flag="--osl")),
        no_input=options.no_input,
    )
    workload = workload_from_trace(trace, str(file), rate_rps=options.rate)
    return workload if clients is None else replace(workload, concurrency=clients)


def _live(options: PlanOptions) -> Workload:
    """The load of a running deployment, observed for a while."""
    others = {
        "--trace": options.trace,
        "--lengths": options.lengths,
        "--isl": options.isl,
        "--osl": options.osl,
        "--isl-cv": options.isl_cv,
        "--osl-cv": options.osl_cv,
        "--prefix-hit": options.prefix_hit,
        "--concurrency": options.concurrency,
    }
    for flag, value in others.items():
        if value is not None:
            raise InvalidInput(f"--from and {flag} cannot be combined.", hint=f"drop {flag}")
    window_s = parse_duration_s(options.window, flag="--window")
    from pdctl.tables.plan import workload_line

    rate = None if options.rate is None else positive(options.rate, flag="--rate")
    seen = _logged(options.from_url, window_s) or _watched(options.from_url, window_s)
    err().print(f"  Seen at {options.from_url}: {workload_line(seen)}.")
    return seen if rate is None else replace(seen, rate_rps=rate)


def _logged(name: str, window_s: float) -> Workload | None:
    """The requests in the logs of a deployment of this name. None: no such name, or no requests."""
    from pdctl.engines.lifecycle import running
    from pdctl.measurement.live_what_if import latest_requests

    if "/" in name or name not in running.names():
        return None
    window = latest_requests(name, window_s, time.time())
    if window is None:
        return None
    requests = tail(window.requests, window.first)
    start_s = requests.arrival_s[0]
    requests = replace(requests, arrival_s=[at_s - start_s for at_s in requests.arrival_s])
    return workload_from_trace(Trace(requests, ("log lines",), 0, has_arrivals=True), "live")


def _watched(router: str, window_s: float) -> Workload:
    """Mean lengths and rate, from the engines' counters over the next `window_s`."""
    from pdctl.engines.lifecycle import running
    from pdctl.status.observed_workload import watch_workload
    from pdctl.status.targets import targets_of_router

    is_running = router in running.names()
    if not is_running and not set("/:") & set(router):
        raise InvalidInput(
            f"No deployment {router!r} is running, and it is not the URL of a router.",
            hint="pdctl ls lists deployments; a URL is http://HOST:30000",
        )
    found = running.find(router).endpoint if is_running else router
    targets = targets_of_router(found)
    with progress_line() as progress:
        return watch_workload(
            targets,
            window_s,
            lambda waited_s: progress(f"looking at {len(targets)} engines, {waited_s:.0f} s"),
        )


def _with_profile(question: Question, options: PlanOptions) -> Question:
    """The question with the measured step times that describe its engines, if there are any."""
    gpu, backend = question.cluster.gpu.name, question.attention_backend
    if not options.profile:
        found = find_own_profile(gpu, question.llm, attention_backend=backend)
        other = None if found else find_profile(gpu, question.llm)
        return replace(question, profile=found, unused_profile=other)
    profile = named_profile(options.profile)
    if backend not in (None, profile.attention_backend):
        raise InvalidInput(
            f"The profile {profile.id} was measured with {profile.attention_backend} attention, "
            f"not with {backend}.",
            hint=f"--attention-backend {profile.attention_backend}",
        )
    return replace(question, profile=profile)


def _at_least(value: int | None, least: int, flag: str) -> int | None:
    if value is not None and value < least:
        raise InvalidInput(f"{flag} must be at least {least}, not {value}.", hint=f"{flag} {least}")
    return value


@dataclass(frozen=True)
class PlanOutput:
    """The outputs that `plan` was asked for."""

    as_json: bool = False
    file: Path | None = None
    report: Path | None = None


def run_plan(options: PlanOptions, output: PlanOutput) -> None:
    """Decide, and show and keep the answer. Exits with 3 if the answer is no."""
    options, question = question_of(options)
    if not output.as_json:
        say_workload(question.workload)
    has_report = output.report is not None
    question, verdict = answer(question, fewest=options.fewest, queues=has_report)
    write_answer(options, question, verdict, output)


def run_show_model(options: PlanOptions, *, as_json: bool) -> None:
    """Show the layers and sizes of a model; needs neither GPUs nor a load."""
    from pdctl.tables.models import model_view

    llm = read_llm(model_path_of(options))
    isl = mean_prompt_tokens(options)
    data = {"model": model_data(llm, isl)}
    show("plan", data, as_json=as_json, render=lambda: model_view(llm, isl))


def run_models(*, as_json: bool) -> None:
    """List the models that `plan` knows by name."""
    from pdctl.tables.models import models_view
    from pdctl.tables.tabs import tab_lines

    llms = [read_llm(name) for name in bundled_names()]
    data = {"models": [model_data(llm, None) for llm in llms]}
    view = models_view(llms)
    if out().is_terminal and not as_json:
        _print_unwrapped(view)
    else:
        show("plan", data, as_json=as_json, render=lambda: view, lines=lambda: tab_lines(view))


def write_answer(
    asked: PlanOptions, question: Question, verdict: Verdict, output: PlanOutput
) -> None:
    """Show a verdict, keep it for the next command, and exit 3 when the answer is no."""
    arm = chosen_arm(verdict)
    if arm is not None and verdict.is_met:
        keep_plan(asked.model, question, arm, output.file)
    steps = next_steps(asked, question, verdict, output.file)
    if output.report is not None and verdict.arms:
        _write_report(output.report, question, verdict, steps)
    _show(question, verdict, steps, as_json=output.as_json)
    if not verdict.is_met:
        if output.file is not None:
            say(f"  {output.file} was not written, because there is no layout to write.")
        raise typer.Exit(ExitCode.ANSWER_IS_NO)


def _show(question: Question, verdict: Verdict, steps: Sequence[str], *, as_json: bool) -> None:
    if as_json:
        told = verdict_data(question, verdict, steps)
        print_json("plan", told, status="ok" if verdict.is_met else "no")
        return
    show_plan(question, verdict, steps)


def show_plan(question: Question, verdict: Verdict, steps: Sequence[str]) -> None:
    """The screen, and below it the commands to go on with, unwrapped."""
    from pdctl.tables.plan import next_lines, plan_view

    _print_unwrapped(plan_view(question, verdict))
    for line in next_lines(steps, command_width()):
        out().print(line, soft_wrap=True)


def _print_unwrapped(view: "RenderableType") -> None:
    """Print a view; wider than 80 columns where no terminal says how wide."""
    from pdctl.tables.plan import plain_view

    console = out()
    if console.is_terminal:
        console.print(view)
    else:
        sys.stdout.write(printable(plain_view(view, max(console.width, PIPED_WIDTH))))


def _write_report(path: Path, question: Question, verdict: Verdict, steps: Sequence[str]) -> None:
    from pdctl.tables.report import Made, report_page

    curves = rate_curves(question, verdict.arms, verdict.rate_rps, spread_over_cores)
    made = Made(datetime.now().astimezone(), shlex.join(["pdctl", *sys.argv[1:]]))
    write_output(path, report_page(question, verdict, steps, curves, made), flag="--report")


def answer(
    question: Question, *, fewest: bool = False, queues: bool = False
) -> tuple[Question, Verdict]:
    """The verdict in facts and sentences; the question too, since --fewest changes its GPUs."""
    with progress_line() as progress:
        if fewest:
            question, verdict = decide_fewest(
                question, spread=spread_over_cores, progress=progress, queues=queues
            )
        else:
            verdict = decide(question, spread=spread_over_cores, progress=progress, queues=queues)
    return question, write(question, verdict)
