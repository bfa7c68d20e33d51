"""One layout tried in the simulator: its arm at a rate, and the highest rate it sustains."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from pdctl.perf_model.metrics import attainment, goodput_rps, percentiles
from pdctl.perf_model.records import Fleet, Outcome, Parallelism, Percentiles, Role
from pdctl.perf_model.simulator.kv import Prefixes
from pdctl.perf_model.simulator.simulate import find_prefixes, simulate
from pdctl.verdict.closed_form import Demand, Scored, pace_of
from pdctl.verdict.records import Arm, Question
from pdctl.workload.arrivals import at_rate, head, make_requests, pick
from pdctl.workload.records import Requests, Slo

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


KNEE_STEPS = 3  # halvings of the bracket in which the knee lies
WIDER = 1.6  # times the guess: beyond it a run as short as ours would not have settled
LOWER = (0.6, 0.25, 0.05)  # of the guess, tried in turn
QUEUE_SAMPLES = 200
SETTLED = (0.4, 0.9)  # of the requests in order of arrival: batches are full, none runs dry


def try_layout(
    fleet: Fleet,
    requests: Requests,
    slo: Slo,
    *,
    seed: int,
    queues: bool,
    drawn: bool,
    prefixes: Prefixes | None = None,
) -> Arm:
    """A layout on these requests at their own times.

    queues: also sample queue lengths. drawn: the requests stand for a steady load, so only
    those in the middle of the run count. prefixes: find_prefixes(requests), made once for all.
    """
    span = requests.arrival_s[-1] - requests.arrival_s[0] if len(requests) else 0.0
    every = max(span / QUEUE_SAMPLES, 1e-3) if queues else None
    outcome = simulate(fleet, requests, seed=seed, sample_every_s=every, prefixes=prefixes)
    if not drawn or span <= 0:
        return arm_of(fleet, outcome, slo)
    arm = arm_of(fleet, settled(outcome), slo)
    share = 1.0 if arm.attainment is None else arm.attainment
    return replace(arm, goodput_rps=share * len(requests) / span)


def settled(outcome: Outcome) -> Outcome:
    """An outcome with the requests of its steady part only.

    The first ones meet empty batches, the last ones emptying ones: both flatter a layout.
    """
    num = len(outcome.ttft_s)
    part = slice(int(SETTLED[0] * num), int(SETTLED[1] * num)) if num >= 50 else slice(None)
    columns = (outcome.ttft_s[part], outcome.tpot_s[part], outcome.e2e_s[part])
    return replace(outcome, ttft_s=columns[0], tpot_s=columns[1], e2e_s=columns[2])


def arm_of(fleet: Fleet, outcome: Outcome, slo: Slo) -> Arm:
    """What a verdict keeps of one outcome."""
    done = [t for t in outcome.e2e_s if t is not None]
    span = max(outcome.span_s, 1e-9)
    return Arm(
        layout=fleet.layout,
        num_gpus=fleet.num_gpus,
        parallelism=parallelism_of(fleet),
        ttft_s=_percentiles(outcome.ttft_s),
        tpot_s=_percentiles(outcome.tpot_s),
        e2e_s=_percentiles(outcome.e2e_s),
        goodput_rps=goodput_rps(outcome, slo),
        attainment=attainment(outcome, slo) if slo.is_given else None,
        tokens_per_s_per_gpu=outcome.output_tokens / span / fleet.num_gpus,
        kv_usage=dict(outcome.kv_usage_peak),
        infeasible=None if done else "rejects every request: longer than its KV cache or context",
        queues=tuple(outcome.queues),
    )


def parallelism_of(fleet: Fleet) -> dict[Role, Parallelism]:
    """Parallelism by role, for the roles a fleet has."""
    roles: tuple[Role, ...] = ("colocated", "prefill", "decode")
    engines = {role: getattr(fleet, role) for role in roles}
    return {role: engine.parallelism for role, engine in engines.items() if engine}


def simulated_knee_rps(
    fleet: Fleet, requests: Requests, slo: Slo, guess_rps: float, *, seed: int
) -> float:
    """The highest rate at which these requests meet the SLO, by bisection around a guess.

    requests: arrive with their own pattern, stretched to each rate tried. 0 when the SLO is
    missed even far below the guess.
    """

    prefixes = find_prefixes(requests)

    def holds(rate: float) -> bool:
        paced = at_rate(requests, rate, seed=seed)
        outcome = simulate(fleet, paced, seed=seed, prefixes=prefixes)
        return attainment(settled(outcome), slo) >= slo.attainment

    low, high = _bracket(holds, guess_rps)
    for _ in range(KNEE_STEPS if high > low else 0):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _bracket(holds: Callable[[float], bool], guess: float) -> tuple[float, float]:
    """Rates between which the answer turns; equal when none of those tried holds, or all do."""
    if holds(guess):
        return (guess, guess * WIDER) if not holds(guess * WIDER) else (guess * WIDER,) * 2
    high = guess
    for factor in LOWER:
        if holds(guess * factor):
            return guess * factor, high
        high = guess * factor
    return 0.0, 0.0


def _percentiles(times: Sequence[float | None]) -> Percentiles | None:
    known = [t for t in times if t is not None]
    return percentiles(known) if known else None
