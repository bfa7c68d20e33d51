"""What an earlier supervisor started and told nobody of."""

import subprocess
import sys
import time
from pathlib import Path

from pdctl.engines.on_local import MARKER, LocalLauncher, has_marker
from tests.e2e.cli import until


def start(run_id: str) -> "subprocess.Popen[bytes]":
    """A process of a run, with a child, in a session of its own."""
    child = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; "
    argv = [sys.executable, "-c", child + "time.sleep(60)']); time.sleep(60)"]
    made = subprocess.Popen(argv, env={MARKER: run_id}, start_new_session=True)
    until(lambda: has_marker(made.pid, run_id))
    return made


def test_strangers_of_the_run_are_killed_and_known_ones_with_their_children_are_not() -> None:
    run_id = f"test-{time.time_ns()}"
    known, stranger, other = start(run_id), start(run_id), start(run_id + "x")
    launcher = LocalLauncher(run_id, cwd="/", death_signal=None)
    try:
        assert len(children_of(known.pid)) == 1
        killed = launcher.kill_others({known.pid})
        assert stranger.pid in killed
        assert stranger.wait(10) == -9
        assert known.poll() is None
        assert other.poll() is None
        assert len(children_of(known.pid)) == 1
    finally:
        for one in (known, stranger, other):
            for pid in (one.pid, *children_of(one.pid)):
                subprocess.run(["kill", "-9", str(pid)], capture_output=True)
            one.wait()
        launcher.sweep()


def children_of(pid: int) -> list[int]:
    """Once it has any."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    if not path.exists():
        return []
    until(lambda: not path.exists() or bool(path.read_text().split()))
    return [int(child) for child in path.read_text().split()] if path.exists() else []
