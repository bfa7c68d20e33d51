"""From parsed JSON to a Profile, or the field that is wrong and why."""

import math
import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from pdctl.errors import InvalidInput
from pdctl.perf_model.records import Measurement, Parallelism, Profile, StepTimes

TEXTS = ("gpu", "family", "architecture", "llm", "engine", "attention_backend", "date", "command")
FAMILIES = ("dense-gqa", "dense-mla", "moe-gqa", "moe-mla")
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


def profile_of(data: object, name: str) -> tuple[Profile | None, str, str]:
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
