"""What to do next for a deployment: pure, level-triggered, one step at a time.

Whatever happened before, `step` compares what should run with what is seen and moves one step
closer; acting twice on the same sight is harmless. The loop around it is in daemon.py.
"""

from collections.abc import Iterable

from pdctl.deployment.records import ProcessSpec
from pdctl.engines.actions import (
    DEFAULT_LIMITS,
    Action,
    Deregister,
    Desired,
    GiveUp,
    Limits,
    Observed,
    Process,
    SendFirstRequest,
    Start,
    Terminate,
)
from pdctl.engines.first_start import first_start_failure
from pdctl.engines.gpu_room import has_room, holder_of, to_renew
from pdctl.engines.leaving import end, kill_once, leaving, toward_gone, toward_renewed, without
from pdctl.engines.listing import deregister_once, is_serving, toward_listed


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
    return all(is_serving(spec, observed) for spec in desired.specs)


# towards serving


def _toward_serving(
    spec: ProcessSpec, observed: Observed, now: float, limits: Limits
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
    spec: ProcessSpec, observed: Observed, now: float, limits: Limits, *, why: str
) -> Iterable[Action]:
    if holder_of(spec, observed) or not has_room(spec, observed, now, limits):
        return ()
    return (Start(spec, why),)


def _start_again(
    spec: ProcessSpec, process: Process, observed: Observed, now: float, limits: Limits
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


def _is_hopeless(process: Process, now: float, limits: Limits) -> bool:
    recent = [at for at in process.crashes if now - at <= limits.give_up_window_s]
    return not process.served and len(recent) >= limits.give_up_crashes


def _hangs(process: Process, now: float, limits: Limits) -> bool:
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


def _first_request(desired: Desired, observed: Observed, limits: Limits) -> tuple[Action, ...]:
    request = observed.first_request
    if observed.was_ready or request.state in ("sent", "passed"):
        return ()
    if request.tries >= limits.first_request_tries or not all_serving(desired, observed):
        return ()
    return (SendFirstRequest("all engines serve"),)
