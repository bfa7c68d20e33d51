"""Read a trace of requests, whatever its format, and say which columns were taken.

Mooncake, Bailian and AIPerf JSON, Azure and BurstGPT CSV, files of lengths only, results of
SGLang's bench_serving and SGLang's logs of requests: see docs/traces.md for each format.
"""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path

from pdctl.errors import InvalidInput
from pdctl.workload.arrivals import in_arrival_order
from pdctl.workload.columns import Columns, find_columns, guess_block_tokens, unit_in_name
from pdctl.workload.conversations import HISTORY_BLOCK_TOKENS, delay_unit, place_turns
from pdctl.workload.lines import BadLines, Line, Row, Turn, read_lines
from pdctl.workload.object_rows import (
    KNOWN_NAMES,
    LOOK_AT,
    Reader,
    TraceOptions,
    delimiter_of,
    header_of,
    list_of_requests,
    no_lengths,
    parse_object,
    parsed,
    read_csv,
    read_document,
    read_objects,
)
from pdctl.workload.records import Requests, Trace
from pdctl.workload.request_logs import (
    is_bench_result,
    is_log,
    is_log_event,
    read_bench_results,
    read_log,
)
from pdctl.workload.time_units import DATE, NAMED_UNITS_S, TwoUnits, find_unit

MOONCAKE_BLOCK_TOKENS = 512
BAILIAN_BLOCK_TOKENS = 16
_PREFILL_LOG = (
    "Every request has one output token: is this a prefill engine's log? "
    "Give the decode engines' log."
)


def read_trace(
    path: Path, *, skip_bad: bool = False, time_unit: str | None = None, osl: int | None = None
) -> Trace:
    """The requests of a trace file, sorted by arrival.

    Arguments as in TraceOptions. Requests without output tokens failed: they are left out and
    counted, as aborted ones are.
    Raises InvalidInput when the file cannot be read, holds no request, has no columns of lengths,
    or, unless `skip_bad`, has a broken line (with file, line number and reason); TwoUnits when
    its times make sense in two units.
    """
    options = TraceOptions(skip_bad, time_unit, osl)
    bad = BadLines(path, skip=skip_bad)
    lines = read_lines(path, bad)
    first = _after_comments(path, lines)
    if first is None:
        raise InvalidInput(f"{path.name} holds no requests.", hint="--trace A_FILE_WITH_REQUESTS")
    columns, rows = _reader_of(path, first, lines, bad, options)
    return _trace(path, columns, rows, bad, options)


def _after_comments(path: Path, lines: Iterator[Line]) -> Line | None:
    """The first line that is not a comment, or the names of columns behind a "#"."""
    for number, line in lines:
        plain = line.lstrip(b"# ")
        if not line.startswith(b"#") or find_columns(header_of(path, plain), needs_output=False):
            return number, plain if line.startswith(b"#") else line
    return None


def _reader_of(
    path: Path, first: Line, rest: Iterator[Line], bad: BadLines, options: TraceOptions
) -> Reader:
    lines = chain([first], rest)
    start = first[1].strip()
    if start.startswith(b"[") and not start[1:].strip()[:1].isdigit():
        return read_document(path, lines, bad, options)
    if start.startswith(b"{"):
        return _json_reader(path, first, lines, bad, options)
    if is_log(start):
        return read_log(lines, bad)
    header = header_of(path, first[1])
    columns = find_columns(header, needs_output=options.osl is None)
    if columns:
        return read_csv(columns, header, delimiter_of(first[1]), rest, bad, options)
    if len(header) > 1 and not start.startswith(b"["):
        seen = list(islice(rest, LOOK_AT))
        lines = chain([first], seen, rest)
        if not any(is_log(line) for _, line in seen):
            raise no_lengths(path, "columns", header)
    return read_log(lines, bad)


def _json_reader(
    path: Path, first: Line, lines: Iterable[Line], bad: BadLines, options: TraceOptions
) -> Reader:
    start = first[1].strip()
    sample = parse_object(first[1])
    if sample is None and (start == b"{" or not start.endswith(b"}")):
        return read_document(path, lines, bad, options)
    if is_bench_result(sample or {}):
        return read_bench_results(lines, bad)
    if is_log_event(sample or {}):
        return read_log(lines, bad)
    if sample and list_of_requests(sample) is not None:
        return read_document(path, lines, bad, options)
    return read_objects(path, parsed(lines), bad, options)


# --- from rows to a trace ---


@dataclass(frozen=True)
class _Read:
    """The usable rows of a file, as columns, and how many others there were."""

    times: "array[float]"
    isl: "array[int]"
    osl: "array[int]"
    blocks: list[tuple[int, ...]]
    turns: list[Turn | None]
    num_failed: int
    num_aborted: int


def _read_rows(rows: Iterable[Row]) -> _Read:
    times, isl, osl = array("d"), array("q"), array("q")
    blocks: list[tuple[int, ...]] = []
    turns: list[Turn | None] = []
    placed: set[object] = set()  # conversations of which a turn with a known arrival is kept
    failed = aborted = 0
    for at, prompt, output, ids, turn in rows:
        if output <= 0:
            failed += output == 0
            aborted += output < 0
            continue
        if turn is not None:
            if at != at and turn[0] not in placed:
                failed += 1
                continue
            placed.add(turn[0])
        times.append(at)
        isl.append(prompt)
        osl.append(output)
        turns.append(turn)
        if ids is not None:
            blocks.append(ids)
    return _Read(times, isl, osl, blocks, turns, failed, aborted)


def _trace(
    path: Path, columns: Columns, rows: Iterable[Row], bad: BadLines, options: TraceOptions
) -> Trace:
    read = _read_rows(rows)
    if not read.isl:
        raise _nothing_usable(path, read, bad)
    block_tokens = _block_tokens(columns, read.isl, read.blocks) if any(read.blocks) else 0
    columns = replace(columns, usual_unit=columns.usual_unit or _mooncake_unit(block_tokens))
    unit = _unit_of(path, columns, read.times, options)
    requests, notes = _requests(columns, read, unit, block_tokens)
    if columns.is_log and max(read.osl) == 1:
        notes.append(_PREFILL_LOG)
    if options.osl is not None:
        notes.append(_filled(path, bad.num_filled, options.osl))
    return Trace(
        requests=in_arrival_order(requests),
        columns=_taken(columns, unit, block_tokens),
        skipped_lines=bad.count + read.num_failed + read.num_aborted,
        has_arrivals=columns.arrival is not None,
        time_unit=(unit or None) if columns.arrival else None,
        unused_columns=columns.unused,
        num_broken=bad.count,
        num_failed=read.num_failed,
        num_aborted=read.num_aborted,
        notes=tuple(notes),
        is_unit_given=options.time_unit is not None,
        filled_osl=options.osl,
    )


def _nothing_usable(path: Path, read: _Read, bad: BadLines) -> InvalidInput:
    seen = {"broken": bad.count, "without output": read.num_failed, "aborted": read.num_aborted}
    left_out = ", ".join(f"{num:,} {what}" for what, num in seen.items() if num)
    return InvalidInput(
        f"{path.name} holds no usable request{f' ({left_out})' if left_out else ''}.",
        hint=f"each request needs {KNOWN_NAMES}",
    )


def _filled(path: Path, num: int, osl: int) -> str:
    """The note on output lengths that --osl gave; InvalidInput where the file has them all."""
    if not num:
        raise InvalidInput(
            f"--osl {osl} and {path.name} both give output lengths.", hint="drop --osl"
        )
    return f"{num:,} requests have no output length; each was given {osl:,} tokens (--osl)."


def _mooncake_unit(block_tokens: int) -> str | None:
    return "ms" if block_tokens == MOONCAKE_BLOCK_TOKENS else None


def _unit_of(path: Path, columns: Columns, times: Sequence[float], options: TraceOptions) -> str:
    """The unit of the times: as given, as named, or the one in which they make sense.

    "" where all are one instant, which has no unit.
    """
    if columns.unit == DATE and options.time_unit:
        raise InvalidInput(
            f"The times in {path.name} ({columns.arrival}) are dates; "
            f"--time-unit {options.time_unit} is for numbers.",
            hint="drop --time-unit",
        )
    if options.time_unit or columns.unit:
        return options.time_unit or columns.unit or ""
    known = [time for time in times if time == time]
    readings = find_unit(known, usual=columns.usual_unit)
    if len(readings) > 1:
        raise TwoUnits(path.name, columns.arrival or "", readings)
    return readings[0].unit if readings[0].rate_rps else ""


def _requests(
    columns: Columns, read: _Read, unit: str, block_tokens: int
) -> tuple[Requests, list[str]]:
    unit_s = NAMED_UNITS_S.get(unit, 1.0)
    arrival_s: Sequence[float] = [time * unit_s for time in read.times]
    isl: Sequence[int] = read.isl
    blocks = read.blocks if block_tokens else None
    notes: list[str] = []
    if columns.delay:
        delays = [turn[1] for turn in read.turns if turn and turn[1] is not None]
        later_unit = delay_unit(unit_in_name(columns.delay), unit, delays)
        placed = place_turns(
            arrival_s,
            isl,
            read.osl,
            read.turns,
            delay_s=NAMED_UNITS_S[later_unit],
            has_blocks=blocks is not None,
        )
        arrival_s, isl = placed.arrival_s, placed.isl
        if placed.blocks is not None:
            blocks, block_tokens = placed.blocks, HISTORY_BLOCK_TOKENS
        notes.append(placed.note)
    return Requests(arrival_s, isl, read.osl, blocks, block_tokens), notes


def _block_tokens(columns: Columns, isl: Sequence[int], blocks: Sequence[tuple[int, ...]]) -> int:
    is_bailian = columns.usual_unit == "s"
    fallback = BAILIAN_BLOCK_TOKENS if is_bailian else MOONCAKE_BLOCK_TOKENS
    return guess_block_tokens(isl, [len(ids) for ids in blocks]) or fallback


def _taken(columns: Columns, unit: str, block_tokens: int) -> tuple[str, ...]:
    """timestamp in ms, input_length, output_length, hash_ids in blocks of 512."""
    found = [columns.prompt]
    if columns.output:
        found.append(columns.output)
    if columns.arrival:
        is_bare = columns.is_log or not unit
        shown = " (dates)" if unit == DATE else f" in {unit}"
        found.insert(0, columns.arrival + ("" if is_bare else shown))
    if columns.delay:
        found += [columns.delay]
    if block_tokens and columns.blocks:
        found.append(f"{columns.blocks} in blocks of {block_tokens}")
    return tuple(found)
