"""The SGLang that is installed: its version, its KV transfer backends, its router."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pdctl.errors import EnvironmentProblem, InvalidInput
from pdctl.inspection import sglang_probe
from pdctl.inspection.records import SglangInstall

PROBE_TIMEOUT_S = 20.0


def query_sglang(python: str | None = None) -> SglangInstall:
    """The SGLang of `python`; a version of None means that it is not installed there.

    python: an interpreter, by path or by name. None: this one, or where this one has no SGLang
        the first python3 or python on PATH that has.
    Raises InvalidInput if there is no such interpreter, EnvironmentProblem if it does not run.
    Ignores: whether a backend's libraries load; only that its module is there.
    """
    if python is not None:
        return _query(_interpreter(python))
    own = _query(sys.executable)
    if own.version is not None:
        return own
    found = (_try_query(other) for other in _others_on_path())
    return next((install for install in found if install and install.version), own)


def _query(python: str) -> SglangInstall:
    own = os.path.abspath(python) == os.path.abspath(sys.executable)
    found = sglang_probe.probe() if own else _probe_in(python)
    backends = found.get("backends")
    return SglangInstall(
        python=python,
        version=_text(found.get("sglang")),
        backends=tuple(map(str, backends)) if isinstance(backends, list) else (),
        router_version=_text(found.get("router")),
    )


def _try_query(python: str) -> SglangInstall | None:
    try:
        return _query(python)
    except EnvironmentProblem:
        return None


def _interpreter(python: str) -> str:
    expanded = os.path.expanduser(python)
    found = shutil.which(expanded) if expanded and "\0" not in expanded else None
    if found is None:
        raise InvalidInput(
            f"--python {python!r} is not an executable program.",
            hint="--python VENV/bin/python, the interpreter that has SGLang",
        )
    return os.path.abspath(found)


def _others_on_path() -> tuple[str, ...]:
    found = (shutil.which(name) for name in ("python3", "python"))
    paths = (os.path.abspath(path) for path in found if path)
    return tuple(dict.fromkeys(path for path in paths if path != os.path.abspath(sys.executable)))


def _probe_in(python: str) -> Mapping[str, Any]:
    source = Path(sglang_probe.__file__).read_text(encoding="utf-8")
    try:
        done = subprocess.run(
            [python, "-c", source],
            capture_output=True,
            cwd="/",  # a folder named like a package must not count as one
            stdin=subprocess.DEVNULL,
            timeout=PROBE_TIMEOUT_S,
            check=False,
        )
        lines = done.stdout.decode("utf-8", "replace").splitlines()
        answer = json.loads(lines[-1]) if done.returncode == 0 and lines else None
    except subprocess.TimeoutExpired:
        raise _broken(python, f"did not answer in {PROBE_TIMEOUT_S:.0f} s") from None
    except (OSError, ValueError) as problem:
        raise _broken(python, f"did not run: {problem}") from None
    if not isinstance(answer, dict):
        raise _broken(python, f"failed: {_last_words(done.stderr)}")
    return answer


def _last_words(stderr: bytes) -> str:
    lines = stderr.decode("utf-8", "replace").strip().splitlines()
    return lines[-1][:120] if lines else "it said nothing"


def _broken(python: str, why: str) -> EnvironmentProblem:
    return EnvironmentProblem(
        f"The Python at {python} {why}.",
        hint="--python VENV/bin/python, or --engine sim to rehearse without SGLang",
        code="python_broken",
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
