"""The guard of a detached supervisor."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pdctl.engines import guard

GUARD = Path(guard.__file__)
PYTHON = (sys.executable, "-I", "-S")
# each start adds a line; the first is killed, the second ends by itself
KILLED_ONCE = """
import os, sys
with open(sys.argv[1], "a+") as log:
    log.write("started\\n")
    log.seek(0)
    starts = len(log.readlines())
if starts == 1:
    os.kill(os.getpid(), 9)
sys.exit(3)
"""


def run(script: str, log: Path) -> "subprocess.CompletedProcess[str]":
    command = [*PYTHON, str(GUARD), *PYTHON, "-c", script, str(log)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_program_that_is_killed_is_started_again_and_one_that_ends_is_over(
    tmp_path: Path,
) -> None:
    done = run(KILLED_ONCE, tmp_path / "log")
    assert done.returncode == 3
    assert (tmp_path / "log").read_text() == "started\nstarted\n"


def test_a_program_that_dies_at_once_again_and_again_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "PAUSE_S", 0.0)
    log = tmp_path / "log"
    script = f"open({str(log)!r}, 'a').write('x'); import os; os.kill(os.getpid(), 9)"
    assert guard.Guard([*PYTHON, "-c", script]).run() == 1
    assert log.read_text() == "x" * guard.MAX_STARTS


def test_a_signal_to_the_guard_is_one_to_the_program_and_its_end(tmp_path: Path) -> None:
    script = "import time; print('up', flush=True); time.sleep(60)"
    command = [*PYTHON, str(GUARD), *PYTHON, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as guarded:
        assert guarded.stdout is not None
        assert guarded.stdout.readline() == "up\n"
        os.kill(guarded.pid, signal.SIGTERM)
        assert guarded.wait(timeout=60) == 1
        assert guarded.stdout.read() == ""  # the program is gone too: it closed its end


def test_a_signal_while_the_program_starts_ends_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    one = guard.Guard([*PYTHON, "-c", "import time; time.sleep(60)"])
    spawn = os.posix_spawn

    def interrupted(*arguments: Any) -> int:
        pid = spawn(*arguments)
        one.pass_on(signal.SIGTERM, None)
        return pid

    monkeypatch.setattr(os, "posix_spawn", interrupted)
    assert one.run() == 1
