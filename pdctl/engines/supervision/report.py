"""Turn the supervisor's records into the state that it publishes. Pure."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from pdctl.engines.records import DeploymentPhase, Handle, Launch, Phase, ProcessState
from pdctl.engines.supervision.decide import all_serving, backoff_s, how_it_ended
from pdctl.engines.supervision.model import NOT_STARTED, Desired, Fail, Observed, Process
from pdctl.units import format_number_of

NOBODY: Mapping[str, str] = {}


@dataclass(frozen=True)
class StartFacts:
    """Facts about a start that only the loop knows. progress: 0..1 of the phase in `doing`."""

    handle: Handle | None = None
    started_at: float | None = None  # Unix seconds
    doing: str = ""
    progress: float | None = None
    ready_after_s: float | None = None
    restarts: int = 0


def process_state(
    process: Process,
    facts: StartFacts,
    desired: Desired,
    failure: Fail | None,
    waits: str = "",
) -> ProcessState:
    """The published state of one process. waits: the reason why it may not start yet."""
    phase = process_phase(process, facts, desired, failure)
    return ProcessState(
        name=process.name,
        role=process.spec.role,
        url=process.spec.url,
        phase=phase,
        handle=facts.handle if process.running else None,
        started_at=facts.started_at,
        detail=waits or _detail(process, facts, phase, failure),
        progress=facts.progress if phase == "loading" else None,
        ready_after_s=facts.ready_after_s,
        restarts=facts.restarts,
        exit_code=process.exit_code,
        gpus=process.spec.gpus,
        bootstrap_port=process.spec.bootstrap_port,
        metrics_port=process.spec.metrics_port,
        log=str(process.spec.log),
        was_prefill=process.was_prefill,
        node=process.spec.node,
    )


def process_phase(
    process: Process, facts: StartFacts, desired: Desired, failure: Fail | None
) -> Phase:
    """The phase of one process."""
    if not process.running:
        return _phase_of_ended(process, desired, failure)
    if process.terminate_sent is None and process.is_cut_off:
        return "registering"
    if process.terminate_sent is not None or process.deregister_sent is not None:
        return "draining"
    if process.is_serving:
        return "serving"
    if process.ready:
        return "registering"
    return "loading" if facts.doing else "starting"


def _phase_of_ended(process: Process, desired: Desired, failure: Fail | None) -> Phase:
    if process.given_up or (failure is not None and failure.name == process.name):
        return "failed"
    if desired.stop or not (process.crashes or process.detail.startswith(NOT_STARTED)):
        return "stopped"
    return "backoff"


def _detail(process: Process, facts: StartFacts, phase: Phase, failure: Fail | None) -> str:
    if failure is not None and failure.name == process.name:
        return failure.why
    if phase == "failed":
        return process.given_up
    if phase == "backoff" and not process.crashes:
        return process.detail
    if phase == "backoff":
        return f"{how_it_ended(process)}; restarting {backoff_s(process):.0f} s later"
    if phase in ("loading", "starting"):
        return process.detail or facts.doing
    if process.is_cut_off:
        return f"{process.spec.node} does not answer"
    if phase == "registering" and process.listed is not None and not process.listed.is_healthy:
        return "the router reports it as unhealthy"
    if phase == "draining":
        return _how_far_drained(process)
    return "no answer" if phase == "serving" and process.unanswered_since else ""


def _how_far_drained(process: Process) -> str:
    if process.terminate_sent is not None:
        return "exiting"
    if process.switch_to is not None:
        return f"becoming {process.switch_to.name}"
    left = process.num_left
    return "" if left is None else f"{format_number_of(left, 'request')} left"


def deployment_phase(
    desired: Desired, observed: Observed, failure: Fail | None, *, is_over: bool
) -> DeploymentPhase:
    """The phase of the whole deployment."""
    ended: Literal["failed", "stopped"] = "failed" if failure else "stopped"
    if is_over:
        return ended
    if desired.stop:
        return "stopping"
    if not observed.was_ready:
        return "starting"
    if all_serving(desired, observed):
        return "serving"
    wanted = [observed.processes.get(spec.name) for spec in desired.specs]
    out = [process for process in wanted if process is not None and not process.is_serving]
    router = next((p for p in wanted if p is not None and p.is_router), None)
    was_lost = router is not None and bool(router.crashes)
    if any(_is_in_trouble(p, was_lost) for p in out):
        return "degraded"
    # while nothing starts or leaves, a missing engine will not appear by itself
    is_moving = any(p.running and not p.is_serving for p in observed.processes.values())
    return "scaling" if is_moving else "degraded"


def _is_in_trouble(process: Process, router_was_lost: bool) -> bool:
    """True if something went wrong with it; a new engine that is still starting is fine."""
    since = (process.unanswered_since, process.wrong_since)
    if process.crashes or process.is_cut_off or any(at is not None for at in since):
        return True
    if process.given_up or process.lost or process.switch_failed:
        return True
    if process.listed is None:
        return process.served and router_was_lost
    return process.served and not process.listed.is_healthy


def deployment_detail(
    phase: DeploymentPhase,
    processes: tuple[ProcessState, ...],
    launch: Launch,
    waiting: Mapping[str, str] = NOBODY,
) -> str:
    """Details beside the phase; "" if the phase says it all. waiting: reasons by engine."""
    if phase not in ("degraded", "scaling"):
        return ""
    wanted = {spec.name: spec for spec in launch.specs}
    known = {p.name for p in processes}
    out = [_short(p) for p in processes if p.phase == "draining" or _is_missed(p, wanted)]
    out += [
        f"{p.name} still serves on {p.node}, to move to {wanted[p.name].node}"
        for p in processes
        if p.phase == "serving" and p.name in wanted and p.url != wanted[p.name].url
    ]
    new = [f"{name} not started yet" for name in wanted if name not in {*known, *waiting}]
    return ", ".join((*out, *new, *(f"{name} {what}" for name, what in waiting.items())))


def _is_missed(process: ProcessState, wanted: Collection[str]) -> bool:
    return process.phase != "serving" and process.name in wanted


def _short(process: ProcessState) -> str:
    is_steady = process.phase != "backoff" or process.detail.startswith(NOT_STARTED)
    why = f" ({process.detail})" if process.detail and is_steady else ""
    return f"{process.name} {process.phase}{why}"
