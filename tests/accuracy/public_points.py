"""How far the engines of `plan` are from public measurements, beside another planner. Not a test.

python -m tests.accuracy.public_points POINTS.json [--models DIR] [--no-flags]
    [--steady | --poisson]

POINTS.json: a list of points, each a closed loop of `concurrency` clients on SGLang with the means
of TTFT and TPOT, and what the other planner predicted (`peer_ttft_ms`, `peer_tpot_ms`). DIR has the
config.json of each model, in a folder MODEL-PRECISION; by default public_models beside POINTS.json.
--no-flags: SGLang's defaults instead of the launch flags of the run. --steady: without the first
and the last request of each client, so without the burst. --poisson: the same engines at
the Poisson rate that Little's law gives for so many clients, as `plan --concurrency` once did.
Ignores: time outside the steps (tokenizer, broadcast to ranks), which the measured TTFT holds.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from pdctl.inspection.cluster import parse_gpus
from pdctl.inspection.llm import read_llm
from pdctl.inspection.records import Llm
from pdctl.perf_model.engine_model import engine_model
from pdctl.perf_model.fitting.profiles import find_own_profile
from pdctl.perf_model.intervals import model_kind
from pdctl.perf_model.records import Fleet, Outcome, Parallelism, Serving
from pdctl.perf_model.releases import numbers
from pdctl.perf_model.residuals import Kind
from pdctl.perf_model.simulator.simulate import simulate, simulate_clients
from pdctl.verdict.closed_form import demand_of
from pdctl.verdict.closed_loop import REQUESTS_PER_CLIENT, estimated_rps
from pdctl.verdict.trials import SETTLED
from pdctl.workload.arrivals import at_rate
from pdctl.workload.describe import workload_from_lengths
from pdctl.workload.records import Requests

FOLDERS = {"dsr1": "deepseek-r1"}
MIXED_SINCE = (0, 5, 3)  # release whose flags AIConfigurator spells as SGLang does
GPUS_PER_NODE = 8

Point = dict[str, Any]
Run = Callable[[Fleet, Requests, int], Outcome]


@dataclass(frozen=True)
class Errors:
    """One point: relative errors of TTFT and TPOT, ours and the other planner's where known.

    signed_…: predicted over measured, less one; e2e: of a request's whole latency, whose inverse is
    the throughput of so many clients. fitted: with a profile; relative: of another model. running:
    clients per engine.
    """

    group: tuple[str, str, str]
    signed_ttft: float
    signed_tpot: float
    signed_e2e: float
    peer_ttft: float | None
    peer_tpot: float | None
    configuration: str
    kind: Kind
    fitted: bool
    relative: bool
    running: float

    @property
    def ttft(self) -> float:
        """The size of the error of TTFT."""
        return abs(self.signed_ttft)

    @property
    def tpot(self) -> float:
        """The size of the error of TPOT."""
        return abs(self.signed_tpot)


def fleet_of(point: Point, models: Path, *, with_flags: bool) -> Fleet | None:
    """The engines of a point; None for a split, or where the model says the engine does not fit."""
    shape = point["layout"].get("colocated")
    if shape is None:
        return None
    llm = llm_of(point, models)
    cluster = parse_gpus(f"{GPUS_PER_NODE}x{point['gpu']}")
    engine = engine_model(
        llm,
        cluster,
        Parallelism(**shape),
        "colocated",
        profile=find_own_profile(point["gpu"], llm),
        serving=serving_of(point, with_flags=with_flags),
    )
    if engine is None:
        return None
    return Fleet(colocated=engine, num_colocated=point["layout"]["num"], router_hop_s=0.0)


def llm_of(point: Point, models: Path) -> Llm:
    """The model of a point: a bundled shape where it names one, else a folder of `models`."""
    if "llm" in point:
        return read_llm(point["llm"])
    name = FOLDERS.get(point["model"], point["model"])
    return read_llm(str(models / f"{name}-{point['precision']}"))


def serving_of(point: Point, *, with_flags: bool) -> Serving:
    """How the engine was launched, as far as is known; without flags SGLang's defaults."""
    flags = point["flags"] if with_flags else {}
    radix = flags.get("radix")
    return Serving(
        chunk=flags.get("chunk"),
        max_running=flags.get("max_running"),
        mem_fraction=flags.get("mem_fraction"),
        graph_batch=flags.get("graph_batch"),
        kv_dtype_bytes=float(flags.get("kv", 2)),
        radix_cache=None if radix is None else bool(radix),
        release=point["version"],
        receive_interval=flags.get("recv", 1),
        mixed_chunk=with_flags and mixes_chunks(point),
    )


def mixes_chunks(point: Point) -> bool:
    """Was the engine launched with --enable-mixed-chunk, which points do not say?

    Source: ai-dynamo/aiconfigurator, which launched and measured these engines: rule_plugin/
    sglang.rule sets enable_mixed_chunk for colocated ones, and the template of flags passes it on
    from 0.5.3.post2; that of 0.5.1.post1 spells it otherwise. Inferred: no log of a run is public.
    """
    return point["suite"] == "genai-perf" and numbers(point["version"]) >= MIXED_SINCE


def requests_of(point: Point, *, seed: int = 0) -> Requests:
    """What the clients send: lengths uniform from `range`·n to n tokens, ten per client."""
    random, num = Random(seed), REQUESTS_PER_CLIENT * point["concurrency"]

    def drawn(longest: int) -> list[int]:
        return [random.randint(round(point["range"] * longest), longest) for _ in range(num)]

    return Requests([0.0] * num, drawn(point["isl"]), drawn(point["osl"]))


def closed_loop(fleet: Fleet, requests: Requests, clients: int) -> Outcome:
    """The run as it was measured, its burst included."""
    return simulate_clients(fleet, requests, clients)


def steady(fleet: Fleet, requests: Requests, clients: int) -> Outcome:
    """The run without its burst and without its end."""
    outcome = closed_loop(fleet, requests, clients)
    return _part(outcome, slice(clients, len(requests) - clients))


def poisson(fleet: Fleet, requests: Requests, clients: int) -> Outcome:
    """A steady Poisson load whose mean number in flight is `clients`."""
    isl, osl = _mean(requests.isl), _mean(requests.osl)
    demand = demand_of(workload_from_lengths(isl=isl, osl=osl, isl_cv=0, osl_cv=0))
    assert demand is not None
    rate_rps = estimated_rps(fleet, demand, clients)
    outcome, num = simulate(fleet, at_rate(requests, rate_rps)), len(requests)
    return _part(outcome, slice(int(SETTLED[0] * num), int(SETTLED[1] * num)))


def _part(outcome: Outcome, part: slice) -> Outcome:
    return replace(outcome, ttft_s=outcome.ttft_s[part], tpot_s=outcome.tpot_s[part])


def errors_of(points: Iterable[Point], models: Path, run: Run, *, with_flags: bool) -> list[Errors]:
    """Every point that can be simulated."""
    found = (_errors(point, models, run, with_flags) for point in points)
    return [errors for errors in found if errors is not None]


def _errors(point: Point, models: Path, run: Run, with_flags: bool) -> Errors | None:
    fleet = fleet_of(point, models, with_flags=with_flags)
    if fleet is None:
        return None
    outcome = run(fleet, requests_of(point), point["concurrency"])
    ttft_s = [time for time in outcome.ttft_s if time is not None]
    tpot_s = [time for time in outcome.tpot_s if time is not None]
    if not ttft_s:
        return None
    ttft_ms, tpot_ms = 1e3 * _mean(ttft_s), 1e3 * _mean(tpot_s)
    llm, layout = llm_of(point, models), point["layout"]
    profile = find_own_profile(point["gpu"], llm)
    steps = point["osl"] * (1 + point["range"]) / 2 - 1  # of a mean answer after its first token
    name = f"{point['model']} {point['precision']}"
    return Errors(
        group=(point["suite"], point["gpu"], name),
        signed_ttft=ttft_ms / point["ttft_ms"] - 1,
        signed_tpot=tpot_ms / point["tpot_ms"] - 1,
        signed_e2e=(ttft_ms + steps * tpot_ms) / (point["ttft_ms"] + steps * point["tpot_ms"]) - 1,
        peer_ttft=_error_if_known(point["peer_ttft_ms"], point["ttft_ms"]),
        peer_tpot=_error_if_known(point["peer_tpot_ms"], point["tpot_ms"]),
        configuration=f"{name} {point['gpu']} {json.dumps(layout['colocated'])}",
        kind=model_kind(llm),
        fitted=profile is not None,
        relative=profile is not None and profile.llm != llm.name,
        running=point["concurrency"] / layout["num"],
    )


def _error_if_known(predicted: float | None, measured: float) -> float | None:
    return None if predicted is None else abs(predicted - measured) / measured


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def table(found: Sequence[Errors]) -> Iterator[str]:
    """Median / p90 of the absolute errors: a line per group, all, and all that both tools do."""
    names = f"{'TTFT':>13}{'TPOT':>13}"
    yield f"{'':<34}{'points':>7}{names}{'peer: points':>14}{names}"
    for group in sorted({errors.group for errors in found}):
        yield _line(" ".join(group), [errors for errors in found if errors.group == group])
    yield _line("all", found)
    both = [errors for errors in found if errors.peer_ttft is not None]
    if both:
        yield _line("all that both tools do", both)


def _line(name: str, found: Sequence[Errors]) -> str:
    peer_ttft = [errors.peer_ttft for errors in found if errors.peer_ttft is not None]
    peer_tpot = [errors.peer_tpot for errors in found if errors.peer_tpot is not None]
    ours = f"{spread([e.ttft for e in found]):>13}{spread([e.tpot for e in found]):>13}"
    peer = f"{len(peer_ttft):>14}{spread(peer_ttft):>13}{spread(peer_tpot):>13}"
    return f"{name:<34}{len(found):>7}{ours}{peer}"


def spread(errors: Sequence[float]) -> str:
    """Median / 90th percentile of errors, in per cent."""
    if not errors:
        return "–"
    ordered = sorted(errors)
    return f"{100 * _quantile(ordered, 0.5):.0f} / {100 * _quantile(ordered, 0.9):.0f} %"


def _quantile(ordered: Sequence[float], share: float) -> float:
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def points_parser(doc: str | None) -> argparse.ArgumentParser:
    """The options of a command about public points: their file, and the folder of the models."""
    options = argparse.ArgumentParser(description=doc.splitlines()[0] if doc else "")
    options.add_argument("points", type=Path)
    options.add_argument("--models", type=Path)
    return options


def given_points(given: argparse.Namespace) -> tuple[list[Point], Path]:
    """The points in the given file, and the folder of their models."""
    models = given.models or given.points.parent / "public_models"
    return json.loads(given.points.read_text()), models


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    options = points_parser(__doc__)
    options.add_argument("--no-flags", action="store_true")
    way = options.add_mutually_exclusive_group()
    way.add_argument("--steady", dest="run", action="store_const", const=steady)
    way.add_argument("--poisson", dest="run", action="store_const", const=poisson)
    options.set_defaults(run=closed_loop)
    given = options.parse_args(argv)
    points, models = given_points(given)
    found = errors_of(points, models, given.run, with_flags=not given.no_flags)
    for line in table(found):
        sys.stdout.write(line + "\n")
    if len(found) < len(points):
        sys.stdout.write(f"{len(points) - len(found)} points were not simulated.\n")


if __name__ == "__main__":
    main()
