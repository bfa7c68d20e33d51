"""Measured profiles: one readable JSON file per GPU, LLM family, engine version and backend."""

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
WEIGHTS = ("prefill_cached_weight",)  # fitted like the rest, but a ratio, not seconds
COEFFICIENTS = (*(f.name for f in fields(StepTimes) if f.name.endswith("_s")), *WEIGHTS)
COUNTS = ("batch", "new_tokens", "cached_tokens", "context")
FLAGS = ("counted", "eager")
MAX_TEXT = 4000
MAX_FACTOR = 1000.0
MAX_SECONDS = 3600.0
MAX_COUNT = 10**9
MAX_BYTES = 4 * 1024**2
ROOFLINE_BAND = 0.30  # published figures are within this of the generic roofline (docs/log.md)
OTHER_LLM_BAND = 0.15  # added if the profile is from another LLM of the family
LEAST_BAND = 0.05  # error of simulation against real runs, even at the fitted points


class _BadField(Exception):
    def __init__(self, field: str, problem: str) -> None:
        super().__init__(problem)
        self.field = field


def check_gpu(profile: Profile, gpu_name: str) -> None:
    """Raise InvalidInput naming both GPUs unless the profile was measured on this one."""
    if slug(profile.gpu) != slug(gpu_name):
        raise InvalidInput(
            f"The profile {profile.id} was measured on {profile.gpu}, not on {gpu_name}.",
            hint=f"--gpus 8x{profile.gpu}, or pdctl calibrate on a {gpu_name}",
            code="profile_for_another_gpu",
        )


def slug(text: str) -> str:
    """A name for use in a file name: lower case, with dashes; dots are kept."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.") or "unknown"


def _profile(data: object, name: str) -> Profile:
    known = {f.name for f in fields(Profile)} - {"id", "residuals"}
    table = _table(data, "", known, known)
    texts = {field: _text(table[field], field) for field in TEXTS}
    if texts["family"] not in FAMILIES:
        raise _BadField("family", f"must be one of {', '.join(FAMILIES)}, not {texts['family']!r}")
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", texts["date"]):
        raise _BadField("date", f"must look like 2026-11-23, not {texts['date'][:40]!r}")
    rows = table["measurements"]
    if not isinstance(rows, list) or not rows:
        raise _BadField("measurements", "must be a list with at least one measurement")
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
        raise _BadField(field, f"must be an object, not {_shown(value)}")
    prefix = f"{field}." if field else ""
    for key in value:
        if key not in known:
            raise _BadField(prefix + str(key), "is not a field of a profile")
    for key in sorted(needed):
        if key not in value:
            raise _BadField(field, f"lacks {key}")
    return value


def _text(value: object, field: str) -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > MAX_TEXT:
        raise _BadField(field, f"must be a text, not {_shown(value)}")
    return value


def _number(value: object, field: str, low: float, high: float) -> float:
    right = isinstance(value, int | float) and not isinstance(value, bool)
    if not right or not math.isfinite(value) or not low <= value <= high:  # type: ignore[arg-type, operator]
        raise _BadField(field, f"must be a number from {low:g} to {high:g}, not {_shown(value)}")
    return float(value)  # type: ignore[arg-type]


def _count(value: object, field: str, low: int = 0) -> int:
    number = _number(value, field, low, MAX_COUNT)
    if number != int(number):
        raise _BadField(field, f"must be a whole number, not {_shown(value)}")
    return int(number)


def _numbers(value: object, field: str, high: float) -> dict[str, float]:
    table = _table(value, field, set(COEFFICIENTS), set())
    if not table:
        raise _BadField(field, "is empty")
    return {key: _number(number, f"{field}.{key}", 0, high) for key, number in table.items()}


def _flag(value: object, field: str) -> bool:
    if not isinstance(value, bool):
        raise _BadField(field, f"must be true or false, not {_shown(value)}")
    return value


def _parallelism(value: object) -> Parallelism:
    names = {"tp", "pp", "dp", "ep"}
    table = _table(value, "parallelism", names, {"tp"})
    return Parallelism(**{k: _count(v, f"parallelism.{k}", 1) for k, v in table.items()})


def _measurement(value: object, field: str) -> tuple[Measurement, float]:
    known = {"kind", "seconds", "residual", *FLAGS, *COUNTS}
    table = _table(value, field, known, {"kind", "seconds", "residual"})
    if table["kind"] not in KINDS:
        raise _BadField(f"{field}.kind", f"must be one of {', '.join(KINDS)}")
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


def family(llm: Llm) -> str:
    """The family of LLMs that share efficiencies: dense or moe, attention, number format, hybrid.

    Source: kernels of another number format reach other shares of other peaks. The factors of a
    bf16 model made its FP8 sibling 1.9 times too fast on H200, and those of a MoE model's attention
    made prompts of hybrids 10 % too fast.
    """
    form = "" if llm.compute_dtype == "bf16" else f"-{llm.compute_dtype}"
    hybrid = "-hybrid" if llm.num_state_layers else ""
    return f"{'moe' if llm.experts else 'dense'}-{llm.attention}{form}{hybrid}"


def profile_id(gpu_name: str, family: str, engine: str, attention_backend: str) -> str:
    """The name of a profile, which is also its file name without .json."""
    return "--".join(slug(part) for part in (gpu_name, family, engine, attention_backend))


def measured_dir() -> Path:
    """Directory of bundled profiles."""
    return profiles_dir() / "measured"


def read_profile(path: Path) -> Profile:
    """Read a profile from a file.

    Raises InvalidInput naming file, line and field of the first error.
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
        return _profile(data, path.stem)
    except json.JSONDecodeError as problem:
        raise _bad(path, problem.lineno, f"is not JSON: {problem.msg}") from None
    except RecursionError:
        raise _bad(path, None, "is nested too deeply") from None
    except _BadField as bad:
        line = _line_of(text, bad.field.split("."))
        raise _bad(path, line, f"{bad.field or 'the file'} {bad}") from None


def write_profile(profile: Profile, directory: Path) -> Path:
    """Write a profile to NAME.json, all or nothing; return the path."""
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
    """The profile as readable JSON: one line per measurement with its residual."""
    data = asdict(profile)
    for apart in ("id", "measurements", "residuals"):
        del data[apart]
    rows = zip(profile.measurements, profile.residuals, strict=True)
    lines = [f"    {measurement_line(m, residual)}" for m, residual in rows]
    head = json.dumps(data, indent=2, ensure_ascii=False)
    return head[:-2] + ',\n  "measurements": [\n' + ",\n".join(lines) + "\n  ]\n}\n"


def measurement_line(step: Measurement, residual: float | None = None) -> str:
    """A measurement as JSON, with its residual if given."""
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
    """The profile nearest to this GPU and LLM. None without one for this GPU and family.

    Prefers the same LLM, then the same architecture, then the LLM nearest in size, then the
    newest profile. directories: files in later ones override files in earlier ones.
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
    """The nearest profile among the user's calibrations and the bundled profiles.

    A profile for exactly this LLM wins; otherwise the user's own wins over a bundled one.
    attention_backend: the engines' backend; None: unknown. Then an own profile may have any
    backend, because it describes this user's engines, but a bundled one must have SGLang's
    default backend on this GPU.
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
    """The profile in a file, or the own or bundled one with this name.

    Raises InvalidInput naming the error in the file, or the profiles that exist.
    """
    file = Path(name)
    if file.exists() or file.name != name or file.suffix == ".json":
        return read_profile(file)
    homes = (user_profiles_dir(), measured_dir())
    places = [home / f"{name}.json" for home in homes if (home / f"{name}.json").is_file()]
    if not places:
        known = sorted({path.stem for home in homes for path in home.glob("*.json")})
        raise InvalidInput(
            f"There is neither a profile nor a file named {name}.",
            hint="profiles: " + ", ".join(known) if known else "pdctl calibrate",
            code="unknown_profile",
        )
    return read_profile(places[0])


def error_band(profile: Profile | None, llm: Llm) -> float:
    """Relative half-width of the error of predicted step times.

    Source: docs/log.md for the generic roofline; for a profile, twice its median left-out error.
    """
    if profile is None:
        return ROOFLINE_BAND
    own = max(LEAST_BAND, 2 * profile.left_out_error)
    return own if profile.llm == llm.name else min(ROOFLINE_BAND, own + OTHER_LLM_BAND)


def _files(gpu_name: str, directories: Sequence[Path]) -> list[Path]:
    """This GPU's files, found by name so that start-up reads no others."""
    by_name: dict[str, Path] = {}
    for directory in directories:
        by_name.update({p.name: p for p in sorted(directory.glob(f"{slug(gpu_name)}--*.json"))})
    return list(by_name.values())


def _calibration_number(profile: Profile) -> int:
    """The number in a name such as NAME--2; 1 if there is none."""
    last = profile.id.rpartition("--")[2]
    return int(last) if last.isdecimal() else 1


def _likeness(profile: Profile, llm: Llm) -> tuple[bool, bool, float]:
    size = num_params(llm)
    distance = abs(profile.num_params / size - 1) if size else 0.0
    return profile.llm == llm.name, profile.architecture == llm.architecture, -distance


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    for key, value in pairs:
        if key in seen:
            raise _BadField(key, "appears twice")
        seen[key] = value
    return seen


def _no_constant(name: str) -> float:
    raise _BadField(name, "is not a number that a profile can hold")


def _line_of(text: str, keys: Sequence[str]) -> int | None:
    """Line of the last key. Searches each key after the one before; digits select an object."""
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
        f"{where}: {what}.", hint="pdctl calibrate writes a new profile", code="bad_profile"
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
    """The profile of a fit. date: ISO day. command: the command line that measured it."""
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
