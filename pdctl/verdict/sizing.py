"""Sizings by rule and by simulation, and the estimates that the rules read."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from pdctl.perf_model.records import Fleet
from pdctl.verdict.closed_form import Demand, load_estimate, prefill_tokens_per_s, tpot_at
from pdctl.verdict.records import Arm, Choice, Site, Sizing
from pdctl.verdict.rules import LoadEstimate, quarter, rate_match


def simulated_sizing(choice: Choice, arms: Mapping[str, Arm]) -> Sizing:
    """The chosen arm's engines of each role."""
    if choice == "colocated" or "pd" not in arms:
        return Sizing(arms["colocated"].num_engines, None, None, "simulation")
    split = arms["pd"]
    prefill, decode = split.counts["prefill"], split.counts["decode"]
    return Sizing(split.num_engines, prefill, decode, "simulation")


@dataclass(frozen=True)
class TokenLoad:
    """Tokens a second that all requests ask for: of prompts, uncached, and of output."""

    prompt_per_s: float
    output_per_s: float


def first_sizings(fleet: Fleet, demand: Demand, load: TokenLoad) -> Iterator[Sizing]:
    """The sizings by rule that the simulated one is compared with.

    A decode engine's tokens per second count what one verify step of a batch yields.
    """
    assert fleet.prefill is not None
    assert fleet.decode is not None
    total = fleet.num_engines
    batch = min(64.0, fleet.decode.max_running_requests)
    yield quarter(total)
    yield rate_match(
        total,
        prompt_tokens_per_s=load.prompt_per_s,
        prefill_tokens_per_s=prefill_tokens_per_s(fleet.prefill, demand),
        output_tokens_per_s=load.output_per_s,
        decode_tokens_per_s=batch / tpot_at(fleet.decode, demand, batch),
    )


def load_of(site: Site, fleet: Fleet, demand: Demand, load: TokenLoad) -> LoadEstimate:
    """The estimates that the rules read, for a fleet. Moving KV is unknown where the links are."""
    prefill, decode = fleet.prefill or fleet.colocated, fleet.decode or fleet.colocated
    assert prefill is not None
    assert decode is not None
    num = fleet.num_decode or fleet.num_colocated
    estimate = load_estimate(prefill, decode, demand, load.output_per_s / num)
    estimate = replace(estimate, is_split=fleet.decode is not None)
    cluster = site.cluster
    is_known = cluster.num_nodes == 1 or cluster.rdma_bytes_per_s is not None
    return estimate if is_known else replace(estimate, kv_move_s=None)
