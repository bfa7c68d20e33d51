"""Find the unit in which a trace counts time, from the rate and span that each unit would mean."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pdctl.errors import InvalidInput
from pdctl.units import format_rate, format_span

UNITS_S = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
DAYS = "days"  # since 1899-12-30, as spreadsheets count
NAMED_UNITS_S = {**UNITS_S, "min": 60.0, "h": 3600.0, DAYS: 86_400.0}  # a column's name may say it
DATE = "date"  # times that are calendar dates need no unit

# Rates and spans people record for capacity planning. Outside them a reading is strange, by the
# decades it is away; a span counts half, for the first seconds of a longer trace are common.
_LEAST_RPS = 0.05
_MOST_RPS = {"s": 500.0, "ms": 500.0, "us": 200.0, "ns": 200.0, DAYS: 500.0}  # µs, ns: rarer
_USUAL_SPAN_S = (10.0, 400 * 86_400.0)
_FRACTION_OF_A_TICK = 0.5  # decades: a clock that counts µs or ns gives whole numbers
_NOT_STRANGE = 0.02  # decades: just outside is as good as inside
_STILL_USUAL = 1.0  # decades by which a published format or Unix time may be strange
_CLEAR = 0.3  # decades between two strange readings that leave no doubt
_EPOCH_S = (1.0e9, 4.2e9)  # 2001 to 2103
_SERIAL_DAYS = (36_892.0, 74_510.0)  # the same, in a spreadsheet's days


@dataclass(frozen=True)
class TimeReading:
    """A trace as it would be if its times counted in `unit`. num_gaps: between its requests."""

    unit: str
    num_gaps: int
    span_s: float

    @property
    def rate_rps(self) -> float | None:
        """Requests per second; None where all come at one instant."""
        return self.num_gaps / self.span_s if self.span_s > 0 else None

    def __str__(self) -> str:
        rate = f"{format_rate(self.rate_rps)} req/s over " if self.rate_rps else ""
        return f"{self.unit}: {rate}{format_span(self.span_s)}"


class TwoUnits(InvalidInput):
    """Times that make sense in more than one unit; `readings` are those, the likeliest first."""

    def __init__(self, name: str, column: str, readings: Sequence[TimeReading]) -> None:
        self.readings = tuple(readings)
        said = ", or in ".join(map(str, self.readings))
        flags = " or ".join(f"--time-unit {reading.unit}" for reading in self.readings)
        super().__init__(
            f"The times in {name} ({column}) make sense in {said}.",
            hint=flags,
            code="two_time_units",
        )


def parse_time_unit(text: str) -> str | None:
    """The unit of `--time-unit`; None where none is given. Raises InvalidInput for another word."""
    unit = text.strip().lower().replace("µ", "u").replace("μ", "u")
    if unit and unit not in UNITS_S:
        raise InvalidInput(
            f"--time-unit must be s, ms, us or ns, not {text!r}.", hint="--time-unit ms"
        )
    return unit or None


def find_unit(times: Sequence[float], *, usual: str | None = None) -> tuple[TimeReading, ...]:
    """The readings of numeric times that make sense: one where it is clear, two in doubt.

    times: in the file's own unit, in any order, at least one. usual: the unit of the published
    format that the file has; it decides unless it would make the trace very strange.
    Unix time is known by its size, unless another unit gives a more usual trace. A spreadsheet's
    days are known by their size and a usual rate, which would be over 4,000 req/s in seconds.
    Ignores: gaps and repeats between single requests, which tell nothing about a unit.
    """
    low, high = min(times), max(times)
    epoch = _epoch_unit(low, high)
    readings = {unit: _reading(unit, low, high, len(times)) for unit in UNITS_S}
    if high <= low:
        return (readings[epoch or usual or "s"],)
    whole = not any(time % 1 for time in times)
    strange = {unit: _strangeness(reading, whole) for unit, reading in readings.items()}
    days = _reading(DAYS, low, high, len(times))
    is_serial = _SERIAL_DAYS[0] <= low and high <= _SERIAL_DAYS[1]
    if is_serial and _strangeness(days, whole) < _NOT_STRANGE:
        return (days,)
    order = sorted(UNITS_S, key=strange.__getitem__)
    plain = [unit for unit in order if strange[unit] < _NOT_STRANGE]
    known = epoch or usual
    if known and (strange[known] < _STILL_USUAL or (epoch and not plain)):
        return (readings[known],)
    if epoch:
        return tuple(readings[unit] for unit in (epoch, *plain))
    if not plain:
        plain = [unit for unit in order if strange[unit] - strange[order[0]] < _CLEAR]
    return tuple(readings[unit] for unit in plain)


def _reading(unit: str, low: float, high: float, num: int) -> TimeReading:
    return TimeReading(unit, num - 1, (high - low) * NAMED_UNITS_S[unit])


def _epoch_unit(low: float, high: float) -> str | None:
    for unit, unit_s in UNITS_S.items():
        if _EPOCH_S[0] <= low * unit_s and high * unit_s <= _EPOCH_S[1]:
            return unit
    return None


def _strangeness(reading: TimeReading, whole: bool) -> float:
    """Decades by which a reading lies outside what people record; 0 inside."""
    away = _decades(reading.rate_rps or 0.0, _LEAST_RPS, _MOST_RPS[reading.unit])
    away += _decades(reading.span_s, *_USUAL_SPAN_S) / 2
    return away + (_FRACTION_OF_A_TICK if reading.unit in ("us", "ns") and not whole else 0.0)


def _decades(value: float, least: float, most: float) -> float:
    if value <= 0:
        return math.inf
    return max(math.log10(least / value), math.log10(value / most), 0.0)
