"""The API key of a deployment that runs, taken from its own processes.

The kernel shows a process's environment to its user and root alone, who could ask the engines
anyway; so whoever started a deployment need not type its key again.
"""

import os
from pathlib import Path

from pdctl.engines import state
from pdctl.engines.api_key import VARIABLE
from pdctl.errors import PdctlError

MARKER = "PDCTL_RUN"  # that on_local gives every process, whose imports would cost `status` 20 ms


def use_key_of(name: str) -> None:
    """Take the key that the processes of a deployment were started with, unless one is set."""
    if os.environ.get(VARIABLE):
        return
    try:
        found = state.read_state(name)
    except PdctlError:
        return
    pids = [process.pid for process in found.processes if process.pid] if found else []
    run_id = found.run_id if found else ""
    key = next((key for pid in pids if (key := _key_of(pid, run_id))), None)
    if key is not None:
        os.environ[VARIABLE] = key


def _key_of(pid: int, run_id: str) -> str | None:
    """What a process of this run has as its key; None of another process of that number."""
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes().decode("utf-8", "replace")
    except OSError:
        return None
    variables = dict(entry.split("=", 1) for entry in environment.split("\0") if "=" in entry)
    return variables.get(VARIABLE) if run_id and variables.get(MARKER) == run_id else None
