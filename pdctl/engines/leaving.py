"""How a process that is not wanted any more goes, or takes another role: pure rules of `step`."""

from collections.abc import Iterable
from dataclasses import replace

from pdctl.deployment.records import ProcessSpec
from pdctl.engines.actions import (
    Action,
    Desired,
    Forget,
    Kill,
    Limits,
    Observed,
    Process,
    SwitchRole,
    Terminate,
)
from pdctl.engines.gpu_room import is_last_keeper
from pdctl.engines.listing import (
    deregister_once,
    is_serving,
    others_serve,
    router_is_up,
    toward_listed,
)


def leaving(desired: Desired, observed: Observed) -> tuple[Process, ...]:
    """Processes that run or are known and are not wanted, at least not as they are."""
    wanted = {spec.name: spec for spec in desired.specs}
    return tuple(
        process
        for process in observed.processes.values()
        if process.name not in wanted
        or (process.running and (process.spec != wanted[process.name] or process.terminate_sent))
    )


def toward_gone(
    process: Process, desired: Desired, observed: Observed, now: float, limits: Limits
) -> Iterable[Action]:
    """Out of the router, empty, then into its new role or to its end; one step of that."""
    if not process.running:
        if process.listed is not None:
            return deregister_once(process, now, limits, "it ended")
        return (Forget(process.name, "not wanted any more"),)
    if process.lost:
        return kill_once(process, process.lost)
    if process.terminate_sent is not None:
        return end(process, now)
    if process.switch_to is not None:
        return ()  # its answer decides
    if process.deregister_sent is None and not _may_leave(process, desired, observed, now, limits):
        return toward_listed(process, observed, now, limits)  # it goes on serving meanwhile
    if (due := _toward_empty(process, "not wanted any more", now, limits)) is not None:
        return due
    is_drained = _is_drained(process, now, limits)
    successor = successor_of(process, desired)
    if successor is not None and is_drained and not process.switch_failed:
        return (SwitchRole(process.name, successor, f"drained, goes on as {successor.name}"),)
    return (Terminate(process.name, _why_it_ends(process, successor, is_drained=is_drained)),)


def toward_renewed(process: Process, why: str, now: float, limits: Limits) -> Iterable[Action]:
    """Out of the router, empty, then to its end, so that it starts again; one step of that."""
    if process.terminate_sent is not None:
        return ()  # it is among those that leave
    due = _toward_empty(process, why, now, limits)
    return (Terminate(process.name, why),) if due is None else due


def _toward_empty(
    process: Process, why: str, now: float, limits: Limits
) -> tuple[Action, ...] | None:
    """What is due until it may end without losing a request; None: it may."""
    # also where it is not listed: this is what its draining counts from
    if process.listed is not None or (process.served and process.deregister_sent is None):
        return deregister_once(process, now, limits, why)
    waited_s = now - process.deregister_sent if process.deregister_sent is not None else 0.0
    if process.served and not _is_drained(process, now, limits) and waited_s < limits.drain_s:
        return ()
    return None


def _is_drained(process: Process, now: float, limits: Limits) -> bool:
    return process.idle_since is not None and now - process.idle_since >= limits.idle_s


def successor_of(process: Process, desired: Desired) -> ProcessSpec | None:
    """The engine of the other role that is wanted in this one's place, if it can become it.

    Not a prefill engine for the second time: decode engines keep the address at which they met
    it first, and requests would wait for ever. (SGLang 0.5.23, disaggregation/common/conn.py:
    connection_pool is cleared only when the bootstrap registry goes away, and it does not.)
    """
    here = process.spec
    if not here.can_switch_role:
        return None
    for spec in desired.specs:
        in_its_place = (spec.url, spec.gpus) == (here.url, here.gpus)
        again = process.was_prefill and spec.role == "prefill"
        if in_its_place and spec.can_switch_role and spec.role != here.role and not again:
            return spec
    return None


def _why_it_ends(process: Process, successor: ProcessSpec | None, *, is_drained: bool) -> str:
    state = "drained" if is_drained else "not wanted any more"
    if successor is None:
        return state
    reason = process.switch_failed or "it did not drain in time"
    return f"{successor.name} starts in its place: {reason}"


def without(process: Process, observed: Observed, now: float) -> Observed:
    """What is seen, with this process on its way out."""
    leaving = replace(process, deregister_sent=now)
    return replace(observed, processes={**observed.processes, process.name: leaving})


def _may_leave(
    process: Process, desired: Desired, observed: Observed, now: float, limits: Limits
) -> bool:
    """New engines serve before old ones go; unless they wait for the old one's GPUs or port.

    Never the last one of a wanted role that can serve, and nobody while the router is down.
    """
    if not process.ready:
        # one that was adopted may serve all the same, until it has been asked
        return not process.served or now - process.since >= limits.wrong_s
    role = process.spec.role
    if not router_is_up(observed):
        return False
    if any(spec.role == role for spec in desired.specs) and not others_serve(process, observed):
        return False
    missing = [spec for spec in desired.specs if not is_serving(spec, observed)]
    blocked = any(
        _is_held_by(process, spec, observed) or is_last_keeper(process, spec, desired, observed)
        for spec in missing
    )
    return blocked or all(_is_given_up(spec, observed) for spec in missing)


def _is_held_by(process: Process, spec: ProcessSpec, observed: Observed) -> bool:
    theirs = observed.processes.get(spec.name)
    if theirs is not None and theirs.running and theirs is not process:
        return False
    return process.spec.shares_a_place_with(spec)


def _is_given_up(spec: ProcessSpec, observed: Observed) -> bool:
    process = observed.processes.get(spec.name)
    return process is not None and bool(process.given_up)


def end(process: Process, now: float) -> Iterable[Action]:
    """What is due after SIGTERM."""
    sent = process.terminate_sent
    if sent is not None and now - sent >= process.spec.stop_grace_s:
        return kill_once(process, f"still there {process.spec.stop_grace_s:.0f} s after SIGTERM")
    return ()


def kill_once(process: Process, why: str) -> tuple[Action, ...]:
    """Kill it, unless that was done."""
    return () if process.kill_sent else (Kill(process.name, why),)
