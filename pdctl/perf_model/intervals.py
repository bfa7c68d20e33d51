"""The likely error of a predicted figure, from residuals of measured runs."""

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Literal

from pdctl.inspection.layers import mixers_of
from pdctl.inspection.records import Llm
from pdctl.paths import profiles_dir, user_profiles_dir
from pdctl.perf_model.hardware import generation

Figure = Literal["ttft", "tpot", "rate"]
FIGURES: tuple[Figure, ...] = ("ttft", "tpot", "rate")
Kind = Literal["dense", "moe", "mla", "sparse", "hybrid"]
Region = Literal["few", "many"]

COVERAGE = 0.90
UNSEEN = 1.7  # times as wide where no run is alike; assumed: AIConfigurator is off by up to 65 %
ACROSS_HOSTS_SIZE = math.log(2)  # the one public run takes 1.84 times as long as predicted
LEAST_SIZE = 0.05  # of a ratio of rates: both are found on rungs 2.5 % apart
ASSUMED_SIZE = math.log(2)  # where no run is known at all
FEW_RUNNING = 8  # requests of an engine: up to here steps are bound by fixed costs
LEAST_MACHINES = 3  # of a group; fewer say what those are like, not what the next one is
LEAST_RESIDUALS = 20
FILE = "residuals.json"


@dataclass(frozen=True)
class Residual:
    """One measured run over its prediction, as logarithms: 0.1 is 10 % longer.

    configuration: model, GPU and engines. fitted: a profile of this GPU and family was used.
    e2e: a request's whole latency, whose inverse is the rate that a closed loop of clients reaches.
    ttft, e2e: None where clients that should keep step did not, so that the mean of their first
    tokens says nothing about the engine.
    """

    configuration: str
    kind: Kind
    gpu: str
    fitted: bool
    region: Region
    ttft: float | None
    tpot: float
    e2e: float | None = None

    @property
    def machine(self) -> str:
        """The model and the GPU, whatever the engines: their predictions share their errors."""
        before, gpu, _ = self.configuration.partition(self.gpu)
        return before + gpu

    def of(self, figure: Figure) -> float | None:
        """The residual of a figure; None: unknown."""
        return {"ttft": self.ttft, "tpot": self.tpot, "rate": self.e2e}[figure]


@dataclass(frozen=True)
class Case:
    """The subject of a prediction, as far as its error depends on it.

    gpu: its name. region: None: any load. fit_error: the median left-out error of the profile that
    is used, 0 without one.
    """

    kind: Kind
    gpu: str
    fitted: bool
    region: Region | None
    spans_hosts: bool = False
    fit_error: float = 0.0


@dataclass(frozen=True)
class ErrorInterval:
    """Factors on a predicted figure between which COVERAGE of the measured ones lie.

    basis: which runs say so. num_residuals, num_configurations: how many; 0: the interval is
    assumed.
    """

    low: float
    high: float
    basis: str
    num_residuals: int
    num_configurations: int

    @property
    def half_width(self) -> float:
        """Relative half-width: 0.25 for ±25 %."""
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class Errors:
    """The likely errors of a case's figures.

    rate: requests per second that a layout carries. …_ratio: one layout's figure over another's,
    for the same model and GPU. Both rest on the same step times, so that part of the error cancels.
    """

    ttft: ErrorInterval
    tpot: ErrorInterval
    rate: ErrorInterval
    ttft_ratio: ErrorInterval
    tpot_ratio: ErrorInterval
    rate_ratio: ErrorInterval


@cache
def errors_of(case: Case) -> Errors:
    """The intervals of a case, from the bundled residuals and this user's own."""
    known = known_residuals()
    ttft, tpot, rate = (interval(figure, case, known) for figure in FIGURES)
    ratios = [ratio_interval(figure, case, known) for figure in FIGURES]
    return Errors(ttft, tpot, rate, *ratios)


def interval(figure: Figure, case: Case, residuals: Sequence[Residual]) -> ErrorInterval:
    """The interval of one predicted figure, from the narrowest group with enough runs.

    Source: split-conformal prediction (Vovk et al.) on the size of residuals; for engines across
    hosts tenstorrent/tt-inference-server issue 356, DeepSeek-R1 on two nodes of H100.
    Ignores: that hosts differ where a group's runs came from one.
    """
    for basis, group in _groups(case, residuals):
        known = [(abs(size), r) for r in group if (size := r.of(figure)) is not None]
        if _is_enough(known):
            return _from_sizes(_is_seen(case, residuals), case, basis, known)
    return _assumed()


def ratio_interval(figure: Figure, case: Case, residuals: Sequence[Residual]) -> ErrorInterval:
    """The interval of the ratio of two layouts' figures, from pairs of runs of one machine.

    For runs a and b of one model on one GPU the ratio's residual is a's less b's: what both have
    in common cancels. Every machine counts alike, whatever its number of pairs.
    Ignores: that few of the runs are of splits, whose KV transfer no colocated run has.
    """
    for basis, group in _groups(case, residuals):
        pairs = list(_pairs(figure, group))
        if _is_enough(pairs):
            is_seen = _is_seen(case, residuals)
            found = _from_sizes(is_seen, case, f"pairs of {basis}", pairs, alike=True)
            return _at_least(found, LEAST_SIZE)
    return _assumed()


def _pairs(figure: Figure, group: Sequence[Residual]) -> Iterable[tuple[float, Residual]]:
    """The size of the difference of each two runs of one machine and one load region."""
    machines: dict[tuple[str, Region], list[tuple[float, Residual]]] = defaultdict(list)
    for residual in group:
        size = residual.of(figure)
        if size is not None:
            machines[residual.machine, residual.region].append((size, residual))
    for runs in machines.values():
        yield from ((abs(a - b), one) for (a, one), (b, _) in combinations(runs, 2))


def _is_enough(known: Sequence[tuple[float, Residual]]) -> bool:
    return len(known) >= LEAST_RESIDUALS and len({r.machine for _, r in known}) >= LEAST_MACHINES


def _is_seen(case: Case, residuals: Sequence[Residual]) -> bool:
    """True if some run had this kind of model, and some this generation of GPU, on one host.

    A profile was measured on the GPU itself, so that the generation says nothing more.
    """
    same = [r for r in residuals if r.fitted == case.fitted]
    is_gpu_seen = case.fitted or generation(case.gpu) in {generation(r.gpu) for r in same}
    return is_gpu_seen and case.kind in {r.kind for r in same} and not case.spans_hosts


def _from_sizes(
    is_seen: bool,
    case: Case,
    basis: str,
    known: Sequence[tuple[float, Residual]],
    *,
    alike: bool = False,
) -> ErrorInterval:
    size = _quantile(known, alike)
    if not is_seen:
        size *= UNSEEN
        basis += ", widened: none is alike"
    if case.spans_hosts and not alike:
        size = max(size, ACROSS_HOSTS_SIZE)
    size = max(size, 2 * case.fit_error)
    configurations = len({r.configuration for _, r in known})
    return ErrorInterval(math.exp(-size), math.exp(size), basis, len(known), configurations)


def _quantile(known: Sequence[tuple[float, Residual]], alike: bool) -> float:
    """The size that COVERAGE of the sizes do not exceed. alike: every machine weighs the same."""
    num: dict[str, int] = defaultdict(int)
    for _, residual in known:
        num[residual.machine] += 1
    weights = sorted((size, 1 / num[r.machine] if alike else 1.0) for size, r in known)
    left = COVERAGE * (sum(weight for _, weight in weights) + (0 if alike else 1))
    for size, weight in weights:
        left -= weight
        if left <= 1e-9:
            return size
    return weights[-1][0]


def _at_least(found: ErrorInterval, size: float) -> ErrorInterval:
    low, high = min(found.low, math.exp(-size)), max(found.high, math.exp(size))
    return ErrorInterval(low, high, found.basis, found.num_residuals, found.num_configurations)


def _assumed() -> ErrorInterval:
    return ErrorInterval(math.exp(-ASSUMED_SIZE), math.exp(ASSUMED_SIZE), "assumed", 0, 0)


def model_kind(llm: Llm) -> Kind:
    """The kind of model whose errors are alike: by mixers first, then by experts."""
    mixers = mixers_of(llm.layers)
    if any(mixer.kind == "state" for mixer in mixers):
        return "hybrid"
    if any(mixer.index_topk for mixer in mixers):
        return "sparse"
    if llm.attention == "mla":
        return "mla"
    return "moe" if llm.experts else "dense"


def region_of(running: float) -> Region:
    """The load region of an engine that runs so many requests at once."""
    return "few" if running <= FEW_RUNNING else "many"


@cache
def known_residuals() -> tuple[Residual, ...]:
    """The bundled residuals and this user's own; () where neither can be read."""
    found: list[Residual] = []
    for folder in (profiles_dir(), user_profiles_dir()):
        found += read_residuals(folder / FILE)
    return tuple(found)


def read_residuals(path: Path) -> list[Residual]:
    """The residuals of a file; [] where it is missing or not what pdctl writes."""
    try:
        rows = json.loads(path.read_text())["residuals"]
        return [Residual(**row) for row in rows]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _groups(case: Case, residuals: Sequence[Residual]) -> Iterable[tuple[str, list[Residual]]]:
    """From the narrower group to the wider."""
    same = [r for r in residuals if r.fitted == case.fitted]
    said = "with a profile" if case.fitted else "without a profile"
    if case.region is not None:
        many = f"more than {FEW_RUNNING}" if case.region == "many" else f"at most {FEW_RUNNING}"
        yield f"runs {said}, {many} running", [r for r in same if r.region == case.region]
    yield f"runs {said}", same
    yield "runs with and without a profile", list(residuals)
