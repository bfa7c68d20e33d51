"""Rules of `decide.step` for GPUs whose memory is in use although no engine runs there. Pure.

A decode engine's KV stays on its GPU until every prefill engine that sent to it over CUDA IPC has
exited, however the decode engine ended: NIXL over UCX on one host keeps the memory mapped. Measured
with SGLang 0.5.15 on two H100s (docs/log.md); see also ai-dynamo/nixl#1066. A new engine on such a
GPU finds no memory.
"""

from collections.abc import Mapping

from pdctl.deployment.records import GpuPlace, ProcessSpec
from pdctl.engines.supervision.lost_nodes import nodes_of
from pdctl.engines.supervision.model import (
    Desired,
    GpuSeen,
    Observed,
    Process,
    SupervisorLimits,
    others_serve,
    router_is_up,
)


def holder_of(spec: ProcessSpec, observed: Observed) -> Process | None:
    """A running process that occupies a GPU or port that `spec` needs."""
    running = (other for other in observed.processes.values() if other.running)
    return next((other for other in running if other.spec.shares_a_place_with(spec)), None)


def to_look_at(desired: Desired, observed: Observed) -> tuple[GpuPlace, ...]:
    """The GPUs on which engines are about to start, once the deployment has been ready.

    Before that there is nothing to check: they were chosen because they were free.
    """
    if not observed.was_ready or desired.stop:
        return ()
    return tuple(place for spec in _to_start(desired, observed) for place in spec.gpu_places)


def has_room(spec: ProcessSpec, observed: Observed, now: float, limits: SupervisorLimits) -> bool:
    """True if an engine may start: its GPUs are free, or waiting for them will not help.

    Another user's memory, or a driver that does not answer, delays a start only briefly: the engine
    may fit beside it, and reports it if it does not.
    """
    if not observed.was_ready or not spec.needs_gpus:
        return True
    seen = [observed.gpus.get(place) for place in spec.gpu_places]
    if None in seen:
        return False  # the loop asks for it in this turn
    busy = _busy(spec, observed)
    return not busy or (_has_lasted(busy, now, limits) and not _keepers(spec, observed))


def to_renew(
    desired: Desired, observed: Observed, now: float, limits: SupervisorLimits
) -> Mapping[str, str]:
    """Prefill engines that must restart to free another engine's memory, with the reason.

    One at a time while decode engines serve; all at once if no decode engine is alive; none if
    that would end all service.
    """
    if not router_is_up(observed):
        return {}
    keepers: dict[str, str] = {}
    for spec in _to_start(desired, observed):
        if _has_lasted(_busy(spec, observed), now, limits):
            for process in _keepers(spec, observed):
                if process.spec in desired.specs:
                    taken = _taken_by(spec, observed)
                    why = f"it keeps memory mapped that {spec.name} needs: {taken}"
                    keepers.setdefault(process.name, why)
    if not keepers or not _decode_lives(observed):
        return keepers
    on_its_way = (n for n in keepers if observed.processes[n].deregister_sent is not None)
    first = next(on_its_way, next(iter(keepers)))
    return {first: keepers[first]} if others_serve(observed.processes[first], observed) else {}


def is_last_keeper(
    process: Process, spec: ProcessSpec, desired: Desired, observed: Observed
) -> bool:
    """True if a leaving engine is the only one that keeps memory which another one waits for.

    As long as wanted ones keep it too, it serves while those start again.
    """
    keepers = _keepers(spec, observed)
    return process in keepers and not any(p.spec in desired.specs for p in keepers)


def waiting_engines(desired: Desired, observed: Observed) -> Mapping[str, str]:
    """The reason why each engine that does not run may not start yet, in words."""
    if not observed.was_ready:
        return {}
    missing = [spec for spec in desired.specs if not _is_settled(spec, observed)]
    reasons = {spec.name: _waits_for(spec, observed) for spec in missing}
    return {name: reason for name, reason in reasons.items() if reason}


def _waits_for(spec: ProcessSpec, observed: Observed) -> str:
    if gone := [node for node in nodes_of(spec) if node in observed.lost]:
        return f"waits for {gone[0]}, which has left the network"
    if holder := holder_of(spec, observed):
        return f"waits for the place of {holder.name}"
    if spec.needs_gpus and _busy(spec, observed):
        return f"waits for memory ({_words(spec, observed)})"
    return ""


def _words(spec: ProcessSpec, observed: Observed) -> str:
    keepers = " and ".join(p.name for p in _keepers(spec, observed))
    whose = f"; {keepers} may keep it until restarted" if keepers else ""
    return _taken_by(spec, observed) + whose


def _taken_by(spec: ProcessSpec, observed: Observed) -> str:
    named = (gpu.taken.by for gpu in _busy(spec, observed) if gpu.taken is not None)
    return next(named, "the driver has not answered whether its GPUs are free")


def _to_start(desired: Desired, observed: Observed) -> list[ProcessSpec]:
    return [
        spec
        for spec in desired.specs
        if spec.needs_gpus and not _is_settled(spec, observed) and not holder_of(spec, observed)
    ]


def _is_settled(spec: ProcessSpec, observed: Observed) -> bool:
    process = observed.processes.get(spec.name)
    return process is not None and (process.running or bool(process.given_up))


def _busy(spec: ProcessSpec, observed: Observed) -> list[GpuSeen]:
    """Its GPUs that are in use or whose driver has not answered."""
    seen = (observed.gpus.get(place) for place in spec.gpu_places)
    return [gpu for gpu in seen if gpu is not None and (gpu.taken is None or gpu.taken.by)]


def _has_lasted(busy: list[GpuSeen], now: float, limits: SupervisorLimits) -> bool:
    return bool(busy) and now - max(gpu.since for gpu in busy) >= limits.gpu_release_s


def _keepers(spec: ProcessSpec, observed: Observed) -> list[Process]:
    """Prefill engines that may keep a dead decode engine's KV mapped on a GPU of `spec`."""
    left = [
        gpu.since
        for gpu in _busy(spec, observed)
        if gpu.taken and not gpu.taken.is_named and gpu.left_by in (None, "decode")
    ]
    return [
        p
        for p in observed.processes.values()
        if left
        and p.running
        and p.ready
        and (p.spec.role, p.spec.node) == ("prefill", spec.node)
        and p.since <= max(left)
    ]


def _decode_lives(observed: Observed) -> bool:
    """True if a decode engine is alive, even one that the router does not list right now."""
    return any(
        p.spec.role == "decode" and p.running and (p.ready or p.served) and p.terminate_sent is None
        for p in observed.processes.values()
    )
