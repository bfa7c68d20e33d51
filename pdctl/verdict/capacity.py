"""Closed forms: how long do the phases of a mean request keep one engine, and how many fit?

They prune the search and find where a verdict flips; what is shown comes from the simulator.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from pdctl.perf_model.records import EngineModel
from pdctl.perf_model.steps import decode_step_s, prefill_s
from pdctl.workload.records import Slo, Workload

PREFILL_USE = 0.90  # AIConfigurator 2601.06288, Algorithm 3: prefill pools run at 90 % of peak
DECODE_USE = 0.92  # the same: decode pools at 92 %
MOST_USE = 0.95  # above it queues of a minute's trace grow without limit


@dataclass(frozen=True)
class Demand:
    """What one request asks in the mean.

    fresh: prompt tokens to compute; cached: those found in the prefix cache.
    pairs: query-key pairs of its prefill. context: tokens a decode step reads for it,
    averaged over its steps. spread: how waits grow over those of equal prompts, (1 + cv²).
    long: the 90th percentile of a prompt over the mean.
    """

    fresh: float
    cached: float
    pairs: float
    osl: float
    context: float
    spread: float = 1.0
    long: float = 1.0

    @property
    def isl(self) -> float:
        return self.fresh + self.cached


def demand_of(workload: Workload) -> Demand | None:
    """The mean request of a workload; None while a length is unknown.

    With a trace, pairs and context are means over its requests, not of the mean request.
    Ignores: that hits differ from prompt to prompt, and that some attention kernels read cached
    tokens slower than new ones (prefill_cached_weight); the simulator counts both.
    """
    if workload.isl is None or workload.osl is None:
        return None
    hit = workload.prefix_hit or 0.0
    isl, osl = workload.isl.mean, max(workload.osl.mean, 1.0)
    fresh = max(isl * (1.0 - hit), 1.0)
    # E[n²] = mean²·(1 + cv²), and Σe(h + e/2) over a prompt's chunks = e·(h + e/2)
    square = (1.0 + workload.isl.cv**2) * isl * isl
    pairs = square * (1.0 - hit) * (hit + (1.0 - hit) / 2)
    # a step is an output token: long outputs weigh more, and are longer while they last
    context = isl + osl * (1.0 + workload.osl.cv**2) / 2
    spread, long = 1.0 + workload.isl.cv**2, max(workload.isl.p90 / isl, 1.0)
    return Demand(fresh, isl - fresh, pairs, osl, context, spread, long)


@cache
def prefill_alone_s(engine: EngineModel, demand: Demand) -> float:
    """A mean prompt on an idle engine, chunk after chunk."""
    return _alone(engine, demand.fresh, demand.pairs)


@cache
def prefill_long_s(engine: EngineModel, demand: Demand) -> float:
    """A prompt of the 90th percentile on an idle engine."""
    fresh = demand.fresh * demand.long
    return _alone(engine, fresh, demand.pairs / demand.spread * demand.long**2)


def _alone(engine: EngineModel, fresh: float, pairs: float) -> float:
    chunks = max(1, math.ceil(fresh / engine.chunked_prefill_size))
    one = prefill_s(engine.times, fresh / chunks, pairs / chunks)
    beside = engine.times.request_s + engine.times.prefill_start_s
    return beside + one * (chunks + engine.times.stages - 1)


@cache
def prefill_packed_s(engine: EngineModel, demand: Demand) -> float:
    """Engine time of a mean prompt when prompts fill whole chunks: the inverse of capacity.

    Ignores: the last, partly filled chunk.
    """
    share = engine.chunked_prefill_size / demand.fresh  # prompts per chunk
    return prefill_s(engine.times, engine.chunked_prefill_size, demand.pairs * share) / share


def prefill_shared_s(
    engine: EngineModel, demand: Demand, rate_rps: float, gap_s: float = 0.0
) -> float:
    """Engine time of a mean prompt when those that came meanwhile share a prefill step.

    gap_s: a decode step, during which prompts wait too. At most a chunk's worth share.
    Source: the batch n with n = rate · (its own time, or the gap), by iteration from one prompt.
    """
    room = engine.chunked_prefill_size / demand.fresh
    if room <= 1.0:
        return prefill_packed_s(engine, demand)
    share = 1.0
    for _ in range(8):
        step = prefill_s(engine.times, share * demand.fresh, share * demand.pairs)
        following = min(max(rate_rps * max(step, gap_s), 1.0), room)
        if abs(following - share) <= 0.02 * share:
            break
        share = following
    return prefill_s(engine.times, share * demand.fresh, share * demand.pairs) / share


def prefill_tokens_per_s(engine: EngineModel, demand: Demand) -> float:
    """New prompt tokens per second of one busy engine."""
    return demand.fresh / prefill_packed_s(engine, demand)


@cache
def max_batch(engine: EngineModel, demand: Demand) -> float:
    """Requests that fit an engine's KV cache and its limit of running requests.

    Ignores: prefixes shared between running requests.
    """
    if engine.kv_capacity_tokens <= 0:
        return 0.0
    each = demand.context + (engine.reserved_decode_tokens if engine.role == "decode" else 0)
    return max(min(engine.kv_capacity_tokens / each, engine.max_running_requests), 0.0)


def step_s(engine: EngineModel, demand: Demand, batch: float) -> float:
    """One decode step of `batch` mean requests."""
    return decode_step_s(engine.times, max(batch, 1.0), max(batch, 1.0) * demand.context)


def tpot_at(engine: EngineModel, demand: Demand, batch: float) -> float:
    """Seconds per output token of each of `batch` requests, prefill stalls apart."""
    return step_s(engine, demand, batch) / engine.accept_length


@cache
def decode_rps(engine: EngineModel, demand: Demand, tpot_s: float | None) -> float:
    """Most requests per second one decode engine finishes with TPOT within `tpot_s`.

    0 when even one request alone is slower. Source: Little's law, rate = B / (OSL · TPOT).
    """
    most = max_batch(engine, demand)
    if most < 1.0 or (tpot_s is not None and tpot_at(engine, demand, 1.0) > tpot_s):
        return 0.0
    batch = most
    if tpot_s is not None and tpot_at(engine, demand, most) > tpot_s:
        batch = bisect(lambda b: tpot_at(engine, demand, b) <= tpot_s, 1.0, most, steps=12)
    return DECODE_USE * batch / (demand.osl * tpot_at(engine, demand, batch))


@cache
def prefill_rps(engine: EngineModel, demand: Demand, slo: Slo, after_s: float = 0.0) -> float:
    """Most requests per second one prefill engine starts with TTFT within the SLO.

    after_s: what follows the prefill before the first token is seen: transfer, a decode step.
    0 when a prompt alone takes longer.
    """
    packed = prefill_packed_s(engine, demand)
    if slo.ttft_s is None:
        return PREFILL_USE / packed
    slack = slo.ttft_s - prefill_long_s(engine, demand) - after_s
    if slack < 0:
        return 0.0
    use = bisect(
        lambda u: _wait_tail(u, slack / packed / demand.spread) <= 1 - slo.attainment,
        0.0,
        MOST_USE,
        steps=10,
    )
    return use / packed


def running_requests(engine: EngineModel, demand: Demand, tokens_per_s: float) -> float | None:
    """Requests running on an engine that makes `tokens_per_s`; None: it cannot.

    Source: Little's law, the batch B with B = tokens/s · TPOT(B).
    """
    most = max_batch(engine, demand)
    if most < 1.0 or tokens_per_s * tpot_at(engine, demand, most) > most:
        return None
    batch = tokens_per_s * tpot_at(engine, demand, 1.0)
    for _ in range(30):
        following = tokens_per_s * tpot_at(engine, demand, batch)
        if abs(following - batch) <= 0.01 * batch:
            return min(following, most)
        batch = following
    return min(batch, most)


def _wait_tail(use: float, services: float) -> float:
    """Chance that a wait exceeds `services` service times at utilisation `use`.

    Source: M/G/1 in heavy traffic, P(W > t) ≈ ρ·exp(−2(1−ρ)·t/S) with S = E[S²]/E[S] (Kingman).
    """
    return use * math.exp(-2.0 * (1.0 - use) * services)


def bisect(holds: Callable[[float], bool], low: float, high: float, *, steps: int) -> float:
    """The largest x in [low, high] known to hold, when it holds at `low` and not beyond some x."""
    if holds(high):
        return high
    for _ in range(steps):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
