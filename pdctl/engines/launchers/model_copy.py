"""Copies a model to a disk of this machine, in a thread; what is there already stays."""

import fcntl
import os
import shutil
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pdctl.engines.launchers.protocol import Copied
from pdctl.errors import EnvironmentProblem
from pdctl.inspection.model_contents import described
from pdctl.units import format_bytes

AT_ONCE = 8  # one reader does not fill a fast disk
CHUNK_BYTES = 16 << 20
PART = ".pdctl-part"  # a name without it has its whole file


class ModelCopy:
    """One copy, which begins at once. Files of `target` that `source` lacks are removed."""

    def __init__(self, source: Path, target: Path) -> None:
        self._source, self._target = source, target
        self._copied = Copied(0, 0)
        self._problem: EnvironmentProblem | OSError | None = None
        self._lock = threading.Lock()
        _daemon(self._run)

    def progress(self) -> Copied:
        """The bytes copied so far. Raises EnvironmentProblem or OSError for what ended it."""
        if self._problem is not None:
            raise self._problem
        return self._copied

    def _run(self) -> None:
        try:
            self._target.mkdir(parents=True, exist_ok=True)
            with _alone(self._target):
                self._copy()
        except (EnvironmentProblem, OSError) as problem:
            self._problem = problem

    def _copy(self) -> None:
        files = tuple(_files(self._source))
        self._remove_others({name for name, _ in files})
        missing = [(name, size) for name, size in files if not self._has(name)]
        total, needed = (sum(size for _, size in some) for some in (files, missing))
        self._refuse_full_disk(needed)
        self._copied = Copied(total - needed, total)
        names = deque(name for name, _ in missing)
        readers = [_daemon(lambda: self._copy_next(names)) for _ in range(AT_ONCE)]
        for reader in readers:
            reader.join()
        if self._problem is None:
            self._copied = Copied(total, total, is_done=True)

    def _copy_next(self, names: "deque[str]") -> None:
        """Copy one file after the other, until none is left or one of them fails."""
        try:
            while self._problem is None:
                self._copy_file(names.popleft())
        except IndexError:
            return
        except OSError as problem:
            self._problem = problem

    def _remove_others(self, names: set[str]) -> None:
        """Without a weight index, SGLang would load whatever weights there are."""
        for name, _ in tuple(_files(self._target)):
            if name not in names:
                (self._target / name).unlink()

    def _has(self, name: str) -> bool:
        own = self._target / name
        return own.is_file() and described(own) == described(self._in_source(name))

    def _in_source(self, name: str) -> Path:
        return self._source if self._source.is_file() else self._source / name

    def _refuse_full_disk(self, needed: int) -> None:
        free = shutil.disk_usage(self._target).free
        if needed > free:
            raise EnvironmentProblem(
                f"{self._target.parent} has {format_bytes(free)} free, and the copy of "
                f"{self._source} needs {format_bytes(needed)}.",
                hint="free some space there, or stage: DIR in cluster.yaml on another disk",
                code="disk_full",
            )

    def _copy_file(self, name: str) -> None:
        whole = self._target / name
        part = whole.with_name(whole.name + PART)
        whole.parent.mkdir(parents=True, exist_ok=True)
        with self._in_source(name).open("rb") as source, part.open("wb") as target:
            while num := os.sendfile(target.fileno(), source.fileno(), None, CHUNK_BYTES):
                with self._lock:
                    done, total = self._copied.done_bytes, self._copied.total_bytes
                    self._copied = Copied(done + num, total)
        os.replace(part, whole)


def _daemon(target: Callable[[], None]) -> threading.Thread:
    """A thread that runs. The program's end does not wait for it, as it does for an executor's."""
    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    return thread


def _files(folder: Path) -> Iterator[tuple[str, int]]:
    """The files of a model and their sizes, in sub-folders too; hidden ones are left out.

    A model may be one file.
    """
    if folder.is_file():
        yield folder.name, folder.stat().st_size
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") for part in name.parts):
            yield str(name), path.stat().st_size


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Wait until no other command copies to the same folder."""
    with (target / ".pdctl-lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
