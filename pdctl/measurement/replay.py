"""Replay the requests of a log on other splits of the engines that served them."""

import asyncio
from collections.abc import Mapping, Sequence
from statistics import median

from pdctl.engines.lifecycle import running
from pdctl.engines.lifecycle.logs import hosts
from pdctl.errors import PdctlError
from pdctl.measurement.calibration.engine_client import facts_of_engines
from pdctl.measurement.prediction import running_fleet
from pdctl.measurement.scale_effect import resized
from pdctl.perf_model.metrics import percentiles
from pdctl.perf_model.records import EngineModel, Fleet
from pdctl.perf_model.simulator.simulate import simulate
from pdctl.status.explain.explain import aligned_parts
from pdctl.status.explain.join import Halves
from pdctl.status.explain.records import OtherSplit, Replay
from pdctl.status.targets import source_of_state
from pdctl.workload.records import Requests

LEAST_REQUESTS, MOST_REQUESTS = 20, 4000
MOST_OFF = 0.5  # a replay of today's layout that is off by more says nothing of other layouts


def replay_of(deployment: str, pairs: Sequence[Halves], rids: Sequence[str]) -> Replay | str:
    """The TTFT of these requests on every split of a running deployment; or why there is none.

    Ignores: when the present layout began; prefix reuse on other splits (the prompt tokens that
    were cached count as cached everywhere).
    """
    served = [one for one in pairs if one.is_whole][-MOST_REQUESTS:]
    if len(served) < LEAST_REQUESTS:
        return f"{LEAST_REQUESTS} whole requests are needed; the log has {len(served)}."
    try:
        running.find(deployment)  # refuses one that has ended and left its state
        watched = source_of_state(deployment)()
        facts = asyncio.run(facts_of_engines([target.url for target in watched.targets]))
        engines = running_fleet(facts, running.router_policy(watched.endpoint))
    except PdctlError as problem:
        return problem.message
    if isinstance(engines, str):
        return engines
    fleet = engines.fleet
    if fleet.num_colocated or fleet.prefill is None or fleet.decode is None:
        return "there are no prefill and decode engines."
    seen_s = _median_seen_s(served, hosts(deployment))
    speed = watched.sim_speed or 1.0
    return replayed(fleet, served, rids, seen_s, basis=engines.basis, speed=speed)


def replayed(
    fleet: Fleet,
    served: Sequence[Halves],
    rids: Sequence[str],
    seen_s: float,
    *,
    basis: str,
    speed: float = 1.0,
) -> Replay | str:
    """The same on a fleet of the simulator.

    A replay of today's layout that does not resemble what was seen makes no statement.

    Args:
        seen_s: median TTFT of these requests.
        speed: of simulated engines, whose logs have real time.
    """
    requests = requests_of(served, speed)
    total = fleet.num_engines
    names = {one.any.rid: place for place, one in enumerate(served)}
    wanted = {rid: names[rid] for rid in rids if rid in names}
    today = _split(fleet, requests, wanted, speed)
    off = today[1] / seen_s - 1 if seen_s else None
    if off is not None and abs(off) > MOST_OFF:
        return (
            f"the replay of {today[0].layout} is off by {off * 100:+.0f} % in the median TTFT, so "
            "it would mislead."
        )
    same = _gpus(fleet.prefill) == _gpus(fleet.decode)
    others = [
        _split(resized(fleet, (0, n, total - n)), requests, wanted, speed)[0]
        for n in sorted(range(1, total), key=lambda n: abs(n - fleet.num_prefill))
        if same and n != fleet.num_prefill
    ]
    return Replay(basis, today[0], tuple(others), off)


def requests_of(served: Sequence[Halves], speed: float = 1.0) -> Requests:
    """The requests as the simulator takes them: cached prompt tokens are left out."""
    start_s = served[0].first.entry_s
    return Requests(
        arrival_s=tuple((one.first.entry_s - start_s) * speed for one in served),
        isl=tuple(one.first.new_tokens for one in served),
        osl=tuple(max(1, one.any.output_tokens) for one in served),
    )


def _median_seen_s(served: Sequence[Halves], hosts_of: Mapping[str, str]) -> float:
    _, parts = aligned_parts(served, hosts_of)
    return median(sum(part.seconds for part in some) for some in parts)


def _split(
    fleet: Fleet, requests: Requests, wanted: dict[str, int], speed: float
) -> tuple[OtherSplit, float]:
    """One layout's outcome, and its median TTFT."""
    times = simulate(fleet, requests).ttft_s
    known = [seconds / speed for seconds in times if seconds is not None]
    found = percentiles(known)
    each = {rid: times[place] for rid, place in wanted.items()}
    split = OtherSplit(
        layout=fleet.layout,
        ttft_s={rid: None if s is None else s / speed for rid, s in each.items()},
        ttft_p99_s=found.p99 if found else None,
    )
    return split, median(known) if known else 0.0


def _gpus(model: EngineModel | None) -> int:
    return model.parallelism.num_gpus if model else 0
