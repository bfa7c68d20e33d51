"""What a log says about a failure: its earliest telling line and its last lines."""

import re
from pathlib import Path

START_OF_LOG = "# pdctl "  # followed by the time and the command
MAX_READ_BYTES = 4 << 20
# SGLang's main process dumps stacks for a minute and more before it ends as well. At the beginning
# of a line, so that no logged prompt says it
_DIED = re.compile(r"^\[[^\]\n]{1,80}\] Scheduler hit an exception: ", re.MULTILINE)
_RAISED = re.compile(r"^(?:\w+\.)*\w*(?:Error|Exception)\b.*", re.MULTILINE)
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# what went wrong, as people search for it; the earliest line that matches any is the cause
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
# looks like one and is said on every healthy start
_HARMLESS = re.compile(
    r"Ignore import error|Warning|WARNING|\bWARN\b|Proceeding without|falling back|fallback"
    r"|RLIMIT_NOFILE|disabled: |server_args=|No RDMA devices found|is not available \(No module"
    r"|Failed to load generation config"
)


def plain(text: str) -> str:
    """`text` without colour codes; the last state of a line drawn over and over."""
    return _ANSI.sub("", text)


def read_lines(log: Path, *, offset: int = 0) -> tuple[str, ...]:
    """The lines of a log from a byte on, at most the last 4 MiB; none if there is no log."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(offset if offset <= size else 0, size - MAX_READ_BYTES))
            text = file.read(MAX_READ_BYTES).decode("utf-8", errors="replace")
    except OSError:
        return ()
    return tuple(line.rsplit("\r", 1)[-1] for line in plain(text).split("\n") if line.strip())


def read_from(log: Path, offset: int) -> tuple[str, int]:
    """What was added to a log since a byte, at most 256 KiB; and where it ends.

    From the beginning where the log has become shorter: it was set aside.
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
    """What of an engine has ended, by a piece of its log, so that it will never answer; or ""."""
    died = _DIED.search(text)
    if died is None:
        return ""
    raised = _RAISED.search(text, died.end())
    return f"its scheduler died: {raised[0][:200]}" if raised else "its scheduler died"


def last_start_at(log: Path) -> int:
    """The byte at which the last start in a log begins, or its end if that is far back."""
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
    """The lines since the process was last started."""
    starts = [i for i, line in enumerate(lines) if line.startswith(START_OF_LOG)]
    return lines[starts[-1] :] if starts else lines


def is_harmless(line: str) -> bool:
    """Whether a line looks like a failure but is said on healthy starts too, or is pdctl's own."""
    return line.startswith(START_OF_LOG) or _HARMLESS.search(line) is not None


def telling_line(lines: tuple[str, ...]) -> str:
    """The earliest line that says what went wrong; the last line if none does; "" of no lines."""
    said = [line for line in lines if not line.startswith(START_OF_LOG)]
    for line in said:
        if _TELLING.search(line) and not is_harmless(line):
            return line.strip()
    return said[-1].strip() if said else ""


def last_lines(lines: tuple[str, ...], num: int = 20) -> tuple[str, ...]:
    """The end of a log, long lines cut."""
    return tuple(line[:400] for line in lines[-num:])
