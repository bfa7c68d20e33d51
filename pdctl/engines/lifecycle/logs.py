"""The log lines of a deployment, running or ended, each with its process's name in front."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from pdctl.engines import log_file, state
from pdctl.engines.launchers.protocol import HERE, Launcher
from pdctl.engines.launchers.registry import LOCAL, launcher_named, launcher_of
from pdctl.engines.lifecycle import running
from pdctl.engines.lifecycle.meant import NONE_RUNS, meant_name
from pdctl.engines.log_times import TimeOrder, interleaved
from pdctl.engines.records import Event
from pdctl.engines.request_times import log_lines
from pdctl.engines.state import logs_dir
from pdctl.errors import InvalidInput, StateConflict
from pdctl.paths import state_home

NO_ENGINES = ("router", "supervisor")  # processes with a log that are none
LOOK_EVERY_S = 0.2
HOLD_S = 0.3  # a writer stamps its line before writing it; longer than one look


@dataclass(frozen=True)
class LogFile:
    """One log: the launcher that reads it, its node and its path there."""

    launcher: str
    node: str
    path: Path

    @property
    def process(self) -> str:
        return self.path.stem


@dataclass
class _Seen:
    """The position in a log that is followed. rest: the start of a line that is incomplete."""

    offset: int = 0
    rest: str = ""

    def whole_lines(self, name: str, file: LogFile) -> list[str]:
        """The lines completed since the last call, without colours and overwritten progress."""
        launcher, text, added = _launcher(name, file), self.rest, "unread"
        size = launcher.log_size(file.node, file.path)
        while added:
            added, self.offset = launcher.read_added(file.node, file.path, self.offset)
            text += added
            if self.offset >= size:
                break
        whole, _, self.rest = text.rpartition("\n")
        shown = (line.rsplit("\r", 1)[-1] for line in log_file.without_colours(whole).split("\n"))
        return [line for line in shown if line.strip()]


def _wait() -> None:
    time.sleep(LOOK_EVERY_S)


def deployment_of_logs(name: str | None) -> str:
    """The named deployment, the only running one, or the one that ran last."""
    if name is not None:
        if not logs_dir(name).is_dir():
            raise _no_logs(name)
        return name
    names = running.names()
    logged = _logged()
    return logged[-1].parent.name if logged and not names else meant_name(None, names)


def meant(target: str | None, name: str | None, process: str | None) -> tuple[str, str | None]:
    """(deployment, process) for an argument that may name either one. None: all processes.

    A deployment with logs comes before a process of that name, since --process names the latter.
    Raises as deployment_of_logs.
    """
    if target is not None and name is None:
        if _has_logs(target):
            return target, process
        if not running.names() and not _logged():
            raise running.not_running(target)
    return deployment_of_logs(name), target if process is None else process


def _has_logs(name: str) -> bool:
    try:
        return logs_dir(name).is_dir()
    except InvalidInput:  # not the name of a deployment
        return False


def lines(name: str, process: str | None, *, tail: int) -> tuple[str, ...]:
    """The last lines of one process; or of each, by time, with its name in front."""
    files = _files(name, process)
    width = max((len(f.process) for f in files), default=0)
    last = {file: _read(name, file)[-tail:] if tail else () for file in files}
    if process:
        return tuple(line for lines in last.values() for line in lines)
    return tuple(_named(file, line, width) for file, line in interleaved(last))


def lines_by_engine(
    name: str, last_bytes: int | None = None
) -> Iterator[tuple[str, Iterator[bytes]]]:
    """(engine, lines of its log) of every engine; of one on another node, its last 4 MiB.

    last_bytes: only the end of each file; None: all of it.
    """
    for file in _all_files(name):
        if file.process in NO_ENGINES:
            continue
        if file.launcher != LOCAL:
            yield file.process, (line.encode() for line in _read(name, file))
            continue
        kept = file.path.with_name(file.path.name + log_file.KEPT_SUFFIX)
        # lazily, since a role switch may rename a log meanwhile
        parts = (path for path in (kept, file.path) if path.exists())
        yield file.process, chain.from_iterable(log_lines(path, last_bytes) for path in parts)


def hosts(name: str) -> dict[str, str]:
    """The node of every engine that this deployment has or lately had."""
    wanted = state.read_launch(name)
    return {s.name: s.node for s in (*wanted.leaving, *wanted.specs)} if wanted else {}


def event_lines(name: str, *, tail: int) -> tuple[str, ...]:
    """The last decisions of the supervisor, one line each."""
    found = state.read(state.state_dir(name))
    return tuple(_event_line(event) for event in found[-tail:]) if tail else ()


def follow_events(name: str, *, tail: int, wait: Callable[[], None] = _wait) -> Iterator[str]:
    """Yield the last decisions of the supervisor, then new ones for ever."""
    file = LogFile(LOCAL, HERE, state.state_dir(name) / state.FILE)
    seen = _Seen()
    last: Sequence[str] = seen.whole_lines(name, file)[-tail:] if tail else ()
    while True:
        for line in last:
            event = state.parse(line)
            yield _event_line(event) if event else line
        wait()
        last = seen.whole_lines(name, file)


def follow_logs(
    name: str, process: str | None, *, tail: int, wait: Callable[[], None] = _wait
) -> Iterator[str]:
    """Yield the last lines of each log, then new ones for ever, also of logs that appear.

    Lines come by time, as lines() has them. Each one is held for HOLD_S, because another log may
    turn out to have an earlier one; not where only one process is followed.
    """
    seen: dict[LogFile, _Seen] = {}
    order = TimeOrder[LogFile](0.0 if process else HOLD_S)
    is_first = True
    while True:
        now = time.time()
        files = _files(name, process)
        width = max((len(file.process) for file in files), default=0)
        _follow_renamed(seen, files)
        for file in files:
            new = _added(name, file, seen)
            read_at = time.time()
            for line in new[max(0, len(new) - tail) :] if is_first else new:
                order.add(file, line, read_at)
        for file, line in order.ready(now):
            yield line if process else _named(file, line, width)
        is_first = False
        wait()


def _follow_renamed(seen: dict[LogFile, _Seen], files: Sequence[LogFile]) -> None:
    """Go on in a renamed log where its old name was left; a role switch renames one at a time.

    Ignores: a log that takes the name of another one that is followed.
    """
    gone = [file for file in seen if file not in files]
    new = [file for file in files if file not in seen]
    for old in gone:
        position = seen.pop(old)
        same_node = [file for file in new if file.node == old.node]
        if len(gone) == len(same_node) == 1:
            seen[same_node[0]] = position


def _added(name: str, file: LogFile, seen: dict[LogFile, _Seen]) -> Sequence[str]:
    if file not in seen:
        size = _launcher(name, file).log_size(file.node, file.path)
        seen[file] = _Seen(max(0, size - log_file.MAX_READ_BYTES))
    return seen[file].whole_lines(name, file)


def _launcher(name: str, file: LogFile) -> Launcher:
    """The launcher that can read this log."""
    wanted = state.read_launch(name) if file.launcher != LOCAL else None
    return launcher_of(wanted) if wanted else launcher_named()


def _read(name: str, file: LogFile) -> tuple[str, ...]:
    return _launcher(name, file).read_log(file.node, file.path)


def _files(name: str, process: str | None) -> tuple[LogFile, ...]:
    files = _all_files(name)
    if process is None:
        return files
    chosen = tuple(file for file in files if file.process == process)
    if not chosen:
        raise InvalidInput(
            f"{name} has no process {process!r}.",
            hint=f"one of {', '.join(file.process for file in files)}",
            code="unknown_process",
        )
    return chosen


def _all_files(name: str) -> tuple[LogFile, ...]:
    """The logs in the state directory, and those that a running deployment writes elsewhere."""
    here = {path.stem: LogFile(LOCAL, HERE, path) for path in logs_dir(name).glob("*.log")}
    wanted = state.read_launch(name)
    if wanted is not None and wanted.launcher != LOCAL:
        specs = (*wanted.leaving, *wanted.specs)
        here |= {spec.name: LogFile(wanted.launcher, spec.node, spec.log) for spec in specs}
    return tuple(here[process] for process in sorted(here))


def _logged() -> list[Path]:
    """The log directories of all deployments, the latest last."""
    found = state_home().glob("*/logs")
    return sorted((d for d in found if any(d.iterdir())), key=lambda d: d.stat().st_mtime)


def _no_logs(name: str) -> StateConflict:
    others = ", ".join(sorted(path.parent.name for path in _logged()))
    hint = f"there are logs of {others}" if others else NONE_RUNS
    return StateConflict(f"There are no logs of {name!r}.", hint=hint, code="not_running")


def _named(file: LogFile, line: str, width: int) -> str:
    return f"{file.process:<{width}} | {line}"


def _event_line(event: Event) -> str:
    stamp = time.strftime("%H:%M:%S", time.localtime(event.at))
    thousandths = int(event.at % 1 * 1000)
    return f"{stamp}.{thousandths:03d}  {event.event:<14} {event.process:<12} {event.text}"
