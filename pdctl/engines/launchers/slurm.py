"""The nodes of a Slurm job: every process of a deployment is a step.

A step's client, srun, runs beside the supervisor and ends when the step ends; an agent on each node
answers questions and sends signals, because Slurm itself signals every process of a step at once.
State and logs lie on a file system that all nodes share, so the files are those of this machine.
"""

import errno
import time
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from pdctl.deployment.cluster_file import ClusterFile, cluster_here
from pdctl.deployment.records import ProcessSpec
from pdctl.engines.clients.api_key import api_key
from pdctl.engines.launchers import slurm_commands
from pdctl.engines.launchers.agents import ANSWER_S, QUICK_S, Agents, NodeLost, srun
from pdctl.engines.launchers.local import LocalLauncher, with_key
from pdctl.engines.launchers.protocol import Exit, Started
from pdctl.engines.node_agent import TASK
from pdctl.engines.records import GpuUse, Handle
from pdctl.errors import EnvironmentProblem
from pdctl.inspection.records import Gpu, Holder, RdmaPort, SglangInstall
from pdctl.paths import HOME_VARIABLE, state_home

PORT_BLOCK = 100  # as many ports are asked about at once
PORTS_FRESH_S = 2.0
LOOK_AGAIN_S = 1.0  # at a task whose srun runs elsewhere
_GPU_VARIABLES = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")


@dataclass
class _Step:
    """One rank of a task. client: the handle of its srun; None: that runs elsewhere."""

    node: str
    client: Handle | None


@dataclass
class _Task:
    """One start of one process: a step, or one for each rank, rank 0 first."""

    name: str
    steps: tuple[_Step, ...]
    looked_at: float = 0.0
    exit: Exit | None = None


@cache
def agents_of(job: str) -> Agents:
    """The agents that this program has on the nodes of a job."""
    return Agents(job)


class SlurmLauncher(LocalLauncher):
    """Runs one deployment on the nodes of a job. Used from the main thread, but for questions."""

    def __init__(self, job: str, run_id: str, *, cwd: str, is_tied: bool) -> None:
        super().__init__(run_id, cwd=cwd, death_signal=None)
        self._job = job
        self._is_tied = is_tied
        self._agents = agents_of(job)
        self._watching: set[int] = set()
        self._tasks: dict[Handle, _Task] = {}
        self._orphans: set[tuple[str, str]] = set()  # node and task that nobody could kill
        self._ports: dict[tuple[str, int, bool], tuple[float, frozenset[int]]] = {}
        self._nodes: tuple[str, ...] = ()
        self._cluster: ClusterFile | None = None

    # nodes

    def nodes(self) -> tuple[str, ...]:
        """The nodes of the job that have not failed. Raises EnvironmentProblem if it is over."""
        if not self._nodes:
            job = slurm_commands.job(self._job)
            if job.state != "RUNNING":
                raise EnvironmentProblem(
                    f"Slurm job {self._job} is {job.state.lower() or 'over'}.",
                    hint="squeue --me shows your jobs",
                    code="no_job",
                )
            self._nodes = slurm_commands.answering(job.nodes)
            self._agents.start(self._nodes)
        return self._nodes

    def address(self, node: str) -> str:
        agent = self._agents.on(node)
        if not agent.ask("sees", str(state_home())):
            raise EnvironmentProblem(
                f"{node} does not see {state_home()}.",
                hint=f"{HOME_VARIABLE}=DIR with a directory that all nodes share",
                code="not_shared",
            )
        return str(agent.ask("address", self._settings().interface))

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

    def any_free_port(self, node: str) -> int:
        return int(self._agents.on(node).ask("any_free_port"))

    def signal_supervisor(self, node: str, supervisor: Handle, number: int) -> bool:
        if node not in self.nodes():
            raise EnvironmentProblem(
                f"The supervisor runs on {node}, which is not in Slurm job {self._job}.",
                hint=f"run this command on {node}",
                code="other_host",
            )
        return bool(self._agents.on(node).ask("signal_supervisor", supervisor, number))

    def has_path(self, node: str, path: Path) -> bool:
        return bool(self._agents.on(node).ask("sees", str(path)))

    # processes

    def start(self, spec: ProcessSpec) -> Started:
        """Start a step. The node appends its output to the log, srun its own complaints.

        Raises OSError while the node may still run what was to be killed there.
        """
        for node in (spec.node, *(f.node for f in spec.followers)):
            self._end_orphans(node)
        name = uuid.uuid4().hex[:12]
        followers = tuple(
            replace(spec, node=f.node, argv=f.argv, env=f.env, log=f.log) for f in spec.followers
        )
        steps = []
        for rank in (*followers, spec):
            if self._is_tied:
                self._watch(rank.node)
            started = super().start(replace(rank, argv=self._command(rank, name)))
            steps.append(_Step(rank.node, started.handle))
        return self._keep_task(_Task(name, (steps[-1], *steps[:-1])), started)

    def _end_orphans(self, node: str) -> None:
        for orphan in [one for one in self._orphans if one[0] == node]:
            if self._ask(_Step(node, None), _Task(orphan[1], ()), "kill") is None:
                raise OSError(errno.EHOSTUNREACH, f"{node} does not answer")
            self._orphans.discard(orphan)

    def _command(self, spec: ProcessSpec, task: str) -> tuple[str, ...]:
        log = str(spec.log).replace("%", "%%")
        options = (f"--job-name={spec.name}", f"--output={log}", "--open-mode=append")
        # Slurm sets CUDA_VISIBLE_DEVICES itself
        gpus = tuple(f"{n}={spec.env[n]}" for n in _GPU_VARIABLES if n in spec.env)
        argv = with_key(spec.argv, api_key())
        if preamble := self._settings().preamble:
            argv = ("bash", "-c", f'{preamble}\nexec "$@"', "bash", *argv)
        return (*srun(self._job, spec.node, *options), "env", f"{TASK}={task}", *gpus, *argv)

    def _watch(self, node: str) -> None:
        """Have the agent of a node end the deployment there when this process is gone."""
        with suppress(NodeLost):
            agent = self._agents.on(node)
            if id(agent) not in self._watching:
                agent.tell("watch", self._run_id)
                self._watching.add(id(agent))

    def _keep_task(self, task: _Task, started: Started) -> Started:
        where = (f"{step.node}={step.client or ''}" for step in task.steps)
        handle = Handle(" ".join((task.name, *where)))
        self._tasks[handle] = task
        nodes = " and ".join(step.node for step in task.steps)
        return replace(started, handle=handle, label=f"step on {nodes}")

    def adopt(self, handle: Handle) -> Started | None:
        """Take over a process of which every step is alive; otherwise end the rest of it.

        A step whose srun runs on another machine is watched through its node's agent.
        """
        task = _parse(handle)
        for step in task.steps:
            if step.client is None or super().adopt(step.client) is None:
                step.client = None
                if not self._ask(step, task, "has_task", timeout_s=ANSWER_S):
                    self._kill(task)
                    return None
        return self._keep_task(task, Started(handle, "", time.time()))

    def poll(self, handle: Handle) -> Exit | None:
        """None while every step runs. Ends what is left once one of them has ended."""
        task = self._task(handle)
        if task.exit is None:
            task.exit = self._first_end(task)
            if task.exit is not None:
                self._kill(task)  # other ranks, and steps whose srun alone was killed
        return task.exit

    def _first_end(self, task: _Task) -> Exit | None:
        for step in task.steps:
            ended = super().poll(step.client) if step.client else None
            if ended is not None:
                return Exit(_signal_of(ended.code))
        elsewhere = [step for step in task.steps if step.client is None]
        if not elsewhere or time.monotonic() - task.looked_at < LOOK_AGAIN_S:
            return None
        task.looked_at = time.monotonic()
        gone = any(self._ask(step, task, "has_task") is False for step in elsewhere)
        return Exit() if gone else None

    def terminate(self, handle: Handle) -> None:
        """Ask rank 0 to finish; SGLang's other ranks end with it."""
        task = self._task(handle)
        with suppress(NodeLost):
            self._agents.on(task.steps[0].node).tell("terminate", self._run_id, task.name)

    def kill(self, handle: Handle) -> None:
        """End a process at once. On a node that does not answer, only its srun is ended."""
        self._kill(self._task(handle))

    def _kill(self, task: _Task) -> None:
        for step in task.steps:
            if self._ask(step, task, "kill") is not None:
                continue
            self._orphans.add((step.node, task.name))
            if step.client is not None:
                super().kill(step.client)

    def _task(self, handle: Handle) -> _Task:
        return self._tasks.setdefault(handle, _parse(handle))

    def _ask(self, step: _Step, task: _Task, do: str, *, timeout_s: float = QUICK_S) -> Any:
        """The answer of a step's node about its task; None without one."""
        try:
            agent = self._agents.on(step.node)
            return agent.ask(do, self._run_id, task.name, timeout_s=timeout_s)
        except EnvironmentProblem:
            return None

    def living(self, known: Collection[Handle]) -> tuple[str, ...]:
        found = self._on_each("tasks", self._run_id)
        return tuple(
            f"{node} pid {pid}" for node, rows in found.items() for pid, task in rows if task
        )

    def kill_others(self, keep: Collection[Handle]) -> tuple[str, ...]:
        kept = {_parse(handle).name for handle in keep}
        found = self._on_each("tasks", self._run_id)
        others = [(n, pid, task) for n, rows in found.items() for pid, task in rows if task]
        for node, task in {(node, task) for node, _, task in others if task not in kept}:
            self._ask(_Step(node, None), _Task(task, ()), "kill")
        return tuple(f"{node} pid {pid}" for node, pid, task in others if task not in kept)

    def reap(self, known: Collection[Handle], *, grace_s: float) -> tuple[str, ...]:
        """Send SIGTERM, wait, send SIGKILL; the labels of those that had to be killed."""
        found = self._on_each("tasks", self._run_id)
        for node, task in {(n, task) for n, rows in found.items() for _, task in rows if task}:
            self._ask(_Step(node, None), _Task(task, ()), "terminate")
        deadline = time.monotonic() + grace_s
        while (left := self.living(known)) and time.monotonic() < deadline:
            time.sleep(0.1)
        self.sweep()
        return left

    def sweep(self) -> tuple[str, ...]:
        left = self.living(())
        self._on_each("sweep", self._run_id)
        super().sweep()  # clients of steps that have just ended
        return left

    def _on_each(self, do: str, *args: object) -> dict[str, Any]:
        """The answers of the nodes that give one; none once Slurm itself ends the job."""
        self._nodes = ()
        try:
            nodes = self.nodes()
        except EnvironmentProblem:
            return {}
        found = {}
        for node in nodes:
            with suppress(EnvironmentProblem):
                found[node] = self._agents.on(node).ask(do, *args)
        return found

    def variable(self, handle: Handle, name: str) -> str | None:
        task = self._task(handle)
        try:
            agent = self._agents.on(task.steps[0].node)
            found = agent.ask("variable", self._run_id, task.name, name, timeout_s=QUICK_S)
        except EnvironmentProblem:
            return None
        return None if found is None else str(found)


def _parse(handle: Handle) -> _Task:
    name, *where = handle.split(" ")
    steps = (part.partition("=") for part in where)
    return _Task(name, tuple(_Step(node, Handle(c) if c else None) for node, _, c in steps))


def _signal_of(code: int | None) -> int | None:
    """srun reports a task that signal 9 ended as 137."""
    return 128 - code if code is not None and code > 128 else code


def _gpu(row: dict[str, Any]) -> Gpu:
    holders = tuple(Holder(**holder) for holder in row["holders"])
    return Gpu(**{**row, "holders": holders, "nvlink_peers": tuple(row["nvlink_peers"])})
