"""Processes on this machine. Each test ends what it starts."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from pdctl.deployment.records import ProcessSpec
from pdctl.engines.launchers import local
from pdctl.engines.launchers.gpu_memory import wait_for_gpu_memory
from pdctl.engines.launchers.local import MARKER, LocalLauncher, handle_of, has_marker, pid_of
from pdctl.engines.launchers.protocol import HERE, Exit, Started
from pdctl.engines.records import GpuUse, Handle
from pdctl.errors import EnvironmentProblem
from tests.e2e.cli import until
from tests.engines.launchers.in_memory import InMemoryLauncher
from tests.engines.world import fleet_specs, on_gpus, spec


class Driver(InMemoryLauncher):
    """Gives memory back after it was looked at a few times."""

    def __init__(self, looks: int) -> None:
        super().__init__()
        self.looks, self.asked = looks, 0

    def gpu_use(
        self, node: str, gpus: Sequence[int], *, is_strict: bool = False
    ) -> dict[int, GpuUse]:
        self.asked += 1
        return dict.fromkeys(gpus, GpuUse("70 GiB" if self.asked <= self.looks else ""))


def test_engines_on_gpus_are_waited_for_until_their_memory_is_back() -> None:
    driver = Driver(looks=2)
    wait_for_gpu_memory(driver, on_gpus(fleet_specs(1, 1)))
    assert driver.asked == 3


def test_memory_that_never_comes_back_is_not_waited_for_for_ever() -> None:
    driver = Driver(looks=10**9)
    wait_for_gpu_memory(driver, on_gpus(fleet_specs(1, 1)), wait_s=0.5)
    assert 2 <= driver.asked <= 4


def test_nobody_looks_at_the_gpus_of_simulated_engines() -> None:
    driver = Driver(looks=10**9)
    wait_for_gpu_memory(driver, fleet_specs(2, 2))
    assert driver.asked == 0


def test_a_driver_that_hangs_is_not_waited_for_for_ever() -> None:
    answers = threading.Event()

    class Hangs(InMemoryLauncher):
        def gpu_use(
            self, node: str, gpus: Sequence[int], *, is_strict: bool = False
        ) -> dict[int, GpuUse]:
            answers.wait(30)
            return {}

    began = time.monotonic()
    wait_for_gpu_memory(Hangs(), on_gpus(fleet_specs(1, 1)), wait_s=0.3)
    answers.set()
    assert time.monotonic() - began < 10


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
        killed = launcher.kill_others([handle_of(known.pid, None)], [HERE])
        assert f"pid {stranger.pid}" in killed
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


PATIENCE_S = 10.0


class Tidy(LocalLauncher):
    """A launcher that remembers what it started, to end it after the test."""

    def __init__(self, run_id: str) -> None:
        super().__init__(run_id, cwd="/", death_signal=None)
        self.run_id = run_id
        self.started: list[Started] = []

    def start(self, spec: ProcessSpec) -> Started:
        self.started.append(super().start(spec))
        return self.started[-1]


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[Tidy]:
    tidy = Tidy(f"test-{os.getpid()}-{tmp_path.name}")
    yield tidy
    for running in tidy.started:
        tidy.kill(running.handle)
        until(lambda running=running: tidy.poll(running.handle) is not None)  # type: ignore[misc]
    tidy.sweep()


def exit_of(launcher: LocalLauncher, running: Started) -> Exit:
    """How a process ended, once it has."""
    until(lambda: launcher.poll(running.handle) is not None)
    ended = launcher.poll(running.handle)
    assert ended is not None
    return ended


def pid(running: Started) -> int:
    found = pid_of(running.handle)
    assert found is not None
    return found


def program(tmp_path: Path, *argv: str) -> ProcessSpec:
    return replace(spec("decode-0", "decode", 1), argv=argv, log=tmp_path / "decode-0.log")


def test_a_process_runs_in_its_own_session_with_its_log(launcher: Tidy, tmp_path: Path) -> None:
    its = program(
        tmp_path, sys.executable, "-S", "-c", "import os; print(os.getsid(0), flush=True)"
    )
    running = launcher.start(its)
    ended = exit_of(launcher, running)
    lines = its.log.read_text().splitlines()
    assert ended.code == 0
    assert lines[0].startswith("# pdctl ")
    assert lines[1] == str(pid_of(running.handle))
    assert its.log.stat().st_mode & 0o777 == 0o600


def test_a_program_that_is_not_there_says_so_in_its_log(launcher: Tidy, tmp_path: Path) -> None:
    its = program(tmp_path, "/nonexistent/sglang", "serve")
    running = launcher.start(its)
    ended = exit_of(launcher, running)
    assert ended.code == 127
    assert "cannot run /nonexistent/sglang: No such file or directory" in its.log.read_text()


def test_what_a_process_leaves_in_its_group_ends_with_it(launcher: Tidy, tmp_path: Path) -> None:
    script = "sleep 60 & echo $!; exit 3"
    its = program(tmp_path, "sh", "-c", script)
    running = launcher.start(its)
    ended = exit_of(launcher, running)
    child = int(its.log.read_text().splitlines()[1])
    assert ended.code == 3
    until(lambda: not local.is_same_process(child, 0.0, launcher.run_id))


def test_a_process_that_escaped_its_group_is_found_by_its_mark(
    launcher: Tidy, tmp_path: Path
) -> None:
    its = program(tmp_path, "sh", "-c", "setsid sleep 60 & echo $!; wait")
    running = launcher.start(its)
    until(lambda: len(its.log.read_text().splitlines()) == 2)
    escaped = int(its.log.read_text().splitlines()[1])
    until(lambda: os.getpgid(escaped) == escaped)
    launcher.kill(running.handle)
    exit_of(launcher, running)
    assert local.marked(launcher.run_id) == (escaped,)
    assert launcher.sweep() == (f"pid {escaped}",)
    assert local.marked(launcher.run_id) == ()


def test_a_stopped_process_ends_at_sigterm(launcher: Tidy, tmp_path: Path) -> None:
    running = launcher.start(program(tmp_path, "sleep", "60"))
    os.kill(pid(running), signal.SIGSTOP)
    launcher.terminate(running.handle)
    ended = exit_of(launcher, running)
    assert ended.code == -signal.SIGTERM


def test_what_ignores_sigterm_does_not_survive_kill(launcher: Tidy, tmp_path: Path) -> None:
    its = program(tmp_path, "sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 60; done")
    running = launcher.start(its)
    until(lambda: len(its.log.read_text().splitlines()) == 2)
    launcher.terminate(running.handle)
    assert launcher.poll(running.handle) is None
    launcher.kill(running.handle)
    ended = exit_of(launcher, running)
    assert ended.code == -signal.SIGKILL


def test_another_supervisor_adopts_only_the_process_it_was(launcher: Tidy, tmp_path: Path) -> None:
    running = launcher.start(program(tmp_path, "sleep", "60"))
    successor = LocalLauncher(launcher.run_id, cwd="/", death_signal=None)
    (adopted,) = successor.adopt([running.handle])
    assert adopted is not None
    assert successor.poll(adopted.handle) is None
    stranger = LocalLauncher("another run", cwd="/", death_signal=None)
    assert stranger.adopt([handle_of(pid(running), running.started_at - 100)]) == (None,)
    launcher.kill(running.handle)
    exit_of(launcher, running)
    assert successor.poll(adopted.handle) == Exit()


def test_a_process_is_its_own_although_the_clock_was_set(launcher: Tidy, tmp_path: Path) -> None:
    running = launcher.start(program(tmp_path, "sleep", "60"))
    until(lambda: local.has_marker(pid(running), launcher.run_id))
    assert local.is_same_process(pid(running), running.started_at - 7200, launcher.run_id)
    assert not local.is_same_process(pid(running), running.started_at - 7200, "other")


def test_signals_to_a_process_that_is_gone_reach_nobody(launcher: Tidy) -> None:
    for gone in (handle_of(2**22 + 1, 0.0), Handle("unreadable"), Handle("-1@0")):
        launcher.terminate(gone)
        launcher.kill(gone)
        assert launcher.poll(gone) == Exit()
        assert launcher.adopt([gone]) == (None,)


def test_an_engine_dies_with_its_supervisor_when_tied_to_it(tmp_path: Path) -> None:
    supervisor = (
        "import sys, time; from pathlib import Path; from dataclasses import replace;"
        "from pdctl.engines.launchers.local import LocalLauncher;"
        "from tests.engines.world import spec;"
        "its = replace(spec('d', 'decode', 1), argv=('sleep', '60'), log=Path(sys.argv[1]));"
        "started = LocalLauncher('tied', cwd='/', death_signal=9).start(its);"
        "print(started.handle.split('@')[0], flush=True); time.sleep(60)"
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
    until(lambda: not local.has_marker(child, "tied"))


def test_a_claimed_port_is_free_for_its_server_and_for_no_other_command() -> None:
    launcher = LocalLauncher("claims", cwd="/", death_signal=None)
    port = launcher.any_free_port(HERE)
    with launcher.hold_ports(HERE, (), unshared=(port,)):
        assert not launcher.is_port_free(HERE, port), "also not for a router, whose port is chosen"
        assert not launcher.is_port_free(HERE, port, is_strict=True)
        with socket.socket() as server:
            server.bind(("127.0.0.1", port))
            server.listen()
    assert launcher.is_port_free(HERE, port, is_strict=True)


def test_a_supervisor_claims_the_ports_of_its_processes_and_gives_up_those_of_others() -> None:
    supervisor, other = (LocalLauncher(name, cwd="/", death_signal=None) for name in "ab")
    router, engine = (
        replace(spec(name, name, 1), port=other.any_free_port(HERE))
        for name in ("router", "decode")
    )
    with other.hold_ports(HERE, (), unshared=(engine.port,)):  # the command that starts it
        supervisor.claim_ports((router, engine))
        assert not other.is_port_free(HERE, router.port)
    supervisor.claim_ports((router, engine))
    assert not other.is_port_free(HERE, engine.port), "nobody listens: it waits for its restart"
    supervisor.claim_ports((router,))
    assert other.is_port_free(HERE, engine.port)
    assert not other.is_port_free(HERE, router.port)
    with (
        pytest.raises(EnvironmentProblem, match=f"took port {router.port} a moment ago"),
        other.hold_ports(HERE, (engine.port, router.port)),
    ):
        pass
    assert other.is_port_free(HERE, engine.port), "nothing is held of a start that fails"
    supervisor.claim_ports(())
    assert other.is_port_free(HERE, router.port)


def test_claims_raise_a_low_limit_on_open_files() -> None:
    code = """if True:
        import resource
        from pdctl.engines.launchers.local_ports import LocalPorts, is_claimed
        resource.setrlimit(resource.RLIMIT_NOFILE, (40, 4000))
        ports = range(1, 400)
        with LocalPorts().hold_ports("", (), unshared=ports):
            assert all(map(is_claimed, ports))
        """
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_door_opens_while_it_listens_and_leaves_the_port_to_any_server() -> None:
    launcher = LocalLauncher("", cwd="/", death_signal=None)
    port = launcher.any_free_port(HERE)
    door = ("127.0.0.1", port)
    with launcher.listening(HERE, "127.0.0.1", (port,)):
        assert launcher.unreached(HERE, (door, ("127.0.0.1", 1))) == (("127.0.0.1", 1),)
        with (
            pytest.raises(EnvironmentProblem, match="nothing can listen on"),
            launcher.listening(HERE, "127.0.0.1", (port,)),
        ):
            pass
    assert launcher.unreached(HERE, (door,)) == (door,)
    with socket.socket() as server:  # without SO_REUSEADDR, as torch's store
        server.bind(door)
