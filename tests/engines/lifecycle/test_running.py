"""Which deployments a new supervisor may take over."""

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pdctl.engines import state
from pdctl.engines.launchers import local
from pdctl.engines.lifecycle import follow, running, supervisor_process
from pdctl.engines.lifecycle.follow import settling
from pdctl.engines.lifecycle.supervisor_process import MODULE, SupervisorProcess
from pdctl.engines.records import DeploymentState, Handle, ProcessState
from pdctl.errors import StateConflict
from pdctl.paths import HOME_VARIABLE
from tests.e2e.cli import free_port, until
from tests.engines.launchers.in_memory import InMemoryLauncher
from tests.engines.test_state import some_launch, some_state


@pytest.fixture(autouse=True)
def _home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))


def left_behind(*ports: int) -> None:
    """The files of a deployment whose supervisor was killed; its engines had these ports."""
    gone = Handle("1@1.0")
    engines = tuple(
        ProcessState(f"decode-{i}", "decode", f"http://127.0.0.1:{port}", "serving", gone, 1.0)
        for i, port in enumerate(ports)
    )
    state.make_state_dir("chat")
    state.write_launch(some_launch("chat"))
    state.write_state(replace(some_state("chat"), processes=engines))


def test_a_deployment_of_which_nothing_runs_is_not_taken_over() -> None:
    left_behind(free_port(), free_port())
    with pytest.raises(StateConflict, match="No deployment 'chat' is running"):
        running.resume("chat")


def test_where_an_engine_accepts_connections_no_node_is_asked_what_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(local, "marked")  # asking for it would fail
    with socket.create_server(("127.0.0.1", 0)) as engine:
        left_behind(engine.getsockname()[1])
        assert state.lock("chat") is not None  # so that no supervisor starts here
        with pytest.raises(StateConflict, match="already running"):
            running.resume("chat")


def engines_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """One process of each deployment is left, until it is stopped."""
    alive = ["pid 1"]
    launcher = InMemoryLauncher()
    monkeypatch.setattr(launcher, "living", lambda known: tuple(alive))
    monkeypatch.setattr(launcher, "reap", lambda known, grace_s: (alive.pop(),))
    monkeypatch.setattr(running, "launcher_of", lambda launch: launcher)


def test_what_runs_without_a_supervisor_is_never_said_not_to_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    left_behind()
    engines_run(monkeypatch)
    monkeypatch.setattr(follow, "LOST_AFTER_S", 0.0)
    with pytest.raises(StateConflict, match="lost its supervisor") as caught:
        list(settling("chat", revision=1, timeout_s=60.0))
    assert caught.value.hint.startswith("pdctl up --resume --name chat takes them over")
    (state.state_dir("chat") / "state.json").unlink()
    with pytest.raises(StateConflict, match="its state.json, which tells them apart, is gone"):
        running.resume("chat")


def test_what_has_yet_to_write_its_state_is_said_to_start() -> None:
    state.make_state_dir("chat")
    held = state.lock("chat")
    with pytest.raises(StateConflict, match="'chat' has only just begun to start"):
        running.find("chat")
    assert held is not None
    os.close(held)


def test_a_damaged_state_keeps_nobody_from_stopping_anything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    left_behind()
    (state.state_dir("chat") / "state.json").write_text("[]")
    engines_run(monkeypatch)
    assert running.names() == ("chat",)
    (seen,) = running.states()
    assert seen.phase == "degraded"
    assert "state.json is damaged" in seen.detail
    assert seen.detail.endswith("pdctl down chat stops it")
    assert running.stop("chat") == ("pid 1",)
    assert running.names() == ()


def test_a_name_that_nobody_gave_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(StateConflict, match="No deployment 'chat' is running"):
        running.stop("chat")
    assert list(tmp_path.iterdir()) == []


def test_a_deployment_that_begins_under_the_name_of_one_that_ended_keeps_its_files(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two commands stop one deployment; a third starts the next one before the second looks."""
    state.make_state_dir("chat")
    state.write_launch(some_launch("chat"))
    state.write_state(replace(some_state("chat"), run_id="abc"))
    held = state.lock("chat")
    assert held is not None
    asked: list[str] = []

    def ends_and_another_begins(found: DeploymentState, *, now: bool) -> None:
        asked.append(found.run_id)
        state.write_launch(replace(some_launch("chat"), run_id="next"))
        state.write_state(replace(some_state("chat"), run_id="next"))

    monkeypatch.setattr(supervisor_process, "is_current", lambda found: True)
    monkeypatch.setattr(supervisor_process, "ask_to_stop", ends_and_another_begins)
    assert running.stop("chat") == ()
    assert asked == ["abc"]
    following = state.read_launch("chat")
    assert following is not None
    assert following.run_id == "next"
    os.close(held)
    state.clear_ended("chat", "abc")
    assert state.read_launch("chat") == following, "its supervisor has yet to take the lock"
    state.clear_ended("chat", "next")
    assert state.read_launch("chat") is None


def test_a_supervisor_is_known_by_its_command_where_the_clock_was_set_meanwhile(
    tmp_path: Path,
) -> None:
    """Linux counts the start of a process from the boot, whose time moves with the clock."""
    package = tmp_path / "pdctl" / "engines"
    package.mkdir(parents=True)
    for folder in (package.parent, package):
        (folder / "__init__.py").touch()
    (package / "daemon.py").write_text("import time\ntime.sleep(60)\n")
    with subprocess.Popen([sys.executable, "-m", MODULE, "chat"], cwd=tmp_path) as one:
        found = replace(some_state("chat"), supervisor_pid=one.pid, supervisor_started_at=1.0)
        until(lambda: supervisor_process.is_current(found))
        assert not supervisor_process.is_current(replace(found, name="other"))
        one.kill()
    assert not supervisor_process.is_current(found), "it has ended"


def test_a_new_supervisor_is_followed_where_the_clock_was_set_back() -> None:
    child = subprocess.Popen(["sleep", "60"])
    first = SupervisorProcess(some_launch("chat"), child)
    resumed = SupervisorProcess(some_launch("chat"), child, replaces=7)
    state.make_state_dir("chat")
    found = replace(some_state("chat"), run_id="abc", updated_at=1.0, supervisor_pid=7)
    state.write_state(found)
    assert next(follow.follow_states(first)) == found
    assert next(follow.follow_states(resumed)) is None, "its predecessor wrote that"
    child.kill()
    child.wait()
