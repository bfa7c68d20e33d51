"""Residuals of measured runs: the bundled ones, and those of this machine's own runs."""

import json
import math
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from pdctl.paths import profiles_dir, state_home

Figure = Literal["ttft", "tpot", "rate"]
FIGURES: tuple[Figure, ...] = ("ttft", "tpot", "rate")
Kind = Literal["dense", "moe", "mla", "sparse", "hybrid"]
Region = Literal["few", "many"]

FILE = "residuals.json"
# left out of a row where they are false
RARE_FIELDS = ("simulated", "relative", "closed", "launched")
FEW_RUNNING = 8  # requests of an engine: up to here steps are bound by fixed costs
MOST_ROWS = 200  # of the user's own file, the newest; one load or calibration adds one or two
MOST_BYTES = 1 << 20
MOST_TEXT = 300
FARTHEST = math.log(100)  # a figure that is off by more was not measured as it was predicted


@dataclass(frozen=True)
class Residual:
    """One measured run over its prediction, as logarithms: 0.1 is 10 % longer.

    configuration: model, GPU and engines. fitted: a profile of this GPU and family was used;
    relative: one of another model of the family.
    e2e: a request's whole latency, whose inverse is the rate that a closed loop of clients reaches.
    None: not measured. simulated: of simulated engines. closed: a closed loop of clients, whose
    first tokens are means with the burst; otherwise medians under arrivals. launched: a host that
    launches kernels more slowly makes its prompts late.
    """

    configuration: str
    kind: Kind
    gpu: str
    fitted: bool
    region: Region
    ttft: float | None
    tpot: float | None
    e2e: float | None = None
    simulated: bool = False
    relative: bool = False
    closed: bool = False
    launched: bool = False

    @property
    def tuned(self) -> bool:
        """True with a profile of this model, GPU and number format."""
        return self.fitted and not self.relative

    @cached_property
    def machine(self) -> str:
        """The model and the GPU, whatever the engines: their predictions share their errors."""
        before, gpu, _ = self.configuration.partition(self.gpu)
        return before + gpu

    def of(self, figure: Figure) -> float | None:
        """The residual of a figure; None: unknown."""
        return {"ttft": self.ttft, "tpot": self.tpot, "rate": self.e2e}[figure]


def region_of(running: float) -> Region:
    """The load region of an engine that runs so many requests at once."""
    return "few" if running <= FEW_RUNNING else "many"


@cache
def known_residuals() -> tuple[Residual, ...]:
    """The bundled residuals; () where they cannot be read."""
    return tuple(read_residuals(profiles_dir() / FILE))


@cache
def own_residuals() -> tuple[Residual, ...]:
    """The residuals of this user's own runs, oldest first; () where there are none."""
    return tuple(read_residuals(own_file()))


def own_file() -> Path:
    """The file to which `measure` and `calibrate` add, in the state directory."""
    return state_home() / FILE


def read_residuals(path: Path) -> list[Residual]:
    """The residuals of a file, without rows that pdctl would not write; [] if it has none."""
    try:
        with path.open("rb") as file:
            rows = json.loads(file.read(MOST_BYTES + 1))["residuals"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
    return [Residual(**row) for row in rows if _is_row(row)] if isinstance(rows, list) else []


def _is_row(row: Any) -> bool:
    if not isinstance(row, dict) or not set(row) <= {f.name for f in fields(Residual)}:
        return False
    texts = (row.get("configuration"), row.get("gpu"))
    return (
        all(isinstance(text, str) and text and len(text) <= MOST_TEXT for text in texts)
        and row.get("kind") in get_args(Kind)
        and row.get("region") in get_args(Region)
        and isinstance(row.get("fitted"), bool)
        and all(isinstance(row.get(name, False), bool) for name in RARE_FIELDS)
        and "ttft" in row
        and "tpot" in row
        and all(_is_size(row.get(name)) for name in ("ttft", "tpot", "e2e"))
    )


def _is_size(value: Any) -> bool:
    if value is None:
        return True
    return type(value) in (int, float) and math.isfinite(value) and abs(value) <= FARTHEST


def add_own_residuals(found: Sequence[Residual]) -> bool:
    """Append residuals to the user's file, all or nothing, and keep the newest MOST_ROWS.

    Replaces a file that holds none. Returns False where nothing was added: without residuals, or
    in a state directory that cannot be written, which must not fail a measurement.
    Ignores: two commands that add in the same moment; the later one wins.
    """
    rows = [asdict(one) for one in found]
    kept = [row for row in rows if _is_row(row)]
    if not kept:
        return False
    file = own_file()
    kept = [*(asdict(one) for one in read_residuals(file)), *kept][-MOST_ROWS:]
    text = '{"residuals": [\n' + ",\n".join(json.dumps(row) for row in kept) + "\n]}\n"
    try:
        _replace(file, text)
    except OSError:
        return False
    own_residuals.cache_clear()
    return True


def _replace(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=".residuals-", suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            out.write(text)
        os.replace(name, file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
