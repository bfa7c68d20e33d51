"""Does it change anything to decide decode steps in smaller bites? Not a test.

python -m tests.bench.bench_finer TRACE...

Every trace on four layouts, two of them short of KV: once from event to event, once with at most
ten decode steps at a time, once token by token. Prints how far any percentile moves.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from pdctl.perf_model.metrics import percentiles
from pdctl.perf_model.records import Fleet, Outcome
from pdctl.perf_model.simulator.simulate import find_prefixes, simulate
from pdctl.workload.records import Requests
from pdctl.workload.traces import read_trace
from tests.bench.bench_simulator import fleet

SHARES = ("p50", "p90", "p99")
TABLES = (("8C", 700_000), ("2P6D", 700_000), ("8C", 60_000), ("6P2D", 150_000))


def figures(outcome: Outcome) -> dict[str, float]:
    """Every percentile of every latency, in seconds."""
    columns = {"TTFT": outcome.ttft_s, "TPOT": outcome.tpot_s, "e2e": outcome.e2e_s}
    found = {name: percentiles(values) for name, values in columns.items()}
    return {
        f"{name} {share}": getattr(one, share)
        for name, one in found.items()
        if one is not None
        for share in SHARES
    }


def most_moved(coarse: Outcome, fine: Outcome) -> tuple[float, str]:
    """The largest relative change of a percentile, and which one."""
    before, after = figures(coarse), figures(fine)
    return max((abs(after[name] / before[name] - 1), name) for name in before if before[name])


def lines(name: str, asked: Requests) -> Iterator[str]:
    """One per table and bite."""
    prefixes = find_prefixes(asked)
    for layout, kv_tokens in TABLES:
        of: Fleet = fleet(layout, kv_tokens)
        coarse = simulate(of, asked, prefixes=prefixes)
        for steps in (10, 1):
            fine = simulate(of, asked, prefixes=prefixes, max_decode_steps_per_event=steps)
            share, what = most_moved(coarse, fine)
            told = f"{name:<28}{layout:>6}{kv_tokens:>9,}{coarse.num_retracted:>10,}{steps:>6}"
            yield f"{told}{share:>11.4%}  {what}"


def main(files: Sequence[str]) -> None:
    """Print the table."""
    sys.stdout.write(
        "trace                       layout KV tokens retracted steps largest change\n"
    )
    for file in files:
        for line in lines(Path(file).stem, read_trace(Path(file)).requests):
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
