"""What the reader should know beside the verdict, a sentence each."""

from collections.abc import Iterator

from pdctl.perf_model.communication import assumed_cluster
from pdctl.perf_model.formats import kernel_warnings
from pdctl.units import format_rate
from pdctl.verdict.feasibility import left_out
from pdctl.verdict.records import Question, Verdict
from pdctl.verdict.rules import NAMES, RULE_WORDS
from pdctl.workload.records import Workload

FEW_REQUESTS = 20  # fewer say little about a workload


def caveats(question: Question, verdict: Verdict) -> Iterator[str]:
    """What the reader should know beside the verdict."""
    if not verdict.arms:
        return
    if verdict.decided_by == "rules":
        yield "Rules alone: add --isl, --osl and --rate, or --trace, for a prediction."
    yield from disagreement(verdict)
    if verdict.rate_rps is not None and not verdict.is_rate_asked and verdict.top_rps:
        yield (
            f"No --rate given: the arms are compared at {format_rate(verdict.rate_rps)} req/s, "
            "70 % of what the better one carries."
        )
    yield from _cluster_warnings(question)
    yield from kernel_warnings(question.llm, question.cluster.gpu)
    if question.speculation is not None:
        yield (
            f"Planned with {question.speculation.draft_tokens} draft tokens a step: give `up` "
            "SGLang's own --speculative flags by --args."
        )
    yield from _profile_warnings(question)
    yield from question.llm.assumptions
    yield from _request_warnings(question)
    if verdict.decided_by == "evidence":
        yield from left_out(question)
    for arm in verdict.arms.values():
        if arm.infeasible:
            yield f"{arm.layout} {arm.infeasible}."


def _request_warnings(question: Question) -> Iterator[str]:
    """Requests that are few or cannot be served, and how a file of them was read."""
    requests = question.workload.requests
    if requests is not None and len(requests) < FEW_REQUESTS:
        noun = "request" if len(requests) == 1 else "requests"
        yield f"{len(requests)} {noun} in the file, repeated: too few to tell how lengths vary."
    if share := share_too_long(question):
        yield (
            f"{100 * share:.1f} % of the requests exceed the {question.llm.max_context:,} tokens "
            f"of context of {question.llm.name}: engines refuse them or cut their output."
        )
    if question.workload.trace is not None:
        yield from question.workload.trace.notes
        yield from _no_times(question.workload)
    if skipped := question.workload.skipped_lines:
        noun = "line" if skipped == 1 else "lines"
        yield f"{skipped:,} {noun} of {question.workload.origin} left out."


def _cluster_warnings(question: Question) -> Iterator[str]:
    cluster = question.cluster
    if cluster.num_nodes > 1:
        yield (
            f"This plan spans {cluster.num_nodes} hosts. `--on slurm` starts it on the nodes of a "
            "Slurm job; `pdctl render k8s` writes it for Kubernetes."
        )
    if assumed_cluster(cluster) is not cluster:
        yield (
            "The rate between nodes is unknown; 400 Gbit/s per GPU is assumed. Give it as in "
            f"--gpus {cluster.num_nodes}x{cluster.gpus_per_node}x{cluster.gpu.name}:rdma400."
        )


def _profile_warnings(question: Question) -> Iterator[str]:
    if question.profile is not None:
        measured = question.profile
        yield (
            f"Step times come from {measured.gpu} with {measured.llm}, {measured.engine} and "
            f"{measured.attention_backend} attention; another backend is another profile."
        )
    if question.unused_profile is not None:
        unused = question.unused_profile
        yield (
            f"Step times come from the roofline: {unused.id} was measured with "
            f"{unused.attention_backend} attention and is used only with "
            f"--attention-backend {unused.attention_backend}."
        )


def _no_times(workload: Workload) -> Iterator[str]:
    """A file with columns that may be times under a name nobody knows, and no rate either."""
    facts, known = workload.trace, (workload.rate_rps, workload.concurrency)
    if (
        facts is not None
        and facts.span_s is None
        and facts.unused_columns
        and known == (None, None)
    ):
        unused = ", ".join(facts.unused_columns[:6])
        yield f"No column of {workload.origin} was read as times (not used: {unused}); add --rate."


def disagreement(verdict: Verdict) -> Iterator[str]:
    """One sentence each for the rules and the simulation, where they disagree."""
    leaning, evidence = verdict.lean, verdict.evidence
    if verdict.decided_by != "evidence" or leaning == "mixed" or evidence in ("too_close", leaning):
        return
    because = [RULE_WORDS[r.id] for r in verdict.rules if r.favours == leaning]
    yield f"The rules favour {NAMES[leaning]} ({', '.join(because)})."
    if evidence == verdict.verdict:
        yield f"The simulation favours {NAMES[evidence]}, and decided with low confidence."
    else:
        yield f"The simulation favours {NAMES[evidence]}."


def share_too_long(question: Question) -> float:
    """The share of a trace's requests longer than the LLM's context, which engines refuse."""
    requests, context = question.workload.requests, question.llm.max_context
    if requests is None or context is None:
        return 0.0
    long = sum(i + o >= context for i, o in zip(requests.isl, requests.osl, strict=True))
    return long / len(requests)
