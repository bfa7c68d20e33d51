"""One command on N GPUs: what plan says of every split, then up, and each split measured.

    python -m tests.gpu.splits OUT MODEL --args '...' --transfer nixl --total 8

`pdctl up --prefill N/4 --total N`, then from split to split by `pdctl scale` with requests running,
then N colocated engines. What was predicted of every split lies in plan-*.json before the first
engine starts. Ends with a table and the regret of each choice at each load.
"""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tests.gpu.events import SCALE_S, scaled
from tests.gpu.rig import Point, Rig, options_of, rig, together

SHAPES = ((4096, 256), (8192, 128))
TAIL_S = 12


def main() -> None:
    """The run."""
    options = options_of(
        __doc__, total="8", rates="0.5,0.8", slo="2s,30ms", order=None, seconds="20", gpus=None
    )
    with rig(options) as run:
        together(run, [partial(_play, run, options)])
        _table(run)


def _play(run: Rig, options: Any) -> None:
    total = int(options.total)
    loads = [load for shape in SHAPES for load in _loads(run, options, shape)]
    splits = _splits(total, options.order)
    gpus = options.gpus or ",".join(str(n) for n in range(total))
    state = run.up("fleet", options.model, f"{splits[0]}/{total}", gpus)
    url = state["endpoint"]
    _measure(run, options, url, loads)
    for prefill in splits[1:]:
        if run.left_s < SCALE_S + 60:
            run.say(f"no time for {prefill}P{total - prefill}D")
            break
        light = Point(loads[0].rate / 2, loads[0].isl, 64, 12)
        scaled(run, state, light, "--prefill", str(prefill))
        _measure(run, options, url, loads)
    run.pages(state, "fleet")
    run.down("fleet")
    run.names.remove("fleet")
    if run.left_s > SCALE_S + 60:
        state = run.up("together", options.model, f"0/{total}", gpus)
        _measure(run, options, state["endpoint"], loads)


def _loads(run: Rig, options: Any, shape: tuple[int, int]) -> list[Point]:
    """What plan says of one shape, kept before anything runs; the rates to measure it at."""
    isl, osl = shape
    ttft, tpot = options.slo.split(",")
    gpus = ["--gpus", f"{options.total}xH200"] if options.engine == "sim" else []
    found = run.json(
        *("plan", options.model, "--isl", str(isl), "--osl", str(osl), "--rate", "1", *gpus),
        *("--total", options.total, "--ttft", ttft, "--tpot", tpot),
    )
    (run.out / f"plan-{isl}-{osl}.json").write_text(json.dumps(found))
    arms = (*found["sweep"], *found["arms"].values())
    knee = max(arm["capacity_rps"] or 0 for arm in arms)
    run.say(f"{isl}/{osl}: plan's best sustains {knee:.3g} req/s")
    seconds = int(options.seconds)
    return [Point(round(knee * float(s), 2), isl, osl, seconds) for s in options.rates.split(",")]


def _splits(total: int, order: str | None) -> Sequence[int]:
    if order:
        return [int(word) for word in order.split(",")]
    quarter = max(1, round(total / 4))
    return [quarter, *(n for n in range(quarter + 1, total)), *range(quarter - 1, 0, -1)]


def _measure(run: Rig, options: Any, url: str, loads: Sequence[Point]) -> None:
    for point in loads:
        if run.left_s > point.seconds + TAIL_S + 30:
            run.load(url, options.model, point, tag="split")


def _table(run: Rig) -> None:
    """Goodput-like figures of every split at every load, best first by TPOT and TTFT both met."""
    rows = [json.loads(line) for line in Path(run.out / "rows.jsonl").read_text().splitlines()]
    loads = [row for row in rows if row.get("tag") == "split"]
    scaled = [row for row in rows if row.get("tag") == "scaling"]
    failed = sum(row["failed"] for row in scaled)
    run.say(f"{len(scaled)} changes under load: {failed} requests failed")
    for shape in sorted({(row["isl"], row["osl"], row["rate"]) for row in loads}):
        run.say(f"{shape[0]}/{shape[1]} at {shape[2]:g}/s, measured / predicted ms")
        for row in loads:
            if (row["isl"], row["osl"], row["rate"]) == shape:
                run.say("  " + _cells(row))


def _cells(row: dict[str, Any]) -> str:
    parts = [f"{row['layout']:5}"]
    for name in ("ttft p50", "ttft p90", "tpot p50", "tpot p90"):
        predicted, measured = row[name]
        parts.append(f"{name} {1e3 * measured:.4g} / {1e3 * predicted:.4g}")
    return "  ".join(parts)


if __name__ == "__main__":
    main()
