"""What to do next for a deployment: pure, level-triggered, one step at a time.

Whatever happened before, `step` compares what should run with what is seen and moves one step
closer; acting twice on the same sight is harmless. The loop around it is in daemon.py.
"""

from collections.abc import Iterable
from dataclasses import replace

from pdctl.deployment.records import ProcessSpec
from pdctl.engines.actions import (
    DEFAULT_LIMITS,
    Action,
    Deregister,
    Desired,
    Forget,
    GiveUp,
    Kill,
    Limits,
    Observed,
    Process,
    Register,
    SendFirstRequest,
    Start,
    Terminate,
)
from pdctl.engines.first_start import first_start_failure


def step(
    desired: Desired, observed: Observed, now: float, limits: Limits = DEFAULT_LIMITS
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
    for spec in desired.specs:
        actions += _toward_serving(spec, desired, observed, now, limits)
    for process in _leaving(desired, observed):
        due = tuple(_toward_gone(process, desired, observed, now, limits))
        actions += due
        if any(isinstance(action, Deregister) for action in due):
            observed = _without(process, observed, now)  # the next one must not count on it
    return (*actions, *_first_request(desired, observed, limits))


def backoff_s(process: Process, limits: Limits = DEFAULT_LIMITS) -> float:
    """Seconds between a process's last crash and its next start.

    A router that had served is started again at once: without it nothing serves.
    """
    num = len(process.crashes)
    if process.is_router and process.served:
        num -= 1
    if num <= 0:
        return 0.0
    return min(limits.backoff_s * 2.0 ** min(num - 1, 30), limits.backoff_max_s)


def remember_crash(
    process: Process, now: float, limits: Limits = DEFAULT_LIMITS
) -> tuple[float, ...]:
    """The crashes that count after one more at `now`: long serving forgives earlier ones."""
    since = process.serving_since
    forgiven = since is not None and now - since >= limits.forget_crashes_s
    return (now,) if forgiven else (*process.crashes, now)


def all_serving(desired: Desired, observed: Observed) -> bool:
    """Whether requests reach everything that was asked for."""
    return all(_is_serving(spec, observed) for spec in desired.specs)


def _is_serving(spec: ProcessSpec, observed: Observed) -> bool:
    process = observed.processes.get(spec.name)
    return process is not None and process.spec == spec and process.is_serving


# towards serving


def _toward_serving(
    spec: ProcessSpec, desired: Desired, observed: Observed, now: float, limits: Limits
) -> Iterable[Action]:
    process = observed.processes.get(spec.name)
    if process is None:
        return _start(spec, observed, why="wanted")
    if not process.running:
        return _start_again(spec, process, observed, now, limits)
    if process.spec != spec or process.terminate_sent is not None:
        return ()  # it leaves first, see _leaving
    if _hangs(process, now, limits):
        return _kill_once(process, f"no answer for {now - (process.unanswered_since or now):.0f} s")
    return () if process.is_router else _toward_listed(process, observed, now, limits)


def _start(spec: ProcessSpec, observed: Observed, *, why: str) -> Iterable[Action]:
    holder = _holder(spec, observed)
    return () if holder else (Start(spec, why),)


def _start_again(
    spec: ProcessSpec, process: Process, observed: Observed, now: float, limits: Limits
) -> Iterable[Action]:
    changed = process.spec != spec
    if process.listed is not None and not process.is_router:
        yield from _deregister_once(process, now, limits, "it ended")
    if process.given_up and not changed:
        return
    if not changed and _is_hopeless(process, now, limits):
        yield GiveUp(process.name, f"{limits.give_up_crashes} crashes without ever serving")
        return
    wait_s = 0.0 if changed else backoff_s(process, limits)
    if not process.crashes or now >= process.crashes[-1] + wait_s:
        yield from _start(spec, observed, why="changed" if changed else "again")


def _is_hopeless(process: Process, now: float, limits: Limits) -> bool:
    recent = [at for at in process.crashes if now - at <= limits.give_up_window_s]
    return not process.served and len(recent) >= limits.give_up_crashes


def _holder(spec: ProcessSpec, observed: Observed) -> Process | None:
    """A running process that has the GPUs or the port which `spec` needs."""
    for other in observed.processes.values():
        if other.running and (set(other.spec.gpus) & set(spec.gpus) or other.spec.url == spec.url):
            return other
    return None


def _hangs(process: Process, now: float, limits: Limits) -> bool:
    since = process.unanswered_since
    return process.ready and since is not None and now - since >= limits.hang_s


def _toward_listed(
    process: Process, observed: Observed, now: float, limits: Limits
) -> Iterable[Action]:
    """Into the router's list when ready, in the role and with the bootstrap port it has."""
    if not process.ready or not _router_is_up(observed):
        return ()
    if process.listed is None:
        due = (
            process.register_sent is None or now - process.register_sent >= limits.register_again_s
        )
        return (Register(process.name, "ready"),) if due else ()
    if _is_listed_wrongly(process):
        return _deregister_once(process, now, limits, "listed as something else")
    return ()


def _is_listed_wrongly(process: Process) -> bool:
    listed = process.listed
    if listed is None:
        return False
    other_port = process.spec.role == "prefill" and listed.bootstrap_port != (
        process.spec.bootstrap_port
    )
    return listed.role != process.spec.role or other_port


def _router_is_up(observed: Observed) -> bool:
    return any(p.is_router and p.running and p.ready for p in observed.processes.values())


# towards gone


def _leaving(desired: Desired, observed: Observed) -> tuple[Process, ...]:
    """Processes that run or are known and are not wanted, at least not as they are."""
    wanted = {spec.name: spec for spec in desired.specs}
    return tuple(
        process
        for process in observed.processes.values()
        if process.name not in wanted
        or (process.running and (process.spec != wanted[process.name] or process.terminate_sent))
    )


def _toward_gone(
    process: Process, desired: Desired, observed: Observed, now: float, limits: Limits
) -> Iterable[Action]:
    if not process.running:
        if process.listed is not None:
            return _deregister_once(process, now, limits, "it ended")
        return (Forget(process.name, "not wanted any more"),)
    if process.terminate_sent is not None:
        return _end(process, now)
    if process.deregister_sent is None and not _may_leave(process, desired, observed):
        return _toward_listed(process, observed, now, limits)  # it goes on serving meanwhile
    # also where it is not listed: this is what its draining counts from
    if process.listed is not None or (process.served and process.deregister_sent is None):
        return _deregister_once(process, now, limits, "not wanted any more")
    waited_s = now - process.deregister_sent if process.deregister_sent is not None else 0.0
    is_drained = process.idle_since is not None and now - process.idle_since >= limits.idle_s
    if process.served and not is_drained and waited_s < limits.drain_s:
        return ()
    return (Terminate(process.name, "drained" if is_drained else "not wanted any more"),)


def _without(process: Process, observed: Observed, now: float) -> Observed:
    leaving = replace(process, deregister_sent=now)
    return replace(observed, processes={**observed.processes, process.name: leaving})


def _may_leave(process: Process, desired: Desired, observed: Observed) -> bool:
    """New engines serve before old ones go; unless they wait for the old one's GPUs or port.

    Never the last one of a wanted role that can serve, and nobody while the router is down.
    """
    if not process.ready:
        return True
    role = process.spec.role
    if not _router_is_up(observed):
        return False
    if any(spec.role == role for spec in desired.specs) and not _others_serve(process, observed):
        return False
    missing = [spec for spec in desired.specs if not _is_serving(spec, observed)]
    blocked = any(_is_held_by(process, spec, observed) for spec in missing)
    return blocked or all(_is_given_up(spec, observed) for spec in missing)


def _others_serve(process: Process, observed: Observed) -> bool:
    return any(
        other.spec.role == process.spec.role and other.is_serving and other.deregister_sent is None
        for other in observed.processes.values()
        if other.name != process.name
    )


def _is_held_by(process: Process, spec: ProcessSpec, observed: Observed) -> bool:
    theirs = observed.processes.get(spec.name)
    if theirs is not None and theirs.running and theirs is not process:
        return False
    return bool(set(process.spec.gpus) & set(spec.gpus)) or process.spec.url == spec.url


def _is_given_up(spec: ProcessSpec, observed: Observed) -> bool:
    process = observed.processes.get(spec.name)
    return process is not None and bool(process.given_up)


def _end(process: Process, now: float) -> Iterable[Action]:
    sent = process.terminate_sent
    if sent is not None and now - sent >= process.spec.stop_grace_s:
        return _kill_once(process, f"still there {process.spec.stop_grace_s:.0f} s after SIGTERM")
    return ()


def _kill_once(process: Process, why: str) -> tuple[Action, ...]:
    return () if process.kill_sent else (Kill(process.name, why),)


def _deregister_once(process: Process, now: float, limits: Limits, why: str) -> tuple[Action, ...]:
    sent = process.deregister_sent
    due = sent is None or now - sent >= limits.register_again_s
    return (Deregister(process.name, why),) if due else ()


def _stop_all(desired: Desired, observed: Observed, now: float) -> tuple[Action, ...]:
    """The router first: it takes no more and finishes what it has. Then all engines at once."""
    alive = [p for p in observed.processes.values() if p.running]
    if desired.stop == "now":
        return tuple(action for p in alive for action in _kill_once(p, "stopped at once"))
    routers = [p for p in alive if p.is_router]
    actions: list[Action] = []
    for process in routers or alive:
        if process.terminate_sent is None:
            actions.append(Terminate(process.name, "stopping"))
        else:
            actions += _end(process, now)
    return tuple(actions)


def _first_request(desired: Desired, observed: Observed, limits: Limits) -> tuple[Action, ...]:
    request = observed.first_request
    if observed.was_ready or request.state in ("sent", "passed"):
        return ()
    if request.tries >= limits.first_request_tries or not all_serving(desired, observed):
        return ()
    return (SendFirstRequest("all engines serve"),)
