"""Decide the supervisor's next actions. Pure and level-triggered.

Whatever happened before, `step` compares the target with the observation and moves one step closer;
acting twice on the same observation is harmless. The loop that calls it is in loop.py.
"""

import signal
from collections.abc import Iterable
from dataclasses import replace

from pdctl.deployment.records import ProcessSpec
from pdctl.engines.supervision.gpu_room import has_room, holder_of, is_last_keeper, to_renew
from pdctl.engines.supervision.lost_nodes import nodes_of
from pdctl.engines.supervision.model import (
    DEFAULT_LIMITS,
    NOT_STARTED,
    Action,
    Deregister,
    Desired,
    Fail,
    Forget,
    GiveUp,
    Kill,
    Observed,
    Process,
    Register,
    SendFirstRequest,
    Start,
    SupervisorLimits,
    SwitchRole,
    Terminate,
    is_serving,
    others_serve,
    router_is_up,
)


def first_start_failure(
    desired: Desired, observed: Observed, now: float, limits: SupervisorLimits
) -> Fail | None:
    """The failure that ends a first start: the earliest crash, a wrong answer, or a timeout."""
    wanted = [observed.processes[s.name] for s in desired.specs if s.name in observed.processes]
    crashed = sorted((p for p in wanted if p.crashes), key=lambda p: p.crashes[0])
    if crashed:
        return Fail(crashed[0].name, "engine_failed", how_it_ended(crashed[0]))
    for process in wanted:
        if process.wrong_since is not None and now - process.wrong_since >= limits.wrong_s:
            return Fail(process.name, "engine_failed", process.detail)
    request = observed.first_request
    if request.state == "failed" and request.tries >= limits.first_request_tries:
        return Fail("", "engine_failed", f"the first request failed: {request.detail}")
    if now - observed.started_at >= limits.ready_timeout_s:
        return _too_slow(wanted, limits)
    return None


def how_it_ended(process: Process) -> str:
    """The end of a process, as the predicate of a sentence."""
    if process.exit_code is None:
        was_started = not process.detail.startswith(NOT_STARTED)
        return "ended with an unknown status" if was_started else process.detail
    if process.exit_code < 0:
        return f"was killed ({_signal_name(-process.exit_code)})"
    return f"exited with status {process.exit_code}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _too_slow(wanted: list[Process], limits: SupervisorLimits) -> Fail:
    late = [p for p in wanted if not p.is_serving]
    name = late[0].name if late else ""
    doing = f" ({late[0].detail})" if late and late[0].detail else ""
    count = f"{len(late)} of {len(wanted)} processes"
    text = f"{count} were not serving after {limits.ready_timeout_s:.0f} s, such as {name}{doing}"
    return Fail(name, "not_ready", text if late else "the first request did not succeed in time")


def toward_listed(
    process: Process, observed: Observed, now: float, limits: SupervisorLimits
) -> Iterable[Action]:
    """Register a ready engine; correct the router if it lists another role or bootstrap port."""
    if not process.ready or not router_is_up(observed):
        return ()
    if process.listed is None:
        due = (
            process.register_sent is None or now - process.register_sent >= limits.register_again_s
        )
        return (Register(process.name, "ready"),) if due else ()
    if _is_listed_wrongly(process):
        return deregister_once(
            process, now, limits, "the router lists it with the wrong role or port"
        )
    return ()


def _is_listed_wrongly(process: Process) -> bool:
    listed = process.listed
    if listed is None:
        return False
    other_port = process.spec.role == "prefill" and listed.bootstrap_port != (
        process.spec.bootstrap_port
    )
    return listed.role != process.spec.role or other_port


def deregister_once(
    process: Process, now: float, limits: SupervisorLimits, why: str
) -> tuple[Action, ...]:
    """Take an engine off the router's list, unless that was requested moments ago."""
    sent = process.deregister_sent
    due = sent is None or now - sent >= limits.register_again_s
    return (Deregister(process.name, why),) if due else ()


def leaving(desired: Desired, observed: Observed) -> tuple[Process, ...]:
    """Known processes that are not wanted, or not with their present spec."""
    wanted = {spec.name: spec for spec in desired.specs}
    return tuple(
        process
        for process in observed.processes.values()
        if process.name not in wanted
        or (process.running and (process.spec != wanted[process.name] or process.terminate_sent))
    )


def toward_gone(
    process: Process, desired: Desired, observed: Observed, now: float, limits: SupervisorLimits
) -> Iterable[Action]:
    """The next step of an engine that leaves: off the router, drained, then switched or ended."""
    if not process.running:
        if process.listed is not None:
            return deregister_once(process, now, limits, "it ended")
        return (Forget(process.name, "no longer wanted"),)
    if process.lost:
        return kill_once(process, process.lost)
    if process.is_cut_off:
        return kill_once(
            process, f"{process.spec.node} does not answer, and it is not wanted there"
        )
    if process.terminate_sent is not None:
        return end(process, now)
    if process.switch_to is not None:
        return ()  # wait for its answer
    if process.deregister_sent is None and not _may_leave(process, desired, observed, now, limits):
        return toward_listed(process, observed, now, limits)  # it keeps serving meanwhile
    if (due := _toward_empty(process, "no longer wanted", now, limits)) is not None:
        return due
    is_drained = _is_drained(process, now, limits)
    successor = successor_of(process, desired)
    if successor is not None and is_drained and not process.switch_failed:
        return (SwitchRole(process.name, successor, f"drained; becomes {successor.name}"),)
    return (Terminate(process.name, _why_it_ends(process, successor, is_drained=is_drained)),)


def toward_renewed(
    process: Process, why: str, now: float, limits: SupervisorLimits
) -> Iterable[Action]:
    """The next step of an engine that must restart: off the router, drained, then ended."""
    if process.terminate_sent is not None:
        return ()  # `leaving` covers it
    due = _toward_empty(process, why, now, limits)
    return (Terminate(process.name, why),) if due is None else due


def _toward_empty(
    process: Process, why: str, now: float, limits: SupervisorLimits
) -> tuple[Action, ...] | None:
    """The step still needed before it can end without losing a request; None if it can end."""
    # also if it is not listed: the drain time counts from here
    if process.listed is not None or (process.served and process.deregister_sent is None):
        return deregister_once(process, now, limits, why)
    waited_s = now - process.deregister_sent if process.deregister_sent is not None else 0.0
    if process.served and not _is_drained(process, now, limits) and waited_s < limits.drain_s:
        return ()
    return None


def _is_drained(process: Process, now: float, limits: SupervisorLimits) -> bool:
    return process.idle_since is not None and now - process.idle_since >= limits.idle_s


def successor_of(process: Process, desired: Desired) -> ProcessSpec | None:
    """The wanted engine of the other role that this one can turn into; None if there is none.

    An engine never becomes a prefill engine for the second time: decode engines cache its first
    address, and requests would hang. (SGLang 0.5.23, disaggregation/common/conn.py clears
    connection_pool only when the bootstrap registry goes away, and it stays.)
    """
    here = process.spec
    if not here.can_switch_role:
        return None
    for spec in desired.specs:
        in_its_place = (spec.url, spec.gpu_places) == (here.url, here.gpu_places)
        again = process.was_prefill and spec.role == "prefill"
        if in_its_place and spec.can_switch_role and spec.role != here.role and not again:
            return spec
    return None


def _why_it_ends(process: Process, successor: ProcessSpec | None, *, is_drained: bool) -> str:
    state = "drained" if is_drained else "no longer wanted"
    if successor is None:
        return state
    reason = process.switch_failed or "it did not drain in time"
    return f"{successor.name} starts in its place: {reason}"


def without(process: Process, observed: Observed, now: float) -> Observed:
    """The observation as it would be with this process leaving."""
    leaving = replace(process, deregister_sent=now)
    return replace(observed, processes={**observed.processes, process.name: leaving})


def _may_leave(
    process: Process, desired: Desired, observed: Observed, now: float, limits: SupervisorLimits
) -> bool:
    """True if an engine may leave: the new ones serve, or they wait for its GPUs or port.

    False for the last serving engine of a wanted role, and for all while the router is down.
    """
    if not process.ready:
        # an adopted engine may be serving although it has not been checked yet
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
    if process.name == spec.name:
        return True  # wanted in another place: one at a time has the name
    theirs = observed.processes.get(spec.name)
    if theirs is not None and theirs.running:
        return False
    return process.spec.shares_a_place_with(spec)


def _is_given_up(spec: ProcessSpec, observed: Observed) -> bool:
    process = observed.processes.get(spec.name)
    return process is not None and bool(process.given_up)


def end(process: Process, now: float) -> Iterable[Action]:
    """Kill a process that has outlived its grace after SIGTERM."""
    sent = process.terminate_sent
    if sent is not None and now - sent >= process.spec.stop_grace_s:
        return kill_once(process, f"still running {process.spec.stop_grace_s:.0f} s after SIGTERM")
    return ()


def kill_once(process: Process, why: str) -> tuple[Action, ...]:
    """Kill a process, unless that was already done."""
    return () if process.kill_sent else (Kill(process.name, why),)


def step(
    desired: Desired, observed: Observed, now: float, limits: SupervisorLimits = DEFAULT_LIMITS
) -> tuple[Action, ...]:
    """The actions due at `now` (seconds, the clock of `observed`).

    Until the deployment has been ready once, any failure ends it (`Fail`); afterwards it is kept
    running. Ignores: how long an action takes; the caller records what it sent in the processes.
    """
    if desired.stop:
        return _stop_all(desired, observed, now)
    if not observed.was_ready and (failure := first_start_failure(desired, observed, now, limits)):
        return (failure,)
    actions: list[Action] = []
    renewed = to_renew(desired, observed, now, limits)
    for spec in desired.specs:
        process = observed.processes.get(spec.name)
        if process and spec.name in renewed and not (process.lost or _hangs(process, now, limits)):
            actions += toward_renewed(process, renewed[spec.name], now, limits)
        else:
            actions += _toward_serving(spec, observed, now, limits)
    for process in leaving(desired, observed):
        due = tuple(toward_gone(process, desired, observed, now, limits))
        actions += due
        if any(isinstance(action, Deregister) for action in due):
            observed = without(process, observed, now)  # the next one must not count on it
    return (*actions, *_first_request(desired, observed, limits))


def backoff_s(process: Process, limits: SupervisorLimits = DEFAULT_LIMITS) -> float:
    """Seconds between a process's last crash and its next start.

    A router that has served restarts at once: without it nothing serves.
    """
    num = len(process.crashes)
    if process.is_router and process.served:
        num -= 1
    if num <= 0:
        return 0.0
    return min(limits.backoff_s * 2.0 ** min(num - 1, 30), limits.backoff_max_s)


def all_serving(desired: Desired, observed: Observed) -> bool:
    """True if everything wanted serves."""
    return all(is_serving(spec, observed) for spec in desired.specs)


# towards serving


def _toward_serving(
    spec: ProcessSpec, observed: Observed, now: float, limits: SupervisorLimits
) -> Iterable[Action]:
    process = observed.processes.get(spec.name)
    if process is None:
        return _start(spec, observed, now, limits, why="wanted")
    if not process.running:
        return _start_again(spec, process, observed, now, limits)
    if process.spec != spec or process.terminate_sent is not None or process.switch_to is not None:
        return ()  # it has to leave first, see toward_gone
    if process.lost:
        return kill_once(process, process.lost)
    if _hangs(process, now, limits):
        return kill_once(
            process,
            f"no answer to health checks for {now - (process.unanswered_since or now):.0f} s",
        )
    if process.is_cut_off:
        why = f"{spec.node} does not answer"
        return deregister_once(process, now, limits, why) if process.listed is not None else ()
    return () if process.is_router else toward_listed(process, observed, now, limits)


def _start(
    spec: ProcessSpec, observed: Observed, now: float, limits: SupervisorLimits, *, why: str
) -> Iterable[Action]:
    if any(node in observed.lost for node in nodes_of(spec)):
        return ()
    if holder_of(spec, observed) or not has_room(spec, observed, now, limits):
        return ()
    return (Start(spec, why),)


def _start_again(
    spec: ProcessSpec, process: Process, observed: Observed, now: float, limits: SupervisorLimits
) -> Iterable[Action]:
    changed = process.spec != spec
    if process.listed is not None and not process.is_router:
        yield from deregister_once(process, now, limits, "it ended")
    if process.given_up and not changed:
        return
    if not changed and _is_hopeless(process, now, limits):
        yield GiveUp(process.name, f"crashed {limits.give_up_crashes} times and never served")
        return
    wait_s = 0.0 if changed else backoff_s(process, limits)
    if not process.crashes or now >= process.crashes[-1] + wait_s:
        why = "changed" if changed else "again"
        yield from _start(spec, observed, now, limits, why=why)


def _is_hopeless(process: Process, now: float, limits: SupervisorLimits) -> bool:
    recent = [at for at in process.crashes if now - at <= limits.give_up_window_s]
    return not process.served and len(recent) >= limits.give_up_crashes


def _hangs(process: Process, now: float, limits: SupervisorLimits) -> bool:
    since = process.unanswered_since
    return process.ready and since is not None and now - since >= limits.hang_s


def _stop_all(desired: Desired, observed: Observed, now: float) -> tuple[Action, ...]:
    """End the router first, so that it finishes its requests; then all engines at once."""
    alive = [p for p in observed.processes.values() if p.running]
    if desired.stop == "now":
        return tuple(action for p in alive for action in kill_once(p, "stopped immediately"))
    routers = [p for p in alive if p.is_router]
    actions: list[Action] = []
    for process in routers or alive:
        if process.terminate_sent is None:
            actions.append(Terminate(process.name, "stopping"))
        else:
            actions += end(process, now)
    return tuple(actions)


def _first_request(
    desired: Desired, observed: Observed, limits: SupervisorLimits
) -> tuple[Action, ...]:
    request = observed.first_request
    if observed.was_ready or request.state in ("sent", "passed"):
        return ()
    if request.tries >= limits.first_request_tries or not all_serving(desired, observed):
        return ()
    return (SendFirstRequest("all engines serve"),)
