"""Compare predicted figures with measured ones. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import mean, median
from typing import Literal

from pdctl.deployment.flags import policy_of
from pdctl.deployment.records import Deployment
from pdctl.deployment.serving import simulated_serving, simulated_speculation
from pdctl.errors import InvalidInput
from pdctl.inspection.records import Cluster, Llm
from pdctl.measurement.results import (
    COOL_DOWN,
    WARM_UP,
    LoadResult,
    LoadSummary,
    Sent,
    summary,
    window,
)
from pdctl.perf_model.engine_model import does_not_fit_reason, engine_model
from pdctl.perf_model.fitting.profiles import named_profile
from pdctl.perf_model.metrics import attainment, goodput_rps, percentiles
from pdctl.perf_model.records import EngineModel, Fleet, Outcome, Percentiles, QueueSample, Role
from pdctl.perf_model.simulator.routing import known_policy
from pdctl.perf_model.simulator.simulate import simulate, simulate_clients
from pdctl.status.records import DeploymentStatus
from pdctl.workload.arrivals import in_any_order, sending_s
from pdctl.workload.records import Requests, Slo

Unit = Literal["s", "tokens/s", "requests/s", "share"]

# waiting place, as SGLang names it, and the role of the engines that have it
PLACES = (
    ("bootstrap", "prefill"),
    ("waiting", "prefill"),
    ("inflight", "prefill"),
    ("prealloc", "decode"),
    ("transfer", "decode"),
    ("running", "decode"),
)
_PREDICTED_EVERY_S = 0.25
PLAYS = 16  # of the same requests, as the router may spread them: predictions are their medians


@dataclass(frozen=True)
class Compared:
    """One figure, predicted and measured. None: unknown. error: relative to the measured value.

    predicted_range: the least and the most of several plays that only the router's luck tells
    apart; None where there was one.
    """

    figure: str  # "ttft p50", "goodput"
    unit: Unit
    predicted: float | None
    measured: float | None
    predicted_range: tuple[float, float] | None = None

    @property
    def error(self) -> float | None:
        if self.predicted is None or not self.measured:
            return None
        return (self.predicted - self.measured) / self.measured


def compare(
    predicted: Outcome, measured: LoadSummary, slo: Slo | None = None
) -> tuple[Compared, ...]:
    """Pair the figures that both sides have, in reading order.

    predicted: the same requests at the same arrival times in the same window (see `windowed`).
    Near saturation, arrival times matter more than the model.
    """
    span_s = predicted.span_s
    rows = [
        *_spread("ttft", percentiles(predicted.ttft_s), measured.ttft_s),
        *_spread("tpot", percentiles(predicted.tpot_s), measured.tpot_s),
        *_spread("e2e", percentiles(predicted.e2e_s), measured.e2e_s),
        Compared(
            "output tokens",
            "tokens/s",
            predicted.output_tokens / span_s if span_s > 0 else None,
            measured.output_tokens_per_s,
        ),
    ]
    if slo is not None and slo.is_given:
        share, rps = attainment(predicted, slo), goodput_rps(predicted, slo)
        rows.append(Compared("attainment", "share", share, measured.attainment))
        rows.append(Compared("goodput", "requests/s", rps, measured.goodput_rps))
    return tuple(rows)


def windowed(
    outcome: Outcome, requests: Requests, *, warm_up: float = WARM_UP, cool_down: float = COOL_DOWN
) -> Outcome:
    """Drop the requests from a simulated outcome that the summary of a measurement drops."""
    if not len(requests):
        return outcome
    start_s, end_s = window(requests.arrival_s, warm_up, cool_down)
    inside = [n for n, at_s in enumerate(requests.arrival_s) if start_s <= at_s <= end_s]
    answered = [n for n in inside if outcome.e2e_s[n] is not None]
    return Outcome(
        ttft_s=[outcome.ttft_s[n] for n in inside],
        tpot_s=[outcome.tpot_s[n] for n in inside],
        e2e_s=[outcome.e2e_s[n] for n in inside],
        span_s=end_s - start_s,
        output_tokens=sum(requests.osl[n] for n in answered),
        kv_usage_peak=outcome.kv_usage_peak,
        num_retracted=outcome.num_retracted,
        num_rejected=len(inside) - len(answered),
        queues=outcome.queues,
    )


def as_played(result: LoadResult, requests: Requests) -> Requests:
    """Replace arrival times by the times at which the requests were due, to predict the same run.

    result: from a closed or an open loop. requests: the ones asked for, with their prefixes.
    """
    sent = sorted(result.sent, key=lambda one: one.intended_s)
    order = [one.index for one in sent]
    return Requests(
        arrival_s=[one.intended_s for one in sent],
        isl=[requests.isl[n] for n in order],
        osl=[requests.osl[n] for n in order],
        blocks=None if requests.blocks is None else [requests.blocks[n] for n in order],
        block_tokens=requests.block_tokens,
    )


def compare_run(
    predicted: Outcome, result: LoadResult, requests: Requests, slo: Slo | None = None
) -> tuple[Compared, ...]:
    """Compare a simulation of `requests` with a run of them, both in the same window."""
    return compare(windowed(predicted, requests), summary(result, slo), slo)


def _spread(
    name: str, predicted: Percentiles | None, measured: Percentiles | None
) -> list[Compared]:
    rows = []
    for field in ("mean", "p50", "p90", "p99"):
        rows.append(
            Compared(
                f"{name} {field}",
                "s",
                getattr(predicted, field) if predicted else None,
                getattr(measured, field) if measured else None,
            )
        )
    return rows


@dataclass(frozen=True)
class QueueCompared:
    """Requests in one waiting place, averaged over the time in which requests arrive."""

    place: str
    role: str
    predicted_mean: float
    observed_mean: float
    predicted_peak: int
    observed_peak: int


@dataclass(frozen=True)
class Rehearsal:
    """Result of a rehearsal. Latencies are in simulated time, whatever the speed."""

    layout: str
    num_requests: int
    num_failed: int
    num_truncated: int
    speed: float
    figures: tuple[Compared, ...]
    queues: tuple[QueueCompared, ...]


def rehearsed_fleet(deployment: Deployment, llm: Llm, cluster: Cluster) -> Fleet:
    """The simulated engines of a deployment as a fleet of the simulator.

    Raises InvalidInput naming the role of an engine that does not fit its GPUs.
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


@dataclass(frozen=True)
class Play:
    """One simulation, and its requests in the order in which the router got them."""

    requests: Requests
    outcome: Outcome


def predict(fleet: Fleet, requests: Requests, clients: int | None = None) -> tuple[Play, ...]:
    """Simulate these requests, with queue samples, as luck may have it.

    They come at their times, or from so many clients in a closed loop: there the times follow from
    the answers, and those of another play, with other engines picked, would fit neither.
    Luck: which of the requests of one instant the router sees first, and which engines it picks.
    """
    if clients is not None:
        return tuple(_loop(fleet, requests, clients, seed) for seed in range(PLAYS))
    return tuple(_play(fleet, in_any_order(requests, seed), seed) for seed in range(PLAYS))


def _loop(fleet: Fleet, requests: Requests, clients: int, seed: int) -> Play:
    outcome = simulate_clients(
        fleet,
        requests,
        clients,
        seed=seed,
        sample_every_s=_PREDICTED_EVERY_S,
        pauses_s=sending_s(requests, seed),
    )
    return Play(replace(requests, arrival_s=outcome.arrival_s), outcome)


def _play(fleet: Fleet, requests: Requests, seed: int) -> Play:
    outcome = simulate(fleet, requests, seed=seed, sample_every_s=_PREDICTED_EVERY_S)
    return Play(requests, outcome)


def rehearsed(
    fleet: Fleet,
    predicted: Sequence[Play],
    result: LoadResult,
    samples: Sequence[DeploymentStatus],
    slo: Slo,
) -> Rehearsal:
    """Put observed figures beside predicted ones."""
    played = in_model_time(result)
    each = [compare_run(play.outcome, played, play.requests, slo) for play in predicted]
    return Rehearsal(
        layout=fleet.layout,
        num_requests=len(played.sent),
        num_failed=sum(one.error is not None for one in played.sent),
        num_truncated=sum(one.is_truncated for one in played.sent),
        speed=result.speed,
        figures=tuple(_usual(same) for same in zip(*each, strict=True)),
        queues=_queues(fleet, predicted, samples),
    )


def _usual(same: Sequence[Compared]) -> Compared:
    """One figure of several plays: their median, and how far luck moves it."""
    known = sorted(one.predicted for one in same if one.predicted is not None)
    if not known:
        return same[0]
    return replace(same[0], predicted=median(known), predicted_range=(known[0], known[-1]))


def in_model_time(result: LoadResult) -> LoadResult:
    """The result as if it had run at speed 1: every time multiplied by the speed."""
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
    plan, planned = deployment.roles[role], deployment.planned
    serving = simulated_serving((*simulated_speculation(planned), *plan.args))
    profile = named_profile(planned.profile) if planned and planned.profile else None
    shape = plan.parallelism
    model = engine_model(llm, cluster, shape, role, profile=profile, serving=serving)
    if model is None:
        reason = does_not_fit_reason(llm, cluster, shape, role, serving=serving)
        raise InvalidInput(
            f"{llm.name} does not fit a {role} engine: {reason}.", hint="--tp, with a larger size"
        )
    return model


def _queues(
    fleet: Fleet, predicted: Sequence[Play], samples: Sequence[DeploymentStatus]
) -> tuple[QueueCompared, ...]:
    ours = [_while_they_come(play) for play in predicted]
    if not all(ours) or not samples:
        return ()
    places = PLACES if fleet.num_prefill else (("waiting", "colocated"), ("running", "colocated"))
    rows = []
    for place, role in places:
        seen = [_observed(sample, place, role) for sample in samples]
        lengths = [[getattr(queue, place) for queue in one] for one in ours]
        rows.append(
            QueueCompared(
                place,
                role,
                predicted_mean=mean(sum(one) / len(one) for one in lengths),
                observed_mean=mean(seen),
                predicted_peak=round(median(max(one) for one in lengths)),
                observed_peak=max(seen),
            )
        )
    return tuple(rows)


def _while_they_come(play: Play) -> list[QueueSample]:
    """The queues up to the last arrival."""
    times = play.requests.arrival_s
    return [queue for queue in play.outcome.queues if times and queue.at_s <= times[-1]]


def _observed(status: DeploymentStatus, place: str, role: str) -> int:
    of_role = [e.sample for e in status.engines if e.target.role == role and e.sample]
    return sum(getattr(sample, place) or 0 for sample in of_role)
