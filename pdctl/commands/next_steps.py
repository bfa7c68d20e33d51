"""A plan kept for the next command, and the commands to type: each means what was planned."""

import shlex
from collections.abc import Iterator
from pathlib import Path

from pdctl.commands.deployment_options import FILE, DeploymentOptions, build_deployment
from pdctl.deployment.build import backend_args, deployment_of_arm
from pdctl.deployment.records import Deployment
from pdctl.errors import EnvironmentProblem, InvalidInput, PdctlError
from pdctl.inspection.model_files import absolute_model
from pdctl.paths import last_plan_path
from pdctl.perf_model.records import Parallelism
from pdctl.verdict.records import Arm, Question, Verdict, fewest_gpus
from pdctl.workload.records import Workload

WIDER = 1.2  # times what a layout takes: an SLO that it meets


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
    """What to launch for an arm. Raises InvalidInput where it cannot be launched."""
    backend = question.attention_backend
    return deployment_of_arm(absolute_model(model), arm, question.slo, attention_backend=backend)


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
    model: str, question: Question, verdict: Verdict, output: Path | None = None
) -> tuple[str, ...]:
    """What to type next, the best first. output: the file that the plan was written to."""
    model = absolute_model(model)
    arm = chosen_arm(verdict)
    if arm is None or not verdict.is_met:
        return tuple(_other_plans(model, question, verdict))
    steps = []
    is_simulated = verdict.rate_rps is not None or verdict.clients is not None
    if verdict.verdict == "too_close" and is_simulated:
        steps += list(_measure(model, question, verdict, arm))
    return (*steps, _up(model, question, arm, output), "pdctl rehearse")


def _up(model: str, question: Question, arm: Arm, output: Path | None) -> str:
    """The command that starts the arm: flags where they can say it, else the plan's file."""
    where = ("--on", "slurm") if question.cluster.num_nodes > 1 else ()
    if _says(model, question, arm):
        what = (model, *_flags(question, arm))
    elif output is not None:
        what = ("-f", str(output))
    else:
        what = ("-f", str(last_plan_path())) if FILE.is_file() else ()
    return shlex.join(["pdctl", "up", *what, *where])


def _flags(question: Question, arm: Arm) -> Iterator[str]:
    prefill, total = _counts(arm)
    yield from ("--prefill", str(prefill), "--total", str(total))
    yield from _size_flags(arm)
    if question.attention_backend:
        yield from ("--args", shlex.join(backend_args(question.attention_backend)))


def _counts(arm: Arm) -> tuple[int, int]:
    """--prefill and --total of an arm."""
    first, second = arm.num_engines
    return (0, first) if "colocated" in arm.parallelism else (first, first + second)


def _size_flags(arm: Arm) -> Iterator[str]:
    """--tp 2, or --prefill-tp 2 --decode-tp 8, with pp, dp and ep where they are not 1."""
    shapes = list(arm.parallelism.values())
    if len({shape.tp for shape in shapes}) == 1:
        if shapes[0].tp > 1:
            yield from ("--tp", str(shapes[0].tp))
    else:
        for role, shape in arm.parallelism.items():
            yield from (f"--{role}-tp", str(shape.tp))
    for size in ("pp", "dp", "ep"):
        if getattr(shapes[0], size) > 1:
            yield from (f"--{size}", str(getattr(shapes[0], size)))


def _says(model: str, question: Question, arm: Arm) -> bool:
    """Whether `up` with flags alone comes to the deployment that was planned, role by role."""
    try:
        planned = planned_deployment(model, question, arm)
        return build_deployment(_options(model, question, arm)).roles == planned.roles
    except PdctlError:
        return False


def _options(model: str, question: Question, arm: Arm) -> DeploymentOptions:
    prefill, total = _counts(arm)
    shapes = arm.parallelism
    first = next(iter(shapes.values()))
    is_one = len({shape.tp for shape in shapes.values()}) == 1
    backend = question.attention_backend
    return DeploymentOptions(
        model=model,
        prefill=prefill,
        total=total,
        tp=first.tp if is_one else None,
        prefill_tp=None if is_one else shapes["prefill"].tp,
        decode_tp=None if is_one else shapes["decode"].tp,
        pp=first.pp,
        dp=first.dp,
        ep=first.ep,
        args=shlex.join(backend_args(backend)) if backend else None,
        no_input=True,
    )


def _measure(model: str, question: Question, verdict: Verdict, pd: Arm) -> Iterator[str]:
    """The measurement that would settle a verdict that is too close, where its flags can say it."""
    if not _is_alike(verdict) or question.cluster.num_nodes > 1:
        return
    prefill, total = _counts(pd)
    words = ["pdctl", "measure", model, "--prefill", str(prefill), "--total", str(total)]
    words += list(_size_flags(pd))
    if question.attention_backend:
        words += ["--args", shlex.join(backend_args(question.attention_backend))]
    words += list(load_flags(question))
    if question.workload.rate_rps is None and question.workload.concurrency is None:
        words += ["--rate", f"{verdict.rate_rps:.3g}"]
    yield shlex.join([*words, *slo_flags(question)])


def _is_alike(verdict: Verdict) -> bool:
    """Whether both arms have as many engines, all of one shape: what `measure` can compare."""
    arms = verdict.arms.values()
    shapes: set[Parallelism] = {shape for arm in arms for shape in arm.parallelism.values()}
    return len(shapes) == 1 and len({sum(arm.num_engines) for arm in arms}) == 1


def load_flags(question: Question) -> Iterator[str]:
    """The requests of a question as flags."""
    workload = question.workload
    if workload.requests is not None:
        yield from ("--trace", str(Path(workload.origin).resolve()))
        yield from _reading_flags(workload)
    elif workload.isl is not None and workload.osl is not None:
        yield from ("--isl", f"{workload.isl.mean:.10g}", "--osl", f"{workload.osl.mean:.10g}")
        for flag, lengths in (("--isl-cv", workload.isl), ("--osl-cv", workload.osl)):
            if lengths.cv:
                yield from (flag, f"{lengths.cv:.10g}")
        if workload.prefix_hit is not None:
            yield from ("--prefix-hit", f"{workload.prefix_hit:.10g}")
    if workload.concurrency is not None:
        yield from ("--concurrency", f"{workload.concurrency:.10g}")
    elif workload.rate_rps is not None:
        yield from ("--rate", f"{workload.rate_rps:.10g}")


def _reading_flags(workload: Workload) -> Iterator[str]:
    """What makes another verb read the trace as this one did, where it could read it otherwise."""
    facts = workload.trace
    if facts is not None and facts.is_unit_given and facts.time_unit:
        yield from ("--time-unit", facts.time_unit)
    if facts is not None and facts.filled_osl is not None:
        yield from ("--osl", str(facts.filled_osl))


def slo_flags(question: Question) -> Iterator[str]:
    """The SLOs of a question as flags."""
    slo = question.slo
    for flag, seconds in (("--ttft", slo.ttft_s), ("--tpot", slo.tpot_s)):
        if seconds is not None:
            yield from (flag, _duration(seconds))
    if slo.is_given and slo.attainment != 0.9:
        yield from ("--attainment", f"{slo.attainment:.10g}")


def _duration(seconds: float) -> str:
    return f"{seconds * 1e3:.10g}ms" if seconds < 1 else f"{seconds:.10g}s"


def _other_plans(model: str, question: Question, verdict: Verdict) -> Iterator[str]:
    """Where the answer is no: plans that would have another."""
    if not verdict.arms:
        if verdict.fits_on:
            yield shlex.join(["pdctl", "plan", model, "--gpus", verdict.fits_on])
        return
    words = ["pdctl", "plan", model]
    kept = list(load_flags_without_rate(question))
    if verdict.floors:
        gpus = _gpus(question, question.cluster.num_nodes)
        yield shlex.join([*words, "--gpus", gpus, *kept, *_reachable_slos(question, verdict)])
        return
    if verdict.clients is not None:
        gpus = _gpus(question, question.cluster.num_nodes)
        yield from _plans_for_clients([*words, "--gpus", gpus, *kept], question, verdict)
        return
    rest = [*load_flags(question), *slo_flags(question)]
    cluster = question.cluster
    needed = fewest_gpus(verdict.arms)
    if needed is not None:
        nodes = -(-needed // cluster.gpus_per_node)
        yield shlex.join([*words, "--gpus", _gpus(question, nodes), *rest])
    best = max((arm.capacity_rps or 0.0 for arm in verdict.arms.values()), default=0.0)
    if best > 0:
        gpus = _gpus(question, cluster.num_nodes)
        rate = ["--rate", f"{best:.10g}"]
        yield shlex.join([*words, "--gpus", gpus, *kept, *slo_flags(question), *rate])


def _plans_for_clients(words: list[str], question: Question, verdict: Verdict) -> Iterator[str]:
    """Plans for fewer clients, and for SLOs that the nearest arm meets."""
    if verdict.most_clients is not None:
        clients = ["--concurrency", str(verdict.most_clients)]
        yield shlex.join([*words, *slo_flags(question), *clients])
    arm, slo = verdict.arms[verdict.verdict], question.slo
    flags: list[str] = []
    for flag, asked, found in (
        ("--ttft", slo.ttft_s, arm.ttft_at_share_s),
        ("--tpot", slo.tpot_s, arm.tpot_at_share_s),
    ):
        if asked is not None and found is not None:
            flags += [flag, _duration(max(asked, float(f"{found * WIDER:.2g}")))]
    if slo.attainment != 0.9:
        flags += ["--attainment", f"{slo.attainment:.10g}"]
    yield shlex.join([*words, *flags, "--concurrency", f"{question.workload.concurrency:.10g}"])


def _reachable_slos(question: Question, verdict: Verdict) -> Iterator[str]:
    """The SLOs, raised to a fifth above what an idle layout takes where they are below it."""
    slo, floors = question.slo, verdict.floors
    nearest = min(floors, key=lambda f: (f.ttft_s or 0.0) + (f.tpot_s or 0.0))
    for flag, asked, least in (
        ("--ttft", slo.ttft_s, nearest.ttft_s),
        ("--tpot", slo.tpot_s, nearest.tpot_s),
    ):
        if asked is not None:
            yield from (flag, _duration(max(asked, float(f"{(least or 0.0) * WIDER:.2g}"))))
    if slo.attainment != 0.9:
        yield from ("--attainment", f"{slo.attainment:.10g}")


def load_flags_without_rate(question: Question) -> Iterator[str]:
    """The requests of a question as flags, at no rate."""
    flags = list(load_flags(question))
    for flag in ("--rate", "--concurrency"):
        if flag in flags:
            place = flags.index(flag)
            del flags[place : place + 2]
    yield from flags


def _gpus(question: Question, nodes: int) -> str:
    cluster = question.cluster
    text = f"{nodes}x{cluster.gpus_per_node}x{cluster.gpu.name}"
    rdma = cluster.rdma_bytes_per_s
    return f"{text}:rdma{rdma * 8 / 1e9:.10g}" if rdma else text
