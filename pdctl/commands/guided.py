"""Bare `pdctl`: walk a newcomer from what is here to a verdict and what to do with it."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from pdctl.commands.plan import PlanOptions

if TYPE_CHECKING:
    from pdctl.verdict.records import Question, Verdict


CHOICES = "[w]rite pd.yaml, [l]aunch, [r]ehearse on simulated engines, [q]uit"


def guided(ctx: typer.Context) -> str | None:
    """What is here, a few questions, the verdict; the verb to go on with. Help, unattended."""
    from pdctl.console import interactive

    if not interactive(no_input=False):
        typer.echo(ctx.get_help())
        return None
    _say("pdctl: should prefill and decode be split, and into how many engines of each?\n")
    has_gpus = _tell_what_is_here()
    options = _ask_options(has_gpus)
    model, question, verdict = _decide(options)
    return _next_verb(model, question, verdict)


def _tell_what_is_here() -> bool:
    """Say which GPUs and which SGLang this machine has; whether there are GPUs."""
    from pdctl.errors import PdctlError
    from pdctl.inspection.cluster import detect_cluster
    from pdctl.inspection.sglang import query_sglang

    try:
        cluster = detect_cluster()
        _say(f"GPUs here: {cluster.num_gpus} × {cluster.gpu.name}")
    except PdctlError as problem:
        cluster = None
        _say(f"GPUs here: none that can be used ({problem.message.rstrip('.')})")
    found = query_sglang(None)
    backends = f", KV over {' or '.join(found.backends)}" if found.backends else ""
    _say(f"SGLang:    {found.version + backends if found.version else 'not installed'}\n")
    return cluster is not None


def _ask_options(has_gpus: bool) -> PlanOptions:
    model = _ask("Model (directory, Hugging Face id or bundled name)?", "llama-3.1-8b", "MODEL")
    gpus = "" if has_gpus else _ask("Plan for which GPUs?", "8xH200", "--gpus")
    trace = _ask("A trace of your requests (file; Enter: none)?", "", "--trace")
    ttft = _ask("TTFT wanted, for example 1s (Enter: none)?", "", "--ttft")
    tpot = _ask("TPOT wanted, for example 30ms (Enter: none)?", "", "--tpot")
    file = Path(trace).expanduser() if trace else None
    return PlanOptions(model=model, gpus=gpus, trace=file, ttft=ttft, tpot=tpot)


def _decide(options: PlanOptions) -> "tuple[str, Question, Verdict]":
    from pdctl.commands.next_steps import next_steps
    from pdctl.commands.plan import answer, question_of, show_plan

    model, question = question_of(options)
    question, verdict = answer(question)
    show_plan(question, verdict, next_steps(model, question, verdict))
    return model, question, verdict


def _next_verb(model: str, question: "Question", verdict: "Verdict") -> str | None:
    """up or rehearse, which find this plan as the last one; None: nothing more."""
    from pdctl.commands.next_steps import chosen_arm, keep_plan

    arm = chosen_arm(verdict)
    if arm is None or not verdict.is_met:
        return None
    keep_plan(model, question, arm, None)
    while (answer := _ask(f"{CHOICES}?", "q", "").lower()[:1]) == "w":
        keep_plan(model, question, arm, Path("pd.yaml"))
        _say("wrote pd.yaml; pdctl up -f pd.yaml launches it\n")
    return {"l": "up", "r": "rehearse"}.get(answer)


def _ask(question: str, default: str, flag: str) -> str:
    from pdctl.console import ask

    return ask(question, default=default, flag=flag, no_input=False)


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
