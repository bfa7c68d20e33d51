"""Verdicts whose answer is no: the model does not fit, prompts are too long."""

from dataclasses import replace

from pdctl.perf_model.engine_model import does_not_fit_reason
from pdctl.perf_model.records import Parallelism
from pdctl.units import format_count
from pdctl.verdict.capacity import Demand
from pdctl.verdict.judge import roofline_band
from pdctl.verdict.layouts import Engines, engines_that_fit, shapes
from pdctl.verdict.records import Provenance, Question, Rule, Verdict

MOST_GPUS_LOG2 = 8  # up to 128 GPUs are tried


def does_not_fit(question: Question, rules: tuple[Rule, ...]) -> Verdict:
    """No engine of any size fits these GPUs."""
    tried = [question.parallelism[r] for r in ("colocated",) if r in question.parallelism]
    tried = tried or list(shapes(question, "colocated"))[-1:] or [Parallelism()]
    reason = does_not_fit_reason(question.llm, question.cluster, tried[0], "colocated")
    why = f"{question.llm.name} does not fit on {_gpus(question)}: {reason}."
    return replace(_refusal(question, rules, why), settle=_where_it_fits(question))


def _where_it_fits(question: Question) -> str:
    """The plan for the fewest of these GPUs, in powers of two, that hold the model."""
    model = question.llm.path or question.llm.name
    gpu = question.cluster.gpu.name
    free = replace(question, total=None, parallelism={})
    for gpus in (2**n for n in range(MOST_GPUS_LOG2)):
        nodes, each = max(1, gpus // 8), min(gpus, 8)
        cluster = replace(question.cluster, num_nodes=nodes, gpus_per_node=each)
        if engines_that_fit(replace(free, cluster=cluster)).colocated:
            return f"pdctl plan {model} --gpus {nodes}x{each}x{gpu}"
    return ""


def too_long(
    question: Question, engines: Engines, demand: Demand, rules: tuple[Rule, ...]
) -> Verdict | None:
    """A refusal where even the mean request exceeds the context or every engine's KV cache."""
    need = demand.isl + demand.osl
    context = question.llm.max_context
    if context is not None and need > context:
        asked = f"{format_count(round(demand.isl))} prompt and {format_count(round(demand.osl))}"
        return _refusal(
            question,
            rules,
            f"Requests of {asked} output tokens exceed the {format_count(context)} tokens of "
            f"context of {question.llm.name}.",
        )
    everyone = (*engines.colocated, *engines.prefill, *engines.decode)
    room = max((engine.kv_capacity_tokens for engine in everyone), default=0)
    if need > room:
        return _refusal(
            question,
            rules,
            f"A request of {format_count(round(need))} tokens exceeds the KV cache of the largest "
            f"engine, {format_count(room)} tokens.",
        )
    return None


def _refusal(question: Question, rules: tuple[Rule, ...], why: str) -> Verdict:
    return Verdict(
        verdict="too_close",
        confidence="high",
        decided_by="feasibility",
        headline="No layout can run this",
        rules=rules,
        sizing=None,
        arms={},
        sweep=(),
        flips=(),
        warnings=(),
        provenance=Provenance("roofline", None, roofline_band(question.cluster.gpu.name)),
        reason=why,
        unmet=why,
    )


def _gpus(question: Question) -> str:
    cluster = question.cluster
    return f"{cluster.num_gpus} × {cluster.gpu.name}"
