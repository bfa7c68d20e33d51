"""Measured profiles: one readable JSON file per GPU, family, engine version and backend."""

import json
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pdctl.errors import InvalidInput
from pdctl.inspection.llm_size import num_params
from pdctl.inspection.profiles_dir import profiles_dir, user_profiles_dir
from pdctl.inspection.records import Llm
from pdctl.perf_model.efficiencies import default_attention_backend
from pdctl.perf_model.profile_checks import profile_of, slug
from pdctl.perf_model.records import Measurement, Profile

MAX_BYTES = 4 * 1024**2
ROOFLINE_BAND = 0.30  # published figures fall within this of the generic roofline: docs/log.md
OTHER_LLM_BAND = 0.15  # a profile carried to another LLM of its family
LEAST_BAND = 0.05  # simulated against real runs on the fitted points themselves


def family(llm: Llm) -> str:
    """The shape family whose members share efficiencies: dense or moe, and the attention."""
    return f"{'moe' if llm.experts else 'dense'}-{llm.attention}"


def profile_id(gpu_name: str, family: str, engine: str, attention_backend: str) -> str:
    """The file name, less .json, of the profile of these four."""
    return "--".join(slug(part) for part in (gpu_name, family, engine, attention_backend))


def measured_dir() -> Path:
    """Where bundled profiles lie."""
    return profiles_dir() / "measured"


def read_profile(path: Path) -> Profile:
    """The profile in a file.

    Raises InvalidInput naming file, line and field of whatever is wrong with it.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise _bad(path, None, f"has {size} bytes; a profile has at most {MAX_BYTES}")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise _bad(path, None, f"cannot be read: {problem}") from None
    try:
        data = json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except json.JSONDecodeError as problem:
        raise _bad(path, problem.lineno, f"is not JSON: {problem.msg}") from None
    except RecursionError:
        raise _bad(path, None, "is nested too deeply") from None
    except _Fault as fault:
        raise _bad(path, _line_of(text, [fault.field]), str(fault)) from None
    profile, field, problem_text = profile_of(data, path.stem)
    if profile is None:
        raise _bad(path, _line_of(text, field.split(".")), f"{field or 'it'} {problem_text}")
    return profile


def write_profile(profile: Profile, directory: Path) -> Path:
    """Write a profile under its id, whole or not at all; the path written."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{profile.id}.json"
    handle, name = tempfile.mkstemp(dir=directory, prefix=".profile-", suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            out.write(profile_text(profile))
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return path


def profile_text(profile: Profile) -> str:
    """The profile as JSON for people: one line per measurement with its residual."""
    data = asdict(profile)
    for apart in ("id", "measurements", "residuals"):
        del data[apart]
    rows = zip(profile.measurements, profile.residuals, strict=True)
    lines = [f"    {measurement_line(m, residual)}" for m, residual in rows]
    head = json.dumps(data, indent=2, ensure_ascii=False)
    return head[:-2] + ',\n  "measurements": [\n' + ",\n".join(lines) + "\n  ]\n}\n"


def measurement_line(step: Measurement, residual: float | None = None) -> str:
    """A measurement as JSON, with its residual if there is a fit."""
    row = {k: v for k, v in asdict(step).items() if v}
    return json.dumps(row if residual is None else {**row, "residual": round(residual, 4)})


def find_profile(
    gpu_name: str,
    llm: Llm,
    *,
    attention_backend: str | None = None,
    engine: str | None = None,
    directories: Sequence[Path] | None = None,
) -> Profile | None:
    """The profile nearest to this GPU and LLM, or None: only this GPU and family ever match.

    Among several: the same LLM before the same architecture before the family alone, then the
    LLM nearest in size, then the newest. directories: later ones override earlier files.
    """
    found = [
        profile
        for path in _files(gpu_name, directories or (measured_dir(),))
        if (profile := read_profile(path)).family == family(llm)
        and slug(profile.gpu) == slug(gpu_name)
        and attention_backend in (None, profile.attention_backend)
        and engine in (None, profile.engine)
    ]
    return max(found, key=lambda p: (_likeness(p, llm), p.date, _number(p)), default=None)


def find_own_profile(
    gpu_name: str, llm: Llm, *, attention_backend: str | None = None
) -> Profile | None:
    """The nearest of this user's own calibrations, else of the bundled profiles.

    attention_backend: what the engines use; None: not said. Then an own profile of any backend
    counts, it is what this user runs, but a bundled one only if it is of SGLang's default here.
    A bundled one of the very LLM is nearer than an own one of another.
    """
    own = find_profile(
        gpu_name, llm, attention_backend=attention_backend, directories=(user_profiles_dir(),)
    )
    if own is not None and own.llm == llm.name:
        return own
    backend = attention_backend or default_attention_backend(gpu_name)
    bundled = find_profile(gpu_name, llm, attention_backend=backend)
    return bundled if bundled is not None and bundled.llm == llm.name else own or bundled


def named_profile(name: str) -> Profile:
    """The profile in a file, or the one of this id: own or bundled.

    Raises InvalidInput naming what is wrong with the file, or the profiles there are.
    """
    file = Path(name)
    if file.exists() or file.name != name or file.suffix == ".json":
        return read_profile(file)
    homes = (user_profiles_dir(), measured_dir())
    places = [home / f"{name}.json" for home in homes if (home / f"{name}.json").is_file()]
    if not places:
        known = sorted({path.stem for home in homes for path in home.glob("*.json")})
        raise InvalidInput(
            f"There is no profile {name}, and no such file.",
            hint="known are " + ", ".join(known) if known else "pdctl calibrate",
            code="unknown_profile",
        )
    return read_profile(places[0])


def error_band(profile: Profile | None, llm: Llm) -> float:
    """Relative half-width within which predictions of step times are to be believed.

    Source: of the generic roofline, docs/log.md; of a profile, twice its left-out median.
    """
    if profile is None:
        return ROOFLINE_BAND
    own = max(LEAST_BAND, 2 * profile.left_out_error)
    return own if profile.llm == llm.name else min(ROOFLINE_BAND, own + OTHER_LLM_BAND)


def _files(gpu_name: str, directories: Sequence[Path]) -> list[Path]:
    """By name, so that a start reads only this GPU's files."""
    by_name: dict[str, Path] = {}
    for directory in directories:
        by_name.update({p.name: p for p in sorted(directory.glob(f"{slug(gpu_name)}--*.json"))})
    return list(by_name.values())


def _number(profile: Profile) -> int:
    """Of NAME--2, the second calibration of a name: 2."""
    last = profile.id.rpartition("--")[2]
    return int(last) if last.isdecimal() else 1


def _likeness(profile: Profile, llm: Llm) -> tuple[bool, bool, float]:
    size = num_params(llm)
    distance = abs(profile.num_params / size - 1) if size else 0.0
    return profile.llm == llm.name, profile.architecture == llm.architecture, -distance


class _Fault(Exception):
    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    for key, value in pairs:
        if key in seen:
            raise _Fault(key, f"{key} is given twice")
        seen[key] = value
    return seen


def _no_constant(name: str) -> float:
    raise _Fault(name, f"{name} is not a number a profile can hold")


def _line_of(text: str, keys: Sequence[str]) -> int | None:
    """The line of the last key, each searched for after the one before; digits count objects."""
    position = 0
    for key in keys:
        if key.isdigit():
            found = _nth_object(text, position, int(key))
        else:
            match = re.compile(rf'"{re.escape(key)}"\s*:|\b{re.escape(key)}\b').search(
                text, position
            )
            found = match.start() if match else None
        if found is None:
            break
        position = found
    return text.count("\n", 0, position) + 1 if position else None


def _nth_object(text: str, position: int, index: int) -> int | None:
    for _ in range(index + 1):
        position = text.find("{", position) + 1
        if not position:
            return None
    return position


def _bad(path: Path, line: int | None, what: str) -> InvalidInput:
    where = f"{path}:{line}" if line else str(path)
    return InvalidInput(
        f"{where}: {what}.", hint="pdctl calibrate writes it anew", code="bad_profile"
    )
