"""Bare `pdctl`: guide a newcomer from this machine's GPUs to a verdict and what to do with it."""

import shlex
from pathlib import Path

import typer

from pdctl.commands.next_steps import chosen_arm, keep_plan, next_steps, planned_deployment
from pdctl.commands.options.plan_options import PlanOptions
from pdctl.commands.plan_run import answer, question_of, show_plan
from pdctl.commands.progress import say, say_command
from pdctl.commands.walk.answers import (
    Answers,
    Asked,
    asked_keys,
    command_line,
    keep_answers,
    kept_answers,
    plan_options,
    questions,
)
from pdctl.commands.walk.prompt import Prompt, ask_prompt, history
from pdctl.console import interactive, reason_line
from pdctl.deployment.pd_yaml import write_deployment
from pdctl.deployment.records import Deployment
from pdctl.errors import ExitCode, InvalidInput, PdctlError
from pdctl.inspection.cluster import detect_cluster
from pdctl.inspection.records import Cluster
from pdctl.inspection.sglang import query_sglang
from pdctl.paths import state_home
from pdctl.verdict.records import Question, Verdict

LETTERS = {
    "w": "write a pd.yaml",
    "l": "launch it here",
    "r": "rehearse it on simulated engines",
    "c": "change the answers",
    "q": "quit",
}


def guided(ctx: typer.Context) -> list[str] | None:
    """Ask, show the verdict, return the command line to go on with. Off a terminal: help."""
    if not interactive(no_input=False):
        typer.echo(ctx.get_help())
        return None
    try:
        with history(state_home() / "guided-history"):
            return _walk()
    except EOFError:
        say("\nStopped. Your answers are kept; pdctl begins with them.")
        return None
    except KeyboardInterrupt:
        say("\nStopped. Your answers are kept; pdctl begins with them.")
        raise typer.Exit(ExitCode.INTERRUPTED) from None


def _walk() -> list[str] | None:
    say("pdctl: should prefill and decode be split, and into how many engines of each?")
    say("Enter takes the answer in brackets, ? lists what is possible, Ctrl-D stops.\n")
    here = _show_machine()
    while True:
        answers = _ask_all(here)
        say("")
        say_command("  That is: ", command_line(answers))
        say("")
        try:
            question, verdict = _decide(plan_options(answers))
        except PdctlError as problem:
            say(f"{reason_line(problem)}\n")
            continue
        chosen = _choose(answers, question, verdict, here)
        if chosen != ["change"]:
            return chosen


def _show_machine() -> Cluster | None:
    """Show this machine's GPUs and SGLang version; the GPUs, None where there are none."""
    try:
        here = detect_cluster()
        say(f"GPUs here: {here.num_gpus} × {here.gpu.name}")
    except PdctlError as problem:
        here = None
        say(f"GPUs here: none usable ({problem.message.rstrip('.')})")
    found = query_sglang(None)
    backends = f", KV over {' or '.join(found.backends)}" if found.backends else ""
    say(f"SGLang:    {found.version + backends if found.version else 'not installed'}\n")
    return here


def _ask_all(here: Cluster | None) -> Answers:
    """Every question in turn; each answer is kept at once, for this start and the next."""
    kept = kept_answers()
    answers: dict[str, str] = {}
    for question in questions(answers, here):
        key = question.prompt.key
        answers[key] = ask_prompt(question.prompt, _default(question, kept.get(key)))
        keep_answers({**kept, **answers})
    return {key: answers[key] for key in asked_keys(answers, here)}


def _default(question: Asked, kept: str | None) -> str:
    """The kept answer if it is still possible, else the usual one."""
    if kept:
        try:
            question.prompt.check(kept)
        except PdctlError:
            return question.usual
        return kept
    return question.usual if kept is None else ""


def _decide(options: PlanOptions) -> tuple[Question, Verdict]:
    options, question = question_of(options)
    question, verdict = answer(question)
    show_plan(question, verdict, next_steps(options, question, verdict))
    arm = chosen_arm(verdict)
    if arm is not None and verdict.is_met:
        keep_plan(options.model, question, arm, None)
    return question, verdict


# --- what to do with the verdict ---


def _choose(
    answers: Answers, question: Question, verdict: Verdict, here: Cluster | None
) -> list[str] | None:
    """A command line to run, ["change"] to ask again, or None to stop."""
    planned = _planned(answers, question, verdict)
    possible = "wlrcq" if planned else "cq"
    prompt = Prompt(
        "next",
        f"Next ({', '.join(possible)})?",
        check=lambda text: _check_letter(text, possible),
        choices=lambda: [f"{letter}: {LETTERS[letter]}," for letter in possible],
    )
    say("\n".join(f"  {letter}  {LETTERS[letter]}" for letter in possible))
    while True:
        letter = ask_prompt(prompt, "q").lower()[:1]
        if letter == "q" or planned is None:
            return ["change"] if letter == "c" else None
        if letter == "c":
            return ["change"]
        if letter == "w":
            _write(planned)
        elif letter == "r":
            return ["rehearse", "-f", str(_keep(planned))]
        elif obstacle := _launch_obstacle(question, planned, here):
            say(f"  {obstacle}")
        else:
            return ["up", "-f", str(_keep(planned))]


def _check_letter(text: str, possible: str) -> None:
    if text.lower()[:1] not in possible:
        raise InvalidInput(f"{text!r} is not one of the choices.", hint=", ".join(possible))


def _planned(answers: Answers, question: Question, verdict: Verdict) -> Deployment | None:
    """The deployment of the verdict; None, with the reason said, where nothing can be started."""
    arm = chosen_arm(verdict)
    if arm is None or not verdict.is_met:
        return None
    try:
        return planned_deployment(plan_model(answers), question, arm)
    except PdctlError as problem:
        say(f"  This plan cannot be started from here: {problem.message}")
        return None


def plan_model(answers: Answers) -> str:
    """The model as a deployment names it: a folder by its absolute path."""
    path = Path(answers["model"]).expanduser()
    return str(path.resolve()) if path.is_dir() else answers["model"]


def _write(planned: Deployment) -> None:
    """Ask for a file and write the plan there, over an existing one only after a yes."""
    prompt = Prompt("file", "Write to which file?", check=lambda text: None, has_paths=True)
    path = Path(ask_prompt(prompt, "pd.yaml")).expanduser()
    try:
        if path.exists() and not _may_overwrite(path):
            say(f"  {path} stays as it is.")
            return
        write_deployment(planned, path)
    except PdctlError as problem:
        say(f"  {problem.message}")
        return
    say(f"  Wrote {path}. Start it with:")
    say_command("    ", f"pdctl up -f {shlex.quote(str(path))}")


def _may_overwrite(path: Path) -> bool:
    prompt = Prompt(
        "overwrite",
        f"{path} exists. Overwrite it (y/n)?",
        check=lambda text: _check_letter(text, "yn"),
        choices=lambda: ("y: overwrite it,", "n: leave it as it is"),
    )
    return ask_prompt(prompt, "n").lower()[:1] == "y"


def _launch_obstacle(question: Question, planned: Deployment, here: Cluster | None) -> str:
    """Why this machine cannot run the plan on its GPUs, or ""."""
    kind = question.cluster.gpu.name
    if here is not None and here.gpu.name == kind and here.num_gpus >= planned.num_gpus:
        return ""
    found = "no usable GPU" if here is None else f"{here.num_gpus} × {here.gpu.name}"
    return (
        f"The plan needs {planned.num_gpus} × {kind}, but this machine has {found}. "
        "Use w to write it and start it there, or r to rehearse it."
    )


def _keep(planned: Deployment) -> Path:
    """The plan in a file of its own: ./pd.yaml and later plans cannot take its place."""
    path = state_home() / "guided-plan.yaml"
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_deployment(planned, path)
    return path
