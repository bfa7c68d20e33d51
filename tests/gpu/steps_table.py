"""Print predicted and measured steps from tests/data/gpu as rows for docs/log.md.

python -m tests.gpu.steps_table
"""

import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

DATA = Path(__file__).parents[1] / "data" / "gpu"
GPU = "H200"
NEXT_CONTEXT = 1.35  # contexts within this ratio belong to the same requested step


def rows(name: str) -> list[dict[str, Any]]:
    """Read a file from tests/data/gpu."""
    return [json.loads(line) for line in (DATA / name).read_text().splitlines()]


def main() -> None:
    """Print the rows."""
    for cells in table():
        sys.stdout.write(f"| {' | '.join(cells)} |\n")


def table() -> Iterator[tuple[str, str, str, str]]:
    """Kind, type of step, its steps, and their median absolute error."""
    foretold = {one["kind"]: one["rows"] for one in rows("foretold.jsonl") if one["gpu"] == GPU}
    for server in rows("steps.jsonl"):
        kind = server["kind"]
        cells: dict[str, list[str]] = defaultdict(list)
        errors: dict[str, list[float]] = defaultdict(list)
        graphs = server.get("engines", [{}])[0].get("prefill_graphs") == "breakable"
        for what, batch, new, context, measured, *_ in server.get("steps", ()):
            predicted = _foretold(foretold[kind], what, batch, new, context, graphs)
            if predicted is None:
                continue  # a prompt whose first token happened to be cached
            off = predicted / measured - 1
            errors[what].append(abs(off))
            size = f"{batch}×{context // batch}" if what == "decode" else str(new)
            cells[what].append(f"{size}: {predicted:.4g} → {measured:.4g} ({100 * off:+.0f} %)")
        for what, found in cells.items():
            yield kind, what, ", ".join(found), f"{100 * median(errors[what]):.0f} %"


def _foretold(
    known: list[dict[str, Any]], what: str, batch: int, new: int, context: int, graphs: bool
) -> float | None:
    for row in known:
        kind, count, tokens, total = row["step"]
        close = not total or max(total, context) / max(1, min(total, context)) < NEXT_CONTEXT
        if (kind, count, tokens) == (what, batch, new) and (what != "decode" or close):
            return float(row["ms"] if graphs or what == "decode" else row["eager_ms"])
    return None


if __name__ == "__main__":
    main()
