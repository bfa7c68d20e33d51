"""Closed forms: how long do the phases of a mean request keep one engine, and how many fit?

They prune the search and find where a verdict flips; what is shown comes from the simulator.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from pdctl.perf_model.records import EngineModel, Fleet
from pdctl.perf_model.simulator.steps import (
    chunk_s,
    decode_step_s,
    kv_transfer_s,
    last_chunk_s,
    prefill_s,
)
from pdctl.verdict.rules import LoadEstimate
from pdctl.workload.records import Mix, Slo

PREFILL_USE = 0.90  # AIConfigurator 2601.06288, Algorithm 3: prefill pools run at 90 % of peak
DECODE_USE = 0.92  # the same: decode pools at 92 %
MOST_USE = 0.95  # above it queues of a minute's trace grow without limit
CERTAINLY = 1.1  # times a closed form's highest rate: what mean requests leave out is less

ASSUMED_USE = 0.7  # share of the better arm's capacity that is assumed when no rate is given


@dataclass(frozen=True)
class Demand:
    """The demand of the mean request.

    fresh: prompt tokens to compute; cached: those found in the prefix cache.
    pairs: query-key pairs of its prefill. context: tokens a decode step reads for it,
    averaged over its steps. spread: how waits grow over those of equal prompts, (1 + cv²).
    long: the 90th percentile of a prompt over the mean. has_tpot: more than a tenth of the
    requests have a second output token; the 90th percentile of TPOT is 0 otherwise.
    """

    fresh: float
    cached: float
    pairs: float
    osl: float
    context: float
    spread: float = 1.0
    long: float = 1.0
    has_tpot: bool = True

    @property
    def decode_tokens(self) -> float:
        """Output tokens that take a decode step; the only token of an answer takes none."""
        return self.osl if self.osl > 1.0 else 0.0

    @property
    def isl(self) -> float:
        return self.fresh + self.cached


def demand_of(mix: Mix) -> Demand | None:
    """The mean request of a mix; None while a length is unknown.

    With a trace, pairs and context are means over its requests, not of the mean request.
    Ignores: that hits differ from prompt to prompt, and that some attention kernels read cached
    tokens slower than new ones (prefill_cached_weight); the simulator counts both.
    """
    if mix.isl is None or mix.osl is None:
        return None
    hit = mix.prefix_hit or 0.0
    isl, osl = mix.isl.mean, max(mix.osl.mean, 1.0)
    fresh = max(isl * (1.0 - hit), 1.0)
    # E[n²] = mean²·(1 + cv²), and Σe(h + e/2) over a prompt's chunks = e·(h + e/2)
    square = (1.0 + mix.isl.cv**2) * isl * isl
    pairs = square * (1.0 - hit) * (hit + (1.0 - hit) / 2)
    # a step is an output token: long outputs weigh more, and are longer while they last
    context = isl + osl * (1.0 + mix.osl.cv**2) / 2
    spread, long = 1.0 + mix.isl.cv**2, max(mix.isl.p90 / isl, 1.0)
    has_tpot = mix.osl.p90 > 1.0
    return Demand(fresh, isl - fresh, pairs, osl, context, spread, long, has_tpot)


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
    chunks = max(1, math.ceil(fresh / _rank_chunk(engine)))
    one = _step_s(engine, fresh / chunks, pairs / chunks, 1.0)
    beside = engine.times.request_s + engine.times.prefill_start_s
    return beside + one * (chunks + engine.times.stages - 1)


def _rank_chunk(engine: EngineModel) -> int:
    """Tokens of one prompt in a step: it lives on one attention-DP rank."""
    return max(1, engine.chunked_prefill_size // engine.parallelism.dp)


def _step_s(engine: EngineModel, tokens: float, pairs: float, share: float) -> float:
    """A prefill step of `share` prompts of `tokens` each, which ranks take in turn."""
    dp = engine.parallelism.dp
    spread = max(share, dp * math.ceil(share / dp - 1e-9)) if dp > 1 else share
    waited = (spread - share) * tokens
    return prefill_s(engine.times, share * tokens, spread * pairs, waited)


@cache
def prefill_packed_s(engine: EngineModel, demand: Demand) -> float:
    """Engine time of a mean prompt when prompts fill whole chunks: the inverse of capacity.

    Ignores: the last, partly filled chunk.
    """
    share = engine.chunked_prefill_size / demand.fresh  # prompts per chunk
    pairs = demand.pairs * share * _rank_imbalance(engine, demand)
    return prefill_s(engine.times, engine.chunked_prefill_size, pairs) / share


def _rank_imbalance(engine: EngineModel, demand: Demand) -> float:
    """Pairs of the busiest attention-DP rank over those of the mean one, where all chunks are full.

    Ranks are at different places of their prompts, and wait for the one with the longest history.
    Source: the expected largest of dp exponential draws, 1/1 + … + 1/dp means, with the coefficient
    of variation of a chunk's history: E[h] = E[n²]/2E[n] and E[h²] = E[n³]/3E[n] of log-normal
    prompts give √(4/3·(1 + cv²) − 1), less where a chunk holds several. Packings drawn for cv 0.5
    to 1.31, dp 8 and 16, agree within 5 % for prompts of several chunks. Ignores: that ranks with
    equal prompts may keep step.
    """
    dp = engine.parallelism.dp
    in_a_chunk = max(1.0, _rank_chunk(engine) / demand.fresh)
    spread = math.sqrt((4 / 3 * demand.spread - 1.0) / in_a_chunk)
    return 1.0 + spread * sum([1 / rank for rank in range(2, dp + 1)])


def prefill_shared_s(
    engine: EngineModel, demand: Demand, rate_rps: float, gap_s: float = 0.0
) -> float:
    """Engine time of a mean prompt when those that came meanwhile share a prefill step.

    gap_s: a decode step, during which prompts wait too. At most a chunk's worth share.
    Source: the batch n with n = rate · (its own time, or the gap), by iteration from one prompt.
    """
    chunks = max(1, math.ceil(demand.fresh / _rank_chunk(engine)))
    room = engine.chunked_prefill_size / demand.fresh * chunks
    if room <= 1.0 or (chunks > 1 and engine.parallelism.dp == 1):
        return prefill_packed_s(engine, demand)
    tokens, pairs = demand.fresh / chunks, demand.pairs / chunks
    share = 1.0
    for _ in range(8):
        step = chunks * _step_s(engine, tokens, pairs, share)
        following = min(max(rate_rps * max(step, gap_s), 1.0), room)
        if abs(following - share) <= 0.02 * share:
            break
        share = following
    return chunks * _step_s(engine, tokens, pairs, share) / share


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
    if not demand.has_tpot:
        tpot_s = None
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


@cache
def link_rps(engine: EngineModel, demand: Demand) -> float:
    """Most requests per second whose KV the link of one prefill or decode engine moves.

    Source: SGLang sends what the cache held, and each chunk, as transfers of their own, and every
    transfer costs a fixed time (transfer_base_s). Ignores: links that wait for one another.
    """
    chunks = math.ceil(demand.fresh / _rank_chunk(engine)) + (demand.cached > 0)
    last = demand.isl / chunks
    moved = (chunks - 1) * chunk_s(engine.times, last) + last_chunk_s(
        engine.times, last, demand.isl
    )
    return MOST_USE / moved if moved > 0 else math.inf


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


NORMAL_P90 = 1.2816  # 90th percentile of a standard normal


@dataclass(frozen=True)
class Pace:
    """A layout at one rate, in the mean and at the 90th percentile. None of it is simulated."""

    ttft_s: float
    ttft_p90_s: float
    tpot_s: float
    tpot_p90_s: float
    running: float  # requests decoding on one engine


@cache
def colocated_rps(engine: EngineModel, demand: Demand, slo: Slo) -> float:
    """Most requests per second one colocated engine carries within the SLO.

    Prefill goes first: it queues by itself, and decode has what it leaves.
    """
    packed = prefill_packed_s(engine, demand)
    first = prefill_rps(engine, demand, slo, tpot_at(engine, demand, 1.0) / 2)
    top = min(first, MOST_USE / packed)
    if top <= 0 or max_batch(engine, demand) < 1:
        return 0.0

    def holds(rate: float) -> bool:
        pace = colocated_pace(engine, demand, rate)
        return pace is not None and (slo.tpot_s is None or pace.tpot_p90_s <= slo.tpot_s)

    if not holds(top * 1e-3):
        return 0.0
    return top if holds(top) else bisect(holds, top * 1e-3, top, steps=10)


def colocated_pace(engine: EngineModel, demand: Demand, rate_rps: float) -> Pace | None:
    """One colocated engine at `rate_rps`; None above what it carries.

    TPOT = step / (1 − prefill's share of time). A request of OSL tokens meets a Poisson number
    of foreign prefills, so short outputs spread wide. The prompts of one prefill step are those
    that came during a decode step.
    Source: SGLang's scheduler runs no decode step while a prompt waits (prefill first).
    Ignores: memory pressure and retraction.
    """
    batch, each, busy = 1.0, 0.0, 0.0
    for _ in range(3):
        each = (
            prefill_shared_s(engine, demand, rate_rps, step_s(engine, demand, batch))
            if demand.decode_tokens
            else prefill_packed_s(engine, demand)  # prompts alone may follow one another for ever
        )
        busy = rate_rps * each
        load = rate_rps * demand.decode_tokens / max(1.0 - busy, 1e-9)
        running = running_requests(engine, demand, load)
        if busy >= 1.0 or running is None:
            return None
        batch = running
    tpot = tpot_at(engine, demand, batch) / (1.0 - busy)
    stalls = rate_rps * demand.osl * tpot
    spread = math.sqrt(stalls * demand.spread) * each / demand.osl
    alone = prefill_alone_s(engine, demand)
    wait, tail = _waits(busy, each * demand.spread)
    half = step_s(engine, demand, batch) / 2 if demand.decode_tokens else 0.0
    slow = max(alone + tail, prefill_long_s(engine, demand) + wait)
    tpot_p90 = tpot + NORMAL_P90 * spread if demand.has_tpot else 0.0
    mean_tpot = tpot if demand.decode_tokens else 0.0
    return Pace(alone + wait + half, slow + half, mean_tpot, tpot_p90, batch)


def pd_pace(
    prefill: EngineModel, decode: EngineModel, ratio: tuple[int, int], demand: Demand, rps: float
) -> Pace | None:
    """`ratio` prefill and decode engines at `rps` in all; None above what they carry.

    Source: SGLang's prefill engine replies to a batch after the next one, if there is one.
    Ignores: that an engine's prompts come in turn from the router, which evens arrivals out.
    """
    rate, packed = rps / ratio[0], prefill_packed_s(prefill, demand)
    busy = rate * packed
    batch = running_requests(decode, demand, rps / ratio[1] * demand.osl)
    if busy >= 1.0 or batch is None or rps > min(ratio) * link_rps(prefill, demand):
        return None
    wait, tail = _waits(busy, packed * demand.spread)
    grown = max(prefill_shared_s(prefill, demand, rate) * rate, 1.0)
    after = handover_s(prefill, decode, demand)
    alone = prefill_alone_s(prefill, demand)
    first = alone * (grown + busy) + after  # a reply waits for the batch behind it
    slow = max(first + tail, prefill_long_s(prefill, demand) + wait + after)
    tpot = tpot_at(decode, demand, batch)
    crowded = tpot_at(decode, demand, batch + NORMAL_P90 * math.sqrt(batch))
    tpot_p90 = (tpot + crowded) / 2 if demand.has_tpot else 0.0
    return Pace(first + wait, slow, tpot if demand.decode_tokens else 0.0, tpot_p90, batch)


def handover_s(prefill: EngineModel, decode: EngineModel, demand: Demand) -> float:
    """From the last chunk's end to the first token: that chunk's KV, and half a decode step.

    Source: SGLang sends KV chunk by chunk, so only the last chunk is exposed.
    """
    last = min(demand.fresh, prefill.chunked_prefill_size)
    moved = last_chunk_s(prefill.times, last, demand.isl)
    return moved + step_s(decode, demand, 1.0) / 2


def idle_parts_s(fleet: Fleet, demand: Demand) -> tuple[float, float, float]:
    """The parts of an idle layout's times: a long prompt's prefill, KV transfer, one decode step.

    The transfer is 0 where nothing is split.
    """
    prefill, decode = fleet.prefill or fleet.colocated, fleet.decode or fleet.colocated
    assert prefill is not None
    assert decode is not None
    last = min(demand.fresh, prefill.chunked_prefill_size)
    moved = last_chunk_s(prefill.times, last, demand.isl) if fleet.prefill else 0.0
    return prefill_long_s(prefill, demand), moved, tpot_at(decode, demand, 1.0)


def _waits(use: float, service_s: float) -> tuple[float, float]:
    """Mean wait and its 90th percentile, M/G/1 with `service_s` = E[S²] / E[S]."""
    mean = use / (2.0 * (1.0 - use)) * service_s
    tail = max(0.0, math.log(max(use, 1e-9) / 0.1)) / (2.0 * (1.0 - use)) * service_s
    return mean, max(mean, tail)


@dataclass(frozen=True)
class Scored:
    """A fleet with its closed-form capacity."""

    fleet: Fleet
    capacity_rps: float


def capacity_rps(fleet: Fleet, demand: Demand, slo: Slo) -> float:
    """Highest rate of a fleet within the SLO, in closed form.

    Source: the slower pool bounds a split (AIConfigurator 2601.06288, Algorithm 3), or the links
    of the smaller one.
    """
    if fleet.colocated is not None:
        return fleet.num_colocated * colocated_rps(fleet.colocated, demand, slo)
    assert fleet.prefill is not None
    assert fleet.decode is not None
    after = handover_s(fleet.prefill, fleet.decode, demand)
    return min(
        fleet.num_prefill * prefill_rps(fleet.prefill, demand, slo, after),
        fleet.num_decode * decode_rps(fleet.decode, demand, slo.tpot_s),
        min(fleet.num_prefill, fleet.num_decode) * link_rps(fleet.prefill, demand),
    )


@cache
def ceiling_rps(fleet: Fleet, demand: Demand) -> float:
    """A rate beyond what a fleet does with every engine full in every step.

    Of a shared prefix, colocated engines keep one copy. Source: Little's law at the largest batch.
    Ignores: that with mixed chunks prompts and decode rows share weights, so there prefill is free.
    """
    if fleet.colocated is not None:
        one = fleet.colocated
        each = 0.0 if one.mixed_chunk else prefill_packed_s(one, demand)
        each += _least_decode_s(one, demand, demand.context - demand.cached)
        return CERTAINLY * fleet.num_colocated / each
    assert fleet.prefill is not None
    assert fleet.decode is not None
    decode_s = _least_decode_s(fleet.decode, demand, demand.context)
    return CERTAINLY * min(
        fleet.num_prefill / prefill_packed_s(fleet.prefill, demand),
        fleet.num_decode / decode_s if decode_s else math.inf,
        min(fleet.num_prefill, fleet.num_decode) * link_rps(fleet.prefill, demand) / MOST_USE,
    )


def _least_decode_s(engine: EngineModel, demand: Demand, own: float) -> float:
    """Engine time of a mean request's decode in the largest batch; own: KV tokens of each."""
    batch = max(min(engine.kv_capacity_tokens / max(own, 1.0), engine.max_running_requests), 1.0)
    return demand.decode_tokens * tpot_at(engine, demand, batch) / batch


def pace_of(fleet: Fleet, demand: Demand, rate_rps: float) -> Pace | None:
    """Latencies of a fleet at a rate, in closed form; None beyond what it carries."""
    if fleet.colocated is not None:
        return colocated_pace(fleet.colocated, demand, rate_rps / fleet.num_colocated)
    assert fleet.prefill is not None
    assert fleet.decode is not None
    ratio = (fleet.num_prefill, fleet.num_decode)
    return pd_pace(fleet.prefill, fleet.decode, ratio, demand, rate_rps)


def mean_latency_s(pace: Pace | None, demand: Demand) -> float:
    """From the arrival of a mean request to its last token; infinite where it is not carried."""
    return pace.ttft_s + demand.osl * pace.tpot_s if pace else math.inf


def excess(pace: Pace | None, slo: Slo) -> float:
    """The worse of TTFT and TPOT over its SLO: 1 is just met."""
    if pace is None:
        return float("inf")
    parts = [pace.ttft_p90_s / slo.ttft_s] if slo.ttft_s else []
    parts += [pace.tpot_p90_s / slo.tpot_s] if slo.tpot_s else []
    return max(parts, default=0.0)


def load_estimate(
    prefill: EngineModel, decode: EngineModel, demand: Demand, tokens_per_s: float
) -> LoadEstimate:
    """The rules' inputs for a split: its decode batch, and moving KV compared with computing it.

    tokens_per_s: output of one decode engine.
    Source: Little's law for the batch; where the rate is too much, the batch that fits.
    """
    running = running_requests(decode, demand, tokens_per_s)
    return LoadEstimate(
        decode_batch=max_batch(decode, demand) if running is None else running,
        kv_move_s=kv_transfer_s(prefill.times, demand.isl),
        prefill_s=prefill_alone_s(prefill, demand),
    )
