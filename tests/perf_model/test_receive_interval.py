"""--scheduler-recv-interval: a colocated engine looks for requests every so many decode steps."""

from statistics import mean

from pdctl.perf_model.engine_model import engine_model
from pdctl.perf_model.records import Fleet, Outcome, Parallelism
from pdctl.perf_model.simulator.simulate import simulate_clients
from pdctl.workload.records import Requests
from tests.perf_model.shapes import cluster, llm

CLIENTS = 16


def played(interval: int) -> Outcome:
    engine = engine_model(
        llm("llama-3.1-8b"), cluster(), Parallelism(), "colocated", receive_interval=interval
    )
    assert engine is not None
    count = 10 * CLIENTS
    lengths = [400 + 7 * (i % 40) for i in range(count)]
    requests = Requests([0.0] * count, lengths, [100 + i % 30 for i in range(count)])
    return simulate_clients(Fleet(colocated=engine, num_colocated=1), requests, CLIENTS)


def means(outcome: Outcome) -> tuple[float, float]:
    return (
        mean(t for t in outcome.ttft_s if t is not None),
        mean(t for t in outcome.tpot_s if t is not None),
    )


def test_a_request_waits_for_half_the_interval_and_interrupts_fewer_steps() -> None:
    (ttft_s, tpot_s), (late_s, calm_s) = means(played(1)), means(played(30))
    assert late_s > ttft_s + 8 * calm_s
    assert late_s < ttft_s + 31 * calm_s
    assert calm_s < tpot_s


def test_every_request_is_answered_with_any_interval() -> None:
    for interval in (1, 2, 30, 1000):
        outcome = played(interval)
        assert all(time is not None for time in outcome.ttft_s)
        assert outcome.num_failed == outcome.num_rejected == 0
