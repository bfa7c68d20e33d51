"""A closed loop of clients: the requests they send, each arm's answers, and the choice."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from pdctl.perf_model.intervals import Errors
from pdctl.perf_model.metrics import is_good, percentiles
from pdctl.perf_model.records import Fleet, Outcome
from pdctl.perf_model.simulator.kv import Prefixes
from pdctl.perf_model.simulator.simulate import simulate_clients
from pdctl.units import format_number_of
from pdctl.verdict.closed_form import Demand, capacity_rps, mean_latency_s, pace_of
from pdctl.verdict.judge import (
    Confidence,
    Known,
    Margins,
    by_capacity,
    by_latency,
    confidence_of,
    margins_of,
)
from pdctl.verdict.records import Arm, Choice, Lean, Question, Steady
from pdctl.verdict.trials import QUEUE_SAMPLES, Run, arm_of_run, known_or_nan, without_too_long
from pdctl.workload.arrivals import once_a_second
from pdctl.workload.records import Requests, Slo

REQUESTS_PER_CLIENT = 10  # as benchmarks send: InferenceX, and SGLang's bench_serving by habit
LEAST_REQUESTS = 200  # of equal lengths; heavy tails need more to be seen
MOST_REQUESTS = 10_000
LEAST_PER_CLIENT = 3  # a burst, a steady part and a drain, of however many clients


def clients_of(concurrency: float | None) -> int | None:
    """The number of clients of a closed loop; None: requests arrive at a rate."""
    return None if concurrency is None else max(1, round(concurrency))


def clients_text(clients: int) -> str:
    """2,000 clients."""
    return format_number_of(clients, "client")


def load_text(clients: int) -> str:
    """A closed loop in words."""
    return f"{clients_text(clients)}, closed loop, starting with a burst of {clients:,}"


def client_requests(question: Question, demand: Demand, clients: int) -> Requests:
    """The requests that the clients send in order: a trace's own from its start, or drawn ones.

    Ten per client, from 200 to 10,000 in all; never fewer than three per client.
    Ignores: the arrival times of a trace, and its requests that exceed the LLM's context.
    """
    least = math.ceil(LEAST_REQUESTS * demand.spread)
    num = min(max(REQUESTS_PER_CLIENT * clients, least), MOST_REQUESTS)
    num = max(num, LEAST_PER_CLIENT * clients)
    context = question.llm.max_context
    workload = without_too_long(question.workload, context)
    return once_a_second(workload, num=num, seed=question.seed, max_context=context)


def try_clients(
    fleet: Fleet,
    requests: Requests,
    slo: Slo,
    clients: int,
    *,
    seed: int,
    queues: bool,
    prefixes: Prefixes | None = None,
) -> Arm:
    """A layout with so many clients; all requests count, those of the burst included.

    queues: also sample queue lengths. prefixes: find_prefixes(requests), made once for all.
    """
    outcome = simulate_clients(fleet, requests, clients, seed=seed, prefixes=prefixes)
    if queues and outcome.span_s > 0:
        every = outcome.span_s / QUEUE_SAMPLES
        outcome = simulate_clients(
            fleet, requests, clients, seed=seed, prefixes=prefixes, sample_every_s=every
        )
    run = Run(known_or_nan(outcome.ttft_s), known_or_nan(outcome.tpot_s), keeps_up=True)
    rate_rps = len(outcome.ttft_s) / max(outcome.span_s, 1e-9)
    return replace(
        arm_of_run(fleet, outcome, run, slice(None), rate_rps, slo),
        throughput_rps=_answered(outcome) / max(outcome.span_s, 1e-9),
        steady=steady_part(outcome, clients, slo),
    )


def steady_part(outcome: Outcome, clients: int, slo: Slo) -> Steady | None:
    """The run without its burst and without its end, when clients stop; None: nothing is left.

    Requests: all but the first and the last of each client. Throughput: sends per second from the
    first to the last moment at which every client is busy; each send follows an answer.
    """
    sent_s, num = outcome.arrival_s, len(outcome.arrival_s)
    if num <= 2 * clients:
        return None
    start_s, end_s = sent_s[clients], sent_s[-1]
    sends = sum(at_s > start_s for at_s in sent_s)
    part = slice(clients, num - clients)
    ttft_s, tpot_s = outcome.ttft_s[part], outcome.tpot_s[part]
    good = sum(is_good(t, each, slo) for t, each in zip(ttft_s, tpot_s, strict=True))
    return Steady(
        ttft_s=percentiles(ttft_s),
        tpot_s=percentiles(tpot_s),
        throughput_rps=sends / (end_s - start_s) if end_s > start_s else None,
        attainment=good / len(ttft_s) if slo.is_given else None,
    )


def _answered(outcome: Outcome) -> int:
    return sum(time is not None for time in outcome.e2e_s)


def estimated_rps(fleet: Fleet, demand: Demand, clients: float) -> float:
    """The throughput that so many clients reach, estimated in closed form to rank layouts.

    Source: Little's law, by bisection. Ignores: that clients keep step.
    """
    low, high = 1e-6, capacity_rps(fleet, demand, Slo())
    for _ in range(30):
        middle = (low + high) / 2
        stay = mean_latency_s(pace_of(fleet, demand, middle), demand)
        low, high = (middle, high) if middle * stay <= clients else (low, middle)
    return low


@dataclass(frozen=True)
class Ruling:
    """A choice and how sure it is. evidence: what the simulation alone says."""

    choice: Choice
    confidence: Confidence
    evidence: Choice


def judge_clients(leaning: Lean, arms: Mapping[str, Arm], slo: Slo, errors: Errors) -> Ruling:
    """The arm that serves the clients better: by good requests per second, or without SLOs by all.

    Colocated suffices where it would meet the SLOs with the longest times of its intervals. Where
    neither meets them the nearer arm is named, with low confidence.
    """
    if not any(meets(arm, slo) for arm in arms.values()):
        nearer: Choice = max(("colocated", "pd"), key=lambda name: _nearness(arms[name]))
        return Ruling(nearer, "low", nearer)
    margins = margins_of(errors)
    evidence = _evidence(arms["colocated"], arms["pd"], slo, errors, margins)
    return Ruling(evidence, confidence_of(evidence, leaning, errors), evidence)


def _evidence(colocated: Arm, pd: Arm, slo: Slo, errors: Errors, margins: Margins) -> Choice:
    if not slo.is_given:
        return by_latency(_at_throughput(colocated), _at_throughput(pd), margins)
    if _suffices(colocated, slo, errors):
        return "colocated"
    ours, theirs = (Known(arm.goodput_rps or 0.0) for arm in (colocated, pd))
    return by_capacity(ours, theirs, 0.0, None, margins)


def _at_throughput(arm: Arm) -> Arm:
    """The arm with its throughput as its capacity, to compare throughputs."""
    return replace(arm, capacity_rps=arm.throughput_rps)


def _nearness(arm: Arm) -> tuple[float, float]:
    return arm.attainment or 0.0, arm.throughput_rps or 0.0


def meets(arm: Arm, slo: Slo) -> bool:
    """True if enough of the clients' requests met the SLOs; always without SLOs."""
    if not slo.is_given:
        return True
    return arm.attainment is not None and arm.attainment >= slo.attainment


def _suffices(arm: Arm, slo: Slo, errors: Errors) -> bool:
    limits = (
        (arm.ttft_at_share_s, errors.ttft, slo.ttft_s),
        (arm.tpot_at_share_s, errors.tpot, slo.tpot_s),
    )
    return meets(arm, slo) and all(
        limit is None or (time is not None and time * error.high <= limit)
        for time, error, limit in limits
    )
