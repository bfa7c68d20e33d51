"""Node agents: a program on each node that answers a launcher's questions, a line for a line.

A wire carries the lines: srun to one node of a Slurm job, or a relay to all hosts of a Ray cluster.
"""

import itertools
import json
import queue
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from pdctl.errors import EnvironmentProblem

QUICK_S = 2.0  # for questions that the supervisor's loop waits for
ANSWER_S = 10.0
START_S = 60.0  # Python on a cold shared file system
RETRY_S = 5.0
LOOK_AGAIN_S = 1.0  # where a question is repeated
LOST = "lost"  # the code of a problem: the node that was asked does not answer

_Reply = dict[str, Any]


class NodeLost(EnvironmentProblem):
    """A node does not answer."""


class AgentCall:
    """A question that was sent."""

    def __init__(self, replies: "queue.SimpleQueue[_Reply | None]") -> None:
        self._replies = replies

    def is_answered(self) -> bool:
        return not self._replies.empty()

    def reply(self, timeout_s: float = 0.0) -> _Reply | None:
        """The reply; None if there is none in time, or if the program has ended."""
        try:
            return self._replies.get(timeout=timeout_s)
        except queue.Empty:
            return None


class Inquiry:
    """A question to a node that is asked again and again. Nobody waits for its answer."""

    def __init__(self) -> None:
        self._call: AgentCall | None = None
        self._asked_at = -LOOK_AGAIN_S

    def look(self, send: Callable[[], AgentCall]) -> Any:
        """The answer if one has come since the last look, else None.

        send: sends the question. Called at most every LOOK_AGAIN_S, and not while a reply is due.
        """
        answer = None
        if self._call is not None and self._call.is_answered():
            answer = (self._call.reply() or {}).get("value")
            self._call = None
        if self._call is None and time.monotonic() - self._asked_at >= LOOK_AGAIN_S:
            self._asked_at = time.monotonic()
            with suppress(NodeLost):
                self._call = send()
        return answer


class Wire:
    """A program that takes questions on stdin and writes replies to stdout. Any thread may send."""

    def __init__(self, command: Sequence[str]) -> None:
        self._numbers = itertools.count()
        self._waiting: dict[int, queue.SimpleQueue[_Reply | None]] = {}
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, node: str, do: str, args: Sequence[object], timeout_s: float) -> _Reply | None:
        """The reply; None if there is none in time."""
        return self.send(node, do, args).reply(timeout_s)

    def send(self, node: str, do: str, args: Sequence[object]) -> AgentCall:
        """Send a question without waiting for the reply."""
        replies: queue.SimpleQueue[_Reply | None] = queue.SimpleQueue()
        with self._lock:
            number = next(self._numbers)
            self._waiting[number] = replies
            line = json.dumps({"id": number, "node": node, "do": do, "args": args}) + "\n"
            try:
                assert self._process.stdin is not None
                self._process.stdin.write(line.encode())
                self._process.stdin.flush()
            except OSError:
                replies.put(None)
        return AgentCall(replies)

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as replies:
            for line in replies:
                reply = json.loads(line)
                if waiting := self._waiting.pop(reply["id"], None):
                    waiting.put(reply)
        for waiting in tuple(self._waiting.values()):
            waiting.put(None)


class Agent:
    """The agent of one node. Any thread may ask. hint: how to look at a node that is lost."""

    def __init__(self, node: str, wire: Wire, *, hint: str) -> None:
        self._node = node
        self._wire = wire
        self._hint = hint
        self._has_answered = False

    @property
    def is_alive(self) -> bool:
        return self._wire.is_alive

    def ask(self, do: str, *args: object, timeout_s: float = ANSWER_S) -> Any:
        """The answer. Raises NodeLost without one, EnvironmentProblem for what the node reports."""
        reply = self._wire.ask(self._node, do, args, timeout_s + self._start_s(timeout_s))
        if reply is None:
            raise lost(self._node, self._hint)
        if "problem" in reply:
            message, hint, code = reply["problem"]
            text = f"{self._node}: {message}"
            if code == LOST:
                raise NodeLost(text, hint=hint or self._hint)
            raise EnvironmentProblem(text, hint=hint, code=code)
        self._has_answered = True
        return reply["value"]

    def _start_s(self, timeout_s: float) -> float:
        """The time to wait for the agent itself: the loop cannot wait for a slow start."""
        if self._has_answered:
            return 0.0
        return START_S if timeout_s > QUICK_S else ANSWER_S

    def send(self, do: str, *args: object) -> AgentCall:
        """As ask, without waiting for the answer."""
        return self._wire.send(self._node, do, args)


class Agents:
    """The agents of many nodes, each started when it is first needed and again after it was lost.

    wire_to: gives the wire to a node, new if the last one has ended. look: how to look at a node
    that is lost, with {node} for its name.
    """

    def __init__(self, wire_to: Callable[[str], Wire], *, look: str) -> None:
        self._wire_to = wire_to
        self._look = look
        self._agents: dict[str, Agent] = {}
        self._tried_at: dict[str, float] = {}
        self._lock = threading.Lock()

    def start(self, nodes: Sequence[str]) -> None:
        """Start the agents of these nodes without waiting for them."""
        for node in nodes:
            self.on(node)

    def on(self, node: str) -> Agent:
        """The agent of a node. Raises NodeLost where it ended a moment ago."""
        hint = self._look.format(node=node)
        with self._lock:
            agent = self._agents.get(node)
            if agent is None or not agent.is_alive:
                if time.monotonic() - self._tried_at.get(node, -RETRY_S) < RETRY_S:
                    raise lost(node, hint)
                self._tried_at[node] = time.monotonic()
                agent = self._agents[node] = Agent(node, self._wire_to(node), hint=hint)
            return agent


def lost(node: str, hint: str) -> NodeLost:
    """The error for a node that does not answer."""
    return NodeLost(f"{node} does not answer.", hint=hint)
