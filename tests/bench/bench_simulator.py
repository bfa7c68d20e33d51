"""CPU seconds and memory of the simulator. Not a test.

python -m tests.bench.bench_simulator [--trace mooncake_conversation.jsonl] [--million]

The trace is kvcache-ai/Mooncake's FAST25-release/traces/conversation_trace.jsonl; without it a
synthetic one of the same size and shape takes its place. The step times are those of a 32B
dense model on two H200 (roofline, rounded): they decide queues, not the cost of simulating.
"""

import argparse
import gc
import json
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

from pdctl.perf_model.records import EngineModel, Fleet, Outcome, Parallelism, Role, StepTimes
from pdctl.perf_model.simulator.kv import Prefixes
from pdctl.perf_model.simulator.simulate import find_prefixes, simulate
from pdctl.workload.records import Requests

TIMES = StepTimes(
    prefill_base_s=0.003,
    prefill_token_s=3.5e-5,
    prefill_pair_s=4.8e-10,
    decode_base_s=0.002,
    decode_weight_s=0.010,
    decode_request_s=2e-5,
    decode_latency_s=2e-8,
    decode_context_s=3e-8,
    decode_compute_s=5e-5,
    transfer_base_s=0.002,
    transfer_token_s=6e-6,
    prefill_weight_s=0.010,
)
LAYOUTS = ["8C", *(f"{p}P{8 - p}D" for p in range(1, 8))]


def engine(role: Role, kv_tokens: int) -> EngineModel:
    """One engine of the bench."""
    return EngineModel(
        role=role,
        parallelism=Parallelism(tp=2),
        times=TIMES,
        kv_capacity_tokens=kv_tokens,
        max_running_requests=2048,
        chunked_prefill_size=8192,
        max_context=131_072,
    )


def fleet(layout: str, kv_tokens: int = 700_000) -> Fleet:
    """A fleet from "8C" or "2P6D"."""
    models = {role: engine(role, kv_tokens) for role in ("colocated", "prefill", "decode")}
    if layout.endswith("C"):
        return Fleet(colocated=models["colocated"], num_colocated=int(layout[:-1]))
    prefill, decode = layout[:-1].split("P")
    return Fleet(
        prefill=models["prefill"],
        decode=models["decode"],
        num_prefill=int(prefill),
        num_decode=int(decode),
    )


def read_mooncake(path: Path) -> Requests:
    """The trace, without the checks of workload/traces."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return Requests(
        [row["timestamp"] / 1000 for row in rows],
        [row["input_length"] for row in rows],
        [row["output_length"] for row in rows],
        [tuple(row["hash_ids"]) for row in rows],
        512,
    )


def synthetic(count: int, rate_rps: float, seed: int = 0, *, blocks: bool = True) -> Requests:
    """Conversations like the trace's: 37 % of the prompt tokens repeat an earlier turn."""
    rng = Random(seed)
    now, fresh = 0.0, 0
    arrival_s, isl, osl, runs = [], [], [], []
    recent: list[tuple[int, ...]] = []
    for _ in range(count):
        now += rng.expovariate(rate_rps)
        start = rng.choice(recent) if recent and rng.random() < 0.5 else ()
        length = 1 + int(rng.lognormvariate(2.2, 1.0)) % 200
        run = (*start, *range(fresh, fresh + length))[:240]
        fresh += length
        recent.append(run)
        del recent[:-500]
        arrival_s.append(now)
        isl.append(len(run) * 512 - rng.randrange(512))
        osl.append(1 + int(rng.lognormvariate(5.5, 0.8)) % 2000)
        runs.append(run)
    return Requests(arrival_s, isl, osl, runs if blocks else None, 512 if blocks else 0)


def cpu_s(work: Callable[[], object], repeat: int = 1) -> float:
    """The least CPU seconds of some runs of `work`."""
    best = float("inf")
    for _ in range(repeat):
        gc.collect()
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return best


def row(what: str, seconds: float, count: int, outcome: Outcome | None = None) -> None:
    """One line of the table."""
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    done = sum(t is not None for t in outcome.ttft_s) if outcome else count
    each = 1e6 * seconds / max(count, 1)
    sys.stdout.write(f"{what:<34}{seconds:>8.3f} s{each:>9.1f} µs{rss:>8.0f} MiB{done:>10}\n")
    sys.stdout.flush()


def measure(
    what: str, of: Fleet, asked: Requests, prefixes: Prefixes | None, repeat: int = 1
) -> None:
    """Simulate and print."""
    outcomes: list[Outcome] = []

    def work() -> None:
        outcomes[:] = [simulate(of, asked, prefixes=prefixes)]

    seconds = cpu_s(work, repeat)
    row(what, seconds, len(asked), outcomes[0])


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--trace", type=Path)
    options.add_argument("--million", action="store_true", help="also 1,000,000 requests")
    options.add_argument("--repeat", type=int, default=5)
    given = options.parse_args(argv)
    asked = read_mooncake(given.trace) if given.trace else synthetic(12_031, 3.4)
    row_names = f"{'':<34}{'CPU':>10}{'each':>12}{'peak RSS':>12}{'done':>10}\n"
    sys.stdout.write(row_names)
    prefixes = find_prefixes(asked)
    row("prefixes, once per trace", cpu_s(lambda: find_prefixes(asked), 3), len(asked))
    for layout in LAYOUTS:
        measure(f"{layout}, whole trace", fleet(layout), asked, prefixes, given.repeat)
    measure("8C, KV of 150k tokens", fleet("8C", 150_000), asked, prefixes, given.repeat)
    measure("4P4D, KV of 150k tokens", fleet("4P4D", 150_000), asked, prefixes, given.repeat)
    for count in (1000, 10_000, 100_000):
        part = synthetic(count, 3.4)
        measure(f"8C, {count:,} requests", fleet("8C"), part, find_prefixes(part))
        measure(f"4P4D, {count:,} requests", fleet("4P4D"), part, find_prefixes(part))
    for engines in (8, 64, 512):
        part = synthetic(12_000, 3.4 * engines / 8)
        split = f"{engines // 2}P{engines // 2}D"
        measure(f"{engines}C, 12,000 requests", fleet(f"{engines}C"), part, find_prefixes(part))
        measure(f"{split}, 12,000 requests", fleet(split), part, find_prefixes(part))
    if given.million:
        part = synthetic(1_000_000, 3.4)
        found: list[Prefixes | None] = []
        row("prefixes of 1,000,000", cpu_s(lambda: found.append(find_prefixes(part))), len(part))
        measure("8C, 1,000,000 requests", fleet("8C"), part, found[0])
        measure("4P4D, 1,000,000 requests", fleet("4P4D"), part, found[0])


if __name__ == "__main__":
    main()
