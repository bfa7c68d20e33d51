"""Keep the last minutes of samples beside a deployment's state, so that `status --once` has a past.

A run of `status` begins with what the one before it saw, if that is recent.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from pdctl.engines import state
from pdctl.errors import PdctlError
from pdctl.status.records import Counters, Moment

_FILE = "samples.json"
_MAX_BYTES = 4 << 20

Timed = tuple[float, Counters]
Past = tuple[tuple[Moment, ...], dict[str, dict[str, Timed]]]


def keep_evidence(
    name: str, moments: Iterable[Moment], counters: Mapping[str, Mapping[str, Timed]]
) -> None:
    """Write it down; where the directory cannot be written, nothing is kept.

    counters: per engine URL the last ones of "loads" and of "metrics", with their time.
    """
    document = {
        "moments": [asdict(moment) for moment in moments],
        "counters": {
            url: {kind: [at_s, asdict(found)] for kind, (at_s, found) in kinds.items()}
            for url, kinds in counters.items()
        },
    }
    try:
        state.write_private(state.state_dir(name) / _FILE, json.dumps(document))
    except PdctlError:
        return


def read_evidence(name: str, since_s: float) -> Past:
    """What was kept after `since_s` (Unix seconds); nothing where it is not readable."""
    try:
        path = state.state_dir(name) / _FILE
        with path.open("rb") as file:
            found = json.loads(file.read(_MAX_BYTES))
        return _moments(found["moments"], since_s), _counters(found["counters"], since_s)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return (), {}


def _moments(rows: Iterable[dict[str, Any]], since_s: float) -> tuple[Moment, ...]:
    return tuple(Moment(**row) for row in rows if row["at_s"] >= since_s)


def _counters(found: Mapping[str, Any], since_s: float) -> dict[str, dict[str, Timed]]:
    return {
        url: {kind: (at_s, _counter(row)) for kind, (at_s, row) in kinds.items() if at_s >= since_s}
        for url, kinds in found.items()
    }


def _counter(row: dict[str, Any]) -> Counters:
    histograms = {
        name: tuple((float(bound), float(count)) for bound, count in row[name])
        for name in ("ttft", "itl")
        if row[name] is not None
    }
    return Counters(**{**row, **histograms})
