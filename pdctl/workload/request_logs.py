"""What SGLang itself writes: results of bench_serving, and logs of --log-requests."""

import re
from collections.abc import Iterable, Iterator

from pdctl.errors import InvalidInput
from pdctl.workload.columns import Columns, is_date, parse_date, parse_number, parse_tokens
from pdctl.workload.lines import BadLines, Line, Row, parse_json

_BENCH_KEYS = {"total_input_tokens", "total_output_tokens", "completed"}
_BENCH_LENGTHS = ("input_lens", "output_lens")
# [2026-11-23 09:28:19 TP0] Finish: obj=GenerateReqInput(...), out={'meta_info': {...}}
_STAMP = re.compile(rb"\[?(\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?)")
_FIELDS = {
    name: re.compile(rb"""['"]%s['"]:\s*([-+0-9.eE]+)""" % name.encode())
    for name in ("prompt_tokens", "completion_tokens", "e2e_latency", "request_received_ts")
}


def is_bench_result(sample: dict[str, object]) -> bool:
    """Whether the first object of a file is a result of bench_serving."""
    return "input_lens" in sample or sample.keys() >= _BENCH_KEYS


def is_log_event(sample: dict[str, object]) -> bool:
    """Whether the first object of a file is a line of --log-requests-format json."""
    return "event" in sample and "rid" in sample


def read_bench_results(lines: Iterable[Line], bad: BadLines) -> tuple[Columns, Iterator[Row]]:
    """The requests of a file with one bench_serving result, or several, a line each.

    Start times are taken where there is one result that has them.
    """
    results = [_result(number, line, bad) for number, line in lines]
    timed = len(results) == 1 and "start_times" in results[0]
    columns = Columns("start_times" if timed else None, *_BENCH_LENGTHS, None, "s")
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
            osl = parse_tokens(lists["output_lens"][index], "output_lens")
            yield at, parse_tokens(isl, "input_lens", least=1), osl, None
        except ValueError as problem:
            bad.add(1, f"request {index + 1}: {problem}")


def read_log(lines: Iterable[Line], bad: BadLines) -> tuple[Columns, Iterator[Row]]:
    """The finished requests in a log of a server with --log-requests, text or JSON.

    Other lines of the log are passed over. A request arrived when the log says it was received,
    else its end-to-end time before the line was written.
    """
    columns = Columns("log time", "prompt_tokens", "completion_tokens", None, "date")
    return columns, _log_rows(lines, bad)


def _log_rows(lines: Iterable[Line], bad: BadLines) -> Iterator[Row]:
    for number, line in lines:
        if b"Finish: " not in line and b'"request.finished"' not in line:
            continue
        try:
            yield _log_row(line)
        except ValueError as problem:
            bad.add(number, str(problem))


def _log_row(line: bytes) -> Row:
    # the prompt's text comes before the counts and may itself look like one: the last one counts
    found = {name: _last(pattern, line) for name, pattern in _FIELDS.items()}
    isl = parse_tokens(found["prompt_tokens"], "prompt_tokens", least=1)
    osl = parse_tokens(found["completion_tokens"], "completion_tokens")
    return _arrival_s(line, found), isl, osl, None


def _last(pattern: re.Pattern[bytes], line: bytes) -> str | None:
    matches = pattern.findall(line)
    return matches[-1].decode() if matches else None


def _arrival_s(line: bytes, found: dict[str, str | None]) -> float:
    received = found["request_received_ts"]
    if received is not None:
        return parse_number(received)
    stamp = _STAMP.search(line[:200])
    text = stamp.group(1).decode() if stamp else ""
    if not is_date(text):
        raise ValueError("no time in front of the line")
    return parse_date(text) - parse_number(found["e2e_latency"] or 0)
