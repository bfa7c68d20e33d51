"""The time stats that SGLang logs for every request: one line is one engine's half of it."""

import os
import re
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

from pdctl.engines.log_times import line_time
from pdctl.errors import InvalidInput
from pdctl.paths import near_path
from pdctl.perf_model.records import Role
from pdctl.workload.lines import unpacked

# of one log; older ones are dropped, so that memory stays bounded whatever the log's size
MAX_RECORDS = 50_000
MAX_LINE_BYTES = 1 << 16  # a logged prompt may be longer; no line of time stats is

MENTION_BYTES, MAX_MENTIONS = 300, 5

_MARKS = (b"ReqTimeStats(", b"Req Time Stats(")  # the latter up to SGLang 0.5.11
# in the server_args that SGLang logs, or in the command that pdctl logs
_FLAG_MARKS = (b"time-stats-logging", b"time_stats_logging")
_FLAG = re.compile(
    rb"--enable-request-time-stats-logging|enable_request_time_stats_logging'?[=:] ?(True|False)"
)
_MARK = re.compile(r"Req ?Time ?Stats\(")
_LINE = re.compile(r"Req ?Time ?Stats\((?P<head>[^)]*)\): (?P<times>.*)")
_FIELD = re.compile(r"(\w+(?:[ _]len)?)=([^,]*)")
# name=1.50ms, name(1.50ms), name=1.50 GB/s, name=3
_VALUE = re.compile(r"#?(\w+)(?:=|\()(-?\d+(?:\.\d+)?(?:e[-+]?\d+)?) ?(ms|GB/s|MB)?\)?")
_ROLES: dict[str, Role] = {"unified": "colocated", "prefill": "prefill", "decode": "decode"}
_PROBES = ("HEALTH_CHECK",)  # SGLang's own requests
_WARM_UP_ROOM = 0  # each engine warms up alone; routers draw 63 bits
_EPOCH_S = 1e9  # smaller clocks count from the start of the machine
_LARGEST = 1e12  # of any number on a line, in its unit; more is no time and no length
_LEAST_GB_PER_S = 0.005  # less is printed as 0.00


@dataclass(frozen=True, slots=True)
class RequestTimes:
    """One engine's half of a request. Durations are seconds, in the order in which they pass.

    engine: the log's name. room: joins the halves; None: the engine has none or hides it.
    entry_s: when the scheduler got the request, Unix seconds on this engine's clock.
    bootstrap_s: until the partner was known. allocation_s: until it had KV (decode, or prefill's
        buffers). transfer_s: until its KV had arrived (decode only). queue_s: until its first
        batch. forward_s: from there to its end; on a prefill engine that includes sending KV.
    sending_s: the part of a prefill engine's forward_s after its last step; None: unknown.
    cached_tokens: None before SGLang 0.5.12. retries: prefills that were repeated.
    written_s: when its line was written, to a second or so, on the clock of entry_s; the end of the
        request by another witness than its durations.
    """

    engine: str
    role: Role
    rid: str
    room: int | None
    input_tokens: int
    output_tokens: int
    entry_s: float
    bootstrap_s: float = 0.0
    allocation_s: float = 0.0
    transfer_s: float = 0.0
    queue_s: float = 0.0
    forward_s: float = 0.0
    sending_s: float | None = None
    kv_mib: float | None = None
    cached_tokens: int | None = None
    retries: int = 0
    written_s: float | None = field(default=None, compare=False)

    @property
    def start_s(self) -> float:
        """The start of its first batch."""
        before = self.bootstrap_s + self.allocation_s + self.transfer_s
        return self.entry_s + before + self.queue_s

    @property
    def end_s(self) -> float:
        return self.start_s + self.forward_s

    @property
    def new_tokens(self) -> int:
        """Prompt tokens that were computed."""
        return max(1, self.input_tokens - (self.cached_tokens or 0))


@dataclass(frozen=True)
class RequestLog:
    """The contents of a log that `explain` reads.

    num_dropped: older requests that were read and not kept. num_unreadable: lines of time stats
    that are cut off or damaged. is_enabled: the engine was started with the flag; None: its log
    does not say. mentions: lines about the request that was looked for, the last ones.
    """

    name: str
    records: tuple[RequestTimes, ...]
    num_dropped: int = 0
    num_unreadable: int = 0
    is_enabled: bool | None = None
    mentions: tuple[str, ...] = ()


def log_lines(path: Path, last_bytes: int | None = None) -> Iterator[bytes]:
    """The lines of a log (.gz too), each at most MAX_LINE_BYTES of it, in bounded memory.

    last_bytes: only the lines that begin in the last so many bytes; None: all.
    Raises InvalidInput if the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            skipped = 0 if last_bytes is None else os.fstat(file.fileno()).st_size - last_bytes
            is_start = skipped <= 0
            file.seek(max(0, skipped))
            plain = unpacked(path, file) if is_start else file
            while piece := plain.readline(MAX_LINE_BYTES):
                if is_start:
                    yield piece
                is_start = piece.endswith(b"\n")
    except (OSError, EOFError, zlib.error) as problem:
        reason = getattr(problem, "strerror", None) or str(problem)
        raise InvalidInput(
            f"The log {path} cannot be read: {reason}.{near_path(path)}",
            hint="--logs PATH_OF_A_LOG",
        ) from problem


def is_request_line(line: bytes) -> bool:
    """Does a line hold the times of a request? It may be cut off."""
    return any(mark in line for mark in _MARKS)


def request_log(
    lines: Iterable[bytes], name: str, *, rid: str | None = None, keep: int = MAX_RECORDS
) -> RequestLog:
    """The last `keep` requests in the lines of an engine's log, or those around request `rid`."""
    kept: deque[bytes] = deque(maxlen=keep)
    mentions: deque[bytes] = deque(maxlen=MAX_MENTIONS)
    wanted = rid.encode() if rid else None
    is_enabled, num_read, last = None, 0, None
    for line in lines:
        is_named = wanted is not None and wanted in line
        if is_named:
            mentions.append(line[:MENTION_BYTES])
        if is_request_line(line):
            kept.append(line)
            num_read += 1
            if is_named and last is None:
                last = num_read + keep // 2
            if num_read == last:
                break
        elif any(mark in line for mark in _FLAG_MARKS) and (flag := _FLAG.search(line)):
            is_enabled = flag[1] != b"False"
    found, num_unreadable = _parsed(name, kept)
    return RequestLog(
        name=name,
        records=_on_unix_clock(found),
        num_dropped=num_read - len(kept),
        num_unreadable=num_unreadable,
        is_enabled=True if kept else is_enabled,
        mentions=tuple(line.decode("utf-8", "replace").rstrip() for line in mentions),
    )


_Stamped = tuple[RequestTimes, float | None]  # a record, and when its line was written


def _parsed(name: str, lines: Iterable[bytes]) -> tuple[list[_Stamped], int]:
    """The requests on these lines, and how many lines hold none."""
    found: list[_Stamped] = []
    num_unreadable = 0
    for line in lines:
        text = line.decode("utf-8", "replace")
        *cut, start = (mark.start() for mark in _MARK.finditer(text))
        num_unreadable += len(cut)  # lines without an end, to which the next ones are stuck
        match = _LINE.match(text, start)
        record = _record(name, match) if match else None
        if record is None:
            num_unreadable += 1
        elif not record.rid.startswith(_PROBES) and record.room != _WARM_UP_ROOM:
            found.append((record, line_time(text)))
    return found, num_unreadable


def _record(engine: str, match: "re.Match[str]") -> RequestTimes | None:
    """The record on a line; None if something that every version writes is missing.

    Source: Req.log_time_stats and SchedulerReqTimeStats.convert_to_duration of SGLang 0.5.1 to
    0.5.23. Up to 0.5.11 the clock of `start` counts from the start of the machine.
    """
    head = {key.replace(" ", "_"): value for key, value in _FIELD.findall(match["head"])}
    value = {key: float(number) for key, number, _ in _VALUE.findall(match["times"])}
    role = _ROLES.get(head.get("type", "").lower())
    clock = next(
        (value[key] for key in ("entry_time", "start_time", "start") if key in value), None
    )
    if role is None or clock is None or "forward_duration" not in value:
        return None
    if any(abs(number) > _LARGEST for number in value.values()):
        return None
    if value.get("entry_time", _EPOCH_S) < _EPOCH_S:  # Unix time that was cut off
        return None
    try:
        return RequestTimes(
            engine=engine,
            role=role,
            rid=head["rid"].strip("'\""),
            room=int(head["bootstrap_room"]) if "bootstrap_room" in head else None,
            input_tokens=_tokens(head["input_len"]),
            output_tokens=_tokens(head["output_len"]),
            entry_s=clock,
            **_before_queue(role, value),
            transfer_s=_seconds(value, "transfer_duration"),
            queue_s=_seconds(value, "queue_duration"),
            forward_s=_seconds(value, "forward_duration"),
            sending_s=_sending_s(value) if role == "prefill" else None,
            kv_mib=value.get("transfer_total"),
            cached_tokens=_tokens(head["cached_input_len"]) if "cached_input_len" in head else None,
            retries=_retries(head, value),
        )
    except (KeyError, ValueError):
        return None


def _tokens(text: str) -> int:
    """A number of tokens. Raises ValueError for one that no request can have."""
    if not 0 <= int(text) <= _LARGEST:
        raise ValueError(text)
    return int(text)


def _before_queue(role: Role, value: dict[str, float]) -> dict[str, float]:
    """Bootstrap and allocation. Some versions print only their sum, and some print both and it."""
    bootstrap_s = _seconds(value, "bootstrap_duration", "bootstrap")
    allocation_s = _seconds(value, "alloc_wait_duration", "alloc_wait")
    total_s = _seconds(
        *(value, "bootstrap_queue_duration", "prealloc_queue_duration", "prealloc_duration")
    )
    rest_s = max(0.0, total_s - bootstrap_s - allocation_s)
    if role == "prefill":
        return {"bootstrap_s": bootstrap_s + rest_s, "allocation_s": allocation_s}
    return {"bootstrap_s": bootstrap_s, "allocation_s": allocation_s + rest_s}


def _seconds(value: dict[str, float], *names: str) -> float:
    """The first of these durations that the line has. SGLang prints a negative one if it missed
    the moment at its start or end."""
    return max(0.0, next((value[name] for name in names if name in value), 0.0)) / 1e3


def _retries(head: dict[str, str], value: dict[str, float]) -> int:
    """Repeated prefills. Since 0.5.16 the line counts attempts, of which the first is none."""
    return int(value.get("retries", max(0, int(head.get("attempts", 0)) - 1)))


def _sending_s(value: dict[str, float]) -> float | None:
    """The time KV took after the last prefill step, from its size and mean speed."""
    gib, speed = value.get("transfer_total", 0.0) / 1024, value.get("transfer_speed", 0.0)
    forward_s = _seconds(value, "forward_duration")
    if gib <= 0:
        return None
    if speed < _LEAST_GB_PER_S:
        return min(forward_s, gib / _LEAST_GB_PER_S) if gib >= _LEAST_GB_PER_S / 10 else None
    return min(forward_s, gib / speed)


def _on_unix_clock(found: list[_Stamped]) -> tuple[RequestTimes, ...]:
    """Move clocks that count from the start of the machine to Unix time.

    A line is written when its request ends and has whole seconds: of all lines, the one that was
    written latest after its second began tells most.
    """
    gaps = [
        stamp_s - record.end_s
        for record, stamp_s in found
        if record.entry_s < _EPOCH_S and stamp_s is not None
    ]
    gap_s = max(gaps, default=0.0)
    moved = [
        (replace(one, entry_s=one.entry_s + gap_s) if one.entry_s < _EPOCH_S else one, stamp_s)
        for one, stamp_s in found
    ]
    # between the zone of the log's clock and Unix time, too
    shifts = [stamp_s - one.end_s for one, stamp_s in moved if stamp_s is not None]
    shift_s = median(shifts) if shifts else 0.0
    return tuple(
        one if stamp_s is None else replace(one, written_s=stamp_s - shift_s)
        for one, stamp_s in moved
    )
