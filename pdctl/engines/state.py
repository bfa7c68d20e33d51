"""The state directory of a deployment, through which commands and the supervisor communicate.

desired.yaml   the deployment that the user chose       written by commands
launch.json    the processes that should run            written by commands
state.json     the processes that run                   written by the supervisor
events.jsonl   every decision                           appended by the supervisor
prometheus-targets.json  what to scrape                written by the supervisor
lock           held by the supervisor while it runs
logs/          one file per process on this machine
"""

import dataclasses
import errno
import fcntl
import json
import os
import re
import shutil
import socket
import stat
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pdctl.deployment.records import Container, Follower, ProcessSpec
from pdctl.engines.records import DeploymentState, Event, Handle, Launch, ProcessState
from pdctl.errors import EnvironmentProblem, InvalidInput, StateConflict
from pdctl.paths import HOME_VARIABLE, state_home

FILE = "events.jsonl"


def append(directory: Path, events: Iterable[Event]) -> None:
    """Append lines. On a full disk, events are lost but the deployment keeps running."""
    lines = "".join(json.dumps(dataclasses.asdict(event)) + "\n" for event in events)
    if not lines:
        return
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    try:
        with os.fdopen(os.open(directory / FILE, flags, 0o600), "a", encoding="utf-8") as file:
            file.write(lines)
    except OSError:
        return


def read(directory: Path) -> tuple[Event, ...]:
    """All events. Damaged lines are skipped."""
    try:
        lines = (directory / FILE).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return ()
    return tuple(event for line in lines if (event := parse(line)))


def parse(line: str) -> Event | None:
    """The event in a line; None if the line is damaged."""
    try:
        found = Event(**json.loads(line))
        time.localtime(found.at)
    except (ValueError, TypeError, OverflowError, RecursionError, OSError):
        return None
    texts = (found.event, found.process, found.text)
    return found if all(isinstance(text, str) for text in texts) else None


def to_json(record: DeploymentState | Launch) -> str:
    """The record as indented JSON."""
    return json.dumps(dataclasses.asdict(record), indent=1, default=str) + "\n"


def parse_state(text: str) -> DeploymentState:
    """The state in `text`. Raises ValueError if it is not one."""
    data = _document(text)
    data["processes"] = tuple(_process_state(p) for p in data["processes"])
    data["lost_nodes"] = tuple(data.get("lost_nodes", ()))
    return DeploymentState(**_known(DeploymentState, data))


def parse_launch(text: str) -> Launch:
    """The launch in `text`. Raises ValueError if it is not one."""
    data = _document(text)
    for specs in ("specs", "leaving"):
        data[specs] = tuple(_spec(s) for s in data.get(specs, ()))
    for key in ("changes", "retired_ports"):
        data[key] = tuple(data.get(key, ()))
    return Launch(**_known(Launch, data))


def _document(text: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
        return {**data}
    except (TypeError, ValueError, RecursionError) as problem:
        raise ValueError(f"not a JSON object: {problem}") from problem


def _process_state(data: dict[str, Any]) -> ProcessState:
    known = {**_known(ProcessState, data), "gpus": tuple(data["gpus"])}
    return ProcessState(**{"handle": _old_handle(data), **known})


def _old_handle(data: dict[str, Any]) -> Handle | None:
    """The handle of a process in a state.json of an older pdctl, which names a local pid."""
    pid = data.get("pid")
    return Handle(f"{int(pid)}@{data.get('started_at') or 0.0!r}") if pid else None


def _spec(data: dict[str, Any]) -> ProcessSpec:
    followers = tuple(
        Follower(**{**_known(Follower, one), **_lists(one)}) for one in data.get("followers", ())
    )
    container = _container(data.get("container"))
    own = {**_lists(data), "followers": followers, "container": container}
    return ProcessSpec(**{**_known(ProcessSpec, data), **own})


def _container(data: dict[str, Any] | None) -> Container | None:
    if data is None:
        return None
    lists = {name: tuple(value) for name, value in data.items() if isinstance(value, list)}
    return Container(**{**_known(Container, data), **lists})


def _lists(data: dict[str, Any]) -> dict[str, Any]:
    return {"argv": tuple(data["argv"]), "gpus": tuple(data["gpus"]), "log": Path(data["log"])}


def _known(record: type, data: dict[str, Any]) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(record)}
    return {name: value for name, value in data.items() if name in names}


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_FILES = ("state.json", "launch.json")
LOCK_TRIES, LOCK_PAUSE_S = 5, 0.01


def desired_path(name: str) -> Path:
    """The file with the deployment that the user chose."""
    return state_dir(name) / "desired.yaml"


def state_dir(name: str) -> Path:
    """The directory of a deployment, which may not exist. Raises InvalidInput for a bad name."""
    if not _NAME.fullmatch(name) or ".." in name:
        raise InvalidInput(
            f"{name!r} is not a valid deployment name.",
            hint="--name with letters, digits, '.', '_' and '-', beginning with a letter or digit",
            code="bad_name",
        )
    return state_home() / name


def logs_dir(name: str) -> Path:
    """The directory of a deployment's logs."""
    return state_dir(name) / "logs"


def make_state_dir(name: str) -> Path:
    """Create the directory, private to this user. Raises EnvironmentProblem if that fails."""
    path = state_dir(name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _refuse_shared(path.parent)
        path.mkdir(exist_ok=True, mode=0o700)
        _refuse_foreign(path)
        path.chmod(0o700)
        logs = path / "logs"
        logs.mkdir(exist_ok=True, mode=0o700)
        _refuse_foreign(logs)
    except OSError as problem:
        raise unwritable(path, problem) from problem
    return path


def write_state(state: DeploymentState) -> None:
    """Replace state.json atomically: readers see the old or the new file."""
    write_private(state_dir(state.name) / "state.json", to_json(state))


def read_state(name: str) -> DeploymentState | None:
    """The state that the supervisor last wrote; None if there is none since the last boot.

    Clears a state from before a reboot. Raises StateConflict if the file is unreadable.
    """
    text = _read(name, "state.json")
    if text is None:
        return None
    try:
        state = parse_state(text)
    except (ValueError, TypeError, KeyError, AttributeError) as problem:
        raise StateConflict(
            f"{state_dir(name) / 'state.json'} is damaged ({problem}).",
            hint=f"pdctl down {name}",
            code="bad_state",
        ) from problem
    if _is_of_earlier_boot(state):
        clear_ended(name, state.run_id)
        return None
    return state


def write_launch(launch: Launch) -> None:
    """Replace launch.json; the supervisor follows it."""
    write_private(state_dir(launch.name) / "launch.json", to_json(launch))


def read_launch(name: str) -> Launch | None:
    """The launch that commands last wrote; None if there is none since the last boot."""
    text = _read(name, "launch.json")
    try:
        launch = parse_launch(text) if text else None
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    return launch if launch and not _is_of_earlier_boot(launch) else None


def clear_state(name: str) -> None:
    """Remove state.json and launch.json. The logs stay until the next `up` of this name."""
    for file in _FILES:
        path = state_dir(name) / file
        try:
            path.unlink(missing_ok=True)
        except OSError as problem:
            raise unwritable(path, problem) from problem


def clear_ended(name: str, run_id: str) -> None:
    """Clear the state of a deployment that has ended, unless another of its name has begun."""
    if not any(os.path.lexists(state_dir(name) / file) for file in _FILES):
        return
    held = lock(name)
    if held is None:
        return
    try:
        current = read_launch(name)
        if current is None or current.run_id == run_id:
            clear_state(name)
    finally:
        os.close(held)


def forget(name: str) -> None:
    """Remove the directory of a deployment that does not run, including its logs."""
    shutil.rmtree(state_dir(name), ignore_errors=True)


def list_names() -> tuple[str, ...]:
    """The deployments that have a state, running or not."""
    home = state_home()
    try:
        entries = tuple(home.iterdir()) if home.is_dir() else ()
    except OSError as problem:
        raise unwritable(home, problem) from problem
    named = (p.name for p in entries if _NAME.fullmatch(p.name) and _is_own(p))
    return tuple(sorted(n for n in named if any((home / n / f).is_file() for f in _FILES)))


def lock(name: str) -> int | None:
    """Lock a deployment; the descriptor that holds the lock, or None if its supervisor runs.

    The kernel releases the lock when the last process that has the descriptor ends.
    """
    for _ in range(LOCK_TRIES):
        held = _locked(name, fcntl.LOCK_EX)
        if held is not None:
            return held
        time.sleep(LOCK_PAUSE_S)  # a command that asks `is_supervised` has it for an instant
    return None


def is_supervised(name: str) -> bool:
    """True if a supervisor of this deployment runs."""
    if not os.path.lexists(state_dir(name) / "lock"):  # false too where a folder is unreadable
        return False
    held = _locked(name, fcntl.LOCK_SH)  # shared: others may ask at the same moment
    if held is None:
        return True
    os.close(held)
    return False


def _locked(name: str, kind: int) -> int | None:
    path = state_dir(name) / "lock"
    try:
        held = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as problem:
        raise unwritable(path, problem) from problem
    try:
        fcntl.flock(held, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(held)
        return None
    return held


def _is_of_earlier_boot(record: DeploymentState | Launch) -> bool:
    """True if this machine wrote the record before its last boot."""
    return record.host in ("", host_name()) and record.boot_id != boot_id()


def host_name() -> str:
    """The name of this machine, on a node of a Slurm job the one that Slurm gives it."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def boot_id() -> str:
    """An identifier of this boot of this machine, whose state directory this is."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def write_private(path: Path, text: str) -> None:
    """Replace a file atomically, readable for this user alone. Raises EnvironmentProblem."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    try:
        with os.fdopen(os.open(temporary, flags, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as problem:
        temporary.unlink(missing_ok=True)
        raise unwritable(path, problem) from problem


def _read(name: str, file: str) -> str | None:
    path = state_dir(name) / file
    try:
        _refuse_foreign(path.parent)  # its content decides which processes get signals
        return path.read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as problem:
        raise unwritable(path, problem) from problem


def _is_own(path: Path) -> bool:
    try:
        _refuse_foreign(path)
    except (OSError, EnvironmentProblem):
        return False
    return True


def _refuse_shared(home: Path) -> None:
    """Refuse a folder in which other users could swap our directory for their own."""
    found = home.stat()
    is_sticky = bool(found.st_mode & stat.S_ISVTX)
    if found.st_uid in (0, os.geteuid()) and (is_sticky or not found.st_mode & stat.S_IWOTH):
        return
    own = f"{HOME_VARIABLE}=DIR with a directory of your own"
    is_foreign = found.st_uid not in (0, os.geteuid())
    kind = "belongs to another user" if is_foreign else "is writable for everybody"
    raise EnvironmentProblem(
        f"{home} {kind}, so pdctl does not keep state and logs there.",
        hint=own if is_foreign else f"chmod o-w {home}, or {own}",
        code="bad_state_dir",
    )


def _refuse_foreign(path: Path) -> None:
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode) or found.st_uid != os.geteuid():
        is_link = stat.S_ISLNK(found.st_mode)
        kind = "is a symbolic link" if is_link else "belongs to another user"
        remove = "remove it, or " if is_link else ""
        raise EnvironmentProblem(
            f"{path} {kind}, so pdctl does not keep state and logs there.",
            hint=f"{remove}{HOME_VARIABLE}=DIR to keep state elsewhere",
            code="bad_state_dir",
        )


def unwritable(path: Path, problem: OSError) -> EnvironmentProblem:
    """The error for a state file or directory that the system does not let us use."""
    is_full = problem.errno in (errno.ENOSPC, errno.EDQUOT)
    return EnvironmentProblem(
        f"{path} cannot be used: {problem.strerror or problem}.",
        hint="free space on its disk, then repeat the command"
        if is_full
        else f"{HOME_VARIABLE}=DIR with a directory of your own",
        code="state_dir_unwritable",
    )
