"""The nodes of a Slurm job: every process of a deployment is a step.

A step's client, srun, runs beside the supervisor and ends when the step ends; an agent on each node
answers questions and sends signals, because Slurm itself signals every process of a step at once.
"""

import itertools
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache

from pdctl.deployment.containers import pyxis_options
from pdctl.deployment.records import HERE, Container, ProcessSpec
from pdctl.engines.launchers import local, slurm_commands
from pdctl.engines.launchers.agent_launcher import AgentLauncher
from pdctl.engines.launchers.agents import Agents, NodeLost, Wire
from pdctl.engines.launchers.command import WITH_KEY
from pdctl.engines.launchers.local import LocalLauncher
from pdctl.engines.launchers.protocol import Exit, Started
from pdctl.engines.node_agent import TASK
from pdctl.errors import EnvironmentProblem

STEP_WITHIN_S = 15  # a step with --overlap starts at once, unless its job is ending
ASKER = "PDCTL_ASKER"  # the process that an agent answers: its number and when it started
_GPU_VARIABLES = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER")


def srun(job: str, node: str, *options: str) -> tuple[str, ...]:
    """The beginning of a command line that runs on one node of a job.

    --overlap gives the step everything that the job has there: steps with --gres under --overlap
    would all get the same first GPUs. Variables of a surrounding step must not become options.
    """
    inherited = sorted(n for n in os.environ if n.startswith("SLURM_") and n != "SLURM_CONF")
    unset = itertools.chain.from_iterable(("-u", name) for name in inherited)
    parts = slurm_commands.components_of(job)
    part = tuple(f"--het-group={i}" for i, nodes in enumerate(parts) if node in nodes)
    where = (f"--jobid={job}", *part, "--overlap", "-N1", "-n1", "-w", node)
    what = ("--mem=0", "--mpi=none", "--cpu-bind=none", f"--immediate={STEP_WITHIN_S}")
    return ("env", *unset, "srun", *where, *what, *options)


@cache
def agents_of(job: str) -> Agents:
    """The agents that this program has on the nodes of a job, each a step of its own."""

    def wire_to(node: str) -> Wire:
        env, *step = srun(job, node, "--job-name=pdctl-agent", "--quiet")
        own = (f"{local.MARKER}={_agents_marker(job)}", f"{ASKER}={_alive_as(os.getpid())}")
        agent = (sys.executable, "-m", "pdctl.engines.node_agent")
        # the options that unset variables come first
        at = step.index("srun")
        return Wire((env, *step[:at], *own, *step[at:], *agent))

    return Agents(wire_to, look="scontrol show node {node}")


def _pyxis(container: Container, variables: Sequence[str] = ()) -> tuple[str, ...]:
    """The options of a step in a container, in which the file that hides the key is too."""
    mounts = (*container.mounts, f"{WITH_KEY}:{WITH_KEY}:ro")
    return pyxis_options(replace(container, mounts=mounts), variables=variables)


def _agents_marker(job: str) -> str:
    return f"agents-of-{job}"


def _alive_as(pid: int) -> str:
    return f"{pid} {local.create_time(pid)}"


def end_deserted_agents(job: str) -> None:
    """Kill the srun of each agent whose pdctl on this machine is gone.

    It ends by itself, unless its node failed before: then it waits for the node for ever.
    """
    marker = _agents_marker(job)
    for pid in local.marked(marker):
        asker = local.variables_of(pid, marker).get(ASKER, "")
        # agents have the same environment, and may run here for a pdctl of another machine
        is_srun = local.program_of(pid) == "srun"
        if is_srun and _alive_as(int(asker.partition(" ")[0] or 0)) != asker:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


class SlurmLauncher(AgentLauncher):
    """Runs one deployment on the nodes of a job. is_tied: it ends with this program."""

    def __init__(self, job: str, run_id: str, *, cwd: str, is_tied: bool) -> None:
        super().__init__(agents_of(job), run_id, cwd=cwd)
        self._job = job
        self._is_tied = is_tied
        self._watching: set[int] = set()

    @property
    def _where(self) -> str:
        return f"Slurm job {self._job}"

    def _present_nodes(self) -> tuple[str, ...]:
        job = slurm_commands.job(self._job)
        if job.state != "RUNNING":
            raise EnvironmentProblem(
                f"{self._where} is {job.state.lower() or 'over'}.",
                hint="squeue --me shows your jobs",
                code="no_job",
            )
        return slurm_commands.answering(job.nodes)

    def node_groups(self) -> tuple[tuple[str, ...], ...]:
        return slurm_commands.components_of(self._job)

    def domains(self) -> dict[str, str]:
        return slurm_commands.domains(self._settings().slurm.domain)

    def is_over(self) -> bool:
        return slurm_commands.is_over(self._job)

    def sweep(self) -> tuple[str, ...]:
        left = super().sweep()
        end_deserted_agents(self._job)
        return left

    def _start_rank(self, rank: ProcessSpec, task: str) -> Started:
        """Start a step. The node appends its output to the log, srun its own complaints."""
        if self._is_tied:
            self._watch(rank.node)
        # of srun itself, which runs on this machine
        return self.start_command(self._step(rank, task), rank.env, rank.log)

    def _step(self, rank: ProcessSpec, task: str) -> tuple[str, ...]:
        log = str(rank.log).replace("%", "%%")
        options: tuple[str, ...] = (
            f"--job-name={rank.name}",
            f"--output={log}",
            "--open-mode=append",
        )
        if rank.container is not None and rank.container.runtime == "pyxis":
            options += _pyxis(rank.container, sorted({*rank.env, TASK}))
        # Slurm sets CUDA_VISIBLE_DEVICES itself
        gpus = tuple(f"{n}={rank.env[n]}" for n in _GPU_VARIABLES if n in rank.env)
        return (*srun(self._job, rank.node, *options), "env", f"{TASK}={task}", *gpus, *rank.argv)

    def _watch(self, node: str) -> None:
        """Have the agent of a node end the deployment there when this process is gone."""
        with suppress(NodeLost):
            agent = self._agents.on(node)
            if id(agent) not in self._watching:
                agent.send("watch", self._run_id)
                self._watching.add(id(agent))

    def run(
        self,
        node: str,
        argv: Sequence[str],
        *,
        timeout_s: float,
        container: Container | None = None,
    ) -> str:
        if container is None or container.runtime != "pyxis":
            return super().run(node, argv, timeout_s=timeout_s, container=container)
        step = (*srun(self._job, node, "--quiet", *_pyxis(container)), *argv)
        return LocalLauncher.run(self, HERE, step, timeout_s=timeout_s)

    def _exit(self, ended: Exit) -> Exit:
        """srun reports a task that signal 9 ended as 137."""
        is_signal = ended.code is not None and ended.code > 128
        return Exit(128 - ended.code) if is_signal and ended.code is not None else ended
