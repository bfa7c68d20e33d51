"""Measured profiles: one readable JSON file per GPU, family, engine version and backend."""

import json
import math
import os
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from pdctl.errors import InvalidInput
from pdctl.inspection.llm_size import num_params
from pdctl.inspection.records import Llm
from pdctl.paths import profiles_dir, user_profiles_dir
from pdctl.perf_model.hardware import default_attention_backend
from pdctl.perf_model.records import Fit, Measurement, Parallelism, Profile, StepTimes

TEXTS = ("gpu", "family", "architecture", "llm", "engine", "attention_backend", "date", "command")
FAMILIES = tuple(
    f"{mlp}-{attention}{form}"
    for mlp in ("dense", "moe")
    for attention in ("gqa", "mla")
    for form in ("", "-fp8", "-fp4")
)
KINDS = ("prefill", "decode", "mixed", "transfer", "stall", "request", "answer")
WEIGHTS = ("prefill_cached_weight",)  # fitted too, though no seconds
COEFFICIENTS = (*(f.name for f in fields(StepTimes) if f.name.endswith("_s")), *WEIGHTS)
COUNTS = ("batch", "new_tokens", "cached_tokens", "context")
FLAGS = ("counted", "eager")
MAX_TEXT = 4000
MAX_FACTOR = 1000.0
MAX_SECONDS = 3600.0
MAX_COUNT = 10**9


class _Wrong(Exception):
    def __init__(self, field: str, problem: str) -> None:
        super().__init__(problem)
        self.field = field


def parse_profile(data: object, name: str) -> tuple[Profile | None, str, str]:
    """(profile, "", ""), or (None, dotted field, what is wrong with it)."""
    try:
        return _profile(data, name), "", ""
    except _Wrong as wrong:
        return None, wrong.field, str(wrong)


def check_gpu(profile: Profile, gpu_name: str) -> None:
    """Raises InvalidInput naming both unless the profile was measured on this GPU."""
    if slug(profile.gpu) != slug(gpu_name):
        raise InvalidInput(
            f"The profile {profile.id} was measured on {profile.gpu}, not on {gpu_name}.",
            hint=f"--gpus 8x{profile.gpu}, or pdctl calibrate on a {gpu_name}",
            code="profile_for_another_gpu",
        )


def slug(text: str) -> str:
    """A name as file names have it: lower case, dashes, dots kept."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.") or "unknown"


def _profile(data: object, name: str) -> Profile:
    known = {f.name for f in fields(Profile)} - {"id", "residuals"}
    table = _table(data, "", known, known)
    texts = {field: _text(table[field], field) for field in TEXTS}
    if texts["family"] not in FAMILIES:
        raise _Wrong("family", f"must be one of {', '.join(FAMILIES)}, not {texts['family']!r}")
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", texts["date"]):
        raise _Wrong("date", f"must look like 2026-11-23, not {texts['date'][:40]!r}")
    rows = table["measurements"]
    if not isinstance(rows, list) or not rows:
        raise _Wrong("measurements", "must be a list with at least one measurement")
    pairs = [_measurement(row, f"measurements.{i}") for i, row in enumerate(rows)]
    return Profile(
        id=name,
        **texts,
        parallelism=_parallelism(table["parallelism"]),
        num_params=_number(table["num_params"], "num_params", 1, 1e15),
        factors=_numbers(table["factors"], "factors", MAX_FACTOR),
        coefficients=_numbers(table["coefficients"], "coefficients", MAX_SECONDS),
        left_out_error=_number(table["left_out_error"], "left_out_error", 0, 10),
        measurements=tuple(measurement for measurement, _ in pairs),
        residuals=tuple(residual for _, residual in pairs),
    )


def _table(value: object, field: str, known: set[str], needed: set[str]) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _Wrong(field, f"must be an object, not {_shown(value)}")
    prefix = f"{field}." if field else ""
    for key in value:
        if key not in known:
            raise _Wrong(prefix + str(key), "is not a field of a profile")
    for key in sorted(needed):
        if key not in value:
            raise _Wrong(field, f"lacks {key}")
    return value


def _text(value: object, field: str) -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > MAX_TEXT:
        raise _Wrong(field, f"must be a text, not {_shown(value)}")
    return value


def _number(value: object, field: str, low: float, high: float) -> float:
    right = isinstance(value, int | float) and not isinstance(value, bool)
    if not right or not math.isfinite(value) or not low <= value <= high:  # type: ignore[arg-type, operator]
        raise _Wrong(field, f"must be a number from {low:g} to {high:g}, not {_shown(value)}")
    return float(value)  # type: ignore[arg-type]


def _count(value: object, field: str, low: int = 0) -> int:
    number = _number(value, field, low, MAX_COUNT)
    if number != int(number):
        raise _Wrong(field, f"must be a whole number, not {_shown(value)}")
    return int(number)


def _numbers(value: object, field: str, high: float) -> dict[str, float]:
    table = _table(value, field, set(COEFFICIENTS), set())
    if not table:
        raise _Wrong(field, "is empty")
    return {key: _number(number, f"{field}.{key}", 0, high) for key, number in table.items()}


def _flag(value: object, field: str) -> bool:
    if not isinstance(value, bool):
        raise _Wrong(field, f"must be true or false, not {_shown(value)}")
    return value


def _parallelism(value: object) -> Parallelism:
    names = {"tp", "pp", "dp", "ep"}
    table = _table(value, "parallelism", names, {"tp"})
    return Parallelism(**{k: _count(v, f"parallelism.{k}", 1) for k, v in table.items()})


def _measurement(value: object, field: str) -> tuple[Measurement, float]:
    known = {"kind", "seconds", "residual", *FLAGS, *COUNTS}
    table = _table(value, field, known, {"kind", "seconds", "residual"})
    if table["kind"] not in KINDS:
        raise _Wrong(f"{field}.kind", f"must be one of {', '.join(KINDS)}")
    counts: dict[str, Any] = {
        key: _count(table[key], f"{field}.{key}") for key in COUNTS if key in table
    }
    seconds = _number(table["seconds"], f"{field}.seconds", 1e-9, MAX_SECONDS)
    residual = _number(table["residual"], f"{field}.residual", -1, 1e6)
    flags: dict[str, Any] = {
        key: _flag(table[key], f"{field}.{key}") for key in FLAGS if key in table
    }
    return Measurement(table["kind"], seconds, **counts, **flags), residual


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


MAX_BYTES = 4 * 1024**2
ROOFLINE_BAND = 0.30  # published figures fall within this of the generic roofline: docs/log.md
OTHER_LLM_BAND = 0.15  # a profile carried to another LLM of its family
LEAST_BAND = 0.05  # simulated against real runs on the fitted points themselves


def family(llm: Llm) -> str:
    """The family whose members share efficiencies: dense or moe, attention, number format.

    Source: kernels of another number format reach other shares of other peaks, so that factors
    of a bf16 model made its FP8 sibling 1.9 times too fast on H200.
    """
    form = "" if llm.compute_dtype == "bf16" else f"-{llm.compute_dtype}"
    return f"{'moe' if llm.experts else 'dense'}-{llm.attention}{form}"


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
    profile, field, problem_text = parse_profile(data, path.stem)
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
    return max(
        found, key=lambda p: (_likeness(p, llm), p.date, _calibration_number(p)), default=None
    )


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


def _calibration_number(profile: Profile) -> int:
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


def calibrated_profile(
    measurements: Sequence[Measurement],
    fit: Fit,
    roofline: StepTimes,
    llm: Llm,
    *,
    gpu: str,
    parallelism: Parallelism,
    engine: str,
    attention_backend: str,
    date: str,
    command: str,
) -> Profile:
    """The profile of a fit. date: ISO day; command: how to measure it again."""
    shape = family(llm)
    return Profile(
        id=profile_id(gpu, shape, engine, attention_backend),
        gpu=gpu,
        family=shape,
        architecture=llm.architecture,
        llm=llm.name,
        engine=engine,
        attention_backend=attention_backend,
        parallelism=parallelism,
        num_params=num_params(llm),
        date=date,
        command=command,
        factors=fit.factors,
        coefficients={n: getattr(roofline, n) * f for n, f in fit.factors.items()},
        left_out_error=fit.left_out_error,
        measurements=tuple(measurements),
        residuals=fit.residuals,
    )
