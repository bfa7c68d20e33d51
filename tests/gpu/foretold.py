"""Predict every step of a plan for tests/gpu/kinds.py before the plan runs.

    python -m tests.gpu.foretold MODELS PLAN > foretold.json

Uses the roofline of RELEASE with triton attention. `ms` assumes prefill graphs, `eager_ms` none.
Loads are simulated with the arrivals of `pdctl measure`; verify steps with the tokens that the
kind's flags name. Drafts are taken as never accepted, as those of a dummy draft model are.
"""

import json
import sys
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from pdctl.inspection.cluster import parse_gpus
from pdctl.inspection.llm import read_llm
from pdctl.inspection.records import Cluster, Llm
from pdctl.measurement.compare import windowed
from pdctl.perf_model.fitting.fit import predicted_s
from pdctl.perf_model.metrics import percentiles
from pdctl.perf_model.records import (
    EngineModel,
    Fleet,
    Measurement,
    Outcome,
    Parallelism,
    Role,
    Serving,
    StepTimes,
)
from pdctl.perf_model.roofline import step_times
from pdctl.perf_model.simulator.simulate import simulate, simulate_clients
from pdctl.workload.arrivals import make_requests
from pdctl.workload.describe import workload_from_lengths
from tests.gpu.kinds import LEAST_LOAD_S, LOOP_CV, ROLES, Kind, kinds, steps_of_kind

CHUNK = 8192
RELEASE = "0.5.17"
MAX_RUNNING = 4096
ROUNDS = 12  # requests of each client of a closed loop
PAIRED = (256, 1024, 4096, 8192)


def expected_s(times: StepTimes, step: Measurement) -> float:
    """Predicted seconds; a prompt of two chunks is the sum of two steps."""
    if step.new_tokens <= CHUNK:
        return predicted_s(times, step)
    second = replace(step, new_tokens=step.new_tokens - CHUNK, cached_tokens=CHUNK, counted=True)
    first = predicted_s(times, replace(step, new_tokens=CHUNK))
    return first + predicted_s(times, second) - times.prefill_start_s


def foretold(models: Path, kind: Kind, gpu: str) -> list[dict[str, Any]]:
    """Predicted milliseconds for each step of one kind."""
    tp = 1 if kind.pair else len(kind.gpus.split(","))
    llm, cluster = read_llm(str(models / kind.model)), parse_gpus(f"{2 if kind.pair else tp}x{gpu}")
    role: Role = "decode" if kind.pair else "colocated"
    serving = Serving(
        attention_backend="triton",
        release=RELEASE,
        prefill_sizes=prefill_sizes(kind),
        ngram="NGRAM" in kind.args,
    )
    times = step_times(llm, cluster, Parallelism(tp=tp), role, serving=serving)
    rows = []
    for step in steps_of_kind(kind, "prefill" if kind.pair else "colocated"):
        graphs, eager = (expected_s(times, replace(step, eager=flag)) for flag in (False, True))
        row = {"step": [step.kind, step.batch, step.new_tokens, step.context]}
        rows.append({**row, "ms": round(1e3 * graphs, 3), "eager_ms": round(1e3 * eager, 3)})
    for tokens in PAIRED if kind.pair else ():
        prefill = predicted_s(times, Measurement("prefill", 0.0, new_tokens=tokens))
        moved = predicted_s(times, Measurement("transfer", 0.0, new_tokens=tokens))
        shape = ["pair", 1, tokens, 0]
        rows.append({"step": shape, "ms": round(1e3 * (prefill + moved), 3)})
    return rows + foretold_verify(llm, cluster, kind, serving)


def foretold_verify(
    llm: Llm, cluster: Cluster, kind: Kind, serving: Serving
) -> list[dict[str, Any]]:
    """Verify steps of a speculating engine; none of one that does not."""
    tokens = _flag(kind, "--speculative-num-draft-tokens")
    if tokens is None:
        return []
    speculating = replace(serving, verify_tokens=tokens)
    times = step_times(llm, cluster, Parallelism(), "colocated", serving=speculating)
    rows = []
    for batch, context in kind.verified:
        step = Measurement("decode", 0.0, batch=batch, context=batch * (context + 100))
        ms = round(1e3 * predicted_s(times, step), 3)
        rows.append({"step": ["verify", batch, tokens, step.context], "ms": ms})
    return rows


def foretold_loads(models: Path, kind: Kind, gpu: str) -> list[dict[str, Any]]:
    """Predicted milliseconds for each load: of one engine, or of both arms of two GPUs."""
    llm = read_llm(str(models / kind.model))
    if "arms" in kind.parts:
        engines = {
            role: _engine(llm, parse_gpus(f"2x{gpu}"), kind, role) for role in ROLES.values()
        }
        fleets = {
            "2C": Fleet(colocated=engines["colocated"], num_colocated=2),
            "1P1D": Fleet(
                prefill=engines["prefill"], decode=engines["decode"], num_prefill=1, num_decode=1
            ),
        }
    else:
        engine = _engine(llm, parse_gpus(f"{len(kind.gpus.split(','))}x{gpu}"), kind, "colocated")
        fleets = {"": Fleet(colocated=engine, num_colocated=1)}
    loads = [
        {"load": list(load), **({"arm": arm} if arm else {}), **figures_ms(fleet, load)}
        for load in kind.loads
        if load[3] >= LEAST_LOAD_S
        for arm, fleet in fleets.items()
    ]
    loops = [{"clients": list(loop), **clients_ms(fleets[""], loop)} for loop in kind.loops]
    return loads + loops


def _engine(llm: Llm, cluster: Cluster, kind: Kind, role: Role) -> EngineModel:
    serving = Serving(
        attention_backend="triton",
        release=RELEASE,
        prefill_graphs=True,
        prefill_sizes=prefill_sizes(kind),
        verify_tokens=_flag(kind, "--speculative-num-draft-tokens") or 1,
        ngram="NGRAM" in kind.args,
        receive_interval=_flag(kind, "--scheduler-recv-interval") or 1,
    )
    parallelism = Parallelism(tp=1 if "arms" in kind.parts else len(kind.gpus.split(",")))
    return EngineModel(
        role=role,
        parallelism=parallelism,
        times=step_times(llm, cluster, parallelism, role, serving=serving),
        kv_capacity_tokens=_flag(kind, "--max-total-tokens") or 1 << 20,
        max_running_requests=MAX_RUNNING,
        chunked_prefill_size=CHUNK,
        max_context=llm.max_context or 1 << 17,
        verify_tokens=serving.verify_tokens,
        receive_interval=serving.receive_interval,
    )


def figures_ms(fleet: Fleet, load: tuple[float, int, int, int]) -> dict[str, float]:
    """Percentiles of a load: requests per second, prompt tokens, output tokens, seconds."""
    rate, isl, osl, seconds = load
    workload = workload_from_lengths(isl=isl, osl=osl, rate_rps=rate, isl_cv=0, osl_cv=0)
    requests = make_requests(workload, num=max(2, round(rate * seconds)), rate_rps=rate, seed=0)
    return _percentiles_ms(windowed(simulate(fleet, requests), requests))


def clients_ms(fleet: Fleet, loop: tuple[int, int, int, int]) -> dict[str, float]:
    """Percentiles of a closed loop: clients, prompt tokens, output tokens, seconds."""
    clients, isl, osl, _ = loop
    workload = workload_from_lengths(
        isl=isl, osl=osl, rate_rps=1.0, isl_cv=0, osl_cv=float(LOOP_CV)
    )
    requests = make_requests(workload, num=ROUNDS * clients, rate_rps=1.0, seed=0)
    outcome = simulate_clients(fleet, requests, clients)
    return _percentiles_ms(windowed(outcome, replace(requests, arrival_s=outcome.arrival_s)))


def _percentiles_ms(outcome: Outcome) -> dict[str, float]:
    found = {"ttft": percentiles(outcome.ttft_s), "tpot": percentiles(outcome.tpot_s)}
    return {
        f"{name} {q}": round(1e3 * getattr(one, q), 3)
        for name, one in found.items()
        if one
        for q in ("p50", "p99")
    }


def prefill_sizes(kind: Kind) -> tuple[int, ...]:
    """Sizes of the prefill graphs that the flags of a kind name."""
    _, _, after = kind.args.partition("--cuda-graph-bs-prefill ")
    return tuple(int(word) for word in takewhile(str.isdigit, after.split()))


def _flag(kind: Kind, name: str) -> int | None:
    words = kind.args.split()
    return int(words[words.index(name) + 1]) if name in words else None


def main() -> None:
    """Print a line per GPU and kind."""
    models = Path(sys.argv[1])
    for plan in sys.argv[2:]:
        for kind in (kind for track in kinds(Path(plan)) for kind in track):
            for gpu in ("H100", "H200"):
                has_arms = "arms" in kind.parts
                rows = [] if has_arms else foretold(models, kind, gpu)
                line: dict[str, Any] = {"gpu": gpu, "kind": kind.name, "rows": rows}
                if not kind.pair:
                    line["loads"] = foretold_loads(models, kind, gpu)
                sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
