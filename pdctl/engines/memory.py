"""How the record of a process changes with what happens to it: pure."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from pdctl.deployment.records import ProcessRole, ProcessSpec
from pdctl.engines.actions import GpuSeen, Limits, Process, Taken
from pdctl.engines.log_tail import what_died
from pdctl.engines.readiness import Readiness
from pdctl.engines.role_switch import Switched
from pdctl.engines.router_client import Listed
from pdctl.engines.supervisor import remember_crash


def started(spec: ProcessSpec, before: Process | None, now: float) -> Process:
    """A new start; crashes and having served are remembered of the same spec."""
    if before is None or before.spec != spec:
        return Process(spec=spec, running=True, since=now)
    return Process(
        spec=spec,
        running=True,
        since=now,
        served=before.served,
        crashes=before.crashes,
        listed=before.listed,
    )


def ended(process: Process, exit_code: int | None, now: float, limits: Limits) -> Process:
    """It is gone. A crash, unless it was asked to end."""
    asked = process.terminate_sent is not None
    return Process(
        spec=process.spec,
        running=False,
        since=now,
        exit_code=exit_code,
        served=process.served,
        crashes=process.crashes if asked else remember_crash(process, now, limits),
        given_up=process.given_up,
        listed=process.listed,
        detail=process.detail,
    )


def not_started(spec: ProcessSpec, before: Process | None, why: str, now: float) -> Process:
    """It could not even be started; counts as a crash."""
    crashes = before.crashes if before is not None and before.spec == spec else ()
    return Process(spec=spec, running=False, since=now, crashes=(*crashes, now), detail=why)


def checked(process: Process, answer: Readiness, now: float) -> Process:
    """After a readiness check."""
    wrong_since = (process.wrong_since or now) if answer.is_wrong else None
    detail = answer.detail or process.detail
    return replace(process, ready=answer.is_ready, wrong_since=wrong_since, detail=detail)


def answered(process: Process, is_alive: bool, now: float) -> Process:
    """After a sign of life, or the lack of one."""
    since = None if is_alive else (process.unanswered_since or now)
    return replace(process, unanswered_since=since)


def told(process: Process, text: str) -> Process:
    """After it has written more into its log."""
    return replace(process, lost=process.lost or what_died(text))


def leaves_router(process: Process, now: float) -> Process:
    """It was told to the router to send nothing more here: what was seen inside counts no more."""
    return replace(process, deregister_sent=now, register_sent=None, idle_since=None, num_left=None)


def drained(process: Process, num_left: int | None, now: float) -> Process:
    """After it was asked for the requests inside. None: it did not say."""
    since = (process.idle_since or now) if num_left == 0 else None
    return replace(process, idle_since=since, num_left=num_left)


def not_switched(process: Process, answer: Switched) -> Process:
    """It kept its role: tried again where a request was still inside."""
    after = replace(process, switch_to=None, idle_since=None)
    return after if answer.is_early else replace(after, switch_failed=answer.why or "refused")


def switched(
    processes: Mapping[str, Process], name: str, spec: ProcessSpec, now: float
) -> dict[str, Process]:
    """The engine `name` is another one now, in the same process; not ready until it was asked."""
    before = processes[name]
    after = Process(
        spec=spec,
        running=True,
        since=now,
        served=True,
        crashes=before.crashes,
        was_prefill=before.was_prefill or before.spec.role == "prefill",
    )
    in_order = ((after.name, after) if key == name else (key, p) for key, p in processes.items())
    return {key: process for key, process in in_order if key != after.name or process is after}


def listed(process: Process, row: Listed | None, now: float) -> Process:
    """After the router was asked what it lists."""
    after = replace(process, listed=row)
    return serving(after, now)


def serving(process: Process, now: float) -> Process:
    """Remember that it serves, and since when."""
    if not process.is_serving:
        return replace(process, serving_since=None)
    return replace(process, served=True, serving_since=process.serving_since or now, detail="")


def gpus_awaited(
    before: Mapping[int, GpuSeen],
    gpus: Iterable[int],
    left_by: Mapping[int, ProcessRole],
    now: float,
) -> dict[int, GpuSeen]:
    """What is known of the GPUs that engines wait for now; of others nothing is kept."""
    return {gpu: before.get(gpu) or GpuSeen(None, now, left_by.get(gpu)) for gpu in gpus}


def gpus_seen(
    before: Mapping[int, GpuSeen], taken: Mapping[int, Taken], now: float
) -> dict[int, GpuSeen]:
    """After a look at them: who has them, and since when they are free or taken."""
    return {
        gpu: _seen_again(seen, taken[gpu], now) if gpu in taken else seen
        for gpu, seen in before.items()
    }


def _seen_again(seen: GpuSeen, taken: Taken, now: float) -> GpuSeen:
    was_busy = seen.taken is None or bool(seen.taken.by)
    return replace(seen, taken=taken, since=seen.since if was_busy == bool(taken.by) else now)


def router_lost(process: Process) -> Process:
    """The router ended: whatever it knew of this engine is gone."""
    if process.is_router:
        return process
    return replace(
        process,
        listed=None,
        register_sent=None,
        deregister_sent=None,
        idle_since=None,
        serving_since=None,
    )
