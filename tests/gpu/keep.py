"""The loads of a run as test data: who came when, what it took, what was predicted before.

    python -m tests.gpu.keep HOST OUT [OUT/pages/info-*.json ...] >> tests/data/loads_GPU.jsonl

HOST: a letter for the machine. OUT: what a run left, unpacked.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pdctl.measurement.engine_facts import limits_of
from pdctl.measurement.results import LoadResult, read_results

FIGURES = ("ttft p50", "ttft p99", "tpot p50", "tpot p99")


def main() -> None:
    """Print a line a load."""
    host, out, *infos = sys.argv[1:]
    limits = dict(_limits(Path(info)) for info in infos)
    taken: dict[str, Iterator[LoadResult]] = {}
    for line in Path(out, "rows.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row["what"] == "load":
            tag = row["tag"]
            if tag not in taken:
                taken[tag] = iter(read_results(Path(out, f"loads-{tag}.jsonl")))
            sys.stdout.write(json.dumps(_kept(host, row, next(taken[tag]), limits)) + "\n")


def _limits(info: Path) -> tuple[str, list[int]]:
    """Role of an engine, its KV tokens, running requests and chunk."""
    page = json.loads(info.read_text())
    mode = page["disaggregation_mode"]
    limits = limits_of(page)
    role = "colocated" if mode == "null" else mode
    return role, [limits.kv_tokens, limits.max_running, limits.chunk]


def _kept(
    host: str, row: dict[str, Any], result: LoadResult, limits: dict[str, list[int]]
) -> dict[str, Any]:
    sent = sorted(result.sent, key=lambda one: one.intended_s)
    assert not any((one.cached_tokens or 0) > 8 for one in sent)
    columns: dict[str, list[float | None]] = defaultdict(list)
    for one in sent:
        columns["arrival_s"].append(round(one.intended_s, 4))
        columns["ttft_ms"].append(None if one.error else round(1e3 * (one.ttft_s or 0), 1))
        columns["tpot_ms"].append(None if one.error else round(1e3 * (one.tpot_s or 0), 3))
    llm = "qwen3-30b-a3b" if row["tag"] == "moe" else "llama-3.1-8b"
    roles = ("colocated",) if row["layout"].endswith("C") else ("prefill", "decode")
    return {
        "host": host, "arm": row["tag"], "llm": llm, "layout": row["layout"],
        "rate": row["rate"], "isl": row["isl"], "osl": row["osl"],
        "limits": {role: limits[role] for role in roles},
        "before": {name: round(1e3 * row[name][0], 3) for name in FIGURES},
        "late_p99_ms": round(1e3 * row["late_p99"], 2),
        **columns,
    }  # fmt: skip


if __name__ == "__main__":
    main()
