"""Condense the results of tests/gpu/kinds.py into one line per engine, in milliseconds.

    python -m tests.gpu.condense HOST TRACK.jsonl... >> tests/data/gpu/steps.jsonl

Leaves out round 0, which compiles kernels. Keeps one step of each trace, as rows of name, count and
total µs.
"""

import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from tests.gpu.kernels import steps_of
from tests.gpu.kinds import LEAST_LOAD_S

LAST_OF_A_STEP = "ArgMaxOps"
Shape = tuple[str, int, int, int]  # kind, requests, new tokens, nearness of contexts
Event = list[Any]  # index of a kernel's name, begin, duration

NAME = 72  # characters of a kernel's
LEAST_US = 1.0  # drop kernels whose total is shorter
KEPT = ("max_total_num_tokens", "max_running_requests", "moe_runner_backend")


def condensed(host: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Condense the rows of one engine."""
    by_what: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_what[row["what"]].append(row)
    found: dict[str, Any] = {"host": host, "kind": rows[0]["kind"]}
    for what, of_it in by_what.items():
        if what in CONDENSED:
            found |= CONDENSED[what](of_it)
    return found


def _ups(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    engines = []
    for row in rows:
        graphs = row["info"].get("cuda_graph_config", {}).get("prefill", {}).get("backend")
        told = {name: row["info"][name] for name in KEPT if row["info"].get(name)}
        engines.append({**told, "prefill_graphs": graphs})
    return {"ready_s": [round(s) for s in rows[-1]["ready_s"]], "engines": engines}


def _steps(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Each step as [kind, batch, new tokens, total context, median, least, most, count]."""
    taken: dict[Shape, list[tuple[float, int]]] = defaultdict(list)
    for row in rows:
        kind, batch, new, context = row["step"]
        near = context // batch // 256 if kind == "decode" else 0
        if row["round"] and row["seconds"]:
            shape = (kind, batch, 0 if kind == "decode" else new, near)
            taken[shape].append((row["seconds"], context))
    return {"steps": [_step_line(shape, found) for shape, found in sorted(taken.items())]}


def _bursts(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """By prompt length: one prompt alone, then the first and the last of several at once."""
    taken: dict[str, list[list[float]]] = defaultdict(list)
    for row in rows:
        seconds = row["seconds"]
        taken[str(row["tokens"])].append([row["alone"], seconds[0], seconds[-1]])
    medians = {
        tokens: [_ms(median(column)) for column in zip(*found, strict=True)]
        for tokens, found in taken.items()
    }
    return {"bursts": medians}


def _pairs(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """By prompt length: first token and gap after it, without the pair's first round."""
    taken: dict[str, list[list[float | None]]] = defaultdict(list)
    for row in rows:
        if row["round"]:
            taken[str(row["tokens"])].append([_ms(row["seconds"]), _ms(row["tpot_s"])])
    return {"pair": taken}


def _loads(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Each figure as [predicted, measured]. Leaves out loads that only warm an engine up."""
    loads = []
    for row in (row for row in rows if row["load"][3] >= LEAST_LOAD_S):
        figures = {
            f["figure"]: [_ms(f["predicted"]), _ms(f["measured"])]
            for f in row["figures"]
            if f["figure"][:4] in ("ttft", "tpot")
        }
        loads.append({"load": row["load"], "requests": row["num_requests"], **figures})
    return {"loads": loads}


def _verifies(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """By number of requests and, other than 512, prompt tokens: median ms of a verify step."""
    taken: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        context = row.get("context", 512)
        shape = str(row["batch"]) if context == 512 else f"{row['batch']}×{context}"
        taken[shape] += row["gaps_s"]
    return {"verify": {batch: _ms(median(gaps)) for batch, gaps in taken.items()}}


def _accepted(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {"accepted": rows[-1]["length"]}


def _kernels(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {"kernels": {row["name"]: _step(row) for row in rows}}


def _kills(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    used = rows[-1]["used_mib"]
    return {"used_mib": [used[0][1], used[-1][1]]}


def _failures(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {"failed": [row["why"].strip().splitlines()[-1][:200] for row in rows]}


CONDENSED = {
    "up": _ups, "step": _steps, "burst": _bursts, "pair": _pairs, "load": _loads,
    "kernels": _kernels, "kill": _kills, "failed": _failures,
    "verify": _verifies, "accepted": _accepted,
}  # fmt: skip


def _step_line(shape: Shape, taken: Sequence[tuple[float, int]]) -> list[Any]:
    kind, batch, new, _ = shape
    seconds = [one for one, _ in taken]
    context = round(median(context for _, context in taken))
    spread = [_ms(f(seconds)) for f in (median, min, max)]
    return [kind, batch, new, context, *spread, len(seconds)]


def _step(row: dict[str, Any]) -> dict[str, Any]:
    """One step of a trace: kernels by name, their total time and the step's span, in µs."""
    names = [kernel[0] for kernel in row["kernels"]]
    steps = _ended_by(row, LAST_OF_A_STEP)
    if row["name"].startswith("decode"):
        chosen = steps[-1]
    else:  # a decode step follows each prompt; a prompt with a cached token takes another path
        longest = max(map(_busy, steps))
        chosen = min((one for one in steps if _busy(one) > longest / 2), key=_busy)
    by_name: dict[str, list[float]] = defaultdict(list)
    for index, _, took in chosen:
        by_name[names[index]].append(took)
    kernels = [
        [n[:NAME], len(t), round(sum(t), 1)] for n, t in by_name.items() if sum(t) >= LEAST_US
    ]
    return {
        "count": len(chosen),
        "busy_us": round(_busy(chosen)),
        "span_us": round(_span(chosen)),
        "kernels": sorted(kernels, key=lambda kernel: -float(kernel[2])),
    }


def _ended_by(row: dict[str, Any], marker: str) -> list[list[Event]]:
    """Cut a trace into steps and drop what precedes a gap of 4 ms."""
    cut = steps_of(row, marker)
    # `marker` is the last kernel of a step, so it belongs to the step before the cut
    steps = [[*cut[n][1 if n else 0 :], cut[n + 1][0]] for n in range(len(cut) - 1)]
    return [step[_begin(step) :] for step in steps]


def _begin(step: Sequence[Event]) -> int:
    gaps = (n for n in range(len(step) - 1, 0, -1) if step[n][1] - sum(step[n - 1][1:]) > 4000)
    return next(gaps, 0)


def _busy(step: Sequence[Event]) -> float:
    return float(sum(event[2] for event in step))


def _span(step: Sequence[Event]) -> float:
    return float(step[-1][1] + step[-1][2] - step[0][1])


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(1e3 * seconds, 3)


def main() -> None:
    """Print a line per engine."""
    host, *files = sys.argv[1:]
    by_kind: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for path in files:
        for line in Path(path).read_text().splitlines():
            row = json.loads(line)
            by_kind[row["kind"]].append(row)
    for rows in by_kind.values():
        sys.stdout.write(json.dumps(condensed(host, rows)) + "\n")


if __name__ == "__main__":
    main()
