"""A rehearsal: requests played against simulated engines, beside what was predicted of them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pdctl.deployment.flags_router import policy_of
from pdctl.deployment.records import Deployment
from pdctl.errors import InvalidInput
from pdctl.inspection.records import Cluster, Llm
from pdctl.measurement.compare import Compared, compare_run
from pdctl.measurement.records import LoadResult, Sent
from pdctl.perf_model.engine_model import does_not_fit_reason, engine_model
from pdctl.perf_model.records import EngineModel, Fleet, Outcome, QueueSample, Role
from pdctl.perf_model.routing import known_policy
from pdctl.perf_model.simulator import simulate
from pdctl.status.records import FleetStatus
from pdctl.workload.records import Requests, Slo

# waiting place as SGLang names it -> whose it is
PLACES = (
    ("bootstrap", "prefill"),
    ("waiting", "prefill"),
    ("inflight", "prefill"),
    ("prealloc", "decode"),
    ("transfer", "decode"),
    ("running", "decode"),
)
_PREDICTED_EVERY_S = 0.25


@dataclass(frozen=True)
class QueueCompared:
    """Requests in one waiting place of the fleet, over the time that requests came."""

    place: str
    role: str
    predicted_mean: float
    observed_mean: float
    predicted_peak: int
    observed_peak: int


@dataclass(frozen=True)
class Rehearsal:
    """What came of a rehearsal. Latencies are in the model's time, whatever the speed."""

    layout: str
    num_requests: int
    num_failed: int
    num_truncated: int
    speed: float
    figures: tuple[Compared, ...]
    queues: tuple[QueueCompared, ...]


def fleet_of(deployment: Deployment, llm: Llm, cluster: Cluster) -> Fleet:
    """The simulated engines of a deployment as the simulator sees them.

    Raises InvalidInput naming the role whose engine does not fit its GPUs.
    """
    models = {role: _model(deployment, llm, cluster, role) for role in deployment.roles}
    counts = {role: plan.engines for role, plan in deployment.roles.items()}
    return Fleet(
        colocated=models.get("colocated"),
        prefill=models.get("prefill"),
        decode=models.get("decode"),
        num_colocated=counts.get("colocated", 0),
        num_prefill=counts.get("prefill", 0),
        num_decode=counts.get("decode", 0),
        policy=known_policy(policy_of(deployment) or "cache_aware"),
    )


def predict(fleet: Fleet, requests: Requests) -> Outcome:
    """What the simulator says of these requests at these times."""
    return simulate(fleet, requests, sample_every_s=_PREDICTED_EVERY_S)


def rehearsed(
    fleet: Fleet,
    requests: Requests,
    predicted: Outcome,
    result: LoadResult,
    samples: Sequence[FleetStatus],
    slo: Slo,
) -> Rehearsal:
    """Put what was seen beside what was predicted."""
    played = in_model_time(result)
    until_s = requests.arrival_s[-1] if len(requests) else 0.0
    return Rehearsal(
        layout=fleet.layout,
        num_requests=len(played.sent),
        num_failed=sum(one.error is not None for one in played.sent),
        num_truncated=sum(one.is_truncated for one in played.sent),
        speed=result.speed,
        figures=compare_run(predicted, played, requests, slo),
        queues=_queues(fleet, [q for q in predicted.queues if q.at_s <= until_s], samples),
    )


def in_model_time(result: LoadResult) -> LoadResult:
    """The result as if it had been played at speed 1: every time multiplied by the speed."""
    return replace(
        result,
        sent=tuple(_slower(one, result.speed) for one in result.sent),
        span_s=result.span_s * result.speed,
    )


def _slower(one: Sent, speed: float) -> Sent:
    return replace(
        one,
        intended_s=one.intended_s * speed,
        sent_s=one.sent_s * speed,
        end_s=one.end_s * speed,
        token_s=tuple(at * speed for at in one.token_s),
    )


def _model(deployment: Deployment, llm: Llm, cluster: Cluster, role: Role) -> EngineModel:
    parallelism = deployment.roles[role].parallelism
    model = engine_model(llm, cluster, parallelism, role)
    if model is None:
        reason = does_not_fit_reason(llm, cluster, parallelism, role)
        raise InvalidInput(
            f"{llm.name} does not fit a {role} engine: {reason}.", hint="a larger --tp"
        )
    return model


def _queues(
    fleet: Fleet, predicted: Sequence[QueueSample], samples: Sequence[FleetStatus]
) -> tuple[QueueCompared, ...]:
    if not predicted or not samples:
        return ()
    places = PLACES if fleet.num_prefill else (("waiting", "colocated"), ("running", "colocated"))
    rows = []
    for place, role in places:
        ours = [getattr(sample, place) for sample in predicted]
        seen = [_observed(sample, place, role) for sample in samples]
        rows.append(
            QueueCompared(
                place, role, sum(ours) / len(ours), sum(seen) / len(seen), max(ours), max(seen)
            )
        )
    return tuple(rows)


def _observed(status: FleetStatus, place: str, role: str) -> int:
    of_role = [e.sample for e in status.engines if e.target.role == role and e.sample]
    return sum(getattr(sample, place) or 0 for sample in of_role)
