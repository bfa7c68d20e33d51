"""What may happen to a running deployment, one function each; all return in a second or two."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from pdctl.engines import state
from pdctl.engines.launchers.local import pid_of
from pdctl.engines.records import DeploymentState, ProcessState
from pdctl.errors import PdctlError
from pdctl.paths import state_home


class Scene:
    """One deployment and the dice; told: what has been done to it, in words."""

    def __init__(self, name: str, dice: random.Random, *, full_disk: bool) -> None:
        self.name = name
        self.dice = dice
        self.may_fill_disk = full_disk
        self.told: list[str] = []
        self.stopped: list[int] = []  # pids that are held by SIGSTOP

    def look(self) -> DeploymentState | None:
        """The state; None while there is none to read."""
        with suppress(PdctlError):
            return state.read_state(self.name)
        return None

    def processes(self, *roles: str) -> list[ProcessState]:
        """Those that run, of these roles or of all."""
        found = self.look()
        alive = [p for p in found.processes if p.handle] if found else []
        return [p for p in alive if not roles or p.role in roles]

    def tell(self, what: str) -> None:
        self.told.append(what)


def kill_engine(scene: Scene) -> None:
    engines = scene.processes("prefill", "decode")
    if engines:
        victim = scene.dice.choice(engines)
        scene.tell(f"kill {victim.name}")
        send(pid_of(victim.handle), signal.SIGKILL)


def kill_router(scene: Scene) -> None:
    for router in scene.processes("router"):
        scene.tell("kill router")
        send(pid_of(router.handle), signal.SIGKILL)


def kill_supervisor(scene: Scene) -> None:
    found = scene.look()
    if found is not None:
        scene.tell("kill supervisor")
        send(found.supervisor_pid, signal.SIGKILL)


def kill_for_good(scene: Scene) -> None:
    """The supervisor and the guard that would start it again; perhaps a person resumes it."""
    found = scene.look()
    guard = guard_of(found.supervisor_pid) if found is not None else None
    if found is None or guard is None:
        return
    send(guard, signal.SIGKILL)
    send(found.supervisor_pid, signal.SIGKILL)
    is_resumed = scene.dice.random() < 0.6
    scene.tell(f"kill supervisor and guard{', resume' if is_resumed else ''}")
    time.sleep(scene.dice.uniform(0.0, 0.5))
    if is_resumed:
        pdctl("up", "--resume", "--name", scene.name).wait(60)


def pause(scene: Scene) -> None:
    """SIGSTOP for a moment: an engine, the router or the supervisor."""
    found = scene.look()
    if found is None:
        return
    pids = {p.name: pid_of(p.handle) for p in scene.processes()} | {
        "supervisor": found.supervisor_pid
    }
    name = scene.dice.choice(sorted(pids))
    scene.tell(f"pause {name}")
    send(pids[name], signal.SIGSTOP)
    time.sleep(scene.dice.uniform(0.1, 1.0))
    send(pids[name], signal.SIGCONT)


def freeze(scene: Scene) -> None:
    """SIGSTOP an engine for good."""
    engines = scene.processes("prefill", "decode")
    if engines:
        victim = scene.dice.choice(engines)
        scene.tell(f"freeze {victim.name}")
        send(pid_of(victim.handle), signal.SIGSTOP)
        scene.stopped.append(pid_of(victim.handle) or 0)


def steal_port(scene: Scene) -> None:
    """Kill a process and listen on its port before it comes back, for a while."""
    victims = scene.processes()
    if not victims:
        return
    victim = scene.dice.choice(victims)
    scene.tell(f"steal the port of {victim.name}")
    port = int(victim.url.rpartition(":")[2])
    send(pid_of(victim.handle), signal.SIGKILL)
    deadline = time.monotonic() + 1.0
    while time.monotonic() < deadline:
        with socket.socket() as thief:
            thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                thief.bind(("127.0.0.1", port))
                thief.listen()
            except OSError:
                time.sleep(0.01)
                continue
            time.sleep(scene.dice.uniform(0.5, 1.5))
            return


def fill_disk(scene: Scene) -> None:
    """No byte is left on the state directory's file system, for a while."""
    if not scene.may_fill_disk:
        return
    scene.tell("fill the disk")
    filler = state_home() / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(b"\0" * 4096)
    if scene.dice.random() < 0.5:
        kill_engine(scene)
    time.sleep(scene.dice.uniform(0.3, 1.0))
    filler.unlink(missing_ok=True)


def two_commands(scene: Scene) -> None:
    """Two commands at the same moment, one of them perhaps killed."""
    words = [a_command(scene.dice, scene.name) for _ in range(2)]
    scene.tell(f"at once: {' '.join(words[0])} | {' '.join(words[1])}")
    both = [pdctl(*one) for one in words]
    if scene.dice.random() < 0.3:
        time.sleep(scene.dice.uniform(0.1, 0.6))
        both[0].kill()
    for one in both:
        one.communicate(timeout=60)
        assert one.returncode in (0, 2, 5, 6, 7, -9), f"exit code {one.returncode}"


def a_command(dice: random.Random, name: str) -> tuple[str, ...]:
    prefill, decode = dice.choice([(1, 1), (1, 2), (2, 1), (2, 2)])
    sizes = ("--prefill", str(prefill), "--decode", str(decode))
    scale = ("scale", name, *sizes, "--no-wait")
    others: list[tuple[str, ...]] = [("ls",), ("status", name, "--once"), ("logs", "--name", name)]
    return scale if dice.random() < 0.7 else dice.choice(others)


def pdctl(*args: str) -> "subprocess.Popen[bytes]":
    """A command of its own, silent."""
    return subprocess.Popen(
        [sys.executable, "-m", "pdctl", *args],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def send(pid: int | None, number: int) -> None:
    """A signal, if there is still somebody to get it."""
    with suppress(ProcessLookupError):
        if pid:
            os.kill(pid, number)


def guard_of(supervisor_pid: int) -> int | None:
    """The process that would start a killed supervisor again."""
    with suppress(psutil.Error):
        parent = psutil.Process(supervisor_pid).parent()
        if parent is not None and "guard.py" in " ".join(parent.cmdline()):
            return int(parent.pid)
    return None


ACTS: tuple[Callable[[Scene], None], ...] = (
    kill_engine,
    kill_engine,
    kill_router,
    kill_supervisor,
    kill_for_good,
    pause,
    steal_port,
    fill_disk,
    two_commands,
)


def listening_ports() -> set[int]:
    """Every TCP port that somebody listens on in this network."""
    ports = set()
    for file in ("tcp", "tcp6"):
        for line in Path(f"/proc/thread-self/net/{file}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                ports.add(int(fields[1].rpartition(":")[2], 16))
    return ports
