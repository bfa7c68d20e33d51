"""Many nodes with an agent on each: what launchers for Slurm and Ray share.

An agent answers questions about its node and signals processes there. A process is a task, named in
its environment; an engine larger than a node has one rank of its task on each. State and logs lie
on a file system that all nodes share, so the files are those of this machine.
"""

import errno
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from pdctl.deployment import containers
from pdctl.deployment.cluster_file import ClusterFile, cluster_here
from pdctl.deployment.records import Container, ProcessSpec
from pdctl.engines import state
from pdctl.engines.launchers.agents import (
    ANSWER_S,
    QUICK_S,
    AgentCall,
    Agents,
    Inquiry,
    NodeLost,
)
from pdctl.engines.launchers.command import after_preamble, command_of
from pdctl.engines.launchers.each_node import of_each
from pdctl.engines.launchers.local import LocalLauncher
from pdctl.engines.launchers.protocol import Copied, Door, Exit, Started
from pdctl.engines.records import GpuUse, Handle
from pdctl.errors import EnvironmentProblem
from pdctl.inspection.model_contents import Contents, FileOnDisk
from pdctl.inspection.records import Gpu, Holder, RdmaPort, SglangInstall
from pdctl.paths import HOME_VARIABLE, state_home

PORT_BLOCK = 100  # as many ports are asked about at once
PORTS_FRESH_S = 2.0
MODEL_S = 60.0  # hundreds of files on a cold shared file system
TAKEN_OVER_S = 10.0  # how long a start waits for a node after a supervisor has taken over


@dataclass
class Step:
    """One rank of a task.

    client: the process of this machine that stands for it, if there is one. its_end: what its node
    says about it otherwise.
    """

    node: str
    client: Handle | None
    its_end: Inquiry = field(default_factory=Inquiry)


@dataclass
class _Task:
    """One start of one process: a step, or one for each rank, rank 0 first."""

    name: str
    steps: tuple[Step, ...]
    exit: Exit | None = None


class AgentLauncher(LocalLauncher, ABC):
    """Runs one deployment on many nodes. Used from the main thread, but for questions."""

    def __init__(self, agents: Agents, run_id: str, *, cwd: str) -> None:
        super().__init__(run_id, cwd=cwd, death_signal=None)
        self._agents = agents
        self._tasks: dict[Handle, _Task] = {}
        # nodes that may run what is not wanted, each asked about its tasks
        self._unswept: dict[str, Inquiry] = {}
        self._taken_over_at = -TAKEN_OVER_S
        self._ports: dict[tuple[str, int, bool], tuple[float, frozenset[int]]] = {}
        self._nodes: tuple[str, ...] = ()
        self._cluster: ClusterFile | None = None

    @abstractmethod
    def _present_nodes(self) -> tuple[str, ...]:
        """The nodes that have not failed. Raises EnvironmentProblem if they are not ours."""

    @abstractmethod
    def _start_rank(self, rank: ProcessSpec, task: str) -> Started:
        """Start one rank of a task. An empty handle: no process of this machine stands for it."""

    @property
    @abstractmethod
    def _where(self) -> str:
        """The name of the nodes together, for an error."""

    # nodes

    def nodes(self) -> tuple[str, ...]:
        if not self._nodes:
            self._nodes = self._present_nodes()
            self._agents.start(self._nodes)
        return self._nodes

    def address(self, node: str) -> str:
        agent = self._agents.on(node)
        with _new_file(state_home()) as ours:
            if not agent.ask("sees", str(ours)):
                raise EnvironmentProblem(
                    f"{node} does not see this host's {state_home()}.",
                    hint=f"{HOME_VARIABLE}=DIR with a directory that all nodes share",
                    code="not_shared",
                )
        return str(agent.ask("address", self._settings().interface, self._peer()))

    def _peer(self) -> str:
        """An address on the network of the nodes; "" where the agents know one."""
        return ""

    def _settings(self) -> ClusterFile:
        # a launcher without a deployment works for the command that was just given
        directory = Path(self._cwd) if self._run_id else Path()
        self._cluster = self._cluster or cluster_here(directory)
        return self._cluster

    def gpus(self, node: str) -> tuple[Gpu, ...]:
        return tuple(map(_gpu, self._agents.on(node).ask("gpus")))

    def gpu_use(
        self, node: str, gpus: Sequence[int], *, is_strict: bool = False
    ) -> Mapping[int, GpuUse]:
        """As on this machine; nothing is known about a node that does not answer."""
        try:
            found = self._agents.on(node).ask("gpu_use", list(gpus), is_strict)
        except EnvironmentProblem:
            return dict.fromkeys(gpus, GpuUse())
        return {index: GpuUse(**use) for index, use in found}

    def rdma_ports(self, node: str) -> tuple[RdmaPort, ...]:
        return tuple(RdmaPort(**port) for port in self._agents.on(node).ask("rdma_ports"))

    def sglang(self, node: str, python: str | None) -> SglangInstall:
        found = self._agents.on(node).ask("sglang", python, timeout_s=120.0)
        return SglangInstall(**{**found, "backends": tuple(found["backends"])})

    def is_port_free(self, node: str, port: int, *, is_strict: bool = False) -> bool:
        first = port - port % PORT_BLOCK
        key = (node, first, is_strict)
        asked_at, free = self._ports.get(key, (-PORTS_FRESH_S, frozenset()))
        if time.monotonic() - asked_at >= PORTS_FRESH_S:
            last = min(first + PORT_BLOCK - 1, 65535)
            found = self._agents.on(node).ask("free_ports", max(first, 1), last, is_strict)
            free = frozenset(found)
            self._ports[key] = (time.monotonic(), free)
        return port in free

    @contextmanager
    def hold_ports(
        self, node: str, ports: Collection[int], *, unshared: Collection[int] = ()
    ) -> Iterator[None]:
        key = uuid.uuid4().hex
        agent = self._agents.on(node)
        agent.ask("hold_ports", key, list(ports), list(unshared))
        try:
            yield
        finally:
            with suppress(EnvironmentProblem):
                agent.ask("release_ports", key)

    def claim_ports(self, specs: Sequence[ProcessSpec]) -> None:
        """Nothing: commands hold ports of nodes while they start engines, and no longer."""

    def any_free_port(self, node: str) -> int:
        return int(self._agents.on(node).ask("any_free_port"))

    @contextmanager
    def listening(self, node: str, address: str, ports: Collection[int]) -> Iterator[None]:
        key = uuid.uuid4().hex
        agent = self._agents.on(node)
        agent.ask("listen", key, address, list(ports))
        try:
            yield
        finally:
            with suppress(EnvironmentProblem):
                agent.ask("release_ports", key)

    def unreached(self, node: str, doors: Collection[Door]) -> tuple[Door, ...]:
        found = self._agents.on(node).ask("unreached", list(doors))
        return tuple((str(address), int(port)) for address, port in found)

    def run(
        self,
        node: str,
        argv: Sequence[str],
        *,
        timeout_s: float,
        container: Container | None = None,
    ) -> str:
        argv = containers.run(container, argv) if container else argv
        agent = self._agents.on(node)
        return str(agent.ask("run", list(argv), timeout_s, timeout_s=timeout_s + ANSWER_S))

    def signal_supervisor(self, node: str, supervisor: Handle, number: int) -> bool:
        if node not in self.nodes():
            raise EnvironmentProblem(
                f"The supervisor runs on {node}, which is not in {self._where}.",
                hint=f"run this command on {node}",
                code="other_host",
            )
        return bool(self._agents.on(node).ask("signal_supervisor", supervisor, number))

    def model_contents(self, node: str, path: Path) -> Contents | None:
        found = self._agents.on(node).ask("model_contents", str(path), timeout_s=MODEL_S)
        return None if found is None else {name: FileOnDisk(**file) for name, file in found.items()}

    def stage(self, node: str, source: Path, target: Path) -> Copied:
        return Copied(**self._agents.on(node).ask("stage", str(source), str(target)))

    # processes

    def start(self, spec: ProcessSpec) -> Started:
        """Start all ranks of a process, rank 0 last.

        Raises OSError while a node may still run what was to be killed there.
        """
        for node in (spec.node, *(f.node for f in spec.followers)):
            if not self._is_swept(node):
                raise OSError(errno.EHOSTUNREACH, f"{node} does not answer")
        try:
            return self._start(spec)
        except NodeLost as problem:
            raise OSError(errno.EHOSTUNREACH, problem.message) from problem

    def _start(self, spec: ProcessSpec) -> Started:
        name = uuid.uuid4().hex[:12]
        followers = tuple(
            replace(spec, node=f.node, argv=f.argv, env=f.env, log=f.log) for f in spec.followers
        )
        steps = []
        for rank in (*followers, spec):
            started = self._start_rank(replace(rank, argv=self._prepared(rank)), name)
            steps.append(Step(rank.node, started.handle or None))
        return self._keep_task(_Task(name, (steps[-1], *steps[:-1])), started)

    def _prepared(self, rank: ProcessSpec) -> tuple[str, ...]:
        """The command with the API key, in its container, after the preamble of cluster.yaml."""
        return after_preamble(self._settings().preamble, command_of(rank, self._run_id))

    def _is_swept(self, node: str) -> bool:
        """True if nothing unwanted runs there. A node just taken over may have yet to answer."""
        while node in self._unswept and time.monotonic() - self._taken_over_at < TAKEN_OVER_S:
            self._sweep_again()
            time.sleep(0.01)
        return node not in self._unswept

    def _sweep_again(self) -> None:
        """Kill what is not wanted on nodes that did not answer and do now. Waits for none."""
        if not self._unswept:
            return
        wanted = {task.name for task in self._tasks.values() if task.exit is None}
        for node, its_tasks in tuple(self._unswept.items()):
            found = its_tasks.look(partial(self._send, node, "tasks"))
            if found is None:
                continue
            others = {task for _, task in found if task} - wanted
            for task in others:
                with suppress(NodeLost):
                    self._send(node, "kill", task)
            if not others:
                del self._unswept[node]

    def _send(self, node: str, do: str, *task: str) -> AgentCall:
        """Ask a node about this deployment, or about one of its tasks. Returns at once."""
        return self._agents.on(node).send(do, self._run_id, *task)

    def _keep_task(self, task: _Task, started: Started) -> Started:
        where = (f"{step.node}={step.client or ''}" for step in task.steps)
        handle = Handle(" ".join((task.name, *where)))
        self._tasks[handle] = task
        nodes = " and ".join(step.node for step in task.steps)
        return replace(started, handle=handle, label=f"task on {nodes}")

    def adopt(self, handles: Sequence[Handle]) -> tuple[Started | None, ...]:
        """Take over all processes, without waiting: a slow node must not lose its engines.

        A step without a process on this machine is watched through its node's agent.
        """
        tasks = tuple(map(_parse, handles))
        for step in (step for task in tasks for step in task.steps):
            if step.client is not None and self._adopted(step.client) is None:
                step.client = None
        now = time.time()
        self._taken_over_at = time.monotonic()
        self._unswept |= {step.node: Inquiry() for task in tasks for step in task.steps}
        return tuple(self._keep_task(task, Started(Handle(""), "", now)) for task in tasks)

    def poll(self, handle: Handle) -> Exit | None:
        """None while every step runs. Ends what is left once one of them has ended."""
        self._sweep_again()
        task = self._task(handle)
        if task.exit is None:
            task.exit = self._first_end(task)
            if task.exit is not None:
                self._kill(task)  # other ranks, and steps whose process here alone was killed
        return task.exit

    def _first_end(self, task: _Task) -> Exit | None:
        for step in task.steps:
            if step.client:
                ended = super().poll(step.client)
                ended = ended and self._exit(ended)
            else:
                ended = self._end_there(step, task)
            if ended is not None:
                return ended
        return None

    def _end_there(self, step: Step, task: _Task) -> Exit | None:
        """The node's answer, if it has come, about the end of a step. Never waits for a node."""
        found = step.its_end.look(partial(self._send, step.node, "exit_of", task.name))
        return Exit(found["code"]) if found and found["has_ended"] else None

    def _exit(self, ended: Exit) -> Exit:
        """The end of a task, from that of the process that stands for it here."""
        return ended

    def terminate(self, handle: Handle) -> None:
        """Ask rank 0 to finish; SGLang's other ranks end with it."""
        task = self._task(handle)
        with suppress(NodeLost):
            self._send(task.steps[0].node, "terminate", task.name)

    def kill(self, handle: Handle) -> None:
        """End a process at once; on a node that does not answer, as soon as it does."""
        self._kill(self._task(handle))

    def _kill(self, task: _Task) -> None:
        for step in task.steps:
            if step.node not in self._unswept and self._kill_step(step, task):
                continue
            self._unswept.setdefault(step.node, Inquiry())
            if step.client is None:
                task.exit = task.exit or Exit()
            else:
                super().kill(step.client)

    def _kill_step(self, step: Step, task: _Task) -> bool:
        """True if its node says that it killed a step. The loop waits for no agent to start."""
        with suppress(NodeLost):
            return "value" in (self._send(step.node, "kill", task.name).reply(QUICK_S) or {})
        return False

    def _task(self, handle: Handle) -> _Task:
        return self._tasks.setdefault(handle, _parse(handle))

    def _ask(self, step: Step, task: _Task, do: str) -> Any:
        """The answer of a step's node about its task; None without one."""
        try:
            agent = self._agents.on(step.node)
            return agent.ask(do, self._run_id, task.name, timeout_s=QUICK_S)
        except EnvironmentProblem:
            return None

    def living(self, known: Collection[Handle]) -> tuple[str, ...]:
        found = self._on_each("tasks", self._run_id)
        return tuple(
            f"{node} pid {pid}" for node, rows in found.items() for pid, task in rows if task
        )

    def kill_others(self, keep: Collection[Handle], nodes: Collection[str]) -> tuple[str, ...]:
        """Those to keep are the tasks that were taken over. No label: no node has answered yet."""
        self._unswept = {node: Inquiry() for node in nodes} | self._unswept
        return ()

    def reap(self, known: Collection[Handle], *, grace_s: float) -> tuple[str, ...]:
        """Send SIGTERM, wait, send SIGKILL; the labels of those that had to be killed."""
        found = self._on_each("tasks", self._run_id)
        for node, task in {(n, task) for n, rows in found.items() for _, task in rows if task}:
            self._ask(Step(node, None), _Task(task, ()), "terminate")
        deadline = time.monotonic() + grace_s
        while (left := self.living(known)) and time.monotonic() < deadline:
            time.sleep(0.1)
        self.sweep()
        return left

    def sweep(self) -> tuple[str, ...]:
        left = self.living(())
        self._on_each("sweep", self._run_id)
        super().sweep()  # what stands here for steps that have just ended
        return left

    def _on_each(self, do: str, *args: object) -> dict[str, Any]:
        """The answers of the nodes that give one; none once the nodes are no longer ours."""
        self._nodes = ()
        try:
            nodes = self.nodes()
        except EnvironmentProblem:
            return {}
        return self._from_each(nodes, do, *args)

    def _from_each(self, nodes: Collection[str], do: str, *args: object) -> dict[str, Any]:
        """The answers of those of these nodes that give one, asked at the same time."""

        def ask(node: str) -> Any:
            with suppress(EnvironmentProblem):
                return self._agents.on(node).ask(do, *args)
            return None

        found = of_each(nodes, ask)
        return {node: answer for node, answer in found.items() if answer is not None}

    def variable(self, handle: Handle, name: str) -> str | None:
        task = self._task(handle)
        try:
            agent = self._agents.on(task.steps[0].node)
            found = agent.ask("variable", self._run_id, task.name, name, timeout_s=QUICK_S)
        except EnvironmentProblem:
            return None
        return None if found is None else str(found)


@contextmanager
def _new_file(directory: Path) -> Iterator[Path]:
    """A file that is only in this very directory, not in one of the same name on another host."""
    file = directory / f".seen-{uuid.uuid4().hex}"
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        file.touch(0o600)
    except OSError as problem:
        raise state.unwritable(directory, problem) from problem
    try:
        yield file
    finally:
        file.unlink(missing_ok=True)


def _parse(handle: Handle) -> _Task:
    name, *where = handle.split(" ")
    steps = (part.partition("=") for part in where)
    return _Task(name, tuple(Step(node, Handle(c) if c else None) for node, _, c in steps))


def _gpu(row: dict[str, Any]) -> Gpu:
    holders = tuple(Holder(**holder) for holder in row["holders"])
    return Gpu(**{**row, "holders": holders, "nvlink_peers": tuple(row["nvlink_peers"])})
