"""Numbers with units: parse what people type, format what they read.

Inside the program everything is seconds, bytes and tokens; only this module knows ms and GiB.
"""

import math
import re
from collections.abc import Mapping

from pdctl.errors import InvalidInput

KIB = 1024
MIB = 1024**2
GIB = 1024**3
GB = 1e9
UNKNOWN = "unknown"

_DURATIONS_S = {
    **{"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "sec": 1.0},
    **{"m": 60.0, "min": 60.0, "h": 3600.0},
}
_LATENCIES_S = {unit: size for unit, size in _DURATIONS_S.items() if unit != "m"}
_UNCLEAR = {"": ("ms", "s"), "m": ("ms", "min")}  # units of a service level, and their readings
_TOKEN_SCALES = {"": 1.0, "k": 1e3, "m": 1e6}
_SPANS = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))
_NUMBER = r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*"
_QUANTITY = re.compile(_NUMBER + r"([a-zA-Zµμ]*)\s*")
_RATE = re.compile(
    _NUMBER + r"(?:(?:req(?:uests?)?)?\s*/\s*(s|sec|m|min|h)|rps)?\s*", re.IGNORECASE
)
_SHARE = re.compile(_NUMBER + r"(%?)\s*")


def parse_duration_s(text: str, *, flag: str) -> float:
    """Seconds in "30ms", "1s", "5 min", "1m" (a minute); a bare number counts seconds.

    Raises InvalidInput, naming `flag`, unless the result is positive and finite.
    """
    return _duration_s(text, flag, bare_unit="s", units=_DURATIONS_S)


def parse_latency_s(text: str, *, flag: str) -> float:
    """Seconds in a service level: "30ms", "1s", "2min".

    A bare number and "m" are refused with their two readings, for a factor of 1000 lies between.
    Raises InvalidInput, naming `flag`, unless the result is positive and finite.
    """
    return _duration_s(text, flag, bare_unit="", units=_LATENCIES_S)


def _duration_s(text: str, flag: str, *, bare_unit: str, units: Mapping[str, float]) -> float:
    match = _QUANTITY.fullmatch(text)
    unit = (match.group(2) or bare_unit).lower().replace("μ", "µ") if match else "?"
    if match is not None and unit in _UNCLEAR and unit not in units:
        positive(float(match.group(1)), flag=flag, text=text, example="1s")
        first, second = (f"{match.group(1)}{reading}" for reading in _UNCLEAR[unit])
        raise InvalidInput(
            f"{flag} {text.strip()} could mean {first} or {second}.",
            hint=f"{flag} {first}, or {flag} {second}",
        )
    if match is None or unit not in units:
        raise InvalidInput(
            f"{flag} {text!r} is not a duration.", hint=f"{flag} 500ms, {flag} 2s or {flag} 5min"
        )
    return positive(float(match.group(1)) * units[unit], flag=flag, text=text, example="1s")


def parse_tokens(text: str, *, flag: str) -> float:
    """A count of tokens in "8000", "8k", "30K", "12,000", "1.5M"; K is 1000 and M a million.

    Raises InvalidInput, naming `flag`, unless the result is positive and finite.
    """
    match = _QUANTITY.fullmatch(text.replace(",", "").replace("_", ""))
    scale = _TOKEN_SCALES.get(match.group(2).lower()) if match else None
    if match is None or scale is None:
        raise InvalidInput(
            f"{flag} {text!r} is not a number of tokens.", hint=f"{flag} 8000, or {flag} 8k"
        )
    return positive(float(match.group(1)) * scale, flag=flag, text=text)


def parse_rate_rps(text: str, *, flag: str) -> float:
    """Requests per second in "12", "12/s", "12 req/s", "300/min", "5000/h".

    Raises InvalidInput, naming `flag`, unless the result is positive and finite.
    """
    match = _RATE.fullmatch(text.replace(",", ""))
    if match is None:
        raise InvalidInput(f"{flag} {text!r} is not a rate.", hint=f"{flag} 12, or {flag} 300/min")
    per_s = _DURATIONS_S[(match.group(2) or "s").lower()]
    return positive(float(match.group(1)) / per_s, flag=flag, text=text)


def parse_share(text: str, *, flag: str) -> float:
    """A share from 0 to 1 in "0.9" or "90%". Raises InvalidInput, naming `flag`, for others."""
    match = _SHARE.fullmatch(text)
    share = float(match.group(1)) / (100.0 if match.group(2) else 1.0) if match else -1.0
    if not 0 <= share <= 1:
        is_percent = match is not None and not match.group(2) and 1 < share <= 100
        meant = f"{flag} {text.strip()}%" if is_percent else f"{flag} 0.9, or {flag} 90%"
        raise InvalidInput(
            f"{flag} is a share from 0 to 1, or up to 100%, not {text.strip()}.", hint=meant
        )
    return share


def positive(value: float, *, flag: str, text: str | None = None, example: str = "1") -> float:
    """`value` if it is above zero and finite; InvalidInput naming `flag` otherwise."""
    if not (math.isfinite(value) and value > 0):
        shown = text if text is not None else f"{value:g}"
        raise InvalidInput(
            f"{flag} must be positive and finite, not {shown}.", hint=f"{flag} {example}"
        )
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


def format_span(seconds: float | None) -> str:
    """A length of time in two parts: 59 min 59 s, 2 h 5 min, 3 d 4 h; below a minute 12.3 s."""
    if seconds is None or not math.isfinite(seconds) or abs(seconds) < 60:
        return format_seconds(seconds)
    whole = round(seconds)
    for (size, unit), (finer, finer_unit) in zip(_SPANS[:-1], _SPANS[1:], strict=True):
        if whole >= size:
            large, rest = divmod(whole, size)
            small = rest // finer
            return f"{large:,} {unit} {small} {finer_unit}" if small else f"{large:,} {unit}"
    return f"{whole} s"


def format_off(share: float) -> str:
    """The error of a prediction: +4 %, -12 %, 0 %."""
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


def format_number_of(count: float, noun: str, verb: str = "") -> str:
    """A number with its noun, and the verb they have: 1 request waits, 12,031 requests wait.

    verb: as several things have it, such as "wait" or "are".
    """
    is_one = round(count) == 1
    nouns = noun if is_one else f"{noun}{'es' if noun.endswith('s') else 's'}"
    said = {"are": "is", "have": "has"}.get(verb, f"{verb}s") if is_one and verb else verb
    return f"{count:,.0f} {nouns} {said}".rstrip()


def format_rate(per_s: float | None) -> str:
    """58.1k, 940, 2.6, 0.536: a count per second in three digits, without its unit.

    Rates are predicted in three digits, so that they hold as they are printed.
    """
    if per_s is None or not math.isfinite(per_s):
        return UNKNOWN
    if 0 < abs(per_s) < 1:
        return f"{per_s:.3g}"
    if abs(per_s) >= 1e6:
        return f"{_three_digits(per_s / 1e6)}M"
    return f"{_three_digits(per_s / 1e3)}k" if abs(per_s) >= 9999.5 else _three_digits(per_s)


def format_share(share: float | None) -> str:
    """0.314 as 31 %."""
    return UNKNOWN if share is None or not math.isfinite(share) else f"{share * 100:.0f} %"


def format_points(difference: float) -> str:
    """The difference of two shares: 0.314 as 31 points."""
    points = difference * 100
    text = f"{points:.0f}" if abs(points) >= 1 else f"{points:.1f}"
    return f"{text} point{'' if text == '1' else 's'}"


def _three_digits(value: float) -> str:
    decimals = 0 if abs(value) >= 100 else 1 if abs(value) >= 9.995 else 2
    text = f"{value:.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
