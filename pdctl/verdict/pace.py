"""Closed forms: at what pace does a layout serve a rate, and which rate can an engine carry?"""

import math
from dataclasses import dataclass
from functools import cache

from pdctl.perf_model.records import EngineModel
from pdctl.verdict.capacity import (
    MOST_USE,
    Demand,
    bisect,
    max_batch,
    prefill_alone_s,
    prefill_long_s,
    prefill_packed_s,
    prefill_rps,
    prefill_shared_s,
    running_requests,
    step_s,
    tpot_at,
)
from pdctl.workload.records import Slo

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
        each = prefill_shared_s(engine, demand, rate_rps, step_s(engine, demand, batch))
        busy = rate_rps * each
        load = rate_rps * demand.osl / max(1.0 - busy, 1e-9)
        running = running_requests(engine, demand, load)
        if busy >= 1.0 or running is None:
            return None
        batch = running
    tpot = tpot_at(engine, demand, batch) / (1.0 - busy)
    stalls = rate_rps * demand.osl * tpot
    spread = math.sqrt(stalls * demand.spread) * each / demand.osl
    alone = prefill_alone_s(engine, demand)
    wait, tail = _waits(busy, each * demand.spread)
    half = step_s(engine, demand, batch) / 2
    slow = max(alone + tail, prefill_long_s(engine, demand) + wait)
    return Pace(alone + wait + half, slow + half, tpot, tpot + NORMAL_P90 * spread, batch)


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
    if busy >= 1.0 or batch is None:
        return None
    wait, tail = _waits(busy, packed * demand.spread)
    grown = max(prefill_shared_s(prefill, demand, rate) * rate, 1.0)
    after = handover_s(prefill, decode, demand)
    alone = prefill_alone_s(prefill, demand)
    first = alone * (grown + busy) + after  # a reply waits for the batch behind it
    slow = max(first + tail, prefill_long_s(prefill, demand) + wait + after)
    tpot = tpot_at(decode, demand, batch)
    crowded = tpot_at(decode, demand, batch + NORMAL_P90 * math.sqrt(batch))
    return Pace(first + wait, slow, tpot, (tpot + crowded) / 2, batch)


def handover_s(prefill: EngineModel, decode: EngineModel, demand: Demand) -> float:
    """From the last chunk's end to the first token: that chunk's KV, and half a decode step.

    Source: SGLang sends KV chunk by chunk, so only the last chunk is exposed.
    """
    last = min(demand.fresh, prefill.chunked_prefill_size)
    moved = prefill.times.transfer_base_s + prefill.times.transfer_token_s * last
    return moved + step_s(decode, demand, 1.0) / 2


def _waits(use: float, service_s: float) -> tuple[float, float]:
    """Mean wait and its 90th percentile, M/G/1 with `service_s` = E[S²] / E[S]."""
    mean = use / (2.0 * (1.0 - use)) * service_s
    tail = max(0.0, math.log(max(use, 1e-9) / 0.1)) / (2.0 * (1.0 - use)) * service_s
    return mean, max(mean, tail)
