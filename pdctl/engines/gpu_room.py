"""GPUs that are not free although nobody runs on them: pure rules of `supervisor.step`.

A decode engine's KV stays on its GPU until every prefill engine that sent to it over CUDA IPC has
ended, however the decode engine went: NIXL over UCX on one host keeps it mapped. Seen with SGLang
0.5.15 on two H100 (docs/log.md), and ai-dynamo/nixl#1066. An engine started there finds no memory.
"""

from collections.abc import Mapping

from pdctl.deployment.records import ProcessSpec
from pdctl.engines.actions import Desired, GpuSeen, Limits, Observed, Process


def takes_gpus(spec: ProcessSpec) -> bool:
    """Whether its GPUs are real ones: simulated engines only have their numbers."""
    return "CUDA_VISIBLE_DEVICES" in spec.env


def holder_of(spec: ProcessSpec, observed: Observed) -> Process | None:
    """A running process that has the GPUs or the port which `spec` needs."""
    for other in observed.processes.values():
        if other.running and (set(other.spec.gpus) & set(spec.gpus) or other.spec.url == spec.url):
            return other
    return None


def to_look_at(desired: Desired, observed: Observed) -> tuple[int, ...]:
    """The GPUs that engines are about to be started on, once the deployment has been ready.

    Before that they were chosen because they were free.
    """
    if not observed.was_ready or desired.stop:
        return ()
    return tuple(gpu for spec in _to_start(desired, observed) for gpu in spec.gpus)


def has_room(spec: ProcessSpec, observed: Observed) -> bool:
    """Whether the GPUs of `spec` were seen free; nobody looks at those of simulated engines."""
    if not observed.was_ready or not takes_gpus(spec):
        return True
    seen = [observed.gpus.get(gpu) for gpu in spec.gpus]
    return all(gpu is not None and not gpu.taken_by for gpu in seen)


def to_renew(desired: Desired, observed: Observed, now: float, limits: Limits) -> Mapping[str, str]:
    """Prefill engines that must start again so that another engine finds memory, and why.

    Those that ran before the memory was left. One after the other while the others of them serve;
    all at once where no decode engine serves; none where that would end all service.
    """
    stuck = [
        spec for spec in _to_start(desired, observed) if _is_stuck(spec, observed, now, limits)
    ]
    if not stuck:
        return {}
    spec = stuck[0]
    since = min(gpu.since for gpu in _taken(spec, observed))
    prefill = [p for p in observed.processes.values() if _sends(p, desired)]
    before = [p for p in prefill if p.since <= since]
    if any(p.spec.role == "decode" and p.is_serving for p in observed.processes.values()):
        others = [p for p in prefill if p.is_serving and p.deregister_sent is None]
        before = [p for p in before[:1] if [other for other in others if other is not p]]
    why = f"it keeps memory mapped that {spec.name} needs: {_taken(spec, observed)[0].taken_by}"
    return {process.name: why for process in before}


def waiting_for_gpus(desired: Desired, observed: Observed) -> tuple[str, ...]:
    """A part of a sentence for each engine that waits for memory, for the deployment's state."""
    return tuple(
        f"{spec.name} waits for memory ({gpu.taken_by}{_kept_by(gpu, desired, observed)})"
        for spec in _to_start(desired, observed)
        for gpu in _taken(spec, observed)[:1]
    )


def _kept_by(gpu: GpuSeen, desired: Desired, observed: Observed) -> str:
    earlier = [
        p.name for p in observed.processes.values() if _sends(p, desired) if p.since <= gpu.since
    ]
    return f"; {' and '.join(earlier)} may keep it until restarted" if earlier else ""


def _to_start(desired: Desired, observed: Observed) -> list[ProcessSpec]:
    return [
        spec
        for spec in desired.specs
        if takes_gpus(spec) and not _is_settled(spec, observed) and not holder_of(spec, observed)
    ]


def _is_settled(spec: ProcessSpec, observed: Observed) -> bool:
    process = observed.processes.get(spec.name)
    return process is not None and (process.running or bool(process.given_up))


def _taken(spec: ProcessSpec, observed: Observed) -> list[GpuSeen]:
    seen = (observed.gpus.get(gpu) for gpu in spec.gpus)
    return [gpu for gpu in seen if gpu is not None and gpu.taken_by]


def _is_stuck(spec: ProcessSpec, observed: Observed, now: float, limits: Limits) -> bool:
    taken = _taken(spec, observed)
    return bool(taken) and now - min(gpu.since for gpu in taken) >= limits.gpu_release_s


def _sends(process: Process, desired: Desired) -> bool:
    return process.running and process.spec.role == "prefill" and process.spec in desired.specs
