"""The API key of engines and router: from the environment or a file, never on a command line.

Only the owner of a process and root can read its environment; everybody can read its command line.
So the command passes the key as PDCTL_API_KEY to the supervisor, the engines and the router, and
writes it into no argv, no state file and no log.
"""

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

from pdctl.errors import InvalidInput

VARIABLE = "PDCTL_API_KEY"
MAX_BYTES = 4096
# the characters of an Authorization header; short keys could be guessed, and hiding them in logs
# would hide ordinary words
_KEY = re.compile(r"[!-~]{8,4096}")


def api_key(environ: Mapping[str, str] = os.environ) -> str | None:
    """The key; None if there is none. Raises InvalidInput if it cannot be a key."""
    key = environ.get(VARIABLE)
    return _checked(key, VARIABLE) if key else None


def use_key_file(path: Path | None) -> None:
    """Use the key in a file, for this process and those it starts. None: only check the variable.

    Raises InvalidInput if the file is unreadable, readable by others, or holds no key.
    """
    if path is None:
        api_key()
        return
    os.environ[VARIABLE] = read_key_file(path)


def read_key_file(path: Path) -> str:
    """The key in a file that only this user can read, without surrounding white space."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            data = file.read(MAX_BYTES + 2) if stat.S_ISREG(found.st_mode) else b""
    except OSError as problem:
        raise _wrong(f"{path} cannot be read: {problem.strerror}") from problem
    if not stat.S_ISREG(found.st_mode):
        raise _wrong(f"{path} is not a regular file")
    if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise InvalidInput(
            f"--api-key-file {path} is readable by others (mode {found.st_mode & 0o777:03o}).",
            hint=f"chmod 600 {path}",
            code="api_key_exposed",
        )
    return _checked(data.decode("utf-8", "replace").strip(), str(path))


def authorization(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The Authorization header with the key; empty if there is none or it is malformed."""
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
