"""Bare `pdctl`: guide a newcomer from this machine's GPUs to a verdict and the next verb."""

from pathlib import Path

import typer

from pdctl.commands.next_steps import chosen_arm, keep_plan, next_steps
from pdctl.commands.plan_run import PlanOptions, answer, question_of, show_plan
from pdctl.commands.progress import say
from pdctl.commands.trace_input import say_workload
from pdctl.console import ask, interactive
from pdctl.errors import PdctlError
from pdctl.inspection.cluster import detect_cluster
from pdctl.inspection.sglang import query_sglang
from pdctl.verdict.records import Question, Verdict

CHOICES = "[w]rite pd.yaml, [l]aunch, [r]ehearse on simulated engines, [q]uit"


def guided(ctx: typer.Context) -> str | None:
    """Ask a few questions, show the verdict, return the verb to run next. Off a terminal: help."""
    if not interactive(no_input=False):
        typer.echo(ctx.get_help())
        return None
    say("pdctl: should prefill and decode be split, and into how many engines of each?\n")
    has_gpus = _show_machine()
    options = _ask_options(has_gpus)
    model, question, verdict = _decide(options)
    return _next_verb(model, question, verdict)


def _show_machine() -> bool:
    """Show this machine's GPUs and SGLang version. True if it has usable GPUs."""
    try:
        cluster = detect_cluster()
        say(f"GPUs here: {cluster.num_gpus} × {cluster.gpu.name}")
    except PdctlError as problem:
        cluster = None
        say(f"GPUs here: none usable ({problem.message.rstrip('.')})")
    found = query_sglang(None)
    backends = f", KV over {' or '.join(found.backends)}" if found.backends else ""
    say(f"SGLang:    {found.version + backends if found.version else 'not installed'}\n")
    return cluster is not None


def _ask_options(has_gpus: bool) -> PlanOptions:
    model = _ask("Model (directory, Hugging Face id or bundled name)?", "llama-3.1-8b", "MODEL")
    gpus = "" if has_gpus else _ask("Which GPUs to plan for?", "8xH200", "--gpus")
    trace = _ask("Trace of your requests (file; Enter: none)?", "", "--trace")
    ttft = _ask("TTFT target, for example 1s (Enter: none)?", "", "--ttft")
    tpot = _ask("TPOT target, for example 30ms (Enter: none)?", "", "--tpot")
    file = Path(trace).expanduser() if trace else None
    return PlanOptions(model=model, gpus=gpus, trace=file, ttft=ttft, tpot=tpot)


def _decide(options: PlanOptions) -> tuple[str, Question, Verdict]:
    model, question = question_of(options)
    say_workload(question.workload)
    question, verdict = answer(question)
    show_plan(question, verdict, next_steps(model, question, verdict))
    return model, question, verdict


def _next_verb(model: str, question: Question, verdict: Verdict) -> str | None:
    """The verb to run next, up or rehearse; each reads the last plan. None: stop here."""
    arm = chosen_arm(verdict)
    if arm is None or not verdict.is_met:
        return None
    keep_plan(model, question, arm, None)
    while (choice := _ask(f"{CHOICES}?", "q", "").lower()[:1]) == "w":
        keep_plan(model, question, arm, Path("pd.yaml"))
        say("wrote pd.yaml; pdctl up -f pd.yaml starts it\n")
    return {"l": "up", "r": "rehearse"}.get(choice)


def _ask(question: str, default: str, flag: str) -> str:
    return ask(question, default=default, flag=flag, no_input=False)
