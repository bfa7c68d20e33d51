"""The API key of engines and router: from the environment or a file, never on a command line.

Whoever can read a process's environment in /proc is its owner or root; anybody can read its
command line. So the key travels as PDCTL_API_KEY from the command to the supervisor, the engines
and the router, and is in no argv, no state file and no log.
"""

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

from pdctl.engines import state
from pdctl.errors import InvalidInput, PdctlError

VARIABLE = "PDCTL_API_KEY"
MAX_BYTES = 4096
# what an Authorization header can carry; short keys could be guessed and would mangle logs
_KEY = re.compile(r"[!-~]{8,4096}")


def api_key(environ: Mapping[str, str] = os.environ) -> str | None:
    """The key; None without one. Raises InvalidInput where it cannot be one."""
    key = environ.get(VARIABLE)
    return _checked(key, VARIABLE) if key else None


def use_key_file(path: Path | None) -> None:
    """Take the key from a file, for this process and those it starts; nothing without a file.

    Raises InvalidInput where the file cannot be read, others can read it, or it holds no key.
    """
    if path is None:
        api_key()
        return
    os.environ[VARIABLE] = read_key_file(path)


def read_key_file(path: Path) -> str:
    """The key in a file of this user alone, white space around it aside."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            data = file.read(MAX_BYTES + 2) if stat.S_ISREG(found.st_mode) else b""
    except OSError as problem:
        raise _wrong(f"{path} cannot be read: {problem.strerror}") from problem
    if not stat.S_ISREG(found.st_mode):
        raise _wrong(f"{path} is no file")
    if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise InvalidInput(
            f"--api-key-file {path} can be read by others (mode {found.st_mode & 0o777:03o}).",
            hint=f"chmod 600 {path}",
            code="api_key_exposed",
        )
    return _checked(data.decode("utf-8", "replace").strip(), str(path))


def authorization(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The header that carries the key; empty without one, or where it cannot be one."""
    key = environ.get(VARIABLE, "")
    return {"Authorization": f"Bearer {key}"} if _KEY.fullmatch(key) else {}


def _checked(key: str, where: str) -> str:
    if not _KEY.fullmatch(key):  # the key itself is not shown
        raise _wrong(f"the API key in {where} is not 8 to {MAX_BYTES} visible ASCII characters")
    return key


def _wrong(what: str) -> InvalidInput:
    return InvalidInput(
        f"{what[0].upper()}{what[1:]}." if what.startswith("the") else f"--api-key-file {what}.",
        hint="openssl rand -hex 24 > key; chmod 600 key; --api-key-file key",
        code="bad_api_key",
    )


MARKER = "PDCTL_RUN"  # that on_local gives every process, whose imports would cost `status` 20 ms


def use_key_of(name: str) -> None:
    """Take the key that the processes of a deployment were started with, unless one is set."""
    if os.environ.get(VARIABLE):
        return
    try:
        found = state.read_state(name)
    except PdctlError:
        return
    pids = [process.pid for process in found.processes if process.pid] if found else []
    run_id = found.run_id if found else ""
    key = next((key for pid in pids if (key := _key_of(pid, run_id))), None)
    if key is not None:
        os.environ[VARIABLE] = key


def _key_of(pid: int, run_id: str) -> str | None:
    """What a process of this run has as its key; None of another process of that number."""
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes().decode("utf-8", "replace")
    except OSError:
        return None
    variables = dict(entry.split("=", 1) for entry in environment.split("\0") if "=" in entry)
    return variables.get(VARIABLE) if run_id and variables.get(MARKER) == run_id else None
