"""The latest requests of a running deployment, replayed on other layouts.

    python -m pdctl.measurement.live_what_if NAME

keeps the answer for `status`. The supervisor runs that every few minutes.
"""

import argparse
import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pdctl.deployment.flags import REQUEST_TIMES_FLAG
from pdctl.engines.lifecycle.deployment_key import use_key_of
from pdctl.engines.lifecycle.logs import hosts, lines_by_engine
from pdctl.engines.lifecycle.running import router_policy
from pdctl.engines.request_times import request_log
from pdctl.engines.supervision.recorder import recorded
from pdctl.errors import PdctlError
from pdctl.measurement.calibration.engine_client import facts_of_engines
from pdctl.measurement.engine_facts import EngineFacts
from pdctl.measurement.prediction import predicted_engine, running_fleet
from pdctl.perf_model.records import EngineModel, Fleet, Role
from pdctl.status.pages import parse_loads, parse_router_metrics
from pdctl.status.rates import per_second, rises
from pdctl.status.records import Target, Watched, WhatIf
from pdctl.status.request_window import Window, at_speed, ended_requests, window_of
from pdctl.status.targets import source_of_state
from pdctl.status.what_if import what_if
from pdctl.status.what_if_file import changed_at_s, keep_what_if
from pdctl.workload.records import Slo

WINDOW_S = 300.0
SETTLING_S = 15.0  # after a change, until its effect shows in what is seen
READ_BYTES = 16 << 20  # of each log; 10 minutes of an engine that ends 60 requests a second


def live_what_if(name: str, window_s: float) -> WhatIf | str:
    """Replay the requests of the last `window_s` on all layouts; or why nothing is said.

    The window begins no earlier than the last change of engines. Raises StateConflict where no
    deployment of that name runs.
    """
    watched = source_of_state(name)()
    if watched.phase != "serving":
        return f"It is {watched.phase}."
    now_s = time.time()
    since_change_s = now_s - changed_at_s(name)
    if since_change_s < SETTLING_S:
        return (
            f"Engines came or changed {since_change_s:.0f} s ago; requests count from "
            f"{SETTLING_S:.0f} s after that."
        )
    window = latest_requests(name, window_s, now_s)
    if window is not None and watched.sim_speed:
        window = at_speed(window, watched.sim_speed)
    if window is None:
        return (
            f"No request that arrived in the last {window_s:.0f} s is in the logs: none has ended, "
            f"or the engines run without {REQUEST_TIMES_FLAG}."
        )
    slo = Slo(watched.ttft_slo_s, watched.tpot_slo_s)
    try:
        engines = _engines(watched)
    except PdctlError as problem:
        return problem.message
    if isinstance(engines, str):
        return engines
    return what_if(engines.fleet, window, slo, now_s=now_s, others=engines.others)


def latest_requests(name: str, window_s: float, now_s: float) -> Window | None:
    """The requests of the last `window_s` from the engines' logs. None: the logs have none.

    The memory this needs does not grow with the logs.
    """
    steady_since_s = changed_at_s(name) + SETTLING_S
    since_s = max(now_s - window_s, steady_since_s)
    pages = recorded(name, since_s)
    logs = [request_log(lines, engine) for engine, lines in lines_by_engine(name, READ_BYTES)]
    return window_of(
        ended_requests((half for log in logs for half in log.records), hosts(name)),
        since_s=since_s,
        now_s=now_s,
        unfinished=_unfinished(pages[-1]["engines"]) if pages else 0,
        arrived=arrived_in(pages, now_s - since_s),
        steady_since_s=steady_since_s,
    )


def _unfinished(engines: Sequence[Sequence[str | None]]) -> int:
    """Requests that the engines hold: a split request is at its decode engine from the start."""
    total = 0
    for _, role, _, _, page in engines:
        loads = parse_loads((page or "").encode(), role, 0.0) if role != "prefill" else None  # type: ignore[arg-type]
        if loads:
            one = loads[0]
            queues = (one.prealloc, one.transfer, one.waiting, one.running, one.retracted)
            total += sum(filter(None, queues))
    return total


def arrived_in(pages: Sequence[Mapping[str, Any]], window_s: float) -> int | None:
    """Requests that the router took in the window, from its counter; None if it counts none."""
    counts = [
        (float(page["at"]), found)
        for page in pages
        if (found := parse_router_metrics(page.get("router") or "")[0]) is not None
    ]
    rate_rps = per_second(rises(counts))
    return None if rate_rps is None else round(rate_rps * window_s)


@dataclass(frozen=True)
class _Engines:
    """Running engines as the simulator knows them. others: one of them in each other role."""

    fleet: Fleet
    others: tuple[EngineModel, ...]


def _engines(watched: Watched) -> _Engines | str:
    facts = asyncio.run(facts_of_engines([target.url for target in watched.targets]))
    wrong = _wrong_role(watched.targets, facts)
    if wrong:
        return wrong
    found = running_fleet(facts, router_policy(watched.endpoint))
    if isinstance(found, str):
        return found
    like = next((one for one in facts if one.role != "prefill"), facts[0])
    roles: tuple[Role, ...] = ("prefill", "decode") if like.role == "colocated" else ("colocated",)
    models = (
        predicted_engine(_in_role(like, role), found.llm, found.cluster, found.profile)
        for role in roles
    )
    return _Engines(found.fleet, tuple(models))


def _in_role(facts: EngineFacts, role: Role) -> EngineFacts:
    """An engine as it would be in another role; SGLang gives decode engines no prefix cache."""
    limits = replace(facts.limits, prefix_cache=role != "decode")
    return replace(facts, role=role, limits=limits)


def role_fault(name: str) -> str:
    """The engine that does not run in the role it was given, as a sentence; "" if all do.

    Raises InvalidInput if an engine does not answer.
    """
    targets = source_of_state(name)().targets
    return _wrong_role(targets, asyncio.run(facts_of_engines([target.url for target in targets])))


def _wrong_role(targets: Sequence[Target], facts: Sequence[EngineFacts]) -> str:
    for target, fact in zip(targets, facts, strict=True):
        if fact.role != target.role:
            return f"{target.name} should be a {target.role} engine but runs as {fact.role}."
    return ""


def main() -> None:
    """Replay the last minutes of the deployment on the command line, and keep the result."""
    parser = argparse.ArgumentParser(prog="python -m pdctl.measurement.live_what_if")
    parser.add_argument("name")
    name = parser.parse_args().name
    use_key_of(name)
    try:
        look = live_what_if(name, WINDOW_S)
    except PdctlError:  # it has just stopped
        return
    if isinstance(look, WhatIf):
        keep_what_if(name, look)


if __name__ == "__main__":
    main()
