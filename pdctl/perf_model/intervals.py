"""How sure a predicted time is: intervals from what predictions of measured runs were off by."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from pdctl.inspection.layers import mixers_of
from pdctl.inspection.records import Llm
from pdctl.paths import profiles_dir, user_profiles_dir
from pdctl.perf_model.hardware import generation

Figure = Literal["ttft", "tpot"]
FIGURES: tuple[Figure, Figure] = ("ttft", "tpot")
Kind = Literal["dense", "moe", "mla", "sparse", "hybrid"]
Region = Literal["few", "many"]

COVERAGE = 0.90
LEVEL = 0.95
UNKNOWN_LEVEL = 0.96
FEW_RUNNING = 8  # requests of an engine: up to here steps are bound by fixed costs
LEAST_CONFIGURATIONS = 3  # of a group; fewer say what those are like, not what the next one is
LEAST_RESIDUALS = 20
FILE = "residuals.json"


@dataclass(frozen=True)
class Residual:
    """What one measured run was over its prediction, as logarithms: 0.1 is 10 % longer.

    configuration: model, GPU and engines: runs of one share their errors. fitted: a profile of
    this GPU and family was used. ttft: None where clients that should keep step did not, so that
    the mean of their first tokens says nothing of the engine.
    """

    configuration: str
    kind: Kind
    gpu: str
    fitted: bool
    region: Region
    ttft: float | None
    tpot: float


@dataclass(frozen=True)
class ErrorInterval:
    """Factors on a predicted time between which COVERAGE of the measured ones lie.

    basis: which runs say so. num_residuals, num_configurations: how many.
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


def interval(
    figure: Figure,
    kind: Kind,
    gpu: str,
    *,
    fitted: bool,
    region: Region | None,
    residuals: Sequence[Residual],
) -> ErrorInterval | None:
    """The interval of one predicted figure, from the narrowest group with enough runs.

    gpu: its name. region: None: of any load. None: no run of this kind of basis is known.
    Source: split-conformal prediction (Vovk et al.) on the size of residuals, at a level above
    COVERAGE because runs of one configuration share errors: LEVEL is what covers COVERAGE of a
    configuration that is left out. Ignores: that hosts differ where a group's runs came from one.
    """
    for basis, group in _groups(fitted, region, residuals):
        sizes = [(abs(s), r.configuration) for r in group if (s := _score(r, figure)) is not None]
        configurations = len({configuration for _, configuration in sizes})
        if configurations >= LEAST_CONFIGURATIONS and len(sizes) >= LEAST_RESIDUALS:
            size = _quantile([size for size, _ in sizes], _widened(kind, gpu, group))
            return ErrorInterval(math.exp(-size), math.exp(size), basis, len(sizes), configurations)
    return None


def _score(residual: Residual, figure: Figure) -> float | None:
    return residual.ttft if figure == "ttft" else residual.tpot


def _widened(kind: Kind, gpu: str, group: Sequence[Residual]) -> float:
    """The level: higher for a kind of model or generation of GPU that no run of the group has."""
    generations = {generation(r.gpu) for r in group}
    known = generation(gpu) in generations and kind in {r.kind for r in group}
    return LEVEL if known else UNKNOWN_LEVEL


def overlap(mine_s: float, mine: ErrorInterval, other_s: float, other: ErrorInterval) -> bool:
    """Can two predicted times not be told apart, each within its interval?"""
    return mine_s * mine.low <= other_s * other.high and other_s * other.low <= mine_s * mine.high


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


def _groups(
    fitted: bool, region: Region | None, residuals: Sequence[Residual]
) -> Iterable[tuple[str, list[Residual]]]:
    """From the narrower group to the wider."""
    same = [r for r in residuals if r.fitted == fitted]
    said = "with a profile" if fitted else "without a profile"
    if region is not None:
        many = f"more than {FEW_RUNNING}" if region == "many" else f"at most {FEW_RUNNING}"
        yield f"runs {said}, {many} running", [r for r in same if r.region == region]
    yield f"runs {said}", same


def _quantile(sizes: Sequence[float], level: float) -> float:
    """The size that `level` of them, and of one more, do not exceed."""
    ordered = sorted(sizes)
    place = math.ceil(level * (len(ordered) + 1))
    return ordered[min(place, len(ordered)) - 1]
