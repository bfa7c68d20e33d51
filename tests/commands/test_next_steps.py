"""What `plan` says to type next parses, and means what was planned."""

import shlex
from dataclasses import fields, replace
from pathlib import Path

import click
import pytest
import typer.main

from pdctl.cli import LazyVerbs, app, main
from pdctl.commands.next_steps import (
    chosen_arm,
    keep_plan,
    next_steps,
    planned_deployment,
)
from pdctl.commands.options.engine_options import EngineOptions
from pdctl.commands.options.plan_options import PlanOptions, given_options
from pdctl.commands.plan_run import question_of, with_engine_flags
from pdctl.deployment.pd_yaml import read_deployment
from pdctl.deployment.records import Deployment, PlannedFor
from pdctl.inspection.cluster import parse_gpus
from pdctl.paths import last_plan_path
from pdctl.perf_model.records import Parallelism, Role
from pdctl.verdict.records import Arm, Floor, Provenance, Question, Speculation, Verdict
from pdctl.verdict.sentences import write
from pdctl.verdict.verdict import decide
from pdctl.workload.describe import workload_from_lengths
from pdctl.workload.records import Slo
from tests.verdict.examples import arm, errors, question
from tests.verdict.questions import ROWS, TRACES, asked, name, options

WIDE = Parallelism(tp=8, dp=8, ep=8)
SHAPES: tuple[tuple[str, dict[Role, Parallelism]], ...] = (
    ("8C", {"colocated": Parallelism()}),
    ("2C", {"colocated": WIDE}),
    ("6P2D", {"prefill": Parallelism(tp=2), "decode": Parallelism(tp=2)}),
    ("3P1D", {"prefill": Parallelism(tp=2), "decode": Parallelism(tp=8)}),
    ("3P1D", {"prefill": WIDE, "decode": WIDE}),
    ("2P1D", {"prefill": Parallelism(tp=8, ep=8), "decode": WIDE}),
    ("2P1D", {"prefill": Parallelism(tp=4, pp=2), "decode": Parallelism(tp=8)}),
    ("1P2D", {"prefill": Parallelism(tp=8, pp=2), "decode": Parallelism(tp=16, dp=16, ep=8)}),
)


def command_of(verb: str) -> click.Command:
    """The command of a verb, as the real command line has it."""
    group = typer.main.get_command(app)
    assert isinstance(group, LazyVerbs)
    found: click.Command = group.get_command(None, verb)
    return found


QUICK = (0, 11, 35)
LOAD = PlanOptions(
    model="qwen3-8b",
    gpus="8xH200",
    isl=4000,
    osl=300,
    rate=5,
    ttft="1s",
    tpot="30ms",
    no_input=True,
)
PLAN = command_of("plan")
PARAMETERS = {str(one.name) for one in PLAN.params}
SPELLINGS = {str(one.name): one.opts[0] for one in PLAN.params}
NOT_OF_THE_QUESTION = {
    *("as_json", "output_file", "report", "force"),  # where the answer goes
    *("show_model", "models"),  # no question
    "no_input",  # answers to what was asked on the terminal are printed as options
}
FILES = ("gpu_file", "trace", "lengths", "api_key_file")
SAMPLES = {  # other values than 2
    **dict.fromkeys(("prefix_hit", "attainment"), "0.5"),
    **dict.fromkeys(("fewest", "skip_bad"), ""),
    **dict.fromkeys(FILES, "/some/file"),
    "gpus": "4xH100",
}
ARGS = (
    EngineOptions(),
    EngineOptions(args="--attention-backend fa3"),
    EngineOptions(
        args="--chunked-prefill-size 4096 --served-model-name 'my model'",
        prefill_args="--mem-fraction-static 0.8",
        decode_args="--max-running-requests 64 --mem-fraction-static=0.85",
        policy="round_robin",
    ),
)
pytestmark = pytest.mark.usefixtures("here")


def verdict_for(one: Arm) -> Verdict:
    kind = "colocated" if "colocated" in one.parallelism else "pd"
    return Verdict(
        verdict="colocated" if kind == "colocated" else "pd",
        confidence="medium",
        decided_by="evidence",
        rules=(),
        sizing=None,
        arms={kind: one},
        sweep=(),
        flips=(),
        provenance=Provenance("roofline", None, errors()),
        rate_rps=3.0,
    )


def expanded(command: str, folder: Path) -> Deployment:
    """What the real command line makes of `pdctl up ...`, without starting it."""
    written = folder / f"{len(list(folder.glob('*.yaml')))}.yaml"
    words = shlex.split(command)
    assert words[:2] == ["pdctl", "up"]
    with pytest.raises(SystemExit) as ended:
        main([*words[1:], "-o", str(written)])
    assert not ended.value.code
    return read_deployment(written)


def parsed(command: str) -> dict[str, object]:
    """The parameters that the command line gives the verb."""
    words = shlex.split(command)
    assert words[0] == "pdctl"
    found: dict[str, object] = command_of(words[1]).make_context(words[1], words[2:]).params
    return found


def asked_by(command: str) -> PlanOptions:
    """The options of a `pdctl plan ...` that is typed."""
    found = parsed(command)
    files = {name: Path(str(found[name])) for name in FILES if found[name]}
    return given_options({**found, **files})


@pytest.mark.parametrize(("layout", "shapes"), SHAPES)
@pytest.mark.parametrize("args", ARGS)
@pytest.mark.parametrize("has_file", [False, True])
def test_up_comes_to_the_deployment_that_was_planned(
    layout: str,
    shapes: dict[Role, Parallelism],
    args: EngineOptions,
    has_file: bool,
    here: Path,
) -> None:
    if has_file:
        (here / "pd.yaml").write_text("schema: 1\nmodel: other\ncolocated: {engines: 1}\n")
    one = arm(layout, parallelism=shapes)
    asked_for = with_engine_flags(question(rate=3, slo=Slo(1.0, 0.03)), args)
    keep_plan("llama-3.1-8b", asked_for, one, None)
    steps = next_steps(PlanOptions(model="llama-3.1-8b"), asked_for, verdict_for(one))
    up = next(step for step in steps if step.startswith("pdctl up"))
    planned = planned_deployment("llama-3.1-8b", asked_for, one)
    found = expanded(up, here)
    assert (found.model, found.roles) == (planned.model, planned.roles)
    assert found.router == planned.router


def test_a_plan_that_was_written_is_started_and_rehearsed_from_its_file(here: Path) -> None:
    one = arm("2P1D", parallelism=SHAPES[5][1])
    asked_for = question(rate=3)
    file = here / "my plan.yaml"
    keep_plan("llama-3.1-8b", asked_for, one, file)
    up, rehearse = next_steps(PlanOptions(model="llama-3.1-8b"), asked_for, verdict_for(one), file)
    assert up == f"pdctl up -f '{file}'"
    assert rehearse == f"pdctl rehearse -f '{file}'"
    planned = planned_deployment("llama-3.1-8b", asked_for, one)
    assert expanded(up, here).roles == planned.roles


def test_beside_a_pd_yaml_the_plan_is_rehearsed_by_its_path(here: Path) -> None:
    (here / "pd.yaml").write_text("schema: 1\nmodel: other\ncolocated: {engines: 1}\n")
    one = arm("8C", parallelism={"colocated": Parallelism()})
    *_, rehearse = next_steps(PlanOptions(model="llama-3.1-8b"), question(rate=3), verdict_for(one))
    assert parsed(rehearse)["file"] == str(last_plan_path())


def test_a_plan_file_keeps_gpus_requests_slos_and_speculation(here: Path) -> None:
    one = arm("2P6D", parallelism={"prefill": Parallelism(), "decode": Parallelism()})
    asked_for = replace(
        question("qwen3-8b", "2x8xH200:rdma400", rate=3, slo=Slo(1.0, 0.03, 0.99)),
        speculation=Speculation(3, 2.4),
        seed=7,
    )
    keep_plan("qwen3-8b", asked_for, one, here / "plan.yaml")
    for file in (here / "plan.yaml", last_plan_path()):
        kept = read_deployment(file)
        assert kept.planned == PlannedFor(
            gpus="2x8xH200:rdma400",
            isl=4000,
            osl=300,
            isl_cv=asked_for.workload.isl.cv if asked_for.workload.isl else None,
            osl_cv=asked_for.workload.osl.cv if asked_for.workload.osl else None,
            rate=3,
            spec_draft_tokens=3,
            spec_accept_length=2.4,
            seed=7,
        )
        assert (kept.ttft_slo_s, kept.tpot_slo_s, kept.attainment_slo) == (1.0, 0.03, 0.99)


def test_a_plan_file_names_its_trace_by_an_absolute_path_and_how_it_was_read(here: Path) -> None:
    asked_for = asked(next(i for i, row in enumerate(ROWS) if row[2] == "azure"))
    keep_plan("llama-3.1-8b", asked_for, arm("8C"), None)
    planned = read_deployment(last_plan_path()).planned
    assert planned is not None
    assert planned.trace == str(TRACES["azure"].resolve())
    assert planned.rate == pytest.approx(asked_for.workload.rate_rps)
    assert (planned.isl, planned.isl_cv) == (None, None)


@pytest.mark.slow
@pytest.mark.parametrize("args", ARGS)
def test_other_plans_ask_about_the_same_engines(args: EngineOptions) -> None:
    sizes = {"tp": 2, "decode_tp": 4, "decode_pp": 2}
    typed = replace(LOAD, gpus="8xH200", rate=4000, **vars(args) | sizes)
    given, asked_for = question_of(typed)
    verdict = write(asked_for, decide(asked_for, flips=False))
    assert not verdict.is_met
    steps = next_steps(given, asked_for, verdict)
    assert steps
    for step in steps:
        again = asked_by(step)
        found = {field.name: getattr(again, field.name) for field in fields(EngineOptions)}
        assert found == {**vars(args), **sizes}


def missed(capacity_rps: float = 4.0) -> Verdict:
    """An answer of no: nothing meets the SLOs at the rate, but some lower rate is carried."""
    one = replace(arm("8C"), meets=False, gpus_needed=None, capacity_rps=capacity_rps)
    return replace(verdict_for(one), is_met=False)


@pytest.mark.parametrize("name", sorted(PARAMETERS - NOT_OF_THE_QUESTION))
def test_every_option_of_plan_that_changes_its_answer_is_printed_again(name: str) -> None:
    bare = "pdctl plan llama-3.1-8b --gpus 8xH200"
    flag, value = SPELLINGS[name], SAMPLES.get(name, "2")
    words = {"model": "pdctl plan qwen3-8b --gpus 8xH200"}.get(name, f"{bare} {flag} {value}")
    typed = asked_by(words)
    assert typed != asked_by(bare)
    (step,) = next_steps(typed, question(rate=5), missed())
    assert asked_by(step) == replace(typed, rate=4.0)


def test_no_printed_command_asks_the_question_that_was_just_answered() -> None:
    typed = replace(LOAD, rate=4.0)
    asked_for = question("qwen3-8b", rate=4, slo=Slo(1.0, 0.03))
    assert next_steps(typed, asked_for, missed(4.0)) == ()
    idle = Floor("8C", 0.1, None, None)
    assert next_steps(typed, asked_for, replace(missed(), floors=(idle,))) == ()


def test_gpus_that_were_not_typed_are_printed_unless_they_are_those_of_this_machine() -> None:
    asked_for = question("qwen3-8b", "2xH200:rdma400", rate=5)
    here = replace(asked_for, cluster=replace(asked_for.cluster, origin="detected"))
    typed = replace(LOAD, gpus="")
    (answered,), (detected,) = (next_steps(typed, one, missed()) for one in (asked_for, here))
    assert (asked_by(answered).gpus, asked_by(detected).gpus) == ("2xH200:rdma400", "")


def test_a_number_of_engines_is_asked_about_again_only_on_the_same_gpus() -> None:
    typed = replace(LOAD, gpus="2xH100@2.5", total=2, seed=7, release="0.5.9")
    one = replace(arm("2C"), meets=False, gpus_needed=5)
    _, asked_for = question_of(typed)
    wider, slower = next_steps(typed, asked_for, replace(verdict_for(one), is_met=False))
    kept = replace(typed, no_input=False)
    assert asked_by(wider) == replace(kept, gpus="5xH100@2.5", total=None)
    assert asked_by(slower) == replace(kept, rate=4.0)


def test_gpus_without_an_engine_are_used_before_there_are_more() -> None:
    typed = replace(LOAD, gpus="4xH100", tp=1, total=1)
    one = replace(arm("1C"), meets=False, gpus_needed=3)
    _, asked_for = question_of(typed)
    more, _ = next_steps(typed, asked_for, replace(verdict_for(one), is_met=False))
    assert asked_by(more) == replace(typed, total=None, no_input=False)


@pytest.mark.parametrize(
    ("model", "gpus", "total", "answers"),
    [
        ("llama-3.1-70b", "8xH100", 4, [("8xH100", 2), ("2x8xH100", 4)]),
        ("qwen3-30b-a3b", "2xRTX5090", None, [("4xRTX-5090", None)]),
    ],
)
def test_where_nothing_fits_the_whole_question_is_asked_about_what_does(
    model: str, gpus: str, total: int | None, answers: list[tuple[str, int | None]]
) -> None:
    typed = replace(LOAD, model=model, gpus=gpus, total=total)
    given, asked_for = question_of(typed)
    verdict = write(asked_for, decide(asked_for, flips=False))
    steps = next_steps(given, asked_for, verdict)
    kept = replace(typed, no_input=False)
    expected = [replace(kept, gpus=gpus, total=total) for gpus, total in answers]
    assert [asked_by(step) for step in steps] == expected


def test_a_model_in_a_folder_is_named_by_its_absolute_path(here: Path) -> None:
    (here / "my model").mkdir()
    (here / "my model" / "config.json").write_text("{}", encoding="utf-8")
    one = arm("8C", parallelism={"colocated": Parallelism()})
    (up, *_) = next_steps(PlanOptions(model="./my model"), question(rate=3), verdict_for(one))
    assert parsed(up)["model"] == str(here / "my model")


@pytest.mark.slow
def test_where_nothing_meets_the_slos_nothing_is_started() -> None:
    given, asked_for = question_of(replace(LOAD, gpus="2xH200", rate=40))
    verdict = write(asked_for, decide(asked_for, flips=False))
    steps = next_steps(given, asked_for, verdict)
    assert steps
    assert all(step.startswith("pdctl plan ") for step in steps)
    for step in steps:
        assert is_yes(step)


def is_yes(step: str) -> bool:
    """Whether a printed plan, run, has an answer that is not no."""
    with pytest.raises(SystemExit) as ended:
        main([*shlex.split(step)[1:], "--json"])
    return not ended.value.code


@pytest.mark.slow
def test_where_the_slos_are_below_the_floor_reachable_ones_are_named() -> None:
    given, asked_for = question_of(replace(LOAD, gpus="2xH200", ttft="1ms"))
    verdict = write(asked_for, decide(asked_for, flips=False))
    (step,) = next_steps(given, asked_for, verdict)
    assert is_yes(step)


@pytest.mark.parametrize(
    ("gpus", "needed", "asked_for"),
    [
        ("1xH100", 4, "--gpus 4xH100"),
        ("2xH100", 14, "--gpus 2x8xH100"),
        ("8xH100", 20, "--gpus 3x8xH100"),
        ("2x8xH100:rdma400", 1_000_000, None),
    ],
)
def test_the_gpus_that_would_do_are_asked_about_where_pdctl_plans_for_as_many(
    gpus: str, needed: int, asked_for: str | None
) -> None:
    short = replace(arm("8C"), meets=False, gpus_needed=needed)
    no = replace(verdict_for(short), is_met=False)
    given, one = question_of(PlanOptions(model="qwen3-32b", gpus=gpus, rate=3.0, ttft="2s"))
    steps = next_steps(given, one, no)
    assert (asked_for or "--rate 4") in steps[0]
    for step in steps:
        words = shlex.split(step)
        assert parse_gpus(words[words.index("--gpus") + 1]).num_gpus >= one.cluster.num_gpus


def test_a_tie_of_like_engines_is_settled_by_a_measurement() -> None:
    pd = arm("5P3D", parallelism=SHAPES[2][1])
    colocated = arm("8C", parallelism={"colocated": Parallelism(tp=2)})
    tie = Verdict(
        verdict="too_close",
        confidence="low",
        decided_by="evidence",
        rules=(),
        sizing=None,
        arms={"colocated": colocated, "pd": pd},
        sweep=(),
        flips=(),
        provenance=Provenance("roofline", None, errors()),
        rate_rps=3.0,
    )
    asked_for = question("qwen3-32b", "8xH200", rate=3, slo=Slo(1.0, 0.03, 0.99), seed=7)
    (measure, *_) = next_steps(PlanOptions(model="qwen3-32b"), asked_for, tie)
    found = parsed(measure)
    kept = ("model", "prefill", "total", "tp", "isl", "osl", "rate", "ttft", "tpot", "attainment")
    assert found["seed"] == 7
    assert [found[key] for key in kept] == [
        "qwen3-32b", 5, 8, 2, 4000, 300, 3, "1s", "30ms", 0.99,
    ]  # fmt: skip


def test_a_tie_that_no_measurement_can_settle_names_the_command_of_both_arms() -> None:
    colocated, pd = arm("8C"), arm("5P3D")
    tie = replace(verdict_for(pd), verdict="too_close", arms={"colocated": colocated, "pd": pd})
    asked_for = question("qwen3-32b", "2x8xH200", rate=3)
    split, together, _ = next_steps(PlanOptions(model="qwen3-32b"), asked_for, tie)
    assert (parsed(split)["prefill"], parsed(together)["prefill"]) == (5, 0)
    assert parsed(together)["total"] == 8


def test_a_tie_for_clients_is_measured_with_as_many_clients_and_the_same_spread() -> None:
    pd = arm("5P3D", parallelism=SHAPES[2][1])
    colocated = arm("8C", parallelism={"colocated": Parallelism(tp=2)})
    one = verdict_for(pd)
    arms = {"colocated": colocated, "pd": pd}
    tie = replace(one, verdict="too_close", arms=arms, rate_rps=None, clients=64)
    load = workload_from_lengths(isl=4000, osl=300, concurrency=64, isl_cv=1.5)
    asked_for = replace(question("qwen3-32b", "8xH200"), workload=load)
    (measure, *_) = next_steps(PlanOptions(model="qwen3-32b"), asked_for, tie)
    found = parsed(measure)
    assert found["concurrency"] == 64
    assert found["isl_cv"] == 1.5
    assert found["rate"] is None


def test_of_a_tie_the_arm_that_meets_the_slos_is_launched() -> None:
    colocated, pd = arm("8C"), arm("5P3D")
    tie = replace(verdict_for(pd), verdict="too_close", arms={"colocated": colocated, "pd": pd})
    assert chosen_arm(tie) == pd
    missing = replace(tie, arms={"colocated": colocated, "pd": replace(pd, meets=False)})
    assert chosen_arm(missing) == colocated


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(i, id=name(i), marks=() if i in QUICK else pytest.mark.e2e)
        for i in range(len(ROWS))
    ],
)
def test_every_next_step_of_a_plan_parses_and_is_the_plan(row: int, here: Path) -> None:
    asked_for, model = asked(row), ROWS[row][0]
    verdict = write(asked_for, decide(asked_for, flips=False))
    chosen = chosen_arm(verdict)
    if chosen is not None and verdict.is_met:
        keep_plan(model, asked_for, chosen, None)
    steps = next_steps(options(row), asked_for, verdict)
    assert steps
    assert all(parsed(step) is not None for step in steps)
    others = [one for one in verdict.arms.values() if one is not chosen]
    ups = [step for step in steps if step.startswith("pdctl up")]
    assert len(ups) <= (2 if verdict.verdict == "too_close" else 1)
    for step, started in zip(ups, [chosen, *others], strict=False):
        _check_up(step, model, asked_for, started, here)
        assert verdict.is_met


def _check_up(step: str, model: str, asked_for: Question, chosen: Arm | None, here: Path) -> None:
    assert chosen is not None
    planned = planned_deployment(model, asked_for, chosen)
    found = expanded(step, here)
    assert (found.model, found.roles, found.layout) == (model, planned.roles, chosen.layout)
    assert found.router == planned.router
