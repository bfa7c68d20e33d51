"""Which requests the layouts of a question are tried on: a trace, or as many drawn as settle."""

import math
from collections.abc import Sequence
from dataclasses import replace

from pdctl.verdict.capacity import Demand
from pdctl.verdict.records import Question
from pdctl.verdict.scores import Scored, pace_of
from pdctl.workload.arrivals import head, make_requests, pick
from pdctl.workload.records import Requests

LEAST_REQUESTS = 200
MOST_REQUESTS = 10_000
TURNOVERS = 1.8  # a drawn run has so many times the requests in flight


def has_times(question: Question) -> bool:
    """Whether the workload is a trace that is to be replayed as it is."""
    return question.workload.requests is not None and question.workload.rate_rps is not None


def all_requests(
    question: Question, demand: Demand, rate_rps: float, entrants: Sequence[Scored]
) -> Requests:
    """What the entrants are compared on: the whole trace, or as many requests as settle."""
    if has_times(question) and question.workload.requests is not None:
        return question.workload.requests
    carrying = [s for s in entrants if s.pace][:2]
    nums = [num_requests(question, demand, rate_rps, s, TURNOVERS) for s in carrying]
    num = max(nums, default=5 * LEAST_REQUESTS)
    return make_requests(question.workload, num=num, rate_rps=rate_rps, seed=question.seed)


def some_requests(question: Question, num: int, rate_rps: float) -> Requests:
    """The first requests of a trace that is replayed, else requests drawn from the workload."""
    if has_times(question) and question.workload.requests is not None:
        return head(question.workload.requests, num)
    return make_requests(question.workload, num=num, rate_rps=rate_rps, seed=question.seed)


def num_requests(
    question: Question, demand: Demand, rate_rps: float, scored: Scored, turnovers: float
) -> int:
    """Enough for queues and batches to settle: a few turnovers of the requests in flight."""
    rates = (rate_rps * 0.95, scored.knee_rps * 0.9, scored.knee_rps * 0.6)
    paces = (pace_of(scored.fleet, demand, rate) for rate in rates if 0 < rate <= rate_rps)
    pace = next((p for p in paces if p), None)
    stay = pace.ttft_s + demand.osl * pace.tpot_s if pace else 30.0
    least = LEAST_REQUESTS * demand.spread**2  # heavy tails need more to be seen
    return math.ceil(min(max(turnovers * rate_rps * stay, least), MOST_REQUESTS))


def without_too_long(question: Question) -> Question:
    """The question without the trace's requests that exceed the LLM's context.

    Every layout refuses them; counting them as missed SLOs would hide what the layouts do.
    """
    workload, context = question.workload, question.llm.max_context
    requests = workload.requests
    if requests is None or context is None:
        return question
    kept = [i for i, tokens in enumerate(requests.isl) if tokens + 1 < context]
    if len(kept) == len(requests) or not kept:
        return question
    return replace(question, workload=replace(workload, requests=pick(requests, kept)))
