"""Which column of a trace holds what, and the unit of its timestamps. Pure."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import lru_cache

MAX_TOKENS = 10**9  # above this a length is a mistake, not a prompt

# names are compared in lower case, without spaces, underscores and dashes
_ALIASES = {
    "arrival": (
        "timestamp",
        "arrivaltime",
        "arrivedat",
        "arrival",
        "arrivals",
        "starttime",
        "requesttime",
        "createdat",
        "time",
    ),
    "prompt": (
        "inputlength",
        "inputlen",
        "inputtokens",
        "contexttokens",
        "requesttokens",
        "prompttokens",
        "promptlength",
        "promptlen",
        "numprefilltokens",
        "numprompttokens",
        "isl",
    ),
    "output": (
        "outputlength",
        "outputlen",
        "outputtokens",
        "generatedtokens",
        "responsetokens",
        "completiontokens",
        "numdecodetokens",
        "osl",
    ),
    "blocks": ("hashids",),
}
_UNIT_SUFFIX = re.compile(r"[ _-](ns|us|ms|s|sec|seconds)$", re.IGNORECASE)
_UNITS_S = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "sec": 1.0, "seconds": 1.0, "date": 1.0}
_DATE = re.compile(
    r"(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(\.\d+|,\d+)?\s*(Z|[+-]\d\d:?\d\d)?", re.IGNORECASE
)
# Unix time now is 1.8e9 s: larger stamps can only be finer units
_EPOCH_UNITS = ((1e17, "ns"), (1e14, "us"), (1e11, "ms"), (1e8, "s"))
_BLOCK_SIZES = (512, 16, 64, 32, 128, 256, 1024, 1)


@dataclass(frozen=True)
class Columns:
    """The name of each column that was recognised. None: the file has none."""

    arrival: str | None
    prompt: str
    output: str
    blocks: str | None
    unit: str | None  # of arrival, where the format or the name says it


def find_columns(names: Sequence[str]) -> Columns | None:
    """The columns of a trace among `names`; None without both lengths."""
    found = {meaning: _first_named(names, aliases) for meaning, aliases in _ALIASES.items()}
    prompt, output = found["prompt"], found["output"]
    if prompt is None or output is None:
        return None
    return Columns(
        found["arrival"], prompt, output, found["blocks"], _stated_unit(found["arrival"], names)
    )


def _first_named(names: Sequence[str], aliases: Sequence[str]) -> str | None:
    by_key = {_key(name): name for name in reversed(names)}
    return next((by_key[alias] for alias in aliases if alias in by_key), None)


def _key(name: str) -> str:
    return re.sub(r"[ _-]", "", _UNIT_SUFFIX.sub("", name.strip())).lower()


def _stated_unit(arrival: str | None, names: Sequence[str]) -> str | None:
    """From the column's name, or from the format: Bailian and BurstGPT count in seconds."""
    suffix = _UNIT_SUFFIX.search(arrival or "")
    if suffix:
        return suffix.group(1).lower()
    return "s" if {"chatid", "sessionid"} & {_key(name) for name in names} else None


def with_dates(columns: Columns, raw: object) -> Columns:
    """`columns`, with "date" as the unit when the first timestamp is one."""
    return replace(columns, unit="date") if isinstance(raw, str) and is_date(raw) else columns


def is_date(text: str) -> bool:
    """Whether `text` is a date with a time, as 2023-11-16 18:17:03.979."""
    return _DATE.fullmatch(text.strip()) is not None


def parse_date(raw: object) -> float:
    """Unix seconds of a date (of UTC where it names no zone). Raises ValueError with the reason."""
    match = _DATE.fullmatch(raw.strip()) if isinstance(raw, str) else None
    if match is None:
        raise ValueError(f"timestamp {_short(raw)} is not a date")
    return _date_s(match)


def parse_number(raw: object) -> float:
    """A timestamp in its own unit. Raises ValueError with the reason."""
    try:
        value = float(raw) if type(raw) in (str, int, float) else None  # type: ignore[arg-type]
    except (ValueError, OverflowError):
        value = None
    if value is None or value - value != 0:
        raise ValueError(f"timestamp {_short(raw)} is not a finite number")
    return value


def _date_s(match: re.Match[str]) -> float:
    day, clock, fraction, zone = match.groups()
    return _second(day, clock) - _offset_s(zone) + float("0" + (fraction or ".0").replace(",", "."))


@lru_cache(maxsize=64)
def _second(day: str, clock: str) -> float:
    return datetime.fromisoformat(f"{day} {clock}").replace(tzinfo=timezone.utc).timestamp()


def _offset_s(zone: str | None) -> float:
    if not zone or zone in "Zz":
        return 0.0
    digits = zone[1:].replace(":", "")
    seconds = int(digits[:2]) * 3600 + int(digits[2:]) * 60
    return seconds if zone[0] == "+" else -seconds


def parse_tokens(raw: object, name: str, *, least: int = 0) -> int:
    """A length in tokens, `least` to a billion. Raises ValueError with the reason."""
    try:
        count = float(raw) if type(raw) in (str, int, float) else None  # type: ignore[arg-type]
    except (ValueError, OverflowError):
        count = None
    if count is None or count % 1:  # nan for inf and nan
        raise ValueError(f"{name} {_short(raw)} is not a whole number")
    if not least <= count <= MAX_TOKENS:
        raise ValueError(f"{name} is {_short(raw)}")
    return int(count)


def _short(raw: object) -> str:
    text = repr(raw)
    return text if len(text) <= 40 else text[:37] + "..."


def guess_unit(times: Sequence[float], *, milliseconds_likely: bool) -> str:
    """The unit of numeric timestamps that nothing states: "ns", "us", "ms" or "s".

    Large stamps can only be Unix time; fractions mean seconds. Whole numbers are milliseconds in
    Mooncake's format (`milliseconds_likely`) unless that makes over 1000 requests/s, and elsewhere
    when seconds would make less than one request in 50.
    """
    latest = max(times)
    for least, unit in _EPOCH_UNITS:
        if latest >= least:
            return unit
    if any(time % 1 for time in times):
        return "s"
    mean_gap = (latest - min(times)) / max(1, len(times) - 1)
    if milliseconds_likely:
        return "s" if 0 < mean_gap < 1 else "ms"
    return "ms" if mean_gap > 50 else "s"


def to_seconds(times: Iterable[float], unit: str) -> list[float]:
    """Timestamps in `unit` as seconds."""
    scale = _UNITS_S[unit]
    return [time * scale for time in times]


def guess_block_tokens(isl: Sequence[int], num_blocks: Sequence[int]) -> int | None:
    """Tokens per prompt block, from how many ids the prompts have; None if no known size fits.

    A prompt of n tokens has ceil(n / size) ids.
    """
    pairs = [(n, blocks) for n, blocks in zip(isl, num_blocks, strict=True) if blocks and n]
    for size in _BLOCK_SIZES:
        if pairs and all(-(-n // size) == blocks for n, blocks in pairs):
            return size
    return None
