"""Combine samples of engines and router into one status with a verdict. Pure."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from pdctl.perf_model.records import Role, layout_text
from pdctl.status.records import (
    Advice,
    DeploymentStatus,
    EngineHealth,
    EngineMoment,
    EngineSample,
    EngineStatus,
    Moment,
    RouterScrape,
    Scrape,
    Target,
    Watched,
)
from pdctl.units import format_span

STALE_S = 5.0  # SGLang publishes its load at least every 15 decode steps; past this, it hangs
_OLD_S = 2.0  # from here on, the numbers of an engine that fell silent are said to be old
_NOT_YET = {"starting", "loading", "registering"}
_OVER = {"failed", "backoff", "stopped"}

_ENDED = {"stopping": "it is being stopped", "stopped": "it has stopped", "failed": "it has failed"}

_STATES: dict[EngineHealth, str] = {
    "starting": "is starting",
    "unreachable": "does not answer",
    "failed": "has failed",
    "stale": "hangs",
    "up": "is up",
}

Verdict = tuple[str, str]


def engine_status(
    target: Target, scrape: Scrape | None, last: Scrape | None, now_s: float, breaker: str | None
) -> EngineStatus:
    """One row of the table, with the engine's health from its phase and its answer.

    scrape: the current answer; None: the request hangs. last: the last answer with a sample.
    """
    age_s = None if last is None else max(0.0, now_s - last.at_s + last.age_s)
    health, problem = _health(target, scrape, age_s)
    return EngineStatus(
        target=target,
        health=health,
        sample=last.sample if last else None,
        age_s=age_s,
        breaker=breaker if breaker in ("closed", "open", "half-open") else None,  # type: ignore[arg-type]
        problem=problem or target.problem or (target.detail if health in _NOT_YET else ""),
    )


def _health(target: Target, scrape: Scrape | None, age_s: float | None) -> tuple[EngineHealth, str]:
    if target.phase in _OVER:
        return "failed", target.detail or target.phase
    if target.phase in _NOT_YET:
        return "starting", target.detail
    if scrape is None or scrape.sample is None:
        return "unreachable", scrape.problem if scrape else "no answer in time"
    if age_s is not None and age_s > STALE_S:
        return "stale", f"its numbers are {format_span(age_s)} old"
    return "up", ""


def moment_of(
    engines: Sequence[EngineStatus], requests: float | None, at_s: float, *, restarted: bool
) -> Moment:
    """Totals over a deployment; unknown while an engine of the role has no fresh value."""
    prefill, decode = _of(engines, "prefill"), _of(engines, "decode")
    colocated = _of(engines, "colocated")
    speaking = decode or colocated
    by_engines = _sum(speaking, "requests_total")
    return Moment(
        at_s=at_s,
        num_prefill=len(prefill),
        num_decode=len(decode),
        num_colocated=len(colocated),
        waiting=_sum(prefill or colocated, "waiting"),
        bootstrap=_sum(prefill, "bootstrap"),
        inflight=_sum(prefill, "inflight"),
        prealloc=_sum(decode, "prealloc"),
        transfer=_sum(decode, "transfer"),
        decode_waiting=_sum(decode, "waiting"),
        running=_sum(speaking, "running"),
        kv_usage=_mean(speaking, "kv_usage"),
        itl_s=_mean(speaking, "itl_p50_s"),
        ttft_s=_mean(speaking, "ttft_p50_s"),
        busy_share=_mean(prefill, "busy_share"),
        transfer_latency_s=_mean(prefill, "transfer_latency_s"),
        requests=by_engines if requests is None else requests,
        counted_by="engines" if requests is None else "router",
        restarted=restarted,
        engines=tuple(map(_engine_moment, engines)),
    )


def _engine_moment(one: EngineStatus) -> EngineMoment:
    sample = one.sample if one.health == "up" else None
    return EngineMoment(
        name=one.target.name,
        role=one.target.role,
        health=one.health,
        queued=queue_length(sample),
        running=None if sample is None else sample.running,
        itl_s=None if sample is None else sample.itl_p50_s,
        prefill_s_per_token=None if sample is None else sample.prefill_s_per_token,
    )


def _of(engines: Iterable[EngineStatus], role: Role) -> list[EngineStatus]:
    return [one for one in engines if one.target.role == role]


def _values(engines: Iterable[EngineStatus], name: str) -> list[float | None]:
    return [
        getattr(one.sample, name) if one.sample and one.health == "up" else None for one in engines
    ]


def _sum(engines: Sequence[EngineStatus], name: str) -> float | None:
    values = _values(engines, name)
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None


def _mean(engines: Sequence[EngineStatus], name: str) -> float | None:
    """Mean over the engines that report it: an engine without traffic has no latency."""
    known = [value for value in _values(engines, name) if value is not None]
    return sum(known) / len(known) if known else None


def deployment_status(
    watched: Watched,
    engines: Sequence[EngineStatus],
    router: RouterScrape | None,
    advice: Advice,
    now_s: float,
) -> DeploymentStatus:
    """The whole deployment at one moment, with a verdict and its reason."""
    verdict, text = _verdict(watched, engines, router)
    if watched.note and verdict in ("degraded", "down") and text != watched.note:
        text = f"{text}; {watched.note}"
    if verdict in ("starting", "down"):
        advice = Advice("not_enough_evidence", f"No advice while it is {verdict}.")
    if verdict == "degraded" and advice.cause == "healthy":
        advice = replace(advice, what="The engines that serve keep up.")
    return DeploymentStatus(
        name=watched.name,
        model=watched.model,
        layout=layout_text(Counter(one.target.role for one in engines)),
        endpoint=watched.endpoint,
        at_s=now_s,
        verdict=verdict,  # type: ignore[arg-type]
        verdict_text=text,
        engines=tuple(engines),
        advice=advice,
        is_ours=watched.phase is not None,
        sim_speed=watched.sim_speed,
        ttft_slo_s=watched.ttft_slo_s,
        tpot_slo_s=watched.tpot_slo_s,
    )


def _verdict(
    watched: Watched, engines: Sequence[EngineStatus], router: RouterScrape | None
) -> Verdict:
    up = [one for one in engines if one.health == "up"]
    if watched.phase in _ENDED:
        reason = f": {watched.detail}" if watched.detail else ""
        return "down", _ENDED[watched.phase] + reason
    if not engines:
        return "down", "it has no engines"
    is_starting = not up and any(one.health == "starting" for one in engines)
    if (watched.phase == "starting" or is_starting) and not watched.router_problem:
        return "starting", f"{len(up)} of {len(engines)} engines serve"
    if watched.router_problem or router is None or not router.alive:
        problem = watched.router_problem or f"does not answer at {watched.router_url}"
        return "down", f"the router {problem}"
    for role in ("prefill", "decode", "colocated"):
        of_role = [one for one in engines if one.target.role == role]
        if of_role and not any(one.health == "up" and one.breaker != "open" for one in of_role):
            return "down", f"no {role} engine serves: {_trouble(of_role[0])}"
    troubled = [one for one in engines if not is_well(one)]
    if (
        watched.phase == "scaling"
        and router.ready
        and all(one.health == "starting" for one in troubled)
    ):
        return "scaling", watched.detail
    if troubled:
        more = f", and {len(troubled) - 1} more" if len(troubled) > 1 else ""
        return "degraded", _trouble(troubled[0]) + more
    if not router.ready:
        return "degraded", "the router has no healthy pair of prefill and decode"
    return ("degraded", watched.note) if watched.note else ("serving", "")


def is_well(one: EngineStatus) -> bool:
    """True if an engine serves, is set up correctly, and its circuit breaker is closed."""
    return one.health == "up" and one.breaker in (None, "closed") and not one.target.problem


def _trouble(one: EngineStatus) -> str:
    name = one.target.name
    if one.health == "up" and one.breaker not in (None, "closed"):
        return f"the router's circuit breaker of {name} is {one.breaker}"
    if one.health == "up":
        return f"{name} is {one.target.problem}"
    is_old = one.health in ("unreachable", "failed") and (one.age_s or 0.0) >= _OLD_S
    age = f"its numbers are {format_span(one.age_s)} old" if is_old else ""
    why = "; ".join(filter(None, (one.problem, age)))
    return f"{name} {_STATES[one.health]}" + (f" ({why})" if why else "")


def queue_length(sample: EngineSample | None) -> float | None:
    """Requests that wait in all queues of an engine; None if unknown."""
    if sample is None:
        return None
    queues = (sample.waiting, sample.bootstrap, sample.inflight, sample.prealloc, sample.transfer)
    known = [one for one in queues if one is not None]
    return float(sum(known)) if known else None


def with_live_role(target: Target, sample: EngineSample | None) -> Target:
    """`target`, marked with a problem if the engine reports another role."""
    if sample is None or sample.role == target.role:
        return target
    return replace(target, problem=f"registered as {target.role} but runs as {sample.role}")
