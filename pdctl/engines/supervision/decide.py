"""What to do next for a deployment: pure, level-triggered, one step at a time.

Whatever happened before, `step` compares what should run with what is seen and moves one step
closer; acting twice on the same sight is harmless. The loop around it is in daemon.py.
"""

from collections.abc import Iterable
from dataclasses import replace

from pdctl.deployment.records import ProcessSpec
from pdctl.engines.supervision.gpu_room import has_room, holder_of, is_last_keeper, to_renew
from pdctl.engines.supervision.model import (
    DEFAULT_LIMITS,
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
    """Why everything is to be stopped: the earliest crash, a stranger's answer, or too late."""
    wanted = [observed.processes[s.name] for s in desired.specs if s.name in observed.processes]
    crashed = sorted((p for p in wanted if p.crashes), key=lambda p: p.crashes[0])
    if crashed:
        return Fail(crashed[0].name, "engine_failed", _how_it_ended(crashed[0]))
    for process in wanted:
        if process.wrong_since is not None and now - process.wrong_since >= limits.wrong_s:
            return Fail(process.name, "engine_failed", process.detail)
    request = observed.first_request
    if request.state == "failed" and request.tries >= limits.first_request_tries:
        return Fail("", "engine_failed", f"the first request failed: {request.detail}")
    if now - observed.started_at >= limits.ready_timeout_s:
        return _too_slow(wanted, limits)
    return None


def _how_it_ended(process: Process) -> str:
    if process.exit_code is None:
        return "could not be started"
    if process.exit_code < 0:
        return f"was ended by signal {-process.exit_code}"
    return f"exited with status {process.exit_code}"


def _too_slow(wanted: list[Process], limits: SupervisorLimits) -> Fail:
    late = [p for p in wanted if not p.is_serving]
    name = late[0].name if late else ""
    doing = f" ({late[0].detail})" if late and late[0].detail else ""
    text = f"{len(late)} not serving after {limits.ready_timeout_s:.0f} s, {name} among them{doing}"
    return Fail(name, "not_ready", text if late else "the first request did not pass in time")


def toward_listed(
    process: Process, observed: Observed, now: float, limits: SupervisorLimits
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


def deregister_once(
    process: Process, now: float, limits: SupervisorLimits, why: str
) -> tuple[Action, ...]:
    sent = process.deregister_sent
    due = sent is None or now - sent >= limits.register_again_s
    return (Deregister(process.name, why),) if due else ()


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
    process: Process, desired: Desired, observed: Observed, now: float, limits: SupervisorLimits
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


def toward_renewed(
    process: Process, why: str, now: float, limits: SupervisorLimits
) -> Iterable[Action]:
    """Out of the router, empty, then to its end, so that it starts again; one step of that."""
    if process.terminate_sent is not None:
        return ()  # it is among those that leave
    due = _toward_empty(process, why, now, limits)
    return (Terminate(process.name, why),) if due is None else due


def _toward_empty(
    process: Process, why: str, now: float, limits: SupervisorLimits
) -> tuple[Action, ...] | None:
    """What is due until it may end without losing a request; None: it may."""
    # also where it is not listed: this is what its draining counts from
    if process.listed is not None or (process.served and process.deregister_sent is None):
        return deregister_once(process, now, limits, why)
    waited_s = now - process.deregister_sent if process.deregister_sent is not None else 0.0
    if process.served and not _is_drained(process, now, limits) and waited_s < limits.drain_s:
        return ()
    return None


def _is_drained(process: Process, now: float, limits: SupervisorLimits) -> bool:
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
    process: Process, desired: Desired, observed: Observed, now: float, limits: SupervisorLimits
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


def step(
    desired: Desired, observed: Observed, now: float, limits: SupervisorLimits = DEFAULT_LIMITS
) -> tuple[Action, ...]:
    """The actions due at `now` (seconds, the clock of `observed`).

    Before the fleet was ready once any failure ends it (`Fail`); afterwards it is kept running.
    Ignores: how long an action takes; the caller remembers what it sent in the Process records.
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

    A router that had served is started again at once: without it nothing serves.
    """
    num = len(process.crashes)
    if process.is_router and process.served:
        num -= 1
    if num <= 0:
        return 0.0
    return min(limits.backoff_s * 2.0 ** min(num - 1, 30), limits.backoff_max_s)


def all_serving(desired: Desired, observed: Observed) -> bool:
    """Whether requests reach everything that was asked for."""
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
        return ()  # it leaves first, see leaving.py
    if process.lost:
        return kill_once(process, process.lost)
    if _hangs(process, now, limits):
        return kill_once(process, f"no answer for {now - (process.unanswered_since or now):.0f} s")
    return () if process.is_router else toward_listed(process, observed, now, limits)


def _start(
    spec: ProcessSpec, observed: Observed, now: float, limits: SupervisorLimits, *, why: str
) -> Iterable[Action]:
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
        yield GiveUp(process.name, f"{limits.give_up_crashes} crashes without ever serving")
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
    """The router first: it takes no more and finishes what it has. Then all engines at once."""
    alive = [p for p in observed.processes.values() if p.running]
    if desired.stop == "now":
        return tuple(action for p in alive for action in kill_once(p, "stopped at once"))
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
