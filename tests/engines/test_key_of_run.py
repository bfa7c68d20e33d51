"""A deployment's own key, from the environment of its processes."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pdctl.engines import state
from pdctl.engines.api_key import VARIABLE
from pdctl.engines.key_of_run import MARKER, use_key_of
from pdctl.engines.on_local import MARKER as LAUNCHED_WITH
from pdctl.engines.records import FleetState, ProcessState

KEY = "correct-horse-battery"


@pytest.fixture
def pid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A process with a key, of the run abc."""
    monkeypatch.setenv(state.HOME_VARIABLE, str(tmp_path / "home"))
    monkeypatch.setenv(VARIABLE, "")
    env = {VARIABLE: KEY, MARKER: "abc"}
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], env=env)
    while b"python" not in Path(f"/proc/{child.pid}/cmdline").read_bytes():
        time.sleep(0.01)
    yield child.pid
    child.kill()
    child.wait()


def _write(pid: int, run_id: str) -> None:
    state.make_state_dir("chat")
    engine = ProcessState("prefill-0", "prefill", "http://127.0.0.1:1", "serving", pid, 1.0)
    state.write_state(
        FleetState(
            name="chat",
            phase="serving",
            detail="",
            boot_id=state.boot_id(),
            supervisor_pid=1,
            supervisor_started_at=1.0,
            updated_at=2.0,
            detached=True,
            endpoint="http://127.0.0.1:2",
            layout="1P1D",
            model="m",
            processes=(engine,),
            run_id=run_id,
        )
    )


def test_the_key_its_engines_were_started_with_is_taken(pid: int) -> None:
    _write(pid, "abc")
    use_key_of("chat")
    assert os.environ[VARIABLE] == KEY


def test_a_key_that_is_set_stays(pid: int, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(pid, "abc")
    monkeypatch.setenv(VARIABLE, "my-own-key")
    use_key_of("chat")
    assert os.environ[VARIABLE] == "my-own-key"


def test_a_process_of_another_run_is_not_asked(pid: int) -> None:
    _write(pid, "other")
    use_key_of("chat")
    assert os.environ[VARIABLE] == ""


def test_a_deployment_that_does_not_run_has_none(pid: int) -> None:
    use_key_of("chat")
    assert os.environ[VARIABLE] == ""


def test_the_marker_is_the_launchers() -> None:
    assert MARKER == LAUNCHED_WITH
