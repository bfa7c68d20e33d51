"""Run pdctl as a user does, in a state home of the test's own."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

PATIENCE_S = 60.0


@dataclass(frozen=True)
class Cli:
    """pdctl with its state under `home`."""

    home: Path
    cwd: Path

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "PDCTL_STATE_HOME": str(self.home), "NO_COLOR": "1"}

    def run(self, *args: str, patience_s: float = PATIENCE_S) -> "subprocess.CompletedProcess[str]":
        """One command, to its end."""
        return subprocess.run(
            [sys.executable, "-m", "pdctl", *args],
            cwd=self.cwd,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=patience_s,
            check=False,
        )

    @contextmanager
    def running(self, *args: str) -> Iterator["subprocess.Popen[str]"]:
        """A command that stays; killed at the end of the block if it is still there."""
        process = subprocess.Popen(
            [sys.executable, "-m", "pdctl", *args],
            cwd=self.cwd,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with process:
            try:
                yield process
            finally:
                process.kill()

    def state(self, name: str) -> dict[str, Any]:
        """What state.json says; {} while there is none."""
        try:
            text = (self.home / name / "state.json").read_text()
        except FileNotFoundError:
            return {}
        found = json.loads(text)
        assert isinstance(found, dict)
        return found

    def until_serving(self, name: str) -> dict[str, Any]:
        """The state once everything serves."""
        until(lambda: self.state(name).get("phase") == "serving")
        return self.state(name)


def until(condition: Callable[[], bool]) -> None:
    """Wait, patiently but not for ever."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def free_port(least: int = 0) -> int:
    """A port from `least` on that nothing listens on, below those Linux hands out by itself.

    Tests that run side by side never get the same one, even before they listen on it.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = max(least, 28000 + os.getpid() % 400)
    for port in range(first + (worker - first) % workers, 28900, workers):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    raise AssertionError("no free port")


def ports_of(state: dict[str, Any]) -> list[int]:
    """Every port that a deployment listens on."""
    keys = ("bootstrap_port", "metrics_port")
    extra = [p[key] for p in state["processes"] for key in keys if p[key]]
    return [int(p["url"].rpartition(":")[2]) for p in state["processes"]] + extra


def is_listening(port: int) -> bool:
    """Whether anybody accepts connections there."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def processes_of(run_id: str) -> list[int]:
    """The processes that carry the mark of a run."""
    from pdctl.engines.launchers.local import marked

    return list(marked(run_id))


def process_pid(state: Any, name: str) -> int:
    """The number of a process of this machine, from state.json."""
    from pdctl.engines.launchers.local import pid_of

    handle = next(p["handle"] for p in state["processes"] if p["name"] == name)
    found = pid_of(handle)
    assert found is not None, f"{name} does not run"
    return found


def kill(pid: int) -> None:
    """End one process at once."""
    os.kill(pid, signal.SIGKILL)


def kill_for_good(supervisor_pid: int) -> None:
    """End a detached supervisor and the guard that would start it again."""
    kill(psutil.Process(supervisor_pid).ppid())
    kill(supervisor_pid)
