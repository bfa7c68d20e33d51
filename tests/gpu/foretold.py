"""Predict every step of a plan for tests/gpu/kinds.py before the plan runs.

    python -m tests.gpu.foretold MODELS PLAN > foretold.json

Uses the roofline with triton attention. `ms` assumes prefill graphs, `eager_ms` none.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from pdctl.inspection.cluster import parse_gpus
from pdctl.inspection.llm import read_llm
from pdctl.perf_model.fitting.fit import predicted_s
from pdctl.perf_model.records import Measurement, Parallelism, Role, StepTimes
from pdctl.perf_model.roofline import step_times
from tests.gpu.kinds import Kind, kinds, steps_of_kind

CHUNK = 8192
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
    times = step_times(llm, cluster, Parallelism(tp=tp), role, attention_backend="triton")
    rows = []
    for step in steps_of_kind(kind, "prefill" if kind.pair else "colocated"):
        graphs, eager = (expected_s(times, replace(step, eager=flag)) for flag in (False, True))
        row = {"step": [step.kind, step.batch, step.new_tokens, step.context]}
        rows.append({**row, "ms": round(1e3 * graphs, 3), "eager_ms": round(1e3 * eager, 3)})
    for tokens in PAIRED if kind.pair else ():
        prefill = predicted_s(times, Measurement("prefill", 0.0, new_tokens=tokens, eager=True))
        moved = predicted_s(times, Measurement("transfer", 0.0, new_tokens=tokens))
        shape = ["pair", 1, tokens, 0]
        rows.append({"step": shape, "eager_ms": round(1e3 * (prefill + moved), 3)})
    return rows


def main() -> None:
    """Print a line per GPU and kind."""
    models = Path(sys.argv[1])
    for plan in sys.argv[2:]:
        for kind in (kind for track in kinds(Path(plan)) for kind in track):
            for gpu in ("H100", "H200"):
                line = {"gpu": gpu, "kind": kind.name, "rows": foretold(models, kind, gpu)}
                sys.stdout.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
