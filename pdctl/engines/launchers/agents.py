"""One node agent on every node of a Slurm job, reached through the standard streams of srun."""

import itertools
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

from pdctl.errors import EnvironmentProblem

QUICK_S = 2.0  # for questions that the supervisor's loop waits for
ANSWER_S = 10.0
START_S = 60.0  # Python on a cold shared file system
STEP_WITHIN_S = 15  # a step with --overlap starts at once, unless its job is ending
RETRY_S = 5.0


def srun(job: str, node: str, *options: str) -> tuple[str, ...]:
    """The beginning of a command line that runs on one node of a job.

    --overlap gives the step everything that the job has there: steps with --gres under --overlap
    would all get the same first GPUs. Variables of a surrounding step must not become options.
    """
    inherited = sorted(n for n in os.environ if n.startswith("SLURM_") and n != "SLURM_CONF")
    unset = itertools.chain.from_iterable(("-u", name) for name in inherited)
    where = (f"--jobid={job}", "--overlap", "-N1", "-n1", "-w", node)
    what = ("--mem=0", "--mpi=none", "--cpu-bind=none", f"--immediate={STEP_WITHIN_S}")
    return ("env", *unset, "srun", *where, *what, *options)


class NodeLost(EnvironmentProblem):
    """A node does not answer."""


class Agent:
    """A running agent. Any thread may ask."""

    def __init__(self, job: str, node: str) -> None:
        self.node = node
        self._numbers = itertools.count()
        self._replies: dict[int, queue.SimpleQueue[dict[str, Any] | None]] = {}
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [
                *srun(job, node, "--job-name=pdctl-agent", "--quiet"),
                *(sys.executable, "-m", "pdctl.engines.node_agent"),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._has_answered = False
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, do: str, *args: object, timeout_s: float = ANSWER_S) -> Any:
        """The answer. Raises NodeLost without one, EnvironmentProblem for what the node reports."""
        number, replies = self._send(do, args)
        try:
            reply = replies.get(timeout=timeout_s + self._start_s(timeout_s))
        except queue.Empty:
            reply = None
        self._replies.pop(number, None)
        if reply is None:
            raise NodeLost(f"{self.node} does not answer.", hint=f"scontrol show node {self.node}")
        self._has_answered = True
        if "problem" in reply:
            message, hint, code = reply["problem"]
            raise EnvironmentProblem(f"{self.node}: {message}", hint=hint, code=code)
        return reply["value"]

    def _start_s(self, timeout_s: float) -> float:
        """How long to wait for the agent itself: the loop cannot wait for a slow start."""
        if self._has_answered:
            return 0.0
        return START_S if timeout_s > QUICK_S else ANSWER_S

    def tell(self, do: str, *args: object) -> None:
        """As ask, but nobody waits for the answer. Raises NodeLost if the agent has ended."""
        number, _ = self._send(do, args)
        self._replies.pop(number, None)

    def _send(
        self, do: str, args: Sequence[object]
    ) -> "tuple[int, queue.SimpleQueue[dict[str, Any] | None]]":
        replies: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        with self._lock:
            number = next(self._numbers)
            self._replies[number] = replies
            line = json.dumps({"id": number, "do": do, "args": args}) + "\n"
            try:
                assert self._process.stdin is not None
                self._process.stdin.write(line.encode())
                self._process.stdin.flush()
            except OSError:
                replies.put(None)
        return number, replies

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            reply = json.loads(line)
            if waiting := self._replies.get(reply["id"]):
                waiting.put(reply)
        for waiting in tuple(self._replies.values()):
            waiting.put(None)

    def close(self) -> None:
        """End the agent: it sees the end of its input."""
        if self._process.stdin is not None:
            self._process.stdin.close()


class Agents:
    """The agents of a job, each started when it is first needed and again after it was lost."""

    def __init__(self, job: str) -> None:
        self.job = job
        self._agents: dict[str, Agent] = {}
        self._tried_at: dict[str, float] = {}
        self._lock = threading.Lock()

    def start(self, nodes: Sequence[str]) -> None:
        """Start the agents of these nodes without waiting for them."""
        for node in nodes:
            self.on(node)

    def on(self, node: str) -> Agent:
        """The agent of a node. Raises NodeLost where it ended a moment ago."""
        with self._lock:
            agent = self._agents.get(node)
            if agent is None or not agent.is_alive:
                if time.monotonic() - self._tried_at.get(node, -RETRY_S) < RETRY_S:
                    raise NodeLost(f"{node} does not answer.", hint=f"scontrol show node {node}")
                self._tried_at[node] = time.monotonic()
                agent = self._agents[node] = Agent(self.job, node)
            return agent

    def close(self) -> None:
        """End all agents."""
        for agent in self._agents.values():
            agent.close()
