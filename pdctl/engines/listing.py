"""An engine's place in the router's list: pure rules of `supervisor.step`."""

from collections.abc import Iterable

from pdctl.deployment.records import ProcessSpec
from pdctl.engines.actions import Action, Deregister, Limits, Observed, Process, Register


def is_serving(spec: ProcessSpec, observed: Observed) -> bool:
    process = observed.processes.get(spec.name)
    return process is not None and process.spec == spec and process.is_serving


def others_serve(process: Process, observed: Observed) -> bool:
    """Whether an engine of the same role serves and is to go on serving."""
    return any(
        other.spec.role == process.spec.role and other.is_serving and other.deregister_sent is None
        for other in observed.processes.values()
        if other.name != process.name
    )


def toward_listed(
    process: Process, observed: Observed, now: float, limits: Limits
) -> Iterable[Action]:
    """Into the router's list when ready, in the role and with the bootstrap port it has."""
    if not process.ready or not router_is_up(observed):
        return ()
    if process.listed is None:
        due = (
            process.register_sent is None or now - process.register_sent >= limits.register_again_s
        )
        return (Register(process.name, "ready"),) if due else ()
    if _is_listed_wrongly(process):
        return deregister_once(process, now, limits, "listed as something else")
    return ()


def _is_listed_wrongly(process: Process) -> bool:
    listed = process.listed
    if listed is None:
        return False
    other_port = process.spec.role == "prefill" and listed.bootstrap_port != (
        process.spec.bootstrap_port
    )
    return listed.role != process.spec.role or other_port


def router_is_up(observed: Observed) -> bool:
    return any(p.is_router and p.running and p.ready for p in observed.processes.values())


def deregister_once(process: Process, now: float, limits: Limits, why: str) -> tuple[Action, ...]:
    sent = process.deregister_sent
    due = sent is None or now - sent >= limits.register_again_s
    return (Deregister(process.name, why),) if due else ()
