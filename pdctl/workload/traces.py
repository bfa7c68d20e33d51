"""Read a trace of requests, whatever its format, and say which columns were taken.

Mooncake and Bailian JSONL, Azure and BurstGPT CSV, files of lengths only, results of SGLang's
bench_serving and SGLang's request logs: see docs/traces.md for each format.
"""

import csv
import gzip
import io
import json
import re
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from pdctl.errors import InvalidInput
from pdctl.workload.arrivals import in_arrival_order
from pdctl.workload.columns import (
    MAX_TOKENS,
    Columns,
    find_columns,
    guess_block_tokens,
    guess_unit,
    is_date,
    parse_date,
    parse_number,
    parse_tokens,
    to_seconds,
    with_dates,
)
from pdctl.workload.records import Requests, Trace

# a whole bench_serving result is one line: 10,000 requests with their token times take ~60 MB
MAX_LINE_BYTES = 64 * 2**20
_CHUNK_BYTES = 2**20
_BOM = b"\xef\xbb\xbf"

Line = tuple[int, bytes]  # its number in the file, from 1, and its content
# one request: arrival in the file's unit, prompt and output tokens, ids of its prompt's blocks
Row = tuple[float, int, int, tuple[int, ...] | None]


class BadLines:
    """Refuses the first broken line with file, line and reason; or counts them (--skip-bad)."""

    def __init__(self, path: Path, *, skip: bool) -> None:
        self.path = path
        self.skip = skip
        self.count = 0

    def add(self, number: int, reason: str) -> None:
        """Count a broken line, or raise InvalidInput for it."""
        if not self.skip:
            raise InvalidInput(
                f"{self.path.name}, line {number}: {reason}.",
                hint="--skip-bad leaves such lines out",
            )
        self.count += 1


def read_lines(path: Path, bad: BadLines, max_bytes: int = MAX_LINE_BYTES) -> Iterator[Line]:
    """The lines of a file (.gz too) that are not blank; one over `max_bytes` is a bad line.

    A line that is too long is never held in memory as a whole.
    Raises InvalidInput when the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            is_gzip = file.peek(2)[:2] == b"\x1f\x8b"
            plain = io.BufferedReader(gzip.GzipFile(fileobj=file)) if is_gzip else file
            yield from _bounded_lines(plain, bad, max_bytes)
    except (OSError, EOFError, zlib.error) as problem:
        reason = getattr(problem, "strerror", None) or str(problem)
        raise InvalidInput(
            f"The trace {path} cannot be read: {reason}.", hint="--trace PATH_OF_A_FILE"
        ) from problem


def _bounded_lines(file: BinaryIO, bad: BadLines, max_bytes: int) -> Iterator[Line]:
    number = 0
    read: Callable[[int], bytes] = file.readline
    while line := read(max_bytes + 1):
        number += 1
        if len(line) > max_bytes:
            bad.add(number, f"longer than {max_bytes // 2**20} MiB")
            _skip_rest(read)
            continue
        if number == 1 and line.startswith(_BOM):
            line = line[len(_BOM) :]
        if line.strip():
            yield number, line


def _skip_rest(read: Callable[[int], bytes]) -> None:
    while (rest := read(_CHUNK_BYTES)) and not rest.endswith(b"\n"):
        pass


def parse_json(line: bytes) -> object:
    """The value on a line. Raises ValueError with the reason."""
    try:
        return json.loads(line)
    except json.JSONDecodeError as problem:
        raise ValueError(f"not JSON ({problem.msg} at column {problem.colno})") from None
    except (ValueError, RecursionError):  # not UTF-8, a number of 5,000 digits, nested too deep
        raise ValueError("not JSON") from None


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


MOONCAKE_BLOCK_TOKENS = 512
BAILIAN_BLOCK_TOKENS = 16
_KNOWN = "input_length and output_length, ContextTokens and GeneratedTokens, or isl and osl"
_INTS = {int}

Reader = tuple[Columns, Iterator[Row]]


def read_trace(path: Path, *, skip_bad: bool = False) -> Trace:
    """The requests of a trace file, sorted by arrival.

    Requests without output tokens failed: they are left out and counted in `skipped_lines`.
    Raises InvalidInput when the file cannot be read, holds no request, has no columns of lengths,
    or, unless `skip_bad`, has a broken line (with file, line number and reason).
    """
    bad = BadLines(path, skip=skip_bad)
    lines = read_lines(path, bad)
    first = next(lines, None)
    if first is None:
        raise InvalidInput(f"{path.name} holds no requests.", hint="--trace A_FILE_WITH_REQUESTS")
    columns, rows = _reader_of(path, first, lines, bad)
    return _trace(path, columns, rows, bad)


def _reader_of(path: Path, first: Line, rest: Iterator[Line], bad: BadLines) -> Reader:
    lines = chain([first], rest)
    if first[1].lstrip().startswith(b"{"):
        sample = _parse_object(first[1]) or {}
        if is_bench_result(sample):
            return read_bench_results(lines, bad)
        if is_log_event(sample):
            return read_log(lines, bad)
        return _read_jsonl(path, sample, lines, bad)
    header = _header(path, first[1])
    columns = find_columns(header)
    if columns:
        return _read_csv(columns, header, _delimiter(first[1]), rest, bad)
    if len(header) > 1 and not first[1].lstrip().startswith(b"["):
        raise InvalidInput(
            f"{path.name} has no columns of prompt and output lengths among "
            f"{', '.join(header)[:200]}.",
            hint=f"name them {_KNOWN}",
        )
    return read_log(lines, bad)


# --- JSON lines ---


def _parse_object(line: bytes) -> dict[str, object] | None:
    try:
        found = parse_json(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _read_jsonl(
    path: Path, sample: dict[str, object], lines: Iterable[Line], bad: BadLines
) -> Reader:
    columns = find_columns(list(sample))
    if columns is None and sample:
        raise InvalidInput(
            f"{path.name} has no keys of prompt and output lengths among "
            f"{', '.join(sample)[:200]}.",
            hint=f"name them {_KNOWN}",
        )
    if columns is None:  # the first line is broken: the others are taken for Mooncake's
        columns = Columns("timestamp", "input_length", "output_length", "hash_ids", None)
    columns = with_dates(columns, sample.get(columns.arrival or ""))
    return columns, _jsonl_rows(columns, lines, bad)


def _jsonl_rows(columns: Columns, lines: Iterable[Line], bad: BadLines) -> Iterator[Row]:
    to_row = _object_reader(columns)
    for number, line in lines:
        try:
            yield to_row(parse_json(line))
        except KeyError as problem:
            bad.add(number, f"no {problem.args[0]!r}")
        except ValueError as problem:
            bad.add(number, str(problem))


def _object_reader(columns: Columns) -> Callable[[object], Row]:
    arrival, prompt, output = columns.arrival, columns.prompt, columns.output
    blocks = columns.blocks
    to_time = _time_parser(columns)

    def read(found: object) -> Row:
        if type(found) is not dict:
            raise ValueError("not a JSON object")
        isl, osl = found[prompt], found[output]
        if not (type(isl) is int and 0 < isl <= MAX_TOKENS):
            isl = parse_tokens(isl, prompt, least=1)
        if not (type(osl) is int and 0 <= osl <= MAX_TOKENS):
            osl = parse_tokens(osl, output)
        at = to_time(found[arrival]) if arrival else 0.0
        return at, isl, osl, _block_ids(found.get(blocks)) if blocks else None

    return read


def _time_parser(columns: Columns) -> Callable[[object], float]:
    return parse_date if columns.unit == "date" else parse_number


def _block_ids(raw: object) -> tuple[int, ...]:
    if raw is None:
        return ()
    if type(raw) is not list or not set(map(type, raw)) <= _INTS:
        raise ValueError("hash_ids is not a list of whole numbers")
    return tuple(raw)


# --- CSV ---


def _delimiter(header: bytes) -> str:
    return max(",;\t", key=lambda sign: header.count(sign.encode()))


def _header(path: Path, line: bytes) -> list[str]:
    try:
        return _fields(line, _delimiter(line))
    except ValueError as problem:
        raise InvalidInput(
            f"{path.name}: its first line is neither JSON nor names of columns: {problem}.",
            hint=f"name them {_KNOWN}",
        ) from problem


def _fields(line: bytes, delimiter: str) -> list[str]:
    text = line.decode("utf-8", "replace").strip("\r\n")
    try:
        return [field.strip() for field in next(csv.reader([text], delimiter=delimiter), [])]
    except csv.Error as problem:
        raise ValueError(str(problem)) from problem


def _read_csv(
    columns: Columns, header: list[str], delimiter: str, lines: Iterator[Line], bad: BadLines
) -> Reader:
    first = next(lines, None)
    if first is not None:
        lines = chain([first], lines)
        with suppress(ValueError):  # it will be refused or counted as the broken line it is
            sample = dict(zip(header, _fields(first[1], delimiter), strict=False))
            columns = with_dates(columns, sample.get(columns.arrival or ""))
    return columns, _csv_rows(columns, header, delimiter, lines, bad)


def _csv_rows(
    columns: Columns, header: list[str], delimiter: str, lines: Iterable[Line], bad: BadLines
) -> Iterator[Row]:
    prompt, output = header.index(columns.prompt), header.index(columns.output)
    arrival = header.index(columns.arrival) if columns.arrival else None
    to_time = _time_parser(columns)
    for number, line in lines:
        try:
            fields = _fields(line, delimiter)
            if len(fields) != len(header):
                raise ValueError(f"{len(fields)} fields where the header has {len(header)}")
            at = to_time(fields[arrival]) if arrival is not None else 0.0
            isl = parse_tokens(fields[prompt], columns.prompt, least=1)
            yield at, isl, parse_tokens(fields[output], columns.output), None
        except ValueError as problem:
            bad.add(number, str(problem))


# --- from rows to a trace ---


def _trace(path: Path, columns: Columns, rows: Iterable[Row], bad: BadLines) -> Trace:
    times, isl, osl = array("d"), array("q"), array("q")
    blocks: list[tuple[int, ...]] = []
    failed = 0
    for at, prompt, output, ids in rows:
        if output == 0:
            failed += 1
            continue
        times.append(at)
        isl.append(prompt)
        osl.append(output)
        if ids is not None:
            blocks.append(ids)
    if not isl:
        raise InvalidInput(
            f"{path.name} holds no usable request "
            f"({bad.count} broken lines, {failed} without output).",
            hint=f"each request needs {_KNOWN}",
        )
    block_tokens = _block_tokens(columns, isl, blocks) if any(blocks) else 0
    unit = columns.unit or guess_unit(times, milliseconds_likely=block_tokens > 0)
    requests = Requests(
        arrival_s=to_seconds(times, unit),
        isl=isl,
        osl=osl,
        blocks=blocks if block_tokens else None,
        block_tokens=block_tokens,
    )
    return Trace(
        requests=in_arrival_order(requests),
        columns=_taken(columns, unit, block_tokens),
        skipped_lines=bad.count + failed,
        has_arrivals=columns.arrival is not None,
    )


def _block_tokens(columns: Columns, isl: Sequence[int], blocks: Sequence[tuple[int, ...]]) -> int:
    fallback = BAILIAN_BLOCK_TOKENS if columns.unit == "s" else MOONCAKE_BLOCK_TOKENS
    return guess_block_tokens(isl, [len(ids) for ids in blocks]) or fallback


def _taken(columns: Columns, unit: str, block_tokens: int) -> tuple[str, ...]:
    found = [f"prompt: {columns.prompt}", f"output: {columns.output}"]
    if columns.arrival:
        found.insert(0, f"arrival: {columns.arrival} ({unit})")
    if block_tokens:
        found.append(f"prefix: {columns.blocks} ({block_tokens} tokens each)")
    return tuple(found)
