"""Numbers with units: parse what people type, format what they read.

Inside the program everything is seconds, bytes and tokens; only this module knows ms and GiB.
"""

import math
import re

from pdctl.errors import InvalidInput

KIB = 1024
MIB = 1024**2
GIB = 1024**3
GB = 1e9
UNKNOWN = "unknown"

_DURATIONS_S = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_QUANTITY = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([a-zA-Zµ]*)\s*")


def parse_duration_s(text: str, *, flag: str, bare_unit: str = "s") -> float:
    """Seconds in "30ms", "1s", "5 min"; a bare number counts in `bare_unit`.

    Raises InvalidInput, naming `flag`, unless the result is positive and finite.
    """
    match = _QUANTITY.fullmatch(text)
    unit = (match.group(2) or bare_unit).lower() if match else ""
    if match is None or unit not in _DURATIONS_S:
        raise InvalidInput(
            f"{flag} {text!r} is not a duration.", hint=f"{flag} 500ms, {flag} 2s or {flag} 5min"
        )
    return positive(float(match.group(1)) * _DURATIONS_S[unit], flag=flag, text=text)


def positive(value: float, *, flag: str, text: str | None = None) -> float:
    """`value` if it is above zero and finite; InvalidInput naming `flag` otherwise."""
    if not (math.isfinite(value) and value > 0):
        shown = text if text is not None else f"{value:g}"
        raise InvalidInput(f"{flag} must be positive and finite, not {shown}.", hint=f"{flag} 1")
    return value


def format_seconds(seconds: float | None) -> str:
    """Three significant digits in the unit a person would choose: 340 µs, 23.4 ms, 1.2 s, 3 min."""
    if seconds is None or not math.isfinite(seconds):
        return UNKNOWN
    if seconds and abs(seconds) < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    if abs(seconds) < 0.9995:
        return f"{_three_digits(seconds * 1e3)} ms" if seconds else "0 s"
    if abs(seconds) < 600:
        return f"{_three_digits(seconds)} s"
    return f"{seconds / 60:.0f} min"


def format_off(share: float) -> str:
    """How far a prediction is off: +4 %, -12 %, 0 %."""
    if not math.isfinite(share):
        return UNKNOWN
    percent = round(share * 100)
    return f"{percent:+d} %" if percent else "0 %"


def format_bytes(count: float | None) -> str:
    """141 GiB, 24 MiB, 512 B."""
    if count is None or not math.isfinite(count):
        return UNKNOWN
    for size, unit in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if abs(count) >= size:
            return f"{_three_digits(count / size)} {unit}"
    return f"{count:.0f} B"


def format_count(count: float | None) -> str:
    """12,035 up to six digits, then 1.2M; fractions below 100 keep three digits."""
    if count is None or not math.isfinite(count):
        return UNKNOWN
    if abs(count) >= 1e9:
        return f"{_three_digits(count / 1e9)}B"
    if abs(count) >= 1e6:
        return f"{_three_digits(count / 1e6)}M"
    if abs(count) >= 100 or float(count).is_integer():
        return f"{count:,.0f}"
    return _three_digits(count)


def format_rate(per_s: float | None) -> str:
    """58.1k, 940, 2.6: a count per second without its unit, for table columns."""
    if per_s is None or not math.isfinite(per_s):
        return UNKNOWN
    if abs(per_s) >= 1e6:
        return f"{_three_digits(per_s / 1e6)}M"
    return f"{_three_digits(per_s / 1e3)}k" if abs(per_s) >= 9999.5 else _three_digits(per_s)


def format_share(share: float | None) -> str:
    """0.314 as 31 %."""
    return UNKNOWN if share is None or not math.isfinite(share) else f"{share * 100:.0f} %"


def _three_digits(value: float) -> str:
    decimals = 0 if abs(value) >= 100 else 1 if abs(value) >= 9.995 else 2
    text = f"{value:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
