"""A layout's closed-form figures, and which of two layouts is better."""

from dataclasses import dataclass

from pdctl.perf_model.records import EngineModel, Fleet
from pdctl.perf_model.transfer import kv_transfer_s
from pdctl.verdict.capacity import (
    Demand,
    decode_rps,
    max_batch,
    prefill_alone_s,
    prefill_rps,
    running_requests,
)
from pdctl.verdict.pace import Pace, colocated_pace, colocated_rps, handover_s, pd_pace
from pdctl.verdict.rules import Load
from pdctl.workload.records import Slo


@dataclass(frozen=True)
class Scored:
    """A fleet with its closed-form knee, and its pace at a rate (None: it cannot carry it)."""

    fleet: Fleet
    rate_rps: float
    knee_rps: float
    pace: Pace | None


def score(fleet: Fleet, demand: Demand, slo: Slo, rate_rps: float) -> Scored:
    """A fleet's closed-form figures at a rate."""
    return Scored(fleet, rate_rps, knee_rps(fleet, demand, slo), pace_of(fleet, demand, rate_rps))


def knee_rps(fleet: Fleet, demand: Demand, slo: Slo) -> float:
    """Highest rate of a fleet within the SLO, in closed form.

    Source: the slower pool bounds a split (AIConfigurator 2601.06288, Algorithm 3).
    """
    if fleet.colocated is not None:
        return fleet.num_colocated * colocated_rps(fleet.colocated, demand, slo)
    assert fleet.prefill is not None
    assert fleet.decode is not None
    after = handover_s(fleet.prefill, fleet.decode, demand)
    return min(
        fleet.num_prefill * prefill_rps(fleet.prefill, demand, slo, after),
        fleet.num_decode * decode_rps(fleet.decode, demand, slo.tpot_s),
    )


def pace_of(fleet: Fleet, demand: Demand, rate_rps: float) -> Pace | None:
    """Latencies of a fleet at a rate, in closed form; None beyond what it carries."""
    if fleet.colocated is not None:
        return colocated_pace(fleet.colocated, demand, rate_rps / fleet.num_colocated)
    assert fleet.prefill is not None
    assert fleet.decode is not None
    ratio = (fleet.num_prefill, fleet.num_decode)
    return pd_pace(fleet.prefill, fleet.decode, ratio, demand, rate_rps)


def preference(scored: Scored, demand: Demand, slo: Slo) -> tuple[float, ...]:
    """Larger is better: goodput with SLOs; without, whether it keeps up, then mean latency.

    Among equals, the layout nearer to its SLOs at the rate asked about.
    """
    if slo.is_given:
        return (scored.knee_rps, -excess(scored.pace, slo))
    if scored.pace is None or scored.knee_rps < scored.rate_rps:
        return (0.0, scored.knee_rps)
    return (1.0, -(scored.pace.ttft_s + demand.osl * scored.pace.tpot_s))


def excess(pace: Pace | None, slo: Slo) -> float:
    """The worse of TTFT and TPOT over its SLO: 1 is just met."""
    if pace is None:
        return float("inf")
    parts = [pace.ttft_p90_s / slo.ttft_s] if slo.ttft_s else []
    parts += [pace.tpot_p90_s / slo.tpot_s] if slo.tpot_s else []
    return max(parts, default=0.0)


def load_of(
    prefill: EngineModel, decode: EngineModel, num_decode: int, demand: Demand, rate_rps: float
) -> Load:
    """What the rules want to know of a split: decode batch, and moving KV against making it.

    Source: Little's law for the batch; where the rate is too much, the batch that fits.
    """
    running = running_requests(decode, demand, rate_rps / num_decode * demand.osl)
    return Load(
        decode_batch=max_batch(decode, demand) if running is None else running,
        kv_move_s=kv_transfer_s(prefill.times, demand.isl),
        prefill_s=prefill_alone_s(prefill, demand),
    )
