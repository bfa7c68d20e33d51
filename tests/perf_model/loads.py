"""Loads that real engines on H200 and H100 answered (tests/data/loads_*.jsonl), replayed."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from pdctl.inspection.cluster import parse_gpus
from pdctl.inspection.llm import read_llm
from pdctl.measurement.compare import windowed
from pdctl.perf_model.fitting.profiles import find_profile
from pdctl.perf_model.metrics import is_good, percentiles
from pdctl.perf_model.records import EngineModel, Fleet, Outcome, Parallelism, Role, StepTimes
from pdctl.perf_model.roofline import step_times
from pdctl.perf_model.simulator.simulate import simulate
from pdctl.workload.records import Requests, Slo

DATA = Path(__file__).parents[1] / "data"
FIGURES = ("ttft p50", "ttft p99", "tpot p50", "tpot p99")


@dataclass(frozen=True, eq=False)  # there is one of each: known by itself
class Load:
    """One load as it was played. before: what was predicted of it before it began, in ms.

    arm: which deployment; "-direct" past the router. limits: by role, KV tokens, running
    requests and chunk. Columns per request in arrival order; None: failed.
    """

    host: str
    arm: str
    llm: str
    layout: str
    rate: float
    isl: int
    osl: int
    limits: Mapping[Role, tuple[int, int, int]]
    before: Mapping[str, float]
    late_p99_ms: float
    arrival_s: Sequence[float]
    ttft_ms: Sequence[float | None]
    tpot_ms: Sequence[float | None]
    gpu: str = "H200"

    @property
    def shape(self) -> tuple[float, int, int]:
        return self.rate, self.isl, self.osl

    @property
    def requests(self) -> Requests:
        count = len(self.arrival_s)
        return Requests(self.arrival_s, [self.isl] * count, [self.osl] * count)

    @property
    def measured(self) -> Outcome:
        """In the window that counts."""
        ttft_s, tpot_s = _seconds(self.ttft_ms), _seconds(self.tpot_ms)
        e2e_s = [
            None if t is None or p is None else t + (self.osl - 1) * p
            for t, p in zip(ttft_s, tpot_s, strict=True)
        ]
        outcome = Outcome(ttft_s, tpot_s, e2e_s, 0.0, 0, {})
        return windowed(outcome, self.requests)


@cache
def loads(gpu: str = "H200") -> tuple[Load, ...]:
    """All of one kind of GPU."""
    lines = (DATA / f"loads_{gpu.lower()}.jsonl").read_text().splitlines()
    return tuple(Load(**json.loads(line), gpu=gpu) for line in lines)


@cache
def _times(gpu: str, llm_name: str, role: Role, has_profile: bool) -> StepTimes:
    llm, cluster = read_llm(llm_name), parse_gpus(f"1x{gpu}")
    profile = find_profile(gpu, llm, attention_backend="fa3") if has_profile else None
    return step_times(
        llm,
        cluster,
        Parallelism(),
        role,
        profile=profile,
        attention_backend="fa3",
        prefill_graphs=role != "prefill",  # SGLang 0.5.15
    )


@cache
def replay(load: Load, *, has_profile: bool = True) -> Outcome:
    """The same arrivals in the simulator, in the window that counts.

    has_profile: with the bundled step times, measured on engines that did nothing else.
    """
    return windowed(simulate(fleet_of(load, has_profile), load.requests), load.requests)


def fleet_of(load: Load, has_profile: bool = True) -> Fleet:
    """The engines of a load, as they were launched."""
    models = {
        role: EngineModel(
            role,
            Parallelism(),
            _times(load.gpu, load.llm, role, has_profile),
            kv_capacity_tokens=kv,
            max_running_requests=running,
            chunked_prefill_size=chunk,
            max_context=131072,
        )
        for role, (kv, running, chunk) in load.limits.items()
    }
    hop_s = 0.0 if load.arm.endswith("-direct") else Fleet().router_hop_s
    if load.layout.endswith("C"):
        count = int(load.layout[:-1])
        return Fleet(colocated=models["colocated"], num_colocated=count, router_hop_s=hop_s)
    prefill, decode = (int(n) for n in load.layout[:-1].split("P"))
    split = Fleet(prefill=models["prefill"], decode=models["decode"], policy="round_robin")
    return replace(split, num_prefill=prefill, num_decode=decode, router_hop_s=hop_s)


def figures(outcome: Outcome) -> dict[str, float]:
    """Milliseconds by name."""
    ttft, tpot = percentiles(outcome.ttft_s), percentiles(outcome.tpot_s)
    assert ttft is not None
    assert tpot is not None
    values = (ttft.p50, ttft.p99, tpot.p50, tpot.p99)
    return {name: 1e3 * value for name, value in zip(FIGURES, values, strict=True)}


def good(outcome: Outcome, slo: Slo) -> list[bool]:
    """Which requests met an SLO."""
    return [is_good(*row, slo) for row in zip(outcome.ttft_s, outcome.tpot_s, strict=True)]


def pairs() -> tuple[tuple[Load, Load], ...]:
    """The same load on two colocated engines and on one prefill and one decode engine."""
    split: dict[tuple[float, int, int], Load] = {}
    for load in loads():
        if load.layout == "1P1D":
            split.setdefault(load.shape, load)
    return tuple(
        (one, split[one.shape]) for one in loads() if one.layout == "2C" and one.shape in split
    )


def _seconds(column: Sequence[float | None]) -> list[float | None]:
    return [None if value is None else value / 1e3 for value in column]
