"""Use the API key of a running deployment."""

import os

from pdctl.engines import state
from pdctl.engines.clients.api_key import VARIABLE
from pdctl.errors import PdctlError


def use_key_of(name: str) -> None:
    """Use the key that the processes of a deployment were started with, unless one is set."""
    if os.environ.get(VARIABLE):
        return
    key = _key_of(name)
    if key is not None:
        os.environ[VARIABLE] = key


def _key_of(name: str) -> str | None:
    try:
        wanted = state.read_launch(name)
        found = state.read_state(name) if wanted and wanted.has_key else None
    except PdctlError:
        return None
    if wanted is None or found is None or found.run_id != wanted.run_id:
        return None
    # `status` starts sooner without
    from pdctl.engines.launchers.local import variable_here
    from pdctl.engines.launchers.registry import launcher_of

    # a process of this machine, if there is one, tells it before an agent elsewhere has started
    if key := variable_here(wanted.run_id, VARIABLE):
        return key
    launcher = launcher_of(wanted)
    handles = (process.handle for process in found.processes if process.handle)
    return next((key for h in handles if (key := launcher.variable(h, VARIABLE))), None)
