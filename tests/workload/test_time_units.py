"""The unit of a trace's times, whatever writes them."""

import json
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pdctl.errors import InvalidInput
from pdctl.workload.arrivals import mean_rate_rps
from pdctl.workload.records import Trace
from pdctl.workload.time_units import UNITS_S, TwoUnits, find_unit, parse_time_unit
from pdctl.workload.traces import read_trace

EPOCH_S = 1_760_000_000.0
UPTIME_S = 5_000.0  # a monotonic clock


def poisson(rate_rps: float, num: int, seed: int = 0) -> list[float]:
    random, now, times = Random(seed), 0.0, []
    for _ in range(num):
        now += random.expovariate(rate_rps)
        times.append(now)
    return times


def in_unit(times_s: list[float], unit: str, *, whole: bool, start_s: float = 0.0) -> list[float]:
    scale = UNITS_S[unit]
    if whole:
        tick = round(1 / scale)  # whole numbers, so that an epoch in ns stays exact
        return [round(start_s) * tick + round(time / scale) for time in times_s]
    return [(start_s + time) / scale for time in times_s]


def test_the_days_of_a_spreadsheet_are_days() -> None:
    times = [45_987.5 + time / 86_400 for time in poisson(3.0, 400)]
    (reading,) = find_unit(times)
    assert reading.unit == "days"
    assert reading.span_s == pytest.approx((times[-1] - times[0]) * 86_400)


def test_seconds_since_midnight_are_no_days_of_a_spreadsheet() -> None:
    (reading,) = find_unit([43_200.25 + time for time in poisson(3.0, 400)])
    assert reading.unit == "s"


def as_jsonl(column: str, times: list[float]) -> str:
    rows = ({column: time, "input_length": 900, "output_length": 90} for time in times)
    return "\n".join(json.dumps(row) for row in rows)


def as_array(column: str, times: list[float]) -> str:
    rows = [{column: time, "prompt_tokens": 900, "completion_tokens": 90} for time in times]
    return json.dumps(rows, indent=1)


def as_csv(column: str, times: list[float]) -> str:
    return "\n".join([f"id,{column},isl,osl", *(f"r{i},{t!r},9,9" for i, t in enumerate(times))])


FORMATS: list[Callable[[str, list[float]], str]] = [as_jsonl, as_array, as_csv]


def read(path: Path, content: str, **how: str) -> Trace:
    path.write_text(content, encoding="utf-8")
    return read_trace(path, time_unit=how.get("time_unit"))


@pytest.mark.slow
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rate=st.floats(0.7, 40.0),
    num=st.integers(400, 900),
    unit=st.sampled_from(["s", "ms", "us", "ns"]),
    whole=st.booleans(),
    start_s=st.sampled_from([0.0, UPTIME_S, EPOCH_S]),
    column=st.sampled_from(["timestamp", "arrival_time", "time", "t", "request_arrival_clock"]),
    write=st.sampled_from(FORMATS),
)
def test_the_unit_is_the_one_in_which_rate_and_span_make_sense(
    tmp_path: Path,
    rate: float,
    num: int,
    unit: str,
    whole: bool,
    start_s: float,
    column: str,
    write: Callable[[str, list[float]], str],
) -> None:
    times_s = poisson(rate, num)
    times = in_unit(times_s, unit, whole=whole or unit in ("us", "ns"), start_s=start_s)
    trace = read(tmp_path / "trace", write(column, times))
    assert trace.time_unit == unit
    assert trace.columns[0] == f"{column} in {unit}"
    measured = mean_rate_rps(trace.requests)
    within = 0.15 if whole and unit == "s" else 0.001  # whole seconds round the ends of the span
    assert measured == pytest.approx((num - 1) / (times_s[-1] - times_s[0]), rel=within)


@pytest.mark.parametrize("write", FORMATS)
@pytest.mark.parametrize("unit", UNITS_S)
@pytest.mark.parametrize("rate", [0.02, 4.0, 900.0])
def test_a_unit_in_the_name_decides_whatever_the_rate(
    tmp_path: Path, rate: float, unit: str, write: Callable[[str, list[float]], str]
) -> None:
    times = in_unit(poisson(rate, 50), unit, whole=unit != "s", start_s=100.0)
    for column in (f"send_time_{unit}", f"arrival ({unit})", f"sendTime{unit.capitalize()}"):
        trace = read(tmp_path / "trace", write(column, times))
        assert trace.time_unit == unit, column


@pytest.mark.parametrize(
    ("written", "style"),
    [
        ("%Y-%m-%dT%H:%M:%S.%f", "ISO"),
        ("%Y-%m-%dT%H:%M:%S.%fZ", "ISO of UTC"),
        ("%Y-%m-%dT%H:%M:%S.%f+02:00", "ISO with a zone"),
        ("%Y/%m/%d %H:%M:%S.%f", "slashes"),
        ("%Y-%m-%d %H:%M:%S,%f", "as logging writes them"),
    ],
)
def test_dates_are_read_as_they_are_written(tmp_path: Path, written: str, style: str) -> None:
    times_s = poisson(3.0, 300)
    rows = (
        {
            "created_at": datetime.fromtimestamp(EPOCH_S + t, tz=timezone.utc).strftime(written),
            "isl": 9,
            "osl": 9,
        }
        for t in times_s
    )
    trace = read(tmp_path / "trace", "\n".join(map(json.dumps, rows)))
    assert trace.time_unit == "date"
    assert trace.requests.arrival_s[-1] == pytest.approx(times_s[-1] - times_s[0], abs=0.01)


@pytest.mark.parametrize(
    ("rate_rps", "finer_rps", "num"), [(0.06, 60, 1000), (0.1, 100, 2000), (0.4, 400, 9000)]
)
def test_two_units_that_make_sense_are_both_named(
    tmp_path: Path, rate_rps: float, finer_rps: float, num: int
) -> None:
    times = in_unit(poisson(rate_rps, num), "s", whole=True)
    with pytest.raises(TwoUnits) as doubt:
        read(tmp_path / "trace", as_jsonl("timestamp", times))
    assert {reading.unit for reading in doubt.value.readings} == {"s", "ms"}
    rates = sorted(reading.rate_rps or 0 for reading in doubt.value.readings)
    assert rates == pytest.approx([rate_rps, finer_rps], rel=0.1)
    assert "req/s over" in doubt.value.message
    assert "--time-unit ms" in doubt.value.hint
    assert "--time-unit s" in doubt.value.hint
    given_s = read(tmp_path / "trace", as_jsonl("timestamp", times), time_unit="s")
    given_ms = read(tmp_path / "trace", as_jsonl("timestamp", times), time_unit="ms")
    assert mean_rate_rps(given_s.requests) == pytest.approx(rate_rps, rel=0.1)
    assert mean_rate_rps(given_ms.requests) == pytest.approx(finer_rps, rel=0.1)


def test_the_given_unit_decides_over_the_name_of_the_column(tmp_path: Path) -> None:
    times = in_unit(poisson(4.0, 300), "us", whole=True)
    trace = read(tmp_path / "trace", as_csv("time_ms", times), time_unit="us")
    assert mean_rate_rps(trace.requests) == pytest.approx(4.0, rel=0.2)


def test_a_given_unit_beside_dates_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="are dates"):
        read(tmp_path / "t", "time,isl,osl\n2026-01-01T00:00:00,5,6\n", time_unit="ms")


@pytest.mark.parametrize("text", ["minutes", "m", "date", "ks"])
def test_another_word_is_no_unit(text: str) -> None:
    with pytest.raises(InvalidInput, match="--time-unit"):
        parse_time_unit(text)


def test_units_are_read_as_people_type_them() -> None:
    assert [parse_time_unit(text) for text in ("µs", "MS", " s ", "")] == ["us", "ms", "s", None]


@pytest.mark.parametrize("times", [[5.0], [7.0, 7.0, 7.0], [0.0]])
def test_one_instant_is_read_without_a_question(times: list[float]) -> None:
    (reading,) = find_unit(times)
    assert reading.rate_rps is None
    assert reading.span_s == 0


@settings(deadline=None)
@given(times=st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1))
def test_any_times_have_a_reading(times: list[float]) -> None:
    readings = find_unit(times)
    assert 1 <= len({reading.unit for reading in readings}) == len(readings)


def test_a_published_format_settles_a_doubt_but_no_absurdity() -> None:
    doubtful = in_unit(poisson(0.1, 2000), "s", whole=True)
    assert [r.unit for r in find_unit(doubtful, usual="ms")] == ["ms"]
    assert [r.unit for r in find_unit(doubtful, usual="s")] == ["s"]
    in_seconds = poisson(4.0, 2000)
    assert [r.unit for r in find_unit(in_seconds, usual="ms")] == ["s"]
