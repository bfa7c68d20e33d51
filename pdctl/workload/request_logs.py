"""Files that SGLang itself writes: results of bench_serving, and its logs of single requests."""

import re
from collections.abc import Iterable, Iterator

from pdctl.errors import InvalidInput
from pdctl.workload.columns import Columns, is_date, parse_date, parse_length, parse_number
from pdctl.workload.lines import ABORTED, BadLines, Line, Row, parse_json

_BENCH_KEYS = {"total_input_tokens", "total_output_tokens", "completed"}
_BENCH_LENGTHS = ("input_lens", "output_lens")
# [2026-11-23 09:28:19 TP0] Finish: obj=GenerateReqInput(...), out={'meta_info': {...}}
_STAMP = re.compile(rb"\[?(\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?)")
_FIELDS = {
    name: re.compile(rb"""['"]%s['"]:\s*([-+0-9.eE]+)""" % name.encode())
    for name in ("prompt_tokens", "completion_tokens", "e2e_latency", "request_received_ts")
}
_ABORT = re.compile(rb"""['"]finish_reason['"]:\s*\{[^{}]*?['"]type['"]:\s*['"]abort['"]""")
# Req Time Stats(rid=a, input len=4096, output len=1, type=prefill): queue_duration=1.60ms, ...
# ReqTimeStats(rid=a, input_len=4096, cached_input_len=0, output_len=1, type=prefill): ...
_TIME_STATS = re.compile(rb"Req ?Time ?Stats\(([^)]*)\)(.*)")
_STATS_FIELD = re.compile(rb"(?:^|,\s*)(rid|input|output)(?:[ _]len)?=([^,]*)")
_STATS_TIME = re.compile(rb"(?:entry|start|arrival|created|received|recv)_time=(\d+(?:\.\d+)?)")
_STATS_DURATION = re.compile(rb"\w+_duration=(\d+(?:\.\d+)?)ms")
_EPOCH_S = 1e9
_LONGEST_MS = 86_400e3  # some versions print a clock instead of a duration
_LOG_MARKS = (b"Finish: ", b'"request.finished"', b"ReqTimeStats(", b"Req Time Stats(")


def is_bench_result(sample: dict[str, object]) -> bool:
    """True if the first object of a file is a result of bench_serving."""
    return "input_lens" in sample or sample.keys() >= _BENCH_KEYS


def is_log_event(sample: dict[str, object]) -> bool:
    """True if the first object of a file is a line of --log-requests-format json."""
    return "event" in sample and "rid" in sample


def read_bench_results(lines: Iterable[Line], bad: BadLines) -> tuple[Columns, Iterator[Row]]:
    """The requests of a file with one bench_serving result, or several, a line each.

    Start times are taken where there is one result that has them.
    """
    results = [_result(number, line, bad) for number, line in lines]
    timed = len(results) == 1 and "start_times" in results[0]
    columns = Columns("start_times" if timed else None, *_BENCH_LENGTHS, None, unit="s")
    rows = (row for result in results for row in _bench_rows(result, timed, bad))
    return columns, rows


def _result(number: int, line: bytes, bad: BadLines) -> dict[str, list[object]]:
    try:
        found = parse_json(line)
    except ValueError as problem:
        bad.add(number, str(problem))
        return {}
    if not isinstance(found, dict):
        bad.add(number, "not a JSON object")
        return {}
    wanted = (*_BENCH_LENGTHS, "start_times")
    lists = {key: found[key] for key in wanted if isinstance(found.get(key), list)}
    if not lists.keys() >= set(_BENCH_LENGTHS):
        raise InvalidInput(
            f"{bad.path.name}, line {number}: a benchmark result without input_lens, output_lens.",
            hint="run sglang.bench_serving with --output-details",
        )
    if len({len(values) for values in lists.values()}) > 1:
        bad.add(number, "its lists differ in length")
        return {}
    return lists


def _bench_rows(lists: dict[str, list[object]], timed: bool, bad: BadLines) -> Iterator[Row]:
    for index, isl in enumerate(lists.get("input_lens", ())):
        try:
            at = parse_number(lists["start_times"][index]) if timed else 0.0
            osl = parse_length(lists["output_lens"][index], "output_lens")
            yield at, parse_length(isl, "input_lens", least=1), osl, None, None
        except ValueError as problem:
            bad.add(1, f"request {index + 1}: {problem}")


def is_log(text: bytes) -> bool:
    """True if a piece of a file has lines of finished requests in it."""
    return any(mark in text for mark in _LOG_MARKS)


def read_log(lines: Iterable[Line], bad: BadLines) -> tuple[Columns, Iterator[Row]]:
    """The finished requests in a server's log; other lines are passed over.

    Lines of --log-requests, text or JSON, or, where there are none, the time stats of
    --enable-request-time-stats-logging in the spellings of its versions. A request arrived when
    the log says it was received, else its end-to-end time before the line was written.
    """
    columns = Columns(
        "log time", "prompt tokens", "completion tokens", None, unit="date", is_log=True
    )
    return columns, _log_rows(lines, bad)


def _log_rows(lines: Iterable[Line], bad: BadLines) -> Iterator[Row]:
    stats: dict[bytes, Row] = {}  # by request: each rank may write its line
    any_finished = False
    for number, line in lines:
        try:
            if b"Finish: " in line or b'"request.finished"' in line:
                yield _log_row(line)
                any_finished = True
            elif found := _TIME_STATS.search(line):
                row_id, row = _stats_row(line, found)
                stats[row_id or b"%d" % number] = row
        except ValueError as problem:
            bad.add(number, str(problem))
    if not any_finished:
        yield from stats.values()


def _log_row(line: bytes) -> Row:
    # the prompt's text comes before the counts and may itself look like one: the last one counts
    found = {name: _last(pattern, line) for name, pattern in _FIELDS.items()}
    never_ran = found["prompt_tokens"] == found["completion_tokens"] == "0"
    if never_ran or _ABORT.search(line):
        return 0.0, 0, ABORTED, None, None
    isl = parse_length(found["prompt_tokens"], "prompt_tokens", least=1)
    osl = parse_length(found["completion_tokens"], "completion_tokens")
    return _arrival_s(line, found), isl, osl, None, None


def _stats_row(line: bytes, found: re.Match[bytes]) -> tuple[bytes | None, Row]:
    fields = {name.decode(): value for name, value in _STATS_FIELD.findall(found.group(1))}
    isl = parse_length(fields.get("input", b"").decode("ascii", "replace"), "input_len", least=1)
    osl = parse_length(fields.get("output", b"").decode("ascii", "replace"), "output_len")
    return fields.get("rid"), (_stats_arrival_s(line, found.group(2)), isl, osl, None, None)


def _stats_arrival_s(line: bytes, rest: bytes) -> float:
    """From the clock in the stats, else what the request took before its line was written."""
    clock = _STATS_TIME.search(rest)
    if clock and float(clock.group(1)) >= _EPOCH_S:
        return float(clock.group(1))
    spans_ms = [float(text) for text in _STATS_DURATION.findall(rest)]
    return _stamp_s(line) - sum(ms for ms in spans_ms if ms < _LONGEST_MS) / 1e3


def _last(pattern: re.Pattern[bytes], line: bytes) -> str | None:
    matches = pattern.findall(line)
    return matches[-1].decode() if matches else None


def _arrival_s(line: bytes, found: dict[str, str | None]) -> float:
    received = found["request_received_ts"]
    if received is not None:
        return parse_number(received)
    return _stamp_s(line) - parse_number(found["e2e_latency"] or 0)


def _stamp_s(line: bytes) -> float:
    stamp = _STAMP.search(line[:200])
    text = stamp.group(1).decode() if stamp else ""
    if not is_date(text):
        raise ValueError("no time in front of the line")
    return parse_date(text)
