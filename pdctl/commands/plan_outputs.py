"""Where a verdict goes: the screen or --json, pd.yaml, the report, the last plan."""

from pathlib import Path

import typer

from pdctl.errors import EnvironmentProblem, ExitCode, InvalidInput
from pdctl.verdict.records import Arm, Question, Verdict


def answer(
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
        keep(model, question, verdict, arm, output)
    _show(model, question, verdict, as_json=as_json)
    if verdict.unmet:
        raise typer.Exit(ExitCode.ANSWER_IS_NO)


def chosen_arm(verdict: Verdict) -> Arm | None:
    """The arm to launch; of a verdict that is too close the split, which shows its queues."""
    name = "colocated" if verdict.verdict == "colocated" else "pd"
    return verdict.arms.get(name)


def next_command(model: str, question: Question, verdict: Verdict) -> str:
    """What to type after this verdict."""
    from pdctl.verdict.words import backend_flags, parallelism_flags

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

        print_json("plan", verdict_data(verdict), status="no" if verdict.unmet else "ok")
        return
    from pdctl.console import out
    from pdctl.tables.plan import plan_view

    out().print(plan_view(question, verdict, next_command(model, question, verdict)))


def keep(model: str, question: Question, verdict: Verdict, arm: Arm, output: Path | None) -> None:
    """Write pd.yaml where asked, and the last plan; a full disk is no reason to lose the answer."""
    from pdctl.commands.chosen import last_plan_path
    from pdctl.deployment.file import write_deployment
    from pdctl.deployment.of_plan import deployment_of_arm

    backend = question.attention_backend
    if output is not None:
        planned = deployment_of_arm(model, arm, question.slo, attention_backend=backend)
        write_deployment(planned, output)
    last = last_plan_path()
    try:
        deployment = deployment_of_arm(model, arm, question.slo, attention_backend=backend)
        last.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_deployment(deployment, last)
    except (OSError, EnvironmentProblem, InvalidInput):
        return  # more engines than one machine launches: still a plan


def _write_report(path: Path, model: str, question: Question, verdict: Verdict) -> None:
    from pdctl.commands.spread import spread_over_cores
    from pdctl.tables.plan import flip_sentence
    from pdctl.tables.report import report_page
    from pdctl.verdict.curves import rate_curves

    curves = rate_curves(question, verdict, spread=spread_over_cores)
    command, flips = next_command(model, question, verdict), flip_sentence(verdict)
    page = report_page(question, verdict, command, curves, flips)
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as problem:
        raise EnvironmentProblem(
            f"{path} cannot be written: {problem.strerror}.", hint="--report plan.html"
        ) from problem
