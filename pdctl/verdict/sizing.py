"""How many engines of each role: by rule, and as simulated; what the rules look at."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from pdctl.perf_model.records import Fleet
from pdctl.verdict.closed_form import Demand, load_estimate, prefill_tokens_per_s, tpot_at
from pdctl.verdict.records import Arm, Choice, Question, Sizing
from pdctl.verdict.rules import LoadEstimate, quarter, rate_match


def simulated_sizing(choice: Choice, arms: Mapping[str, Arm]) -> Sizing:
    """How many engines of each role the chosen arm has."""
    if choice == "colocated" or "pd" not in arms:
        total = sum(arms["colocated"].num_engines)
        return Sizing(total, None, None, "simulation")
    prefill, decode = arms["pd"].num_engines
    return Sizing(prefill + decode, prefill, decode, "simulation")


def first_sizings(fleet: Fleet, demand: Demand, rate_rps: float) -> Iterator[Sizing]:
    """The sizings by rule that the simulated one is compared with.

    A decode engine's tokens per second count what one verify step of a batch yields.
    """
    assert fleet.prefill is not None
    assert fleet.decode is not None
    total = fleet.num_prefill + fleet.num_decode
    batch = min(64.0, fleet.decode.max_running_requests)
    yield quarter(total)
    yield rate_match(
        total,
        rate_rps=rate_rps,
        uncached_prompt_tokens=demand.fresh,
        prefill_tokens_per_s=prefill_tokens_per_s(fleet.prefill, demand),
        output_tokens=demand.osl,
        decode_tokens_per_s=batch / tpot_at(fleet.decode, demand, batch),
    )


def load_of(question: Question, fleet: Fleet, demand: Demand, rate_rps: float) -> LoadEstimate:
    """What the rules look at, for a fleet at a rate; moving KV is unknown where the links are."""
    prefill, decode = fleet.prefill or fleet.colocated, fleet.decode or fleet.colocated
    assert prefill is not None
    assert decode is not None
    num = fleet.num_decode or fleet.num_colocated
    load = load_estimate(prefill, decode, num, demand, rate_rps)
    cluster = question.cluster
    is_known = cluster.num_nodes == 1 or cluster.rdma_bytes_per_s is not None
    return load if is_known else replace(load, kv_move_s=None)
