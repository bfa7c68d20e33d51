"""Which deployments run on this machine, for this user."""

from dataclasses import replace

from pdctl.engines import state
from pdctl.engines.on_local import is_same_process, marked
from pdctl.engines.records import FleetState
from pdctl.errors import StateConflict


def is_running(name: str) -> bool:
    """Whether a supervisor or any process of this deployment lives."""
    return state.is_supervised(name) or bool(leftovers(name))


def names() -> tuple[str, ...]:
    """The deployments of this user that run."""
    return tuple(name for name in state.list_names() if is_running(name))


def find(name: str | None) -> FleetState:
    """The state of the running deployment that is meant; the only one when no name is given.

    Raises StateConflict when it does not run, or several do.
    """
    chosen = chosen_name(name)
    found = state.read_state(chosen)
    if found is None or not is_running(chosen):
        raise not_running(chosen)
    return found


def chosen_name(name: str | None) -> str:
    """The name that is meant. Raises StateConflict where none is given and not one runs."""
    return name if name is not None else _only_one()


def states() -> tuple[FleetState, ...]:
    """What runs; a deployment that cannot be read is left out."""
    found = (_readable(name) for name in names())
    return tuple(state for state in found if state is not None)


def _readable(name: str) -> FleetState | None:
    try:
        found = state.read_state(name)
    except StateConflict:
        return None
    if found is None or state.is_supervised(name):
        return found
    what_to_do = f"no supervisor; pdctl up --resume --name {name}"
    return replace(found, phase="degraded", detail=what_to_do)


def router_policy(url: str) -> str:
    """How the router at this address picks engines: as a deployment of ours says, or its default.

    Source: sglang_router/router_args.py 0.3.2, whose default is cache_aware.
    """
    wanted = [state.read_launch(found.name) for found in states() if found.endpoint == url]
    argv = wanted[0].specs[0].argv if wanted and wanted[0] else ()
    return argv[argv.index("--policy") + 1] if "--policy" in argv else "cache_aware"


def not_running(name: str) -> StateConflict:
    """The error for a name that does not run, with those that do."""
    found = names()
    hint = f"running: {', '.join(found)}" if found else "pdctl up starts one; pdctl ls lists them"
    return StateConflict(f"no deployment {name!r} is running.", hint=hint, code="not_running")


def leftovers(name: str) -> tuple[int, ...]:
    """The processes of a deployment that live, its supervisor aside."""
    wanted = state.read_launch(name)
    if wanted is None:
        return ()
    found = state.read_state(name)
    known = () if found is None or found.run_id != wanted.run_id else found.processes
    pids = {
        p.pid
        for p in known
        if p.pid and p.started_at and is_same_process(p.pid, p.started_at, wanted.run_id)
    }
    return tuple(sorted(pids | set(marked(wanted.run_id))))


def refuse_running(name: str) -> None:
    """Raises StateConflict if a deployment of this name runs, with what to do."""
    if state.is_supervised(name):
        raise already_running(name)
    if leftovers(name):
        raise StateConflict(
            f"deployment {name!r} lost its supervisor, its engines still run.",
            hint=f"pdctl down {name} stops them, pdctl up --resume --name {name} takes them over",
            code="already_running",
        )


def already_running(name: str) -> StateConflict:
    """The error for `up` on a running name."""
    hint = f"pdctl status {name} or pdctl down {name}; --name OTHER starts another beside it"
    return StateConflict(
        f"deployment {name!r} is already running.",
        hint=hint,
        code="already_running",
    )


def _only_one() -> str:
    found = names()
    if len(found) == 1:
        return found[0]
    if not found:
        raise StateConflict(
            "no deployment is running.", hint="pdctl up starts one", code="not_running"
        )
    raise StateConflict(
        f"{len(found)} deployments are running: {', '.join(found)}.",
        hint="name the one you mean",
        code="ambiguous_name",
    )
