"""A launcher of many nodes whose agents answer when a test lets them."""

import errno
import queue
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pdctl.deployment.records import ProcessSpec
from pdctl.engines.launchers import agent_launcher, agents
from pdctl.engines.launchers.agent_launcher import AgentLauncher
from pdctl.engines.launchers.agents import Agent, AgentCall, Agents
from pdctl.engines.launchers.protocol import Exit, Handle, Started
from pdctl.errors import EnvironmentProblem
from pdctl.paths import HOME_VARIABLE, state_home
from tests.engines.world import spec

OURS = Handle("task1 node1=")
ON_NODE2 = replace(spec("decode-0", "decode", 1), node="node2")


class Nodes(Agents):
    """Nodes with the tasks that run there. Replies wait while `is_silent`."""

    def __init__(self, **tasks: set[str]) -> None:
        self.tasks = tasks
        self.is_silent = False
        self._late: list[Callable[[], None]] = []

    def on(self, node: str) -> Agent:
        return _Agent(node, self)

    def answer(self) -> None:
        """Answer what waits, and whatever is asked from now on."""
        self.is_silent = False
        for late in self._late:
            late()

    def asked(self, node: str, do: str, task: str) -> AgentCall:
        replies: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()

        def answer() -> None:
            replies.put({"value": self._value(node, do, task)})

        if self.is_silent:
            self._late.append(answer)
        else:
            answer()
        return AgentCall(replies)

    def _value(self, node: str, do: str, task: str) -> Any:
        here = self.tasks[node]
        if do == "kill":
            here.discard(task)
        if do == "exit_of":
            return {"has_ended": task not in here, "code": None}
        return [[number, name] for number, name in enumerate(sorted(here))]


class _Agent(Agent):
    def __init__(self, node: str, nodes: Nodes) -> None:
        self._name, self._nodes = node, nodes

    def send(self, do: str, *args: object) -> AgentCall:
        run_id, task = (*args, "")[:2]
        assert run_id == "run"
        return self._nodes.asked(self._name, do, str(task))

    def ask(self, do: str, *args: object, timeout_s: float = 0.0) -> Any:
        if do == "sees":
            return (
                Path(str(args[0])).exists()
                if self._name == "node1"
                else Path(str(args[0])) == state_home()
            )
        return f"address of {self._name}"


class Launcher(AgentLauncher):
    """Starts nothing but a name."""

    def __init__(self, nodes: Nodes) -> None:
        super().__init__(nodes, "run", cwd="/")

    _where = "the test"

    def _present_nodes(self) -> tuple[str, ...]:
        raise AssertionError("a take-over asks nobody which nodes there are")

    def _start_rank(self, rank: ProcessSpec, task: str) -> Started:
        return Started(Handle(""), "", 1.0)


@pytest.fixture(autouse=True)
def ask_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agents, "LOOK_AGAIN_S", 0.0)


def taken_over(nodes: Nodes) -> Launcher:
    """A launcher that has taken over one process on node1 of a deployment of two nodes."""
    launcher = Launcher(nodes)
    assert None not in launcher.adopt([OURS])
    assert launcher.kill_others([OURS], ["node1", "node2"]) == ()
    return launcher


def test_a_node_with_another_directory_of_the_same_name_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))
    launcher = Launcher(Nodes())
    assert launcher.address("node1") == "address of node1"
    with pytest.raises(EnvironmentProblem, match="node2 does not see this host's") as refused:
        launcher.address("node2")
    assert HOME_VARIABLE in refused.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_take_over_waits_for_no_node_and_keeps_what_runs() -> None:
    nodes = Nodes(node1={"task1"}, node2=set())
    nodes.is_silent = True
    launcher = taken_over(nodes)
    assert launcher.poll(OURS) is None
    nodes.answer()
    assert [launcher.poll(OURS) for _ in range(3)] == [None, None, None]
    assert nodes.tasks == {"node1": {"task1"}, "node2": set()}


def test_what_died_before_the_take_over_has_ended_once_its_node_says_so() -> None:
    nodes = Nodes(node1=set(), node2=set())
    nodes.is_silent = True
    launcher = taken_over(nodes)
    assert launcher.poll(OURS) is None
    nodes.answer()
    assert launcher.poll(OURS) == Exit(None)


def test_what_nobody_wants_is_killed_once_its_node_answers() -> None:
    nodes = Nodes(node1={"task1", "stranger"}, node2={"stranger"})
    nodes.is_silent = True
    launcher = taken_over(nodes)
    launcher.poll(OURS)
    nodes.answer()
    assert [launcher.poll(OURS) for _ in range(2)] == [None, None]
    assert nodes.tasks == {"node1": {"task1"}, "node2": set()}


def test_a_start_waits_until_its_node_has_ended_what_nobody_wants() -> None:
    nodes = Nodes(node1={"task1"}, node2={"stranger"})
    launcher = taken_over(nodes)
    assert launcher.start(ON_NODE2).label == "task on node2"
    assert nodes.tasks["node2"] == set()


def test_a_start_is_refused_where_a_node_stays_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(agent_launcher, "TAKEN_OVER_S", 0.05)
    nodes = Nodes(node1={"task1"}, node2={"stranger"})
    nodes.is_silent = True
    launcher = taken_over(nodes)
    with pytest.raises(OSError, match="node2 does not answer") as refused:
        launcher.start(ON_NODE2)
    assert refused.value.errno == errno.EHOSTUNREACH


def test_a_node_whose_agent_ended_is_asked_again() -> None:
    lost: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    lost.put(None)
    calls = [AgentCall(lost), Nodes(node1={"task1"}).asked("node1", "tasks", "")]
    inquiry = agents.Inquiry()
    answers = [inquiry.look(lambda: calls.pop(0)) for _ in range(2)]
    assert answers == [None, None]
    assert inquiry.look(lambda: AgentCall(lost)) == [[0, "task1"]]
