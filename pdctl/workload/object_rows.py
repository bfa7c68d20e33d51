"""Read requests that are objects: JSON lines, a JSON document, or the lines of a table."""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from pdctl.errors import InvalidInput
from pdctl.workload.columns import (
    MAX_TOKENS,
    Columns,
    find_columns,
    is_failure,
    parse_date,
    parse_length,
    parse_number,
    with_dates,
)
from pdctl.workload.lines import ABORTED, MAX_LINE_BYTES, BadLines, Line, Row, Turn, parse_json
from pdctl.workload.request_logs import is_bench_result, read_bench_results, read_log
from pdctl.workload.time_units import DATE

KNOWN_NAMES = "input_length and output_length, ContextTokens and GeneratedTokens, or isl and osl"
_INTS = {int}
LOOK_AT = 200  # lines from which the columns are found: the first may lack one
_NAN = float("nan")
_DEEPEST = 4  # objects around the list of requests in a report

Reader = tuple[Columns, Iterator[Row]]
Parsed = tuple[int, object]  # number of the line or entry; a ValueError where it cannot be read


@dataclass(frozen=True)
class TraceOptions:
    """The way to read a trace.

    skip_bad: count broken lines instead of refusing them. time_unit: s, ms, us or ns; None: the
    unit in which the times make sense. osl: output tokens of requests whose length is unknown.
    """

    skip_bad: bool = False
    time_unit: str | None = None
    osl: int | None = None


def no_lengths(path: Path, what: str, names: Sequence[str]) -> InvalidInput:
    """The refusal of a file without lengths; --osl is the way out where only the output lacks."""
    shown = ", ".join(names)[:200]
    prompts_only = find_columns(names, needs_output=False)
    if prompts_only is not None:
        return InvalidInput(
            f"{path.name} has no {what} of output lengths among {shown}.",
            hint="--osl 200 gives every request that many output tokens",
        )
    return InvalidInput(
        f"{path.name} has no {what} of prompt and output lengths among {shown}.",
        hint=f"name them {KNOWN_NAMES}",
    )


def parse_object(line: bytes) -> dict[str, object] | None:
    try:
        found = parse_json(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def parsed(lines: Iterable[Line]) -> Iterator[Parsed]:
    for number, line in lines:
        try:
            yield number, parse_json(line)
        except ValueError as problem:
            yield number, problem


def list_of_requests(found: dict[str, object], depth: int = 0) -> list[object] | None:
    """The requests inside a larger object: {"requests": [{...}, ...]}, a table by columns, or the
    one list of objects with lengths in a report, as GuideLLM's.
    """
    if find_columns(list(found), needs_output=False) is not None:
        return _by_column(found)
    lists = [v for v in found.values() if isinstance(v, list) and v and isinstance(v[0], dict)]
    if len(lists) == 1 and find_columns(list(_flat(lists[0][0])), needs_output=False):
        return lists[0]
    inner = [v for v in (*found.values(), *(o for v in lists for o in v)) if isinstance(v, dict)]
    deeper = (list_of_requests(one, depth + 1) for one in inner if depth < _DEEPEST)
    return next(filter(None, deeper), lists[0] if len(lists) == 1 and not depth else None)


def _by_column(found: dict[str, object]) -> list[object] | None:
    """The requests of {"isl": [4, 5], "osl": [6, 7]}, or with {"0": 4, "1": 5} as pandas writes."""
    columns = {
        name: list(value.values()) if isinstance(value, dict) else value
        for name, value in found.items()
        if isinstance(value, list | dict)
    }
    lengths = {len(value) for value in columns.values()}
    if len(lengths) != 1 or find_columns(list(columns), needs_output=False) is None:
        return None
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def read_document(
    path: Path, lines: Iterable[Line], bad: BadLines, options: TraceOptions
) -> Reader:
    """A file that is one JSON value over several lines: a list of requests, or a result."""
    taken: list[Line] = []
    size = 0
    for line in lines:
        taken.append(line)
        size += len(line[1])
        if size > MAX_LINE_BYTES:
            raise InvalidInput(
                f"{path.name} is one JSON value of more than {MAX_LINE_BYTES // 2**20} MiB.",
                hint="write one request to a line",
            )
    try:
        found = parse_json(b"".join(line for _, line in taken))
    except ValueError:
        if taken[0][1].lstrip().startswith(b"{"):  # one broken line among others
            return read_objects(path, parsed(taken), bad, options)
        return read_log(taken, bad)
    if isinstance(found, dict):
        if is_bench_result(found):
            return read_bench_results([(1, json.dumps(found).encode())], bad)
        found = list_of_requests(found) or [found]
    entries = enumerate(found if isinstance(found, list) else [found], 1)
    return read_objects(path, iter(entries), bad, options)


def read_objects(
    path: Path, objects: Iterator[Parsed], bad: BadLines, options: TraceOptions
) -> Reader:
    first = list(islice(objects, LOOK_AT))
    if _is_nested([found for _, found in first], options):
        first = [(number, _flat(found)) for number, found in first]
        objects = ((number, _flat(found)) for number, found in objects)
    samples = [found for _, found in first if isinstance(found, dict)]
    names = list(dict.fromkeys(str(name) for sample in samples for name in sample))
    columns = find_columns(names, needs_output=options.osl is None)
    if columns is None and names:
        raise no_lengths(path, "keys", names)
    if columns is None:  # nothing can be read: the others are taken for Mooncake's
        columns = Columns("timestamp", "input_length", "output_length", "hash_ids", None)
    arrival = columns.arrival or ""
    stamps = (sample[arrival] for sample in samples if sample.get(arrival) is not None)
    columns = with_dates(columns, next(stamps, None))
    return columns, object_rows(columns, chain(first, objects), bad, options)


def _is_nested(found: Sequence[object], options: TraceOptions) -> bool:
    """True if lengths lie one level down only: {"created": 1, "usage": {"prompt_tokens": 5}}."""

    def has_lengths(one: object) -> bool:
        names = [str(name) for name in one] if isinstance(one, dict) else []
        return find_columns(names, needs_output=options.osl is None) is not None

    return not any(map(has_lengths, found)) and any(map(has_lengths, map(_flat, found)))


def _flat(found: Any) -> Any:
    if not isinstance(found, dict):
        return found
    inner = [value for value in found.values() if isinstance(value, dict)]
    return {name: value for one in (found, *inner) for name, value in one.items()}


def object_rows(
    columns: Columns, objects: Iterable[Parsed], bad: BadLines, options: TraceOptions
) -> Iterator[Row]:
    to_row = _object_reader(columns, bad, options)
    for number, found in objects:
        try:
            if isinstance(found, ValueError):
                raise found
            yield to_row(found)
        except KeyError as problem:
            bad.add(number, f"no {problem.args[0]!r}")
        except ValueError as problem:
            bad.add(number, str(problem))


def _object_reader(
    columns: Columns, bad: BadLines, options: TraceOptions
) -> Callable[[object], Row]:
    prompt, output, blocks = columns.prompt, columns.output, columns.blocks
    outcome = columns.outcome
    to_arrival = _arrival_reader(columns)

    def read(found: object) -> Row:
        if type(found) is not dict:
            raise ValueError("not a JSON object")
        if outcome and is_failure(outcome, found.get(outcome)):
            return _NAN, 0, ABORTED, None, None
        isl = found[prompt]
        if not (type(isl) is int and 0 < isl <= MAX_TOKENS):
            isl = parse_length(isl, prompt, least=1)
        if options.osl is not None and (output is None or found.get(output) is None):
            osl = options.osl
            bad.num_filled += 1
        else:
            osl = _output_tokens(found[output or ""], output or "")
        at, turn = to_arrival(found)
        return at, isl, osl, _block_ids(found.get(blocks)) if blocks else None, turn

    return read


def _output_tokens(raw: object, name: str) -> int:
    if type(raw) is int and 0 <= raw <= MAX_TOKENS:
        return raw
    return parse_length(raw, name)


def _arrival_reader(
    columns: Columns,
) -> Callable[[dict[str, object]], tuple[float, Turn | None]]:
    """Reads when a request arrives, and, in conversations, which turn of which it is."""
    arrival, session, delay = columns.arrival, columns.session, columns.delay
    to_time = _time_parser(columns)
    begun: set[object] = set()

    def read(found: dict[str, object]) -> tuple[float, Turn | None]:
        if not (session and delay):
            return (to_time(found[arrival]) if arrival else 0.0), None
        waits = None if found.get(delay) is None else parse_number(found[delay])
        name = str(found.get(session))
        turn = (name, waits)
        if arrival and found.get(arrival) is not None:
            begun.add(name)
            return to_time(found[arrival]), turn
        if name in begun and waits is not None:
            return _NAN, turn
        if arrival:
            raise ValueError(f"no {arrival!r}, and no turn before it in its conversation")
        begun.add(name)
        return 0.0, turn

    return read


def _time_parser(columns: Columns) -> Callable[[object], float]:
    return parse_date if columns.unit == DATE else parse_number


def _block_ids(raw: object) -> tuple[int, ...]:
    if raw is None:
        return ()
    if type(raw) is not list or not set(map(type, raw)) <= _INTS:
        raise ValueError("hash_ids is not a list of whole numbers")
    return tuple(raw)


# --- CSV ---


def delimiter_of(header: bytes) -> str:
    return max(",;\t", key=lambda sign: header.count(sign.encode()))


def header_of(path: Path, line: bytes) -> list[str]:
    try:
        return _fields(line, delimiter_of(line))
    except ValueError as problem:
        raise InvalidInput(
            f"{path.name}: its first line is neither JSON nor names of columns: {problem}.",
            hint=f"name them {KNOWN_NAMES}",
        ) from problem


def _fields(line: bytes, delimiter: str) -> list[str]:
    text = line.decode("utf-8", "replace").strip("\r\n")
    try:
        return [field.strip() for field in next(csv.reader([text], delimiter=delimiter), [])]
    except csv.Error as problem:
        raise ValueError(str(problem)) from problem


def read_csv(
    columns: Columns,
    header: list[str],
    delimiter: str,
    lines: Iterator[Line],
    bad: BadLines,
    options: TraceOptions,
) -> Reader:
    first = next(lines, None)
    if first is not None:
        lines = chain([first], lines)
        with suppress(ValueError):  # it will be refused or counted as the broken line it is
            sample = dict(zip(header, _fields(first[1], delimiter), strict=False))
            columns = with_dates(columns, sample.get(columns.arrival or ""))
    fields = _csv_fields(header, delimiter, lines)
    return columns, object_rows(columns, fields, bad, options)


def _csv_fields(header: list[str], delimiter: str, lines: Iterable[Line]) -> Iterator[Parsed]:
    """Each line as an object; empty fields are missing ones."""
    for number, line in lines:
        try:
            fields = _fields(line, delimiter)
            if len(fields) != len(header):
                raise ValueError(f"{len(fields)} fields where the header has {len(header)}")
            yield number, {name: text or None for name, text in zip(header, fields, strict=True)}
        except ValueError as problem:
            yield number, problem
