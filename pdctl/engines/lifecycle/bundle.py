"""One file for a bug report: logs, events, versions and what was asked for, without secrets."""

import io
import os
import platform
import re
import tarfile
from collections.abc import Iterator
from pathlib import Path

from pdctl import __version__
from pdctl.engines import state
from pdctl.engines.clients.api_key import api_key
from pdctl.errors import InvalidInput

MAX_FILE_BYTES = 32 << 20  # of each log, from its end
HIDDEN = "***"
_SETTINGS = ("desired.yaml", "launch.json", "state.json", "events.jsonl")
_SECRET_NAME = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY|ACCESS_KEY|PRIVATE_KEY")
# each keeps its first group and hides the rest
_SECRETS = (
    # an environment variable or a field, as NAME=x, NAME: x, "NAME": "x", name='x'
    re.compile(
        r"(\b[A-Z0-9_]*(?:TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY|ACCESS_KEY|PRIVATE_KEY)[A-Z0-9_]*"
        r"[\"']?\s*[=:]\s*)(?:\"[^\"\n]*\"|'[^'\n]*'|[^\s,;)}\]]+)"
    ),
    re.compile(
        r"(\b(?:\w*api_key|\w*password|\w*secret|hf_token|auth_token|access_token)"
        r"[\"']?\s*[=:]\s*)(?!None\b|null\b)(?:\"[^\"\n]*\"|'[^'\n]*'|[^\s,;)}\]]+)"
    ),
    re.compile(r"(--(?:admin-|control-plane-)?api-keys?(?:=|[\"']?,?\s+[\"']?))[^\s\"',]+"),
    re.compile(r"((?:[Bb]earer|[Bb]asic)\s+)[\w.~+/=-]{6,}"),
    re.compile(r"(://)[^/\s:@]+:[^/\s@]+(?=@)"),
    re.compile(r"(\b(?:hf|sk|ghp|glpat|xox[bp])[_-])[A-Za-z0-9_-]{8,}"),
)


def redacted(text: str, secrets: tuple[str, ...] = ()) -> str:
    """`text` without API keys, tokens and passwords: the values given, and all that look like one.

    Ignores: prompts that an engine logged.
    """
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    for pattern in _SECRETS:
        text = pattern.sub(rf"\g<1>{HIDDEN}", text)
    return text


def write_bundle(name: str, target: Path) -> tuple[str, ...]:
    """Pack what is known of a deployment into a new .tar.gz that only its owner reads.

    Returns the names of the packed files. Raises InvalidInput where `target` exists or cannot be
    written.
    """
    try:
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except OSError as problem:
        raise InvalidInput(
            f"Cannot write {str(target)!r}: {problem.strerror}.",
            hint="--bundle FILE.tar.gz with a new file's name",
            code="unwritable",
        ) from problem
    secrets = _secrets_here()
    packed: list[str] = []
    with os.fdopen(fd, "wb") as file, tarfile.open(fileobj=file, mode="w:gz") as tar:
        for path, text in _parts(name):
            content = redacted(text, secrets).encode()
            entry = tarfile.TarInfo(f"{name}/{path}")
            entry.size, entry.mode = len(content), 0o600
            tar.addfile(entry, io.BytesIO(content))
            packed.append(path)
    return tuple(packed)


def _parts(name: str) -> Iterator[tuple[str, str]]:
    yield "versions.txt", _versions()
    home = state.state_dir(name)
    for file in _SETTINGS:
        if (home / file).is_file():
            yield file, _end_of(home / file)
    for log in sorted(p for p in state.logs_dir(name).glob("*.log*") if p.is_file()):
        yield f"logs/{log.name}", _end_of(log)


def _versions() -> str:
    return f"pdctl {__version__}\nPython {platform.python_version()}\n{platform.platform()}\n"


def _end_of(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            opened.seek(max(0, opened.seek(0, os.SEEK_END) - MAX_FILE_BYTES))
            return opened.read(MAX_FILE_BYTES).decode("utf-8", errors="replace")
    except OSError as problem:
        return f"pdctl could not read it: {problem.strerror}\n"


def _secrets_here() -> tuple[str, ...]:
    """Secrets of this environment, which processes may have logged; short ones would hide words."""
    found = {value for name, value in os.environ.items() if _SECRET_NAME.search(name)}
    return tuple(value for value in {*found, api_key() or ""} if len(value) >= 6)
