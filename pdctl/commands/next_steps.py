"""A plan kept for the next command, and the commands to type: each means what was planned."""

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from pdctl.commands.deployment_options import FILE, DeploymentOptions
from pdctl.commands.options.engine_options import SIZES, EngineOptions
from pdctl.commands.options.plan_options import PlanOptions
from pdctl.deployment.build import deployment_of_arm
from pdctl.deployment.records import Deployment, PlannedFor
from pdctl.engines.launchers.registry import LOCAL, SLURM
from pdctl.errors import EnvironmentProblem, InvalidInput, PdctlError
from pdctl.inspection.cluster import MOST_NODES, described_gpus, machines_text
from pdctl.inspection.model_files import absolute_model
from pdctl.inspection.records import Cluster
from pdctl.paths import last_plan_path
from pdctl.perf_model.fitting.profiles import named_profile
from pdctl.perf_model.records import Parallelism, Profile, Role
from pdctl.verdict.feasibility import total_that_fits
from pdctl.verdict.records import Arm, Floor, Question, Verdict, fewest_gpus, most_carried
from pdctl.verdict.search import NODE_GPUS
from pdctl.workload.describe import DEFAULT_SPREAD
from pdctl.workload.records import Slo, Workload
from pdctl.workload.time_units import UNITS_S

WIDER = 1.2  # times what a layout takes: an SLO that it meets
SPELT = {  # options of `plan` that are not spelt as their fields
    "from_url": "from",
    "draft_tokens": "spec_draft_tokens",
    "accept_length": "spec_accept_length",
}


def chosen_arm(verdict: Verdict) -> Arm | None:
    """The arm to launch; of a verdict that is too close the split, which shows its queues.

    Unless only colocated meets the SLOs.
    """
    if verdict.verdict != "too_close":
        return verdict.arms.get(verdict.verdict)
    pd, colocated = verdict.arms.get("pd"), verdict.arms.get("colocated")
    only_colocated = colocated is not None and colocated.meets and not (pd and pd.meets)
    return colocated if only_colocated else pd


def planned_deployment(model: str, question: Question, arm: Arm) -> Deployment:
    """The deployment that launches an arm. Raises InvalidInput if it cannot be launched."""
    deployment = deployment_of_arm(
        absolute_model(model), arm, question.slo, args=question.args, policy=question.policy
    )
    return replace(deployment, planned=planned_for(question, arm))


def planned_for(question: Question, arm: Arm) -> PlannedFor:
    """The GPUs and requests that an arm was compared on, for a later rehearsal of it."""
    workload, speculation = question.workload, question.speculation
    return PlannedFor(
        gpus=_gpus(question),
        gpu_file=question.cluster.gpu.file or None,
        **(_drawn(workload) if workload.requests is None else _recorded(workload)),
        rate=_rate_rps(workload, arm),
        concurrency=workload.concurrency,
        spec_draft_tokens=speculation.draft_tokens if speculation else None,
        spec_accept_length=speculation.accept_length if speculation else None,
        profile=_kept_profile(question.profile),
        seed=question.seed,
    )


def _recorded(workload: Workload) -> dict[str, Any]:
    """A trace, and how it was read."""
    facts = workload.trace
    found: dict[str, Any] = {"trace": str(Path(workload.origin).resolve())}
    if facts is not None:
        unit = facts.time_unit if facts.time_unit in UNITS_S else None
        found |= {"time_unit": unit, "osl": facts.filled_osl, "skip_bad": facts.num_broken > 0}
    return found


def _drawn(workload: Workload) -> dict[str, Any]:
    """The lengths from which requests were drawn."""
    found: dict[str, Any] = {"prefix_hit": workload.prefix_hit}
    for name, lengths in (("isl", workload.isl), ("osl", workload.osl)):
        if lengths is not None:
            found |= {name: lengths.mean, f"{name}_cv": lengths.cv}
    return found


def _rate_rps(workload: Workload, arm: Arm) -> float | None:
    """The rate asked about; else the one that the figures of the arm belong to."""
    if workload.rate_rps is not None or workload.concurrency is not None:
        return workload.rate_rps
    return arm.goodput_rps / arm.attainment if arm.goodput_rps and arm.attainment else None


def _kept_profile(profile: Profile | None) -> str | None:
    """The name under which pdctl finds a profile again; None for one in some other file."""
    try:
        return profile.id if profile and named_profile(profile.id) == profile else None
    except PdctlError:
        return None


def keep_plan(model: str, question: Question, arm: Arm, output: Path | None) -> None:
    """Write pd.yaml where asked, and the last plan; a full disk is no reason to lose the answer."""
    from pdctl.deployment.pd_yaml import write_deployment

    if output is not None:
        write_deployment(planned_deployment(model, question, arm), output)
    last = last_plan_path()
    try:
        deployment = planned_deployment(model, question, arm)
        last.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_deployment(deployment, last, made_in=Path.cwd())
    except (OSError, EnvironmentProblem, InvalidInput):
        return  # more engines than one machine launches: still a plan


def next_steps(
    asked: PlanOptions, question: Question, verdict: Verdict, output: Path | None = None
) -> tuple[str, ...]:
    """The commands to type next, best first. asked: the options that the question is made from.

    output: the file that the plan was written to.
    """
    asked = _from_anywhere(asked)
    model, on = asked.model, asked.on
    arm = chosen_arm(verdict)
    if arm is None or not verdict.is_met:
        asked = _as_read(asked, question)
        plans = _other_plans(asked, question, verdict)
        return tuple(_plan(plan) for plan in plans if plan != asked)
    if not _can_launch(model, question, arm):
        return ()
    steps, ups = [], [_up(model, question, arm, output, on)]
    is_simulated = verdict.rate_rps is not None or verdict.clients is not None
    if verdict.verdict == "too_close" and is_simulated and on == LOCAL:
        steps = list(_measure(model, question, verdict, arm))
    if verdict.verdict == "too_close" and not steps:  # nothing settles it: both can be started
        others = [one for one in verdict.arms.values() if one is not arm and one.meets is not False]
        ups += [_up(model, question, other, None, on) for other in others]
    return (*steps, *ups, _rehearse(output))


def _from_anywhere(options: PlanOptions) -> PlanOptions:
    """The options with absolute paths, so that they mean the same in another folder."""
    is_file = bool(options.profile) and Path(options.profile).is_file()
    return replace(
        options,
        model=absolute_model(options.model),
        gpu_file=options.gpu_file and options.gpu_file.resolve(),
        trace=options.trace and options.trace.resolve(),
        lengths=options.lengths and options.lengths.resolve(),
        api_key_file=options.api_key_file and options.api_key_file.resolve(),
        profile=str(Path(options.profile).resolve()) if is_file else options.profile,
    )


def _can_launch(model: str, question: Question, arm: Arm) -> bool:
    try:
        planned_deployment(model, question, arm)
    except InvalidInput:
        return False
    return True


def _up(model: str, question: Question, arm: Arm, output: Path | None, on: str) -> str:
    """The command that starts the arm, from the plan's file where the user asked for one."""
    if on == LOCAL and question.cluster.num_nodes > 1:
        on = SLURM
    where = () if on == LOCAL else ("--on", on)
    flags = (model, *option_words(up_options(model, question, arm)))
    what = flags if output is None else ("-f", str(output))
    return shlex.join(["pdctl", "up", *what, *where])


def _rehearse(output: Path | None) -> str:
    """The command that plays the plan; ./pd.yaml would come before the last plan."""
    file = output or (last_plan_path() if FILE.is_file() else None)
    return shlex.join(["pdctl", "rehearse", *(() if file is None else ("-f", str(file)))])


def up_options(model: str, question: Question, arm: Arm) -> DeploymentOptions:
    """The options of `up` that start an arm."""
    return DeploymentOptions(
        model=model,
        prefill=arm.counts.get("prefill", 0),
        total=arm.num_engines,
        **_size_options(arm.parallelism),
        **_args_options(question, arm.parallelism),
        policy=question.policy,
        no_input=True,
    )


def option_words(options: EngineOptions) -> Iterator[str]:
    """Options as they are typed, without the model: counts first, then what engines are like."""
    last = {field.name for field in fields(EngineOptions)}
    for field in sorted(fields(options), key=lambda field: field.name in last):
        value = getattr(options, field.name)
        if value != field.default and field.name not in ("model", "no_input"):
            yield f"--{SPELT.get(field.name, field.name).replace('_', '-')}"
            if value is not True:
                yield f"{value:.10g}" if isinstance(value, float) else str(value)


def _size_options(shapes: Mapping[Role, Parallelism]) -> dict[str, Any]:
    """tp=2 where all shapes agree, else prefill_tp=2, decode_tp=8; sizes of 1 are the default."""
    found: dict[str, Any] = {}
    for size in SIZES:
        values = {role: getattr(shape, size) for role, shape in shapes.items()}
        if len(set(values.values())) == 1:
            found[size] = next(iter(values.values()))
        else:
            found |= {f"{role}_{size}": value for role, value in values.items()}
    return {name: value for name, value in found.items() if value > 1}


def _args_options(question: Question, roles: Iterable[Role]) -> dict[str, Any]:
    """args=..., and prefill_args=... with what only engines of that role have."""
    common = question.args.get("colocated", ())
    own = {role: question.args.get(role, ())[len(common) :] for role in roles}
    found = {"args": common} | {f"{role}_args": words for role, words in own.items()}
    return {name: shlex.join(words) for name, words in found.items() if words}


def _measure(model: str, question: Question, verdict: Verdict, pd: Arm) -> Iterator[str]:
    """The measurement that would settle a verdict that is too close, where its flags can say it."""
    if not _is_alike(verdict) or question.cluster.num_nodes > 1 or question.policy:
        return
    words = ["pdctl", "measure", model, *option_words(up_options(model, question, pd))]
    words += list(load_flags(question))
    if question.workload.rate_rps is None and question.workload.concurrency is None:
        words += ["--rate", f"{verdict.rate_rps:.3g}"]
    if question.seed:
        words += ["--seed", str(question.seed)]
    yield shlex.join([*words, *slo_flags(question.slo)])


def _is_alike(verdict: Verdict) -> bool:
    """True if both arms have as many engines, all of one shape, so `measure` can compare them."""
    arms = verdict.arms.values()
    shapes: set[Parallelism] = {shape for arm in arms for shape in arm.parallelism.values()}
    return len(shapes) == 1 and len({arm.num_engines for arm in arms}) == 1


def load_flags(question: Question) -> Iterator[str]:
    """The requests of a question as flags, with their rate or the number of clients."""
    workload = question.workload
    yield from _request_flags(workload)
    if workload.concurrency is not None:
        yield from ("--concurrency", f"{workload.concurrency:.10g}")
    elif workload.rate_rps is not None:
        yield from ("--rate", f"{workload.rate_rps:.10g}")


def _request_flags(workload: Workload) -> Iterator[str]:
    """The requests alone, at no rate."""
    if workload.requests is not None:
        yield from ("--trace", str(Path(workload.origin).resolve()))
        yield from _reading_flags(workload)
    elif workload.isl is not None and workload.osl is not None:
        yield from ("--isl", f"{workload.isl.mean:.10g}", "--osl", f"{workload.osl.mean:.10g}")
        spread = DEFAULT_SPREAD
        cvs = ((workload.isl, spread.isl_cv, "--isl-cv"), (workload.osl, spread.osl_cv, "--osl-cv"))
        for lengths, usual, flag in cvs:
            if lengths.cv != usual and lengths.mean > 1:
                yield from (flag, f"{lengths.cv:.10g}")
        if workload.prefix_hit is not None:
            yield from ("--prefix-hit", f"{workload.prefix_hit:.10g}")


def _reading_flags(workload: Workload) -> Iterator[str]:
    """Flags that make another verb read the trace as this one did."""
    facts = workload.trace
    if facts is not None and facts.is_unit_given and facts.time_unit:
        yield from ("--time-unit", facts.time_unit)
    if facts is not None and facts.filled_osl is not None:
        yield from ("--osl", str(facts.filled_osl))


def slo_flags(slo: Slo) -> Iterator[str]:
    """SLOs as flags."""
    for flag, seconds in (("--ttft", slo.ttft_s), ("--tpot", slo.tpot_s)):
        if seconds is not None:
            yield from (flag, _duration(seconds))
    if slo.is_given and slo.attainment != Slo().attainment:
        yield from ("--attainment", f"{slo.attainment:.10g}")


def _duration(seconds: float) -> str:
    return f"{seconds * 1e3:.10g}ms" if seconds < 1 else f"{seconds:.10g}s"


def _plan(options: PlanOptions) -> str:
    return shlex.join(["pdctl", "plan", options.model, *option_words(options)])


def _as_read(asked: PlanOptions, question: Question) -> PlanOptions:
    """The options with the GPUs and the unit of times that were typed as answers."""
    if not (asked.gpus or asked.gpu_file or asked.on != LOCAL):
        is_here = question.cluster.origin == "detected"
        asked = replace(asked, gpus="" if is_here else _gpus(question))
    trace = question.workload.trace
    unit = trace.time_unit if trace is not None and trace.is_unit_given else None
    return replace(asked, time_unit=asked.time_unit or unit or "")


def _other_plans(asked: PlanOptions, question: Question, verdict: Verdict) -> Iterator[PlanOptions]:
    """Plans with another answer, where the answer is no: what was asked, but for one thing."""
    if not verdict.arms:
        if fewer := total_that_fits(question):
            yield replace(asked, total=fewer)
        if verdict.fits_on:
            yield replace(_on_gpus(asked, question, verdict.fits_on), total=asked.total)
    elif verdict.floors:
        yield _at_reachable_slos(asked, question, verdict.floors)
    elif verdict.clients is not None:
        if verdict.most_clients is not None:
            yield replace(asked, concurrency=float(verdict.most_clients))
        arm = verdict.arms[verdict.verdict]
        yield _raised(asked, question.slo, arm.ttft_at_share_s, arm.tpot_at_share_s)
    else:
        yield _on_enough_gpus(asked, question, fewest_gpus(verdict.arms))
        if best := most_carried(verdict.arms):
            yield replace(asked, rate=best)


def _at_reachable_slos(
    asked: PlanOptions, question: Question, floors: Sequence[Floor]
) -> PlanOptions:
    """SLOs that the nearest layout meets when idle, at any rate unless a rate is needed."""
    nearest = min(floors, key=lambda f: (f.ttft_s or 0.0) + (f.tpot_s or 0.0))
    raised = _raised(asked, question.slo, nearest.ttft_s, nearest.tpot_s)
    if raised == asked or asked.fewest:
        return raised
    # without --rate a recorded workload comes at its own
    has_own = question.workload.requests is not None or asked.from_url
    return replace(raised, rate=float(f"{nearest.rate_rps:.2g}") if has_own else None)


def _raised(
    asked: PlanOptions, slo: Slo, ttft_s: float | None, tpot_s: float | None
) -> PlanOptions:
    """The SLOs, each raised to a fifth above what is reached where that is more. None: unknown."""

    def raised(typed: str, limit_s: float | None, reached_s: float | None) -> str:
        wider = float(f"{(reached_s or 0.0) * WIDER:.2g}")
        return typed if limit_s is None or wider <= limit_s else _duration(wider)

    return replace(
        asked,
        ttft=raised(asked.ttft, slo.ttft_s, ttft_s),
        tpot=raised(asked.tpot, slo.tpot_s, tpot_s),
    )


def _on_enough_gpus(asked: PlanOptions, question: Question, needed: int | None) -> PlanOptions:
    """The question on as many GPUs of this kind, in whole nodes; as asked where none would do."""
    cluster = question.cluster
    if needed is None:
        return asked
    if needed <= cluster.num_gpus:  # --total left some of them without an engine
        return replace(asked, total=None)
    each = min(needed, NODE_GPUS) if cluster.num_gpus < NODE_GPUS else cluster.gpus_per_node
    nodes = -(-needed // each)
    if nodes > MOST_NODES:
        return asked
    return _on_gpus(asked, question, described_gpus(nodes, each, cluster.gpu.name))


def _on_gpus(asked: PlanOptions, question: Question, gpus: str) -> PlanOptions:
    """The question on other GPUs at the same price; the number of engines is left to the search."""
    price = question.usd_per_gpu_hour
    priced = gpus if price is None else f"{gpus}@{price:.10g}"
    return replace(asked, gpus=_with_rdma(question.cluster, priced), on=LOCAL, total=None)


def _gpus(question: Question) -> str:
    """The GPUs of a question, as --gpus takes them."""
    return _with_rdma(question.cluster, machines_text(question.cluster))


def _with_rdma(cluster: Cluster, gpus: str) -> str:
    rdma = cluster.rdma_bytes_per_s
    return f"{gpus}:rdma{rdma * 8 / 1e9:.10g}" if rdma else gpus
