"""The log files of a deployment, running or ended, as lines with their process in front."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pdctl.engines import log_file, state
from pdctl.engines.lifecycle import running
from pdctl.engines.log_times import interleaved
from pdctl.engines.records import Event
from pdctl.engines.state import logs_dir
from pdctl.errors import InvalidInput
from pdctl.paths import state_home

LOOK_EVERY_S = 0.2


def deployment_of_logs(name: str | None) -> str:
    """The deployment that is meant: the one named, the only one running, or the last that ran."""
    if name is not None:
        if not logs_dir(name).is_dir():
            raise running.not_running(name)
        return name
    names = running.names()
    if len(names) == 1:
        return names[0]
    logged = _logged()
    if names or not logged:
        return running.chosen_name(None)  # says which ones run, or that none does
    return logged[-1].parent.name


def meant(target: str | None, name: str | None, process: str | None) -> tuple[str, str | None]:
    """(deployment, process) for an argument that may name either one. None: all processes.

    A deployment with logs comes before a process of that name, since --process names the latter.
    Raises as deployment_of_logs.
    """
    if target is not None and name is None and _has_logs(target):
        return target, process
    return deployment_of_logs(name), target if process is None else process


def _has_logs(name: str) -> bool:
    try:
        return logs_dir(name).is_dir()
    except InvalidInput:  # no name of a deployment
        return False


def lines(name: str, process: str | None, *, tail: int) -> tuple[str, ...]:
    """The last lines of a process; or of each, by time, with the process in front."""
    files = _files(name, process)
    width = max(len(f.stem) for f in files) if files else 0
    last = {file: log_file.read_lines(file)[-tail:] if tail else () for file in files}
    if process:
        return tuple(line for lines in last.values() for line in lines)
    return tuple(_named(file, line, width) for file, line in interleaved(last))


def event_lines(name: str, *, tail: int) -> tuple[str, ...]:
    """The last decisions of the supervisor, one line each."""
    found = state.read(state.state_dir(name))
    return tuple(_event_line(event) for event in found[-tail:]) if tail else ()


def follow(
    name: str,
    process: str | None,
    *,
    of_events: bool = False,
    wait: Callable[[], None] = lambda: time.sleep(LOOK_EVERY_S),
) -> Iterator[str]:
    """Lines as they are added, from now on, for ever; also in files that appear meanwhile."""
    at: dict[Path, int] = {}
    is_first = True
    while True:
        files = [state.state_dir(name) / "events.jsonl"] if of_events else _files(name, process)
        width = max(len(file.stem) for file in files)
        for file in files:
            start = at.get(file, _size(file) if is_first else 0)
            text, at[file] = _complete_lines(file, start)
            for line in log_file.plain(text).splitlines():
                yield _shown(file, line, width, process, is_event=of_events)
        is_first = False
        wait()


def _shown(file: Path, line: str, width: int, process: str | None, *, is_event: bool) -> str:
    if is_event:
        event = state.parse(line)
        return _event_line(event) if event else line
    last = line.rsplit("\r", 1)[-1]
    return last if process else _named(file, last, width)


def _complete_lines(file: Path, start: int) -> tuple[str, int]:
    """What was added since a byte, up to the last line end."""
    try:
        with file.open("rb") as opened:
            if _size(file) < start:  # cut off meanwhile
                start = 0
            opened.seek(start)
            added = opened.read(1 << 20)
    except OSError:
        return "", start
    whole = added[: added.rfind(b"\n") + 1]
    return whole.decode("utf-8", errors="replace"), start + len(whole)


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _files(name: str, process: str | None) -> tuple[Path, ...]:
    files = tuple(sorted(logs_dir(name).glob("*.log")))
    if process is None:
        return files
    chosen = tuple(file for file in files if file.stem == process)
    if not chosen:
        raise InvalidInput(
            f"{name} has no process {process!r}.",
            hint=f"one of {', '.join(file.stem for file in files)}",
            code="unknown_process",
        )
    return chosen


def _logged() -> list[Path]:
    """The log directories of all deployments, the latest last."""
    found = state_home().glob("*/logs")
    return sorted((d for d in found if any(d.iterdir())), key=lambda d: d.stat().st_mtime)


def _named(file: Path, line: str, width: int) -> str:
    return f"{file.stem:<{width}} | {line}"


def _event_line(event: Event) -> str:
    stamp = time.strftime("%H:%M:%S", time.localtime(event.at))
    thousandths = int(event.at % 1 * 1000)
    return f"{stamp}.{thousandths:03d}  {event.event:<14} {event.process:<12} {event.text}"
