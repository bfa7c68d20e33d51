"""The finished calibration: build its profile, and keep it in a file."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

from pdctl.errors import EnvironmentProblem, InvalidInput
from pdctl.inspection.records import Cluster, Llm
from pdctl.measurement.calibration.adaptive import CalibrationRun
from pdctl.measurement.engine_facts import EngineFacts
from pdctl.measurement.own_residuals import of_steps
from pdctl.measurement.prediction import profile_for
from pdctl.paths import user_profiles_dir
from pdctl.perf_model.fitting.identify import Disagreement, disagreements
from pdctl.perf_model.fitting.profiles import (
    calibrated_profile,
    error_band,
    measurement_line,
    profile_text,
    write_profile,
)
from pdctl.perf_model.records import Measurement, Profile, StepTimes
from pdctl.perf_model.residuals import Residual, add_own_residuals
from pdctl.perf_model.roofline import step_times


@dataclass(frozen=True)
class Calibration:
    """A finished calibration. file: None if its residuals are too large to keep it.

    uncertainty: standard deviation of the least certain step; None if unknown. band: relative
    half-width within which `plan` trusts the profile. unidentified: coefficients that keep their
    roofline value. request_s: time of a small request outside its step and HTTP. notes: sentences
    about the limits of this calibration. surprises: residuals of its steps against what was known
    before it.
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
    surprises: tuple[Residual, ...] = ()


def calibration(
    run: CalibrationRun,
    roofline: StepTimes,
    llm: Llm,
    cluster: Cluster,
    facts: EngineFacts,
    *,
    command: str,
    num_earlier: int = 0,
    notes: tuple[str, ...] = (),
) -> Calibration:
    """Turn measurements into a profile. num_earlier: so many of them are an earlier profile's.

    Raises InvalidInput if they identify no coefficient.
    """
    if run.fit is None:
        raise InvalidInput(
            f"The {len(run.measurements)} measurements identify no coefficient of step times.",
            hint="a longer --budget, or --window with more load",
            code="not_identified",
        )
    profile = calibrated_profile(
        run.measurements,
        run.fit,
        roofline,
        llm,
        gpu=cluster.gpu.name,
        parallelism=facts.parallelism,
        engine=facts.engine,
        attention_backend=facts.attention_backend,
        date=date.today().isoformat(),
        command=command,
    )
    known = profile_for(facts, llm, cluster)
    return Calibration(
        profile=profile,
        file=None,
        num_measurements=len(run.measurements),
        elapsed_s=run.elapsed_s,
        band=error_band(profile, llm),
        uncertainty=run.uncertainty,
        is_complete=run.is_complete,
        unidentified=run.unidentified,
        disagreements=disagreements(run.measurements, run.fit, are_probes=not notes),
        given_up=run.given_up,
        request_s=run.fit.factors.get("request_s", 0.0) * roofline.request_s or None,
        is_simulated=facts.is_simulated,
        notes=notes,
        surprises=of_steps(
            run.measurements[num_earlier:],
            known.scaled(roofline) if known else roofline,
            llm,
            cluster.gpu.name,
            facts,
            is_fitted=known is not None,
        ),
    )


def roofline_of(facts: EngineFacts, llm: Llm, cluster: Cluster) -> StepTimes:
    """Step times of an engine before any measurement."""
    backend = None if facts.is_simulated else facts.attention_backend
    return step_times(
        llm,
        cluster,
        facts.parallelism,
        "colocated",
        attention_backend=backend,
        all_to_all=facts.all_to_all,
    )


def kept(found: Calibration, output: Path | None) -> Calibration:
    """Write the profile to `output` or to the user's profiles, unless it contradicts itself.

    Profiles of simulated engines go to a directory of their own, which `plan` does not read.
    With a profile, its surprises join the residuals of the user's own runs.
    """
    if found.disagreements:
        return found
    add_own_residuals(found.surprises)
    if output is not None:
        profile, file = keep_as(found.profile, output)
    else:
        home = user_profiles_dir()
        profile, file = keep_profile(
            found.profile, home / "simulated" if found.is_simulated else home
        )
    return replace(found, profile=profile, file=file)


def keep_profile(profile: Profile, directory: Path) -> tuple[Profile, Path]:
    """Write a profile to a new file in `directory`; return the profile as named, and the file.

    If NAME exists, the new one is NAME--2, and so on. Raises EnvironmentProblem if it cannot
    write there.
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
            f"Cannot write the profile to {directory}: {problem.strerror or problem}.",
            hint="-o FILE writes it elsewhere",
            code="profile_unwritable",
        ) from problem


def keep_as(profile: Profile, file: Path) -> tuple[Profile, Path]:
    """Write a profile to a new file.

    Raises InvalidInput if the file exists, EnvironmentProblem if it cannot write there.
    """
    named = replace(profile, id=file.stem)
    try:
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "w") as out:
            out.write(profile_text(named))
    except FileExistsError as problem:
        raise already_exists(file) from problem
    except OSError as problem:
        raise EnvironmentProblem(
            f"Cannot write {file}: {problem.strerror or problem}.", code="profile_unwritable"
        ) from problem
    return named, file


def already_exists(file: Path) -> InvalidInput:
    """The error for an output file that exists. Its hint names a free one."""
    free = next((n for n in range(2, 100) if not _numbered(file, n).exists()), 100)
    return InvalidInput(
        f"{file} already exists; it was not overwritten.", hint=f"-o {_numbered(file, free)}"
    )


def _numbered(file: Path, number: int) -> Path:
    return file.with_name(f"{file.stem}--{number}{file.suffix}")


@contextmanager
def step_log(path: Path | None) -> Iterator[Callable[[Measurement], None]]:
    """Append each measured step to a JSONL file at once, so that a later failure loses none."""
    if path is None:
        yield lambda step: None
        return
    with path.open("a", encoding="utf-8") as out:

        def keep(step: Measurement) -> None:
            out.write(f"{measurement_line(step)}\n")
            out.flush()

        yield keep
