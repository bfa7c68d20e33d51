"""The lines of a trace file, bounded in length, and the parts of one request."""

import bz2
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from pdctl.errors import InvalidInput
from pdctl.paths import near_path

# a whole bench_serving result is one line: 10,000 requests with their token times take ~60 MB
MAX_LINE_BYTES = 64 * 2**20
_CHUNK_BYTES = 2**20
_BOM = b"\xef\xbb\xbf"
_OTHER_KINDS = {
    b"PAR1": "a Parquet file",
    b"ARROW1": "an Arrow file",
    b"PK\x03\x04": "a zip archive",
    b"\x28\xb5\x2f\xfd": "packed by zstd",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
    b"\x89HDF": "an HDF5 file",
    b"SQLite": "a SQLite database",
}

Line = tuple[int, bytes]  # its number in the file, from 1, and its content
# a turn of a conversation: which one, and its delay after the answer before, if it has one
Turn = tuple[object, float | None]
# one request: arrival in the file's unit (nan: by its turn's delay), prompt and output tokens,
# ids of its prompt's blocks, its turn
Row = tuple[float, int, int, tuple[int, ...] | None, Turn | None]
ABORTED = -1  # instead of a request's output tokens


class BadLines:
    """Refuses the first broken line with file, line and reason; or counts them (--skip-bad)."""

    def __init__(self, path: Path, *, skip: bool) -> None:
        self.path = path
        self.skip = skip
        self.count = 0
        self.num_filled = 0  # requests whose output length was given by --osl

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
            yield from _bounded_lines(unpacked(path, file), bad, max_bytes)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as problem:
        reason = getattr(problem, "strerror", None) or str(problem)
        raise InvalidInput(
            f"The trace {path} cannot be read: {reason}.{near_path(path)}",
            hint="--trace PATH_OF_A_FILE",
        ) from problem


def unpacked(path: Path, file: io.BufferedReader) -> BinaryIO:
    """The content of a file that gzip, bzip2 or xz may have packed.

    Raises InvalidInput for another kind of binary file.
    """
    start = file.peek(6)
    if start.startswith(b"\x1f\x8b"):
        return io.BufferedReader(gzip.GzipFile(fileobj=file))
    if start.startswith(b"BZh"):
        return io.BufferedReader(bz2.BZ2File(file))
    if start.startswith(b"\xfd7zXZ\0"):
        return io.BufferedReader(lzma.LZMAFile(file))
    for magic, kind in _OTHER_KINDS.items():
        if start.startswith(magic):
            raise InvalidInput(
                f"{path.name} is {kind}; pdctl reads text, plain or as gzip, bzip2 or xz.",
                hint="write it as CSV or JSON lines",
            )
    return file


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
