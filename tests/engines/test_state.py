"""The state directory: private, atomic, and safe against names and links."""

import errno
import fcntl
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pdctl.deployment.records import Container
from pdctl.engines import state
from pdctl.engines.launchers.local import pid_of
from pdctl.engines.records import DeploymentState, Event, Handle, Launch, ProcessState
from pdctl.errors import EnvironmentProblem, InvalidInput, StateConflict
from pdctl.paths import HOME_VARIABLE
from tests.engines.world import fleet_specs

ONE = Event(1.5, "start", "router", "pid 1")
TWO = Event(2.5, "crash", "decode-0", "exit code -9")


def test_events_are_read_back_in_order_without_torn_lines(tmp_path: Path) -> None:
    state.append(tmp_path, [ONE])
    with (tmp_path / state.FILE).open("a") as file:
        file.write('{"at": 3, "event"\n')
    state.append(tmp_path, [TWO])
    assert state.read(tmp_path) == (ONE, TWO)


@pytest.mark.parametrize(
    "line",
    [
        '{"at": "x", "event": "e", "process": "", "text": ""}',
        '{"at": 1e999, "event": "e", "process": "", "text": ""}',
        '{"at": 1.0, "event": 5, "process": "", "text": ""}',
        '{"at": 1.0, "event": "e", "process": null, "text": ""}',
        "[1]",
    ],
)
def test_a_line_that_is_no_event_is_skipped(line: str) -> None:
    assert state.parse(line) is None


def test_no_log_has_no_events(tmp_path: Path) -> None:
    assert state.read(tmp_path) == ()


def test_where_nothing_can_be_written_events_are_lost_and_nothing_else(tmp_path: Path) -> None:
    state.append(tmp_path / "missing", [ONE])
    assert not (tmp_path / "missing").exists()


PROCESS = ProcessState(
    name="prefill-0",
    role="prefill",
    url="http://127.0.0.1:20000",
    phase="serving",
    handle=Handle("12@1.5"),
    started_at=1.5,
    gpus=(0, 1),
)


def some_state(name: str = "chat") -> DeploymentState:
    return DeploymentState(
        name=name,
        phase="serving",
        detail="",
        boot_id=state.boot_id(),
        supervisor_pid=1,
        supervisor_started_at=1.0,
        updated_at=2.0,
        detached=True,
        endpoint="http://127.0.0.1:30000",
        layout="1P1D",
        model="m",
        processes=(PROCESS,),
    )


def some_launch(name: str = "chat") -> Launch:
    return Launch(
        run_id="abc",
        boot_id=state.boot_id(),
        name=name,
        layout="1P1D",
        model="m",
        endpoint="http://127.0.0.1:30000",
        detached=True,
        cwd="/",
        launched_at=1.0,
        ready_timeout_s=60.0,
        specs=fleet_specs(1, 1),
    )


@pytest.mark.parametrize(
    "name", ["../x", "..", "/etc", "", ".hidden", "a/b", "a..b", "x" * 65, "a b", "-a", "a\n"]
)
def test_a_name_that_could_leave_the_directory_is_refused(name: str, home: Path) -> None:
    with pytest.raises(InvalidInput):
        state.state_dir(name)
    assert not home.exists()


def test_what_is_written_is_read_back(home: Path) -> None:
    state.make_state_dir("chat")
    state.write_state(some_state())
    state.write_launch(some_launch())
    assert state.read_state("chat") == some_state()
    assert state.read_launch("chat") == some_launch()
    assert state.list_names() == ("chat",)


def test_the_container_of_a_process_is_read_back(home: Path) -> None:
    container = Container("docker", "sglang:1", mounts=("/a:/a:ro",), gpus=False)
    inside = replace(some_launch(), specs=(replace(fleet_specs(0, 1)[1], container=container),))
    state.make_state_dir("chat")
    state.write_launch(inside)
    assert state.read_launch("chat") == inside


def test_what_a_later_version_adds_is_left_out(home: Path) -> None:
    directory = state.make_state_dir("chat")
    state.write_state(some_state())
    state.write_launch(some_launch())
    for file in ("state.json", "launch.json"):
        text = (directory / file).read_text().replace('"name"', '"added_later": 1, "name"')
        (directory / file).write_text(text)
    assert state.read_state("chat") == some_state()
    assert state.read_launch("chat") == some_launch()


def test_state_is_for_its_user_alone(home: Path) -> None:
    directory = state.make_state_dir("chat")
    state.write_state(some_state())
    held = state.lock("chat")
    assert held is not None
    os.close(held)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}
    assert modes == {"logs": 0o700, "state.json": 0o600, "lock": 0o600}
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_nothing_there_is_none_and_not_an_error(home: Path) -> None:
    assert state.read_state("chat") is None
    assert state.read_launch("chat") is None
    assert state.list_names() == ()
    assert not state.is_supervised("chat")


def test_the_state_of_a_machine_that_rebooted_is_cleared(home: Path) -> None:
    directory = state.make_state_dir("chat")
    state.write_launch(replace(some_launch(), boot_id="another"))
    state.write_state(replace(some_state(), boot_id="another"))
    assert state.read_launch("chat") is None
    assert state.read_state("chat") is None
    assert not (directory / "state.json").exists()
    assert state.list_names() == ()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"name": "chat"}', '{"processes": 3}', "null"])
def test_a_state_file_that_is_no_state_is_said_so(text: str, home: Path) -> None:
    (state.make_state_dir("chat") / "state.json").write_text(text)
    with pytest.raises(StateConflict, match="is damaged"):
        state.read_state("chat")


def test_a_directory_that_is_a_link_is_refused(home: Path, tmp_path: Path) -> None:
    home.mkdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (home / "chat").symlink_to(elsewhere)
    with pytest.raises(EnvironmentProblem, match="symbolic link"):
        state.make_state_dir("chat")
    assert list(elsewhere.iterdir()) == []


def test_a_lock_that_is_a_link_is_refused(home: Path, tmp_path: Path) -> None:
    directory = state.make_state_dir("chat")
    (directory / "lock").symlink_to(tmp_path / "target")
    with pytest.raises(EnvironmentProblem):
        state.lock("chat")
    assert not (tmp_path / "target").exists()


def test_a_home_that_cannot_be_written_is_a_problem_of_this_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(HOME_VARIABLE, "/proc/nowhere")
    with pytest.raises(EnvironmentProblem) as problem:
        state.make_state_dir("chat")
    assert problem.value.code == "state_dir_unwritable"


def test_a_home_that_cannot_be_read_is_a_problem_of_this_machine(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> Iterator[Path]:
        raise PermissionError(errno.EACCES, "Permission denied")

    home.mkdir(exist_ok=True)
    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(EnvironmentProblem, match="cannot be used: Permission denied"):
        state.list_names()


def test_a_full_disk_asks_for_space_and_not_for_another_folder(home: Path) -> None:
    problem = state.unwritable(home, OSError(errno.ENOSPC, "No space left on device"))
    assert problem.hint == "free space on its disk, then repeat the command"


def test_a_write_that_fails_leaves_the_old_state_and_no_rest(home: Path) -> None:
    directory = state.make_state_dir("chat")
    (directory / "state.json").mkdir()
    with pytest.raises(EnvironmentProblem):
        state.write_state(some_state())
    assert sorted(path.name for path in directory.iterdir()) == ["logs", "state.json"]


def test_two_commands_may_ask_at_once_whether_a_supervisor_runs(home: Path) -> None:
    directory = state.make_state_dir("chat")
    with (directory / "lock").open("w") as asking:
        fcntl.flock(asking, fcntl.LOCK_SH)  # as `is_supervised` has it for an instant
        assert not state.is_supervised("chat")
    held = state.lock("chat")
    assert held is not None
    assert state.is_supervised("chat")
    os.close(held)


def test_the_lock_is_held_once_and_free_again_when_closed(home: Path) -> None:
    state.make_state_dir("chat")
    held = state.lock("chat")
    assert held is not None
    assert state.lock("chat") is None
    assert state.is_supervised("chat")
    os.close(held)
    assert not state.is_supervised("chat")


def test_a_state_through_a_link_is_neither_read_nor_listed(home: Path, tmp_path: Path) -> None:
    state.make_state_dir("chat")
    state.write_state(some_state())
    (home / "chat").rename(tmp_path / "elsewhere")
    (home / "chat").symlink_to(tmp_path / "elsewhere")
    assert state.list_names() == ()
    with pytest.raises(EnvironmentProblem, match="symbolic link"):
        state.read_state("chat")


def test_state_of_another_user_is_neither_read_nor_listed(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state.make_state_dir("chat")
    state.write_state(some_state())
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert state.list_names() == ()
    with pytest.raises(EnvironmentProblem, match="belongs to another user") as refused:
        state.read_state("chat")
    assert refused.value.hint == "PDCTL_STATE_HOME=DIR to keep state elsewhere"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives a folder to another user")
def test_only_an_own_folder_is_to_be_closed_to_others(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.mkdir()
    home.chmod(0o777)
    hints = []
    for user in (os.geteuid(), 12345):
        monkeypatch.setattr(os, "geteuid", lambda user=user: user)
        os.chown(home, 54321 if user == 12345 else -1, -1)
        with pytest.raises(EnvironmentProblem) as refused:
            state.make_state_dir("chat")
        hints.append("chmod" in (refused.value.hint or ""))
    assert hints == [True, False]


def test_a_folder_where_everybody_can_rename_is_refused(home: Path) -> None:
    home.mkdir()
    home.chmod(0o777)
    with pytest.raises(EnvironmentProblem, match="writable for everybody"):
        state.make_state_dir("chat")
    home.chmod(0o1777)  # as /tmp is: nobody can rename what is another's
    assert state.make_state_dir("chat").is_dir()


def test_a_state_of_an_older_pdctl_names_its_processes_by_pid(home: Path) -> None:
    state.make_state_dir("chat")
    state.write_state(some_state())
    path = state.state_dir("chat") / "state.json"
    old = json.loads(path.read_text())
    for process in old["processes"]:
        pid = pid_of(process.pop("handle"))
        process |= {"pid": pid}
        del process["node"]
    path.write_text(json.dumps(old))
    assert state.read_state("chat") == some_state()
