"""A discrete-event replay of SGLang's scheduling: these engines, these requests.

Requests go through the router to engines (fleets.py); engines decide steps (colocated_engine.py,
prefill_engine.py, decode_engine.py); decode is advanced in closed form from one change to the next
(decode_batch.py).
"""

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from operator import sub

from pdctl.perf_model.records import Change, Fleet, Outcome, QueueSample
from pdctl.perf_model.simulator.fleets import ColocatedFleet, SplitFleet
from pdctl.perf_model.simulator.job import NEVER, Shared, TokenTimes
from pdctl.perf_model.simulator.kv import Prefixes, shared_prefixes
from pdctl.perf_model.simulator.replay import Clients, Misses, Quota, make_jobs
from pdctl.workload.records import Requests


def simulate(
    fleet: Fleet,
    requests: Requests,
    *,
    seed: int = 0,
    sample_every_s: float | None = None,
    changes: Sequence[Change] = (),
    prefixes: Prefixes | None = None,
    max_decode_steps_per_event: float = NEVER,
) -> Outcome:
    """Replay `requests` at their own times through `fleet`.

    prefixes: find_prefixes(requests), to share among replays of the same prompts at any times.
    max_decode_steps_per_event: for tests; fewer make it slower and change nothing.
    Returns per-request times in arrival order; None where a request was rejected as too long, or
    lost with an engine. Output beyond the context or the KV cache is cut, as SGLang does.
    Raises ValueError for a fleet without engines, SimulationBroken for a bug in the simulator.
    Source: SGLang 0.5.15 and 0.5.23, see the engines' modules. Ignores: tokenizer, detokenizer,
    CPU time between steps, client connections; outputs are as long as asked for.
    """
    if prefixes is None:
        prefixes = find_prefixes(requests)
    with _collector_paused():
        run = _run(fleet, requests, prefixes, seed, max_decode_steps_per_event)
        return _played(run, sample_every_s, sorted(changes, key=lambda c: c.at_s))


def simulate_clients(
    fleet: Fleet,
    requests: Requests,
    num_clients: int,
    *,
    seed: int = 0,
    sample_every_s: float | None = None,
    prefixes: Prefixes | None = None,
    max_decode_steps_per_event: float = NEVER,
    pauses_s: Sequence[float] = (),
) -> Outcome:
    """Let `num_clients` clients send `requests` in order, each when its last answer has ended.

    It begins with a burst: at 0 s every client sends one. Arrival times of `requests` are ignored;
    Outcome.arrival_s has the times at which they were sent. pauses_s: between an answer and each
    request; none by default. Other arguments as in simulate().
    Raises ValueError for fewer than one client, and as simulate() does.
    Source: the closed loop of SGLang's bench_serving (--max-concurrency) and of InferenceX.
    """
    if num_clients < 1:
        raise ValueError(f"a closed loop needs at least one client, not {num_clients}")
    if prefixes is None:
        prefixes = find_prefixes(requests)
    with _collector_paused():
        steps = max_decode_steps_per_event
        run = _run(fleet, requests, prefixes, seed, steps, num_clients, pauses_s)
        return _played(run, sample_every_s, ())


def _played(
    run: ColocatedFleet | SplitFleet, sample_every_s: float | None, changes: Sequence[Change]
) -> Outcome:
    queues = _play(run, sample_every_s or NEVER, changes)
    run.check()
    return _outcome(run, queues)


QUOTA_LOOKS = 40  # times that a replay looks at its misses while requests come
LATE_LOOKS = 80  # and, as far apart, after the last one


def simulate_within(
    fleet: Fleet,
    requests: Requests,
    quota: Quota,
    *,
    seed: int = 0,
    prefixes: Prefixes | None = None,
) -> Outcome | None:
    """As `simulate`, but None as soon as more requests have missed than `quota` allows.

    A replay that runs to its end may still have missed too many: that is for the caller to count.
    """
    arrival_s = requests.arrival_s
    with _collector_paused():
        run = _run(fleet, requests, prefixes, seed, NEVER)
        misses = Misses(quota, run.jobs, arrival_s, run.columns, isinstance(run, SplitFleet))
        for now_s in _looks(arrival_s, quota):
            if not run.play(now_s):
                break
            if misses.count(now_s) > quota.most_missed:
                return None
        return _played(run, None, ())


def _looks(arrival_s: Sequence[float], quota: Quota) -> Iterator[float]:
    """Times at which to look: as requests that count come, evenly by number, and later."""
    for look in range(1, QUOTA_LOOKS + 1):
        place = quota.first + (quota.last - quota.first) * look // QUOTA_LOOKS
        yield arrival_s[max(place, 1) - 1]
    step_s = (arrival_s[-1] - arrival_s[0]) / QUOTA_LOOKS
    for look in range(LATE_LOOKS if step_s > 0 else 0):
        yield arrival_s[quota.last - 1] + (look + 1) * step_s


@contextmanager
def _collector_paused() -> Iterator[None]:
    """A replay makes no garbage in cycles; looking for some costs a tenth of its time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def find_prefixes(requests: Requests) -> Prefixes | None:
    """The leading blocks that prompts share; None where block ids are unknown."""
    return shared_prefixes(requests.blocks, requests.block_tokens, requests.isl)


def _run(
    fleet: Fleet,
    requests: Requests,
    prefixes: Prefixes | None,
    seed: int,
    max_steps: float,
    num_clients: int = 0,
    pauses_s: Sequence[float] = (),
) -> ColocatedFleet | SplitFleet:
    tokens = prefixes.tokens if prefixes else None
    shared = Shared(TokenTimes(len(requests)), tokens, max_steps)
    clients, arrival_s = None, requests.arrival_s
    if num_clients:
        shared.ended = []
        clients = Clients(num_clients, len(requests), shared.ended, pauses_s)
        arrival_s = clients.arrival_s
    if fleet.colocated and fleet.num_colocated > 0:
        jobs = make_jobs(requests, prefixes, [fleet.colocated])
        return ColocatedFleet(
            fleet,
            fleet.colocated,
            jobs=jobs,
            arrival_s=arrival_s,
            shared=shared,
            seed=seed,
            clients=clients,
        )
    if fleet.prefill and fleet.decode and fleet.num_prefill > 0 and fleet.num_decode > 0:
        jobs = make_jobs(requests, prefixes, [fleet.prefill, fleet.decode])
        return SplitFleet(
            fleet,
            fleet.prefill,
            fleet.decode,
            jobs=jobs,
            arrival_s=arrival_s,
            shared=shared,
            seed=seed,
            clients=clients,
        )
    raise ValueError("a fleet needs colocated engines, or prefill and decode engines")


def _play(
    run: ColocatedFleet | SplitFleet, sample_every_s: float, changes: Sequence[Change]
) -> list[QueueSample]:
    """Play to the end, stopping to sample queues and to let changes happen."""
    queues = []
    pending = list(reversed(changes))
    sample_s = 0.0 if sample_every_s < NEVER else NEVER
    more = True
    while more:
        change_s = pending[-1].at_s if pending else NEVER
        more = run.play(min(sample_s, change_s)) or bool(pending)
        if change_s <= sample_s and pending:
            run.apply(pending.pop())
        elif sample_s < NEVER:
            queues.append(run.sample(sample_s))
            sample_s = len(queues) * sample_every_s
    return queues


def _outcome(run: ColocatedFleet | SplitFleet, queues: Sequence[QueueSample]) -> Outcome:
    columns, jobs, arrival_s = run.columns, run.jobs, run.arrival_s
    rejected = [index for index, job in enumerate(jobs) if job is None]
    first_s, last_s = columns.first_s, columns.last_s
    if isinstance(run, SplitFleet):  # the router held the first token until prefill answered
        first_s = list(map(max, first_s, columns.reply_s))
        last_s = list(map(max, last_s, first_s))
    osl = [0 if job is None else job.osl for job in jobs]
    ttft_s: list[float | None] = list(map(sub, first_s, arrival_s))
    e2e_s: list[float | None] = list(map(sub, last_s, arrival_s))
    tpot_s: list[float | None] = [
        (last - first) / (tokens - 1) if tokens > 1 else 0.0
        for first, last, tokens in zip(first_s, last_s, osl, strict=True)
    ]
    for index in (*rejected, *run.failed):
        ttft_s[index] = tpot_s[index] = e2e_s[index] = None
        osl[index] = 0
    span_s = max(max(last_s, default=0.0) - (arrival_s[0] if jobs else 0.0), 0.0)
    return Outcome(
        ttft_s=ttft_s,
        tpot_s=tpot_s,
        e2e_s=e2e_s,
        span_s=span_s,
        output_tokens=sum(osl),
        kv_usage_peak=run.kv_usage_peak(),
        num_retracted=columns.num_retracted,
        num_rejected=len(rejected),
        queues=queues,
        busy_share={name: busy / span_s if span_s else 0.0 for name, busy in run.busy_s().items()},
        num_failed=len(run.failed),
        arrival_s=arrival_s,
    )
