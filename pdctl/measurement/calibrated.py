"""What a calibration came to, and where its profile is kept."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pdctl.errors import EnvironmentProblem, InvalidInput
from pdctl.inspection.records import Llm
from pdctl.perf_model.partial_fit import Disagreement
from pdctl.perf_model.profiles import error_band, profile_text, write_profile
from pdctl.perf_model.records import Measurement, Profile


@dataclass(frozen=True)
class Calibration:
    """A calibration as it is shown. file: None when its residuals are too large to keep it.

    uncertainty: standard deviation of the least certain step; None where it is not known.
    unidentified: coefficients that kept their roofline. request_s: of a small request, what was
    neither its step nor HTTP. notes: what it cannot say, in sentences.
    """

    profile: Profile
    file: Path | None
    num_measurements: int
    elapsed_s: float
    band: float
    uncertainty: float | None
    is_complete: bool
    unidentified: tuple[str, ...]
    disagreements: tuple[Disagreement, ...]
    given_up: tuple[Measurement, ...] = ()
    request_s: float | None = None
    is_simulated: bool = False
    notes: tuple[str, ...] = ()


def keep(profile: Profile, directory: Path) -> tuple[Profile, Path]:
    """Write a profile beside those of its name, never over one; it and its file.

    The second of a name is NAME--2, and so on. Raises EnvironmentProblem where that cannot be.
    """
    number, name = 1, profile.id
    while (directory / f"{name}.json").exists():
        number += 1
        name = f"{profile.id}--{number}"
    named = replace(profile, id=name)
    try:
        return named, write_profile(named, directory)
    except OSError as problem:
        raise EnvironmentProblem(
            f"The profile cannot be written to {directory}: {problem.strerror or problem}.",
            hint="-o FILE writes it elsewhere",
            code="profile_unwritable",
        ) from problem


def keep_as(profile: Profile, file: Path) -> tuple[Profile, Path]:
    """Write a profile to a file that is not there yet.

    Raises InvalidInput where it is, EnvironmentProblem where it cannot be written.
    """
    named = replace(profile, id=file.stem)
    try:
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "w") as out:
            out.write(profile_text(named))
    except FileExistsError as problem:
        raise InvalidInput(
            f"{file} is there already and was left as it is.", hint=f"-o {_next(file)}"
        ) from problem
    except OSError as problem:
        raise EnvironmentProblem(
            f"{file} cannot be written: {problem.strerror or problem}.", code="profile_unwritable"
        ) from problem
    return named, file


def band_of(profile: Profile, llm: Llm) -> float:
    """Relative half-width within which `plan` will believe this profile."""
    return error_band(profile, llm)


def _next(file: Path) -> Path:
    taken: Sequence[int] = [n for n in range(2, 100) if not _numbered(file, n).exists()]
    return _numbered(file, taken[0] if taken else 100)


def _numbered(file: Path, number: int) -> Path:
    return file.with_name(f"{file.stem}--{number}{file.suffix}")
