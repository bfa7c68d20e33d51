"""Processes on this machine. Each test ends what it starts."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pdctl.deployment.records import ProcessSpec
from pdctl.engines import on_local
from pdctl.engines.on_local import LocalLauncher, Running
from tests.engines.world import spec

PATIENCE_S = 10.0


class Tidy(LocalLauncher):
    """A launcher that remembers what it started, to end it after the test."""

    def __init__(self, run_id: str) -> None:
        super().__init__(run_id, cwd="/", death_signal=None)
        self.run_id = run_id
        self.started: list[Running] = []

    def start(self, spec: ProcessSpec) -> Running:
        self.started.append(super().start(spec))
        return self.started[-1]


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[Tidy]:
    tidy = Tidy(f"test-{os.getpid()}-{tmp_path.name}")
    yield tidy
    for running in tidy.started:
        tidy.kill(running)
        until(lambda running=running: not tidy.is_alive(running))  # type: ignore[misc]
    tidy.sweep()


def program(tmp_path: Path, *argv: str) -> ProcessSpec:
    return replace(spec("decode-0", "decode", 1), argv=argv, log=tmp_path / "decode-0.log")


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def test_a_process_runs_in_its_own_session_with_its_log(launcher: Tidy, tmp_path: Path) -> None:
    its = program(
        tmp_path, sys.executable, "-S", "-c", "import os; print(os.getsid(0), flush=True)"
    )
    running = launcher.start(its)
    until(lambda: not launcher.is_alive(running))
    lines = its.log.read_text().splitlines()
    assert running.exit_code == 0
    assert lines[0].startswith("# pdctl ")
    assert lines[1] == str(running.pid)
    assert its.log.stat().st_mode & 0o777 == 0o600


def test_a_program_that_is_not_there_says_so_in_its_log(launcher: Tidy, tmp_path: Path) -> None:
    its = program(tmp_path, "/nonexistent/sglang", "serve")
    running = launcher.start(its)
    until(lambda: not launcher.is_alive(running))
    assert running.exit_code == 127
    assert "cannot run /nonexistent/sglang: No such file or directory" in its.log.read_text()


def test_what_a_process_leaves_in_its_group_ends_with_it(launcher: Tidy, tmp_path: Path) -> None:
    script = "sleep 60 & echo $!; exit 3"
    its = program(tmp_path, "sh", "-c", script)
    running = launcher.start(its)
    until(lambda: not launcher.is_alive(running))
    child = int(its.log.read_text().splitlines()[1])
    assert running.exit_code == 3
    until(lambda: not on_local.is_same_process(child, 0.0, launcher.run_id))


def test_a_process_that_escaped_its_group_is_found_by_its_mark(
    launcher: Tidy, tmp_path: Path
) -> None:
    its = program(tmp_path, "sh", "-c", "setsid sleep 60 & echo $!; wait")
    running = launcher.start(its)
    until(lambda: len(its.log.read_text().splitlines()) == 2)
    escaped = int(its.log.read_text().splitlines()[1])
    until(lambda: os.getpgid(escaped) == escaped)
    launcher.kill(running)
    until(lambda: not launcher.is_alive(running))
    assert on_local.marked(launcher.run_id) == (escaped,)
    assert launcher.sweep() == (escaped,)
    assert on_local.marked(launcher.run_id) == ()


def test_a_stopped_process_ends_at_sigterm(launcher: Tidy, tmp_path: Path) -> None:
    running = launcher.start(program(tmp_path, "sleep", "60"))
    os.kill(running.pid, signal.SIGSTOP)
    launcher.terminate(running)
    until(lambda: not launcher.is_alive(running))
    assert running.exit_code == -signal.SIGTERM


def test_what_ignores_sigterm_does_not_survive_kill(launcher: Tidy, tmp_path: Path) -> None:
    its = program(tmp_path, "sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 60; done")
    running = launcher.start(its)
    until(lambda: len(its.log.read_text().splitlines()) == 2)
    launcher.terminate(running)
    assert launcher.is_alive(running)
    launcher.kill(running)
    until(lambda: not launcher.is_alive(running))
    assert running.exit_code == -signal.SIGKILL


def test_another_supervisor_adopts_only_the_process_it_was(launcher: Tidy, tmp_path: Path) -> None:
    running = launcher.start(program(tmp_path, "sleep", "60"))
    successor = LocalLauncher(launcher.run_id, cwd="/", death_signal=None)
    adopted = successor.adopt(running.pid, running.started_at)
    assert adopted is not None
    assert successor.is_alive(adopted)
    stranger = LocalLauncher("another run", cwd="/", death_signal=None)
    assert stranger.adopt(running.pid, running.started_at - 100) is None
    launcher.kill(running)
    until(lambda: not launcher.is_alive(running))
    assert not successor.is_alive(adopted)


def test_a_process_is_its_own_although_the_clock_was_set(launcher: Tidy, tmp_path: Path) -> None:
    running = launcher.start(program(tmp_path, "sleep", "60"))
    until(lambda: on_local.has_marker(running.pid, launcher.run_id))
    assert on_local.is_same_process(running.pid, running.started_at - 7200, launcher.run_id)
    assert not on_local.is_same_process(running.pid, running.started_at - 7200, "other")


def test_signals_to_a_process_that_is_gone_reach_nobody(launcher: Tidy) -> None:
    gone = Running(pid=2**22 + 1, started_at=0.0, log_offset=0)
    launcher.terminate(gone)
    launcher.kill(gone)
    assert not launcher.is_alive(gone)


def test_an_engine_dies_with_its_supervisor_when_tied_to_it(tmp_path: Path) -> None:
    supervisor = (
        "import sys, time; from pathlib import Path; from dataclasses import replace;"
        "from pdctl.engines.on_local import LocalLauncher; from tests.engines.world import spec;"
        "its = replace(spec('d', 'decode', 1), argv=('sleep', '60'), log=Path(sys.argv[1]));"
        "started = LocalLauncher('tied', cwd='/', death_signal=9).start(its);"
        "print(started.pid, flush=True); time.sleep(60)"
    )
    import subprocess

    parent = subprocess.Popen(
        [sys.executable, "-c", supervisor, str(tmp_path / "log")], stdout=subprocess.PIPE
    )
    assert parent.stdout is not None
    with parent.stdout:
        child = int(parent.stdout.readline())
    until(lambda: Path(f"/proc/{child}/cmdline").read_bytes().startswith(b"sleep"))
    parent.kill()
    parent.wait()
    until(lambda: not on_local.has_marker(child, "tied"))
