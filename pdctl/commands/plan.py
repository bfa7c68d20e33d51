"""`pdctl plan`: should prefill and decode be split, into how many engines, and why?"""

from dataclasses import dataclass, replace
from pathlib import Path

import typer

from pdctl.commands.number_option import number_option
from pdctl.console import ask, err, interactive
from pdctl.errors import EnvironmentProblem, ExitCode, InvalidInput
from pdctl.inspection.records import Cluster, Llm
from pdctl.perf_model.records import Parallelism, Role
from pdctl.units import parse_duration_s, parse_rate_rps, parse_share, parse_tokens, positive
from pdctl.verdict.records import Arm, Question, Speculation, Verdict
from pdctl.workload.describe import parse_slo
from pdctl.workload.records import Workload


@dataclass(frozen=True)
class PlanOptions:
    """The flags of `pdctl plan`, as typed. None or "": not given."""

    model: str = ""
    gpus: str = ""
    isl: float | None = None
    osl: float | None = None
    isl_cv: float | None = None
    osl_cv: float | None = None
    rate: float | None = None
    concurrency: float | None = None
    prefix_hit: float | None = None
    trace: Path | None = None
    lengths: Path | None = None
    from_url: str = ""
    window: str = "30s"
    skip_bad: bool = False
    time_unit: str = ""
    ttft: str = ""
    tpot: str = ""
    attainment: float = 0.9
    total: int | None = None
    tp: int | None = None
    prefill_tp: int | None = None
    decode_tp: int | None = None
    pp: int | None = None
    ep: int | None = None
    dp: int | None = None
    draft_tokens: int | None = None
    accept_length: float | None = None
    profile: str = ""
    attention_backend: str = ""
    seed: int = 0
    no_input: bool = False


def question_of(options: PlanOptions) -> tuple[str, Question]:
    """The model as the user names it, and the question.

    Raises InvalidInput for a bad value, EnvironmentProblem without GPUs to plan for.
    """
    from pdctl.inspection.llm import read_llm
    from pdctl.inspection.model_files import absolute_model

    slo = parse_slo(options.ttft, options.tpot, options.attainment)
    speculation = _speculation(options)
    name = absolute_model(options.model) or _known_model(options)
    llm = read_llm(name)
    cluster = _cluster(options)
    parallelism = _parallelism(options, llm)
    workload = _workload(_asked(options))
    question = Question(
        llm=llm,
        cluster=cluster,
        workload=workload,
        slo=slo,
        total=_at_least(options.total, 1, "--total"),
        parallelism=parallelism,
        speculation=speculation,
        seed=options.seed,
        attention_backend=_attention_backend(options.attention_backend),
    )
    return name, _with_profile(question, options)


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


def _known_model(options: PlanOptions) -> str:
    """The model of ./pd.yaml or of the last plan, or the answer of whoever is there."""
    from pdctl.commands.deployment_options import FILE
    from pdctl.deployment.pd_yaml import read_deployment
    from pdctl.paths import last_plan_path

    deployment = next((read_deployment(p) for p in (FILE, last_plan_path()) if p.is_file()), None)
    if deployment is not None:
        return deployment.model
    if not interactive(no_input=options.no_input):
        raise InvalidInput(
            "No model is given, and there is neither ./pd.yaml nor an earlier plan.",
            hint="pdctl plan llama-3.1-8b --gpus 8xH200",
        )
    return ask("Model?", default="llama-3.1-8b", flag="MODEL", no_input=options.no_input)


def _cluster(options: PlanOptions) -> Cluster:
    from pdctl.inspection.cluster import detect_cluster, parse_gpus

    if options.gpus:
        return parse_gpus(options.gpus)
    try:
        return detect_cluster()
    except EnvironmentProblem:
        if not interactive(no_input=options.no_input):
            raise
    return parse_gpus(
        ask("No GPU here. Plan for which?", default="8xH200", flag="--gpus", no_input=False)
    )


def _parallelism(options: PlanOptions, llm: Llm) -> dict[Role, Parallelism]:
    """What the user fixed, by role; a role is left to the search when nothing of it is."""
    from pdctl.perf_model.memory import check_parallelism

    common = {"pp": options.pp, "dp": options.dp, "ep": options.ep}
    flags = {f"--{k}": v for k, v in common.items()}
    flags |= {"--tp": options.tp, "--prefill-tp": options.prefill_tp}
    flags["--decode-tp"] = options.decode_tp
    for flag, value in flags.items():
        _at_least(value, 1, flag)
    by_role: dict[Role, int | None] = {
        "colocated": options.tp,
        "prefill": options.prefill_tp or options.tp,
        "decode": options.decode_tp or options.tp,
    }
    others = {key: value for key, value in common.items() if value}
    if others and not any(by_role.values()):
        flag = f"--{next(iter(others))}"
        raise InvalidInput(f"{flag} needs --tp.", hint=f"--tp 8 {flag} {others[flag[2:]]}")
    fixed = {role: Parallelism(tp=tp, **others) for role, tp in by_role.items() if tp}
    for shape in fixed.values():
        check_parallelism(llm, shape)
    return fixed


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
    text = ask(question, default=default, flag=flag, no_input=False)
    parse = parse_rate_rps if flag == "--rate" else parse_tokens
    return parse(text, flag=flag) if text else None


def _workload(options: PlanOptions) -> Workload:
    from pdctl.commands.trace_input import clients_given
    from pdctl.workload.describe import workload_from_lengths, workload_from_trace

    if options.rate is not None and options.concurrency is not None:
        raise InvalidInput("--rate and --concurrency exclude each other.", hint="drop one")
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
        )
    from pdctl.commands.trace_input import read_given_trace

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
    """What a running deployment is asked for, looked at for a while."""
    from pdctl.commands.progress import progress_line
    from pdctl.status.observed_workload import watch_workload
    from pdctl.status.targets import targets_of_router
    from pdctl.tables.plan import workload_line

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
            raise InvalidInput(f"--from and {flag} exclude each other.", hint=f"drop {flag}")
    window_s = parse_duration_s(options.window, flag="--window")
    rate = None if options.rate is None else positive(options.rate, flag="--rate")
    targets = targets_of_router(options.from_url)
    with progress_line() as progress:
        seen = watch_workload(
            targets,
            window_s,
            lambda waited_s: progress(f"looking at {len(targets)} engines, {waited_s:.0f} s"),
        )
    err().print(f"  Seen at {options.from_url}: {workload_line(seen)}.")
    return seen if rate is None else replace(seen, rate_rps=rate)


def _with_profile(question: Question, options: PlanOptions) -> Question:
    """The question with the measured step times that describe its engines, if there are any."""
    from pdctl.perf_model.fitting.profiles import find_own_profile, find_profile, named_profile

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


def _attention_backend(name: str) -> str | None:
    from pdctl.perf_model.hardware import ATTENTION_BACKENDS

    if name and name not in ATTENTION_BACKENDS:
        raise InvalidInput(
            f"SGLang has no --attention-backend {name!r}. It has: "
            f"{', '.join(sorted(ATTENTION_BACKENDS))}.",
            hint="--attention-backend triton, or leave the flag out for SGLang's default",
        )
    return name or None


def _at_least(value: int | None, least: int, flag: str) -> int | None:
    if value is not None and value < least:
        raise InvalidInput(f"{flag} must be at least {least}, not {value}.", hint=f"{flag} {least}")
    return value


def write_answer(
    model: str,
    question: Question,
    verdict: Verdict,
    *,
    as_json: bool,
    output: Path | None,
    report: Path | None,
) -> None:
    """Show a verdict, keep it for the next command, and exit 3 when the answer is no."""
    arm = chosen_arm(verdict)
    if report is not None and verdict.arms:
        _write_report(report, model, question, verdict)
    if arm is not None and not verdict.unmet:
        keep_plan(model, question, verdict, arm, output)
    _show(model, question, verdict, as_json=as_json)
    if verdict.unmet:
        raise typer.Exit(ExitCode.ANSWER_IS_NO)


def chosen_arm(verdict: Verdict) -> Arm | None:
    """The arm to launch; of a verdict that is too close the split, which shows its queues."""
    name = "colocated" if verdict.verdict == "colocated" else "pd"
    return verdict.arms.get(name)


def next_command(model: str, question: Question, verdict: Verdict) -> str:
    """What to type after this verdict."""
    from pdctl.verdict.sentences import backend_flags, parallelism_flags

    arm = chosen_arm(verdict)
    if verdict.settle:
        return verdict.settle
    if arm is None:
        return "pdctl plan --help"
    prefill, decode = arm.num_engines
    if not decode:
        prefill, decode = 0, prefill
    words = [f"pdctl up {model} --prefill {prefill} --total {prefill + decode}"]
    return " ".join([*words, *parallelism_flags(arm), *backend_flags(question)])


def _show(model: str, question: Question, verdict: Verdict, *, as_json: bool) -> None:
    if as_json:
        from pdctl.console import print_json
        from pdctl.verdict.verdict import verdict_data
        from pdctl.workload.describe import workload_data

        data = verdict_data(verdict) | {"workload": workload_data(question.workload)}
        print_json("plan", data, status="no" if verdict.unmet else "ok")
        return
    from pdctl.console import out
    from pdctl.tables.plan import plan_view

    out().print(plan_view(question, verdict, next_command(model, question, verdict)))


def keep_plan(
    model: str, question: Question, verdict: Verdict, arm: Arm, output: Path | None
) -> None:
    """Write pd.yaml where asked, and the last plan; a full disk is no reason to lose the answer."""
    from pdctl.deployment.build import deployment_of_arm
    from pdctl.deployment.pd_yaml import write_deployment
    from pdctl.paths import last_plan_path

    backend = question.attention_backend
    if output is not None:
        planned = deployment_of_arm(model, arm, question.slo, attention_backend=backend)
        write_deployment(planned, output)
    last = last_plan_path()
    try:
        deployment = deployment_of_arm(model, arm, question.slo, attention_backend=backend)
        last.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_deployment(deployment, last, made_in=Path.cwd())
    except (OSError, EnvironmentProblem, InvalidInput):
        return  # more engines than one machine launches: still a plan


def _write_report(path: Path, model: str, question: Question, verdict: Verdict) -> None:
    from pdctl.commands.parallel import spread_over_cores
    from pdctl.tables.plan import flip_sentence
    from pdctl.tables.report import report_page
    from pdctl.verdict.search import rate_curves

    curves = rate_curves(question, verdict, spread=spread_over_cores)
    command, flips = next_command(model, question, verdict), flip_sentence(verdict)
    page = report_page(question, verdict, command, curves, flips)
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as problem:
        raise EnvironmentProblem(
            f"{path} cannot be written: {problem.strerror}.", hint="--report plan.html"
        ) from problem


EXAMPLES = """\b
Examples:
  pdctl plan deepseek-r1 --gpus 4x8xH200 --isl 8000 --osl 500 --rate 10
  pdctl plan qwen3-32b --gpus 2x8xH200 --tp 2 --trace requests.jsonl --ttft 5s --tpot 40ms
  pdctl plan qwen3-32b --from http://127.0.0.1:30000 --window 1m
"""


def plan(
    model: str = typer.Argument(
        "", help="Directory with config.json, cached model or bundled name.", show_default=False
    ),
    gpus: str = typer.Option("", help="8xH100, 4x8xH200 (nodes × GPUs × type), :rdma400."),
    isl: float = number_option("--isl", parse_tokens, "Mean prompt tokens: 8000, 30K."),
    osl: float = number_option("--osl", parse_tokens, "Mean output tokens: 500, 1K."),
    isl_cv: float = typer.Option(None, help="Spread of prompt lengths: std. deviation / mean."),
    osl_cv: float = typer.Option(None, help="Spread of output lengths; 0: all equally long."),
    rate: float = number_option("--rate", parse_rate_rps, "Requests per second: 12, 300/min."),
    concurrency: float = typer.Option(None, help="Closed-loop clients, instead of --rate."),
    prefix_hit: float = number_option(
        "--prefix-hit", parse_share, "Share of prompt tokens found in the prefix cache: 0.9, 90%."
    ),
    trace: Path = typer.Option(None, help="Trace file: Mooncake, Azure, BurstGPT, ... "),
    lengths: Path = typer.Option(None, help="File of prompt and output lengths."),
    from_url: str = typer.Option("", "--from", help="Router of a running deployment to look at."),
    window: str = typer.Option("30s", "--window", help="With --from: how long to look."),
    skip_bad: bool = typer.Option(False, "--skip-bad", help="Skip broken lines, and count them."),
    time_unit: str = typer.Option(
        "", "--time-unit", help="Unit of times in the trace: s, ms, us, ns. Default: detected."
    ),
    ttft: str = typer.Option("", help="SLO of the time to first token: 1s."),
    tpot: str = typer.Option("", help="SLO of the time per output token: 30ms."),
    attainment: float = number_option(
        "--attainment", parse_share, "Share of requests that must meet the SLOs.", default=0.9
    ),
    total: int = typer.Option(None, help="Engines in all."),
    tp: int = typer.Option(None, help="Tensor parallelism of every engine."),
    prefill_tp: int = typer.Option(None, help="Of prefill engines."),
    decode_tp: int = typer.Option(None, help="Of decode engines."),
    pp: int = typer.Option(None, help="Pipeline stages of every engine."),
    ep: int = typer.Option(None, help="Expert parallelism inside tp."),
    dp: int = typer.Option(None, help="Attention data parallelism inside tp."),
    spec_draft_tokens: int = typer.Option(None, help="Draft tokens per speculative step."),
    spec_accept_length: float = typer.Option(None, help="Tokens gained per speculative step."),
    profile: str = typer.Option("", help="Measured step times to use: a file or an id."),
    attention_backend: str = typer.Option("", help="As SGLang's; by default what it takes."),
    seed: int = typer.Option(0, help="Of arrivals and lengths that are drawn."),
    api_key_file: Path | None = typer.Option(
        None, "--api-key-file", help="Holds the API key of --from; else PDCTL_API_KEY."
    ),
    as_json: bool = typer.Option(False, "--json", help="One JSON object on stdout."),
    output: Path = typer.Option(None, "-o", "--output", help="Write the plan, for `up -f`."),
    report: Path = typer.Option(None, help="Write one self-contained HTML page."),
    no_input: bool = typer.Option(False, "--no-input", help="Never ask."),
) -> None:
    """Should prefill and decode be split, into how many engines, and why?"""
    from pdctl.commands.parallel import spread_over_cores
    from pdctl.commands.progress import progress_line
    from pdctl.commands.trace_input import say_workload
    from pdctl.engines.clients.api_key import use_key_file
    from pdctl.verdict.verdict import decide

    use_key_file(api_key_file)
    options = PlanOptions(
        model=model,
        gpus=gpus,
        isl=isl,
        osl=osl,
        isl_cv=isl_cv,
        osl_cv=osl_cv,
        rate=rate,
        concurrency=concurrency,
        prefix_hit=prefix_hit,
        trace=trace,
        lengths=lengths,
        from_url=from_url,
        window=window,
        skip_bad=skip_bad,
        time_unit=time_unit,
        ttft=ttft,
        tpot=tpot,
        attainment=attainment,
        total=total,
        tp=tp,
        prefill_tp=prefill_tp,
        decode_tp=decode_tp,
        pp=pp,
        ep=ep,
        dp=dp,
        draft_tokens=spec_draft_tokens,
        accept_length=spec_accept_length,
        profile=profile,
        attention_backend=attention_backend,
        seed=seed,
        no_input=no_input or as_json,
    )
    name, question = question_of(options)
    if not as_json:
        say_workload(question.workload)
    with progress_line() as progress:
        verdict = decide(
            question, spread=spread_over_cores, progress=progress, queues=report is not None
        )
    write_answer(name, question, verdict, as_json=as_json, output=output, report=report)


plan.__doc__ = f"{plan.__doc__}\n\n{EXAMPLES}"
