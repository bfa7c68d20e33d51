"""What cannot be built from these GPUs, or cannot serve these requests, and why: with figures."""

from collections.abc import Sequence
from dataclasses import replace

from pdctl.perf_model.engine_model import does_not_fit_reason
from pdctl.perf_model.records import EngineModel, Parallelism, Role
from pdctl.units import format_count
from pdctl.verdict.closed_form import Demand
from pdctl.verdict.layouts import Engines, engines_that_fit, gpu_budget, shapes
from pdctl.verdict.records import Question

MOST_GPUS_LOG2 = 8  # up to 128 GPUs are tried


def why_nothing_fits(question: Question) -> str:
    """Why no engine of any size fits these GPUs."""
    tried = [question.parallelism[r] for r in ("colocated",) if r in question.parallelism]
    tried = tried or list(shapes(question, "colocated"))[-1:] or [Parallelism()]
    reason = _reason(question, tried[0], "colocated")
    cluster = question.cluster
    where = f"{cluster.num_gpus} × {cluster.gpu.name}"
    return f"{question.llm.name} does not fit on {where}: {reason}."


def where_it_fits(question: Question) -> str:
    """The fewest of these GPUs, in powers of two, that hold the model, as --gpus takes them."""
    free = replace(question, total=None, max_gpus=None, parallelism={})
    for gpus in (2**n for n in range(MOST_GPUS_LOG2)):
        nodes, each = max(1, gpus // 8), min(gpus, 8)
        cluster = replace(question.cluster, num_nodes=nodes, gpus_per_node=each)
        if engines_that_fit(replace(free, cluster=cluster)).colocated:
            return f"{nodes}x{each}x{question.cluster.gpu.name}"
    return ""


def why_too_long(question: Question, engines: Engines, demand: Demand) -> str:
    """Why nobody can serve it, where the mean request exceeds the context or every KV cache."""
    need = demand.isl + demand.osl
    context = question.llm.max_context
    if context is not None and need > context:
        asked = f"{format_count(round(demand.isl))} prompt and {format_count(round(demand.osl))}"
        return (
            f"Requests of {asked} output tokens exceed the {format_count(context)} tokens of "
            f"context of {question.llm.name}."
        )
    everyone = (*engines.colocated, *engines.prefill, *engines.decode)
    room = max((engine.kv_capacity_tokens for engine in everyone), default=0)
    if need > room:
        return (
            f"A request of {format_count(round(need))} tokens exceeds the KV cache of the largest "
            f"engine, {format_count(room)} tokens."
        )
    return ""


def why_not_built(question: Question, engines: Engines, built: set[str]) -> dict[str, str]:
    """Why an arm cannot be built: role, parallelism and bytes that do not fit, or too few GPUs."""
    roles: dict[str, tuple[Role, ...]] = {"colocated": ("colocated",), "pd": ("prefill", "decode")}
    found = {}
    for arm, needed in roles.items():
        if arm in built:
            continue
        reasons = [why for role in needed if (why := _misfit(question, engines, role))]
        found[arm] = "; ".join(reasons) or _too_few(question, engines, needed)
    return found


def _misfit(question: Question, engines: Engines, role: Role) -> str:
    by_role: dict[Role, tuple[EngineModel, ...]] = {
        "colocated": engines.colocated,
        "prefill": engines.prefill,
        "decode": engines.decode,
    }
    if by_role[role]:
        return ""
    fixed = question.parallelism.get(role)
    tried = [fixed] if fixed else list(shapes(question, role))[-1:]
    if not tried:
        return ""
    return f"{role} engines do not fit: {_reason(question, tried[0], role)}"


def _reason(question: Question, shape: Parallelism, role: Role) -> str | None:
    serving = question.serving.get(role)
    return does_not_fit_reason(question.llm, question.cluster, shape, role, serving=serving)


def _too_few(question: Question, engines: Engines, roles: Sequence[Role]) -> str:
    have = gpu_budget(question)
    there = f"there {'is' if have == 1 else 'are'} {have}"
    if roles == ("colocated",):
        return f"a colocated engine takes more GPUs than there are ({have})"
    pools = [pool for pool in (engines.prefill, engines.decode) if pool]
    least = [min(engine.parallelism.num_gpus for engine in pool) for pool in pools]
    if len(least) == 2:
        return (
            f"a split needs a prefill engine of {_gpus(least[0])} and a decode engine of "
            f"{_gpus(least[1])}, {sum(least)} in all; {there}"
        )
    alone = min(engine.parallelism.num_gpus for engine in engines.colocated)
    return f"a split needs at least two engines, and one takes {_gpus(alone)}; {there}"


def _gpus(num: int) -> str:
    return f"{num} GPU{'s' * (num != 1)}"
