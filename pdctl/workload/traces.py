"""Read a trace of requests, whatever its format, and say which columns were taken.

Mooncake and Bailian JSONL, Azure and BurstGPT CSV, files of lengths only, results of SGLang's
bench_serving and SGLang's request logs: see docs/traces.md for each format.
"""

import csv
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path

from pdctl.errors import InvalidInput
from pdctl.workload.arrivals import in_arrival_order
from pdctl.workload.columns import (
    MAX_TOKENS,
    Columns,
    find_columns,
    guess_block_tokens,
    guess_unit,
    parse_date,
    parse_number,
    parse_tokens,
    to_seconds,
    with_dates,
)
from pdctl.workload.lines import BadLines, Line, Row, parse_json, read_lines
from pdctl.workload.records import Requests, Trace
from pdctl.workload.request_logs import is_bench_result, is_log_event, read_bench_results, read_log

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
