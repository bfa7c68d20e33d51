"""Read, rotate and interpret the logs of SGLang engines on this machine."""

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class StartupPhase:
    """A phase of an engine's start. share: progress in this phase, 0..1, if the log shows it."""

    name: str
    share: float | None = None
    count: str = ""  # "23/36"

    @property
    def text(self) -> str:
        """The phase with its count, such as "CUDA graphs 23/36"."""
        return f"{self.name} {self.count}".rstrip()


_PERCENT = re.compile(r"(?:loading|completed)[^:]*shards:\s+(\d{1,3})%", re.IGNORECASE)
_GRAPHS = re.compile(r"Capturing (?:batches|num tokens).*?\s(\d+)/(\d+)")
# in the order of a start; phases never go back
_MARKS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("schedulers", re.compile(r"\bserver_args=")),
    ("distributed", re.compile(r"Init (?:torch distributed|parallel) begin")),
    ("weights", re.compile(r"Load weight begin")),
    ("memory pool", re.compile(r"Load weight end")),
    ("CUDA graphs", re.compile(r"Capture (?:target |draft )?\w* ?(?:CUDA|cuda) graph.*begin")),
    ("HTTP", re.compile(r"\bmax_total_num_tokens=\d|Application startup complete")),
    ("warm-up", re.compile(r"Start of pd disaggregation warmup|Uvicorn running on")),
    ("started", re.compile(r"The server is fired up and ready to roll")),
)
_RANK = {name: rank for rank, (name, _) in enumerate(_MARKS)}


def startup_phase(before: StartupPhase | None, line: str) -> StartupPhase | None:
    """The phase after one more log line; never earlier than `before`."""
    found = _progress(line) or _mark(line)
    if found is None:
        return before
    if before is not None and _RANK[found.name] < _RANK[before.name]:
        return before
    return found


def read_phases(before: StartupPhase | None, text: str) -> StartupPhase | None:
    """The phase after a piece of the log, including its progress bars."""
    for line in re.split(r"[\r\n]+", text):
        before = startup_phase(before, line)
    return before


def _progress(line: str) -> StartupPhase | None:
    if match := _PERCENT.search(line):
        return StartupPhase("weights", share=min(1.0, int(match.group(1)) / 100))
    if match := _GRAPHS.search(line):
        done, total = int(match.group(1)), int(match.group(2))
        share = min(1.0, done / total) if total else None
        return StartupPhase("CUDA graphs", share=share, count=f"{done}/{total}")
    return None


def _mark(line: str) -> StartupPhase | None:
    for name, pattern in reversed(_MARKS):
        if pattern.search(line):
            return StartupPhase(name)
    return None


MAX_BYTES = 64 << 20
KEPT_SUFFIX = ".1"


def rotate(log: Path, *, max_bytes: int = MAX_BYTES) -> bool:
    """Rotate a log that has grown too large; True if it was rotated.

    Copies and truncates the file instead of renaming it, because its writer keeps it open. Lines
    written between the two steps are lost. Replaces the previous copy.
    """
    try:
        if log.stat().st_size <= max_bytes:
            return False
        kept = log.with_name(log.name + KEPT_SUFFIX)
        kept.unlink(missing_ok=True)
        _copy(log, kept)
    except OSError:
        pass  # a full disk: truncating frees space
    try:
        os.truncate(log, 0)
    except OSError:
        return False
    return True


def hand_over(log: Path, to: Path) -> None:
    """Rename a log after a role switch; an existing log of that name is set aside."""
    try:
        if to.exists():
            to.replace(to.with_name(to.name + KEPT_SUFFIX))
        log.rename(to)
    except OSError:
        return  # its writer continues under the old name


def _copy(log: Path, kept: Path) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with log.open("rb") as old, os.fdopen(os.open(kept, flags, 0o600), "wb") as new:
        shutil.copyfileobj(old, new, 1 << 20)


START_OF_LOG = "# pdctl "  # followed by the time and the command
MAX_READ_BYTES = 4 << 20
# After this, SGLang's main process dumps stacks for a minute or more before it exits. Anchored at
# the start of a line, so that no logged prompt can match
_DIED = re.compile(r"^\[[^\]\n]{1,80}\] Scheduler hit an exception: ", re.MULTILINE)
_RAISED = re.compile(r"^(?:\w+\.)*\w*(?:Error|Exception)\b.*", re.MULTILINE)
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# signs of a failure; the earliest line that matches one of them shows the cause
_TELLING = re.compile(
    r"out of memory|OutOfMemory|Not enough memory|No space left|Cannot allocate memory"
    r"|address already in use|Address already in use|port .* is not available"
    r"|ModuleNotFoundError|No module named|ImportError|cannot open shared object"
    r"|unrecognized arguments|ambiguous option|invalid choice|the following arguments are required"
    r"|pdctl: cannot run|command not found|Permission denied|No such file or directory"
    r"|NIXL_ERR|Failed to initialize mooncake|Mooncake.*failed|No available RNIC"
    r"|Repository Not Found|does not appear to have a file named config.json|OSError:"
    r"|^\w*(?:\.\w+)*(?:Error|Exception|Interrupt): |panicked at|PanicException|Segmentation fault"
    r"|\bKilled\b|died during initialization|CUDA error|no kernel image|insufficient driver"
)
# lines of healthy starts that look like failures
_HARMLESS = re.compile(
    r"Ignore import error|Warning|WARNING|\bWARN\b|Proceeding without|falling back|fallback"
    r"|RLIMIT_NOFILE|disabled: |server_args=|No RDMA devices found|is not available \(No module"
    r"|Failed to load generation config|Failed to import .{1,60} with|reports ImportError with"
    r"|(?:kernels?|packages) (?:is |are )?(?:not available|unavailable)|import (?:failed|error)[;:]"
)


def without_colours(text: str) -> str:
    """`text` without colour codes."""
    return _ANSI.sub("", text)


def read_log_lines(log: Path, *, offset: int = 0) -> tuple[str, ...]:
    """The lines of a log from a byte on, at most the last 4 MiB; empty without a log."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(offset if offset <= size else 0, size - MAX_READ_BYTES))
            text = file.read(MAX_READ_BYTES).decode("utf-8", errors="replace")
    except OSError:
        return ()
    return tuple(
        line.rsplit("\r", 1)[-1] for line in without_colours(text).split("\n") if line.strip()
    )


def read_from(log: Path, offset: int) -> tuple[str, int]:
    """The text added to a log since a byte, at most 256 KiB, and the byte after it.

    Starts over if the log has become shorter: it was rotated.
    """
    try:
        with log.open("rb") as file:
            offset = offset if offset <= file.seek(0, 2) else 0
            file.seek(offset)
            added = file.read(1 << 18)
    except OSError:
        return "", offset
    return added.decode("utf-8", errors="replace"), offset + len(added)


def what_died(text: str) -> str:
    """The part of an engine that died according to its log, which makes it useless; or ""."""
    died = _DIED.search(text)
    if died is None:
        return ""
    raised = _RAISED.search(text, died.end())
    return f"its scheduler died: {raised[0][:200]}" if raised else "its scheduler died"


def last_start_at(log: Path) -> int:
    """The byte at which the last start in a log begins, or its end if that was long ago."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            begin = max(0, size - MAX_READ_BYTES)
            file.seek(begin)
            found = (b"\n" + file.read(MAX_READ_BYTES)).rfind(f"\n{START_OF_LOG}".encode())
    except OSError:
        return 0
    return begin + found if found >= 0 else size


def last_start(lines: tuple[str, ...]) -> tuple[str, ...]:
    """The lines since the last start of the process."""
    starts = [i for i, line in enumerate(lines) if line.startswith(START_OF_LOG)]
    return lines[starts[-1] :] if starts else lines


def is_harmless(line: str) -> bool:
    """True for pdctl's own lines, and lines that look like failures but occur in healthy starts."""
    return line.startswith(START_OF_LOG) or _HARMLESS.search(line) is not None


def telling_line(lines: tuple[str, ...]) -> str:
    """The earliest line that shows a failure, else the last line; "" if there are no lines."""
    said = [line for line in lines if not line.startswith(START_OF_LOG)]
    for line in said:
        if _TELLING.search(line) and not is_harmless(line):
            return line.strip()
    return said[-1].strip() if said else ""


def last_lines(lines: tuple[str, ...], num: int = 20) -> tuple[str, ...]:
    """The last lines of a log, with long lines truncated."""
    return tuple(line[:400] for line in lines[-num:])
