"""Hosts made of namespaces: each has its own network, process numbers, name and boot id.

They share this machine's files, as the hosts of a cluster share a file system. A host lives as
long as its keeper, the first process of its namespaces: ending the keeper ends everything on the
host and removes its network. Nothing is created in the namespaces of the test itself.
"""

import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

# ignored SIGCHLD: the kernel reaps what the host's processes leave behind
_KEEPER = """
import os, signal, socket, subprocess, sys
name, boot_id, hosts = sys.argv[1:]
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
socket.sethostname(name)
mount = ("mount", "--bind")
subprocess.call((*mount, boot_id, "/proc/sys/kernel/random/boot_id"))
subprocess.call((*mount, hosts, "/etc/hosts"))
subprocess.call(("ip", "link", "set", "lo", "up"))
print("ready", flush=True)
while True:
    signal.pause()
"""
# what it starts ends with the test's process, however that ends
TIED = ("setpriv", "--pdeathsig", "KILL")
_UNSHARE = ("unshare", "--fork", "--kill-child", "--pid", "--mount", "--uts", "--net", "--ipc")


@dataclass(frozen=True)
class Host:
    """One host. keeper: the number, outside, of the first process inside."""

    name: str
    address: str
    keeper: int
    started: "list[subprocess.Popen[bytes]]" = field(default_factory=list)

    def command(self, argv: Sequence[str], cwd: Path | None = None) -> tuple[str, ...]:
        """A command line that runs `argv` on this host, in / unless a directory is named."""
        where = ("--target", str(self.keeper), f"--wd={cwd or '/'}")
        return ("nsenter", *where, "-m", "-u", "-i", "-n", "-p", *argv)

    def run(
        self,
        *argv: str,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        timeout_s: float = 60.0,
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command there to its end."""
        return subprocess.run(
            self.command(argv, cwd),
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def spawn(
        self,
        *argv: str,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> "subprocess.Popen[bytes]":
        """Start a command there whose output goes to a file."""
        with log.open("ab") as out:
            process = subprocess.Popen(
                self.command(argv, cwd),
                env={**os.environ, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self.started.append(process)
        return process

    def unplug(self) -> None:
        """Cut the host off the network; its processes keep running."""
        self.run("ip", "link", "set", "eth0", "down")

    def plug(self) -> None:
        """Connect it again."""
        self.run("ip", "link", "set", "eth0", "up")

    def power_off(self) -> None:
        """End everything on the host at once."""
        with suppress(ProcessLookupError):
            os.kill(self.keeper, signal.SIGKILL)


def missing() -> str:
    """Why there can be no such hosts here; "" if there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    absent = [
        tool
        for tool in ("unshare", "nsenter", "setpriv", "ip", "mount")
        if shutil.which(tool) is None
    ]
    if absent:
        return f"{', '.join(absent)} not installed"
    tried = subprocess.run([*_UNSHARE, "true"], capture_output=True, text=True, check=False)
    return f"no namespaces here: {tried.stderr.strip()}" if tried.returncode else ""


@contextmanager
def network(names: Sequence[str], directory: Path) -> Iterator[dict[str, Host]]:
    """Hosts by name, on one network 10.77.0.0/24; ended with everything on them afterwards."""
    addresses = {name: f"10.77.0.{10 + i}" for i, name in enumerate(names)}
    table = directory / "hosts"
    lines = (f"{address} {name}\n" for name, address in addresses.items())
    table.write_text("127.0.0.1 localhost\n" + "".join(lines))
    with ExitStack() as stack:
        switch = stack.enter_context(_keeper("switch", table, directory))
        _in_network(switch, "ip", "link", "add", "bridge", "type", "bridge")
        _in_network(switch, "ip", "link", "set", "bridge", "up")
        hosts = {}
        for i, (name, address) in enumerate(addresses.items()):
            keeper = stack.enter_context(_keeper(name, table, directory))
            _plug_in(switch, keeper, f"port{i}", address)
            hosts[name] = Host(name, address, keeper)
            stack.callback(_reap, hosts[name])
        yield hosts


def _reap(host: Host) -> None:
    """End a host and wait for what was started there from outside."""
    host.power_off()
    for process in host.started:
        process.wait()


@contextmanager
def _keeper(name: str, hosts: Path, directory: Path) -> Iterator[int]:
    boot_id = directory / f"{name}.boot_id"
    boot_id.write_text(f"{uuid.uuid4()}\n")
    init = (sys.executable, "-I", "-S", "-c", _KEEPER, name, str(boot_id), str(hosts))
    with subprocess.Popen(
        [*TIED, *_UNSHARE, "--mount-proc", *init],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # unshare complains when its host is ended
        start_new_session=True,
        text=True,
    ) as outer:
        try:
            assert outer.stdout is not None
            assert outer.stdout.readline() == "ready\n", f"host {name} did not start"
            yield _only_child(outer.pid)
        finally:
            outer.kill()  # --kill-child takes the host with it


def _only_child(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    assert len(children) == 1
    return int(children[0])


def _plug_in(switch: int, keeper: int, port: str, address: str) -> None:
    peer = ("peer", "name", "eth0", "netns", str(keeper))
    _in_network(switch, "ip", "link", "add", port, "type", "veth", *peer)
    _in_network(switch, "ip", "link", "set", port, "master", "bridge")
    _in_network(switch, "ip", "link", "set", port, "up")
    _in_network(keeper, "ip", "addr", "add", f"{address}/24", "dev", "eth0")
    _in_network(keeper, "ip", "link", "set", "eth0", "up")


def _in_network(keeper: int, *argv: str) -> None:
    # links name other hosts' namespaces by process number, so only the network is entered
    subprocess.run(("nsenter", "--target", str(keeper), "-n", *argv), check=True)
