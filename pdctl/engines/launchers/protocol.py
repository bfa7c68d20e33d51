"""The door to the machines that run a deployment: all that pdctl asks of any place to run.

A node is a machine by the name its launcher gives it; HERE is the one that runs this code. A handle
names one process; only its launcher understands it, and state.json keeps it.
Paths are paths on the node. Whoever writes another launcher implements `Launcher` and
adds it to `registry.LAUNCHERS`; supervision, lifecycle and flags stay as they are.
"""

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pdctl.deployment.records import HERE, Container, ProcessSpec
from pdctl.engines.clients.protocol import Http
from pdctl.engines.records import GpuUse, Handle
from pdctl.inspection.model_contents import Contents
from pdctl.inspection.records import Gpu, RdmaPort, SglangInstall

__all__ = ["HERE", "Copied", "Door", "Exit", "Handle", "Launcher", "Started"]

Door = tuple[str, int]  # an address and a port that listens there


@dataclass(frozen=True)
class Started:
    """A process that was started or adopted.

    label: its name for people; log_offset: the byte where its part of the log begins.
    """

    handle: Handle
    label: str
    started_at: float  # Unix seconds
    log_offset: int = 0


@dataclass(frozen=True)
class Exit:
    """The end of a process. code: negative for a signal; None if unknown."""

    code: int | None = None


@dataclass(frozen=True)
class Copied:
    """The progress of a copy of a model. One that has just begun knows no total."""

    done_bytes: int
    total_bytes: int
    is_done: bool = False


class Nodes(Protocol):
    """The machines and their state. Any thread may call these methods."""

    def nodes(self) -> tuple[str, ...]:
        """Every machine that may run engines. The first one runs the router."""
        ...

    def node_groups(self) -> tuple[tuple[str, ...], ...]:
        """The nodes of each kind where there are several, in the order of roles; else ()."""
        ...

    def domains(self) -> Mapping[str, str]:
        """The NVLink domain of each machine for which the cluster itself names one."""
        ...

    def is_over(self) -> bool:
        """True if these machines are ours no more, as after the end of a Slurm job."""
        ...

    def address(self, node: str) -> str:
        """The address on which engines of this node listen and others reach them."""
        ...

    def gpus(self, node: str) -> tuple[Gpu, ...]:
        """The GPUs that this user may use there. Raises EnvironmentProblem without a driver."""
        ...

    def gpu_use(
        self, node: str, gpus: Sequence[int], *, is_strict: bool = False
    ) -> Mapping[int, GpuUse]:
        """The users of these GPUs. is_strict: count processes without memory too."""
        ...

    def rdma_ports(self, node: str) -> tuple[RdmaPort, ...]:
        """The RDMA ports there."""
        ...

    def sglang(self, node: str, python: str | None) -> SglangInstall:
        """The SGLang that this Python has there. Raises EnvironmentProblem."""
        ...

    def is_port_free(self, node: str, port: int, *, is_strict: bool = False) -> bool:
        """True if a server can listen there. is_strict: and the port is not reserved."""
        ...

    def hold_ports(
        self, node: str, ports: Collection[int], *, unshared: Collection[int] = ()
    ) -> AbstractContextManager[None]:
        """Reserve ports while the block runs; the servers they are meant for can still listen.

        unshared: ports whose servers refuse to share. Only other pdctl commands keep off these.
        Raises EnvironmentProblem if another command was quicker.
        """
        ...

    def any_free_port(self, node: str) -> int:
        """A port on which nobody listens at this moment."""
        ...

    def listening(
        self, node: str, address: str, ports: Collection[int]
    ) -> AbstractContextManager[None]:
        """Listen there while the block runs. Raises EnvironmentProblem where a port is taken."""
        ...

    def unreached(self, node: str, doors: Collection[Door]) -> tuple[Door, ...]:
        """Those of these doors that no connection from this node opens."""
        ...

    def signal_supervisor(self, node: str, supervisor: Handle, number: int) -> bool:
        """Signal a supervisor that runs there; False if it is gone. Raises EnvironmentProblem."""
        ...

    def run(
        self,
        node: str,
        argv: Sequence[str],
        *,
        timeout_s: float,
        container: Container | None = None,
    ) -> str:
        """The output of a short command there. Raises EnvironmentProblem if it fails."""
        ...

    def http(self, node: str) -> Http:
        """An HTTP client whose requests leave from this node."""
        ...


class Processes(Protocol):
    """The processes of one deployment. Not thread-safe."""

    def prepare(self, specs: Sequence[ProcessSpec]) -> None:
        """Get their nodes ready to start these processes, where that takes a while."""
        ...

    def claim_ports(self, specs: Sequence[ProcessSpec]) -> None:
        """Keep other pdctl commands off the ports of these processes, and of no others.

        Call it again and again: a command that starts some of them has claimed theirs until then.
        """
        ...

    def start(self, spec: ProcessSpec) -> Started:
        """Start a process on `spec.node`. Raises OSError where the node refuses."""
        ...

    def adopt(self, handles: Sequence[Handle]) -> tuple[Started | None, ...]:
        """Take over processes that an earlier supervisor started.

        None for each that is known to be gone; `poll` tells of one that its node reports later.
        """
        ...

    def poll(self, handle: Handle) -> Exit | None:
        """None while it runs. Once it has ended, nothing it started in its group is left."""
        ...

    def terminate(self, handle: Handle) -> None:
        """Ask a process to finish its requests and exit. Does nothing once it has ended."""
        ...

    def kill(self, handle: Handle) -> None:
        """End a process and its whole group at once. Does nothing once it has ended."""
        ...

    def living(self, known: Collection[Handle]) -> tuple[str, ...]:
        """Labels of the running processes of this deployment: those in `known` and all others."""
        ...

    def kill_others(self, keep: Collection[Handle], nodes: Collection[str]) -> tuple[str, ...]:
        """Kill what this deployment started on these nodes, except `keep` and their children.

        The labels of those killed. Does not wait for nodes: one that answers later kills them then.
        """
        ...

    def reap(self, known: Collection[Handle], *, grace_s: float) -> tuple[str, ...]:
        """End the whole deployment without a supervisor; the labels of those killed by force."""
        ...

    def sweep(self) -> tuple[str, ...]:
        """Kill everything that this deployment started; the labels."""
        ...

    def variable(self, handle: Handle, name: str) -> str | None:
        """A variable from the environment of one of this deployment's processes."""
        ...


class Files(Protocol):
    """Logs and small files on a node. None of these raises on a file that is missing."""

    def read_log(self, node: str, log: Path) -> tuple[str, ...]:
        """The lines of a log, at most the last 4 MiB."""
        ...

    def read_added(self, node: str, log: Path, offset: int) -> tuple[str, int]:
        """The text added since a byte, at most 256 KiB, and the byte after it.

        Starts over where the log has become shorter: it was rotated.
        """
        ...

    def log_size(self, node: str, log: Path) -> int:
        """The size of a log in bytes; 0 if there is none."""
        ...

    def last_start_at(self, node: str, log: Path) -> int:
        """The byte at which the last start in a log begins."""
        ...

    def rotate_log(self, node: str, log: Path) -> bool:
        """Set a log aside if it has grown too large; True if it was."""
        ...

    def rename_log(self, node: str, log: Path, to: Path) -> None:
        """Give a log another name; its writer keeps writing into it."""
        ...

    def model_contents(self, node: str, path: Path) -> Contents | None:
        """The files of a model there; None without one. Raises EnvironmentProblem, OSError."""
        ...

    def stage(self, node: str, source: Path, target: Path) -> Copied:
        """Begin to copy a model there, or see how far that is. Raises EnvironmentProblem."""
        ...

    def read_file(self, node: str, path: Path) -> str | None:
        """The text of a small file; None where it cannot be read."""
        ...

    def write_file(self, node: str, path: Path, text: str) -> None:
        """Replace a small file, readable for this user alone. Raises EnvironmentProblem."""
        ...


class Launcher(Nodes, Processes, Files, Protocol):
    """One place to run: this machine, a Slurm allocation or a Ray cluster."""
