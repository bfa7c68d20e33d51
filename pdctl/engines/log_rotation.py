"""Keep log files bounded without the processes that write them noticing."""

import os
import shutil
from pathlib import Path

MAX_BYTES = 64 << 20
KEPT_SUFFIX = ".1"


def rotate(log: Path, *, max_bytes: int = MAX_BYTES) -> bool:
    """Set a log aside when it has grown too large, replacing the one set aside before.

    The file is copied and cut, not renamed: its writer has it open for appending and goes on in
    the same file. Lines written between copy and cut are lost. Whether it was rotated.
    """
    try:
        if log.stat().st_size <= max_bytes:
            return False
        kept = log.with_name(log.name + KEPT_SUFFIX)
        kept.unlink(missing_ok=True)
        _copy(log, kept)
    except OSError:
        pass  # a full disk: cutting is what helps
    try:
        os.truncate(log, 0)
    except OSError:
        return False
    return True


def hand_over(log: Path, to: Path) -> None:
    """Give a log the name of the engine that its writer has become; what had it is set aside."""
    try:
        if to.exists():
            to.replace(to.with_name(to.name + KEPT_SUFFIX))
        log.rename(to)
    except OSError:
        return  # it is written on under its old name


def _copy(log: Path, kept: Path) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with log.open("rb") as old, os.fdopen(os.open(kept, flags, 0o600), "wb") as new:
        shutil.copyfileobj(old, new, 1 << 20)
