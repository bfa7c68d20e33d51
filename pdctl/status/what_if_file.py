"""The last what-if of a deployment, kept in its state folder for `status` to show."""

import json
import time
from contextlib import suppress
from dataclasses import asdict

from pdctl.engines.state import state_dir, write_private
from pdctl.errors import PdctlError
from pdctl.status.records import Alternative, WhatIf

FILE, KEPT_S = "what_if.json", 900.0


def changed_at_s(name: str) -> float:
    """The last change of a deployment's engine counts, in Unix seconds."""
    try:
        return (state_dir(name) / "launch.json").stat().st_mtime
    except OSError:
        return 0.0


def keep_what_if(name: str, look: WhatIf) -> None:
    """Write a what-if for later calls. Keeps nothing where the directory is not writable."""
    with suppress(PdctlError):
        write_private(state_dir(name) / FILE, json.dumps(asdict(look)))


def kept_what_if(name: str) -> WhatIf | None:
    """The last what-if of the present layout. None: there is none, or it is old."""
    try:
        found = what_if_of(json.loads((state_dir(name) / FILE).read_bytes()))
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return found if found.at_s > max(time.time() - KEPT_S, changed_at_s(name)) else None


def what_if_of(data: object) -> WhatIf:
    """A what-if from its JSON. Raises TypeError or KeyError if it is of another version."""
    if not isinstance(data, dict):
        raise TypeError(data)
    found = tuple(Alternative(**one) for one in data["alternatives"])
    return WhatIf(**{**data, "alternatives": found})
