"""Answers a launcher's questions about its node, and starts processes where Slurm does not.

One JSON object a line: {"id", "do", "args"} comes in, {"id", "value"} or {"id", "problem"} goes
out. `python -m pdctl.engines.node_agent` has them on stdin and stdout, a Ray actor as arguments and
results. The end of stdin means that the launcher is gone. An agent that was told to watch a
deployment then kills what that deployment runs on this node.
"""

import dataclasses
import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pdctl.deployment.records import HERE
from pdctl.engines.launchers import local
from pdctl.engines.launchers.local import LocalLauncher
from pdctl.engines.records import Handle
from pdctl.errors import PdctlError
from pdctl.inspection.addresses import own_address

TASK = "PDCTL_TASK"  # one start of one process, in its environment and in that of its children


class NodeAgent:
    """The answers, one method for each question."""

    def __init__(self) -> None:
        self._node = LocalLauncher("", cwd="/", death_signal=None)
        self._started: dict[str, tuple[LocalLauncher, Handle]] = {}  # by task
        self._held: dict[str, ExitStack] = {}
        self._watched = ""

    def sees(self, path: str) -> bool:
        return Path(path).exists()

    def address(self, interface: str | None, peer: str) -> str:
        return own_address(interface, peer or os.environ.get("SLURM_LAUNCH_NODE_IPADDR", ""))

    def gpus(self) -> list[object]:
        return [_plain(gpu) for gpu in self._node.gpus(HERE)]

    def gpu_use(self, gpus: list[int], is_strict: bool) -> list[object]:
        found = self._node.gpu_use(HERE, gpus, is_strict=is_strict)
        return [[index, _plain(use)] for index, use in found.items()]

    def rdma_ports(self) -> list[object]:
        return [_plain(port) for port in self._node.rdma_ports(HERE)]

    def sglang(self, python: str | None) -> object:
        return _plain(self._node.sglang(HERE, python))

    def free_ports(self, first: int, last: int, is_strict: bool) -> list[int]:
        is_free = self._node.is_port_free
        return [p for p in range(first, last + 1) if is_free(HERE, p, is_strict=is_strict)]

    def any_free_port(self) -> int:
        return self._node.any_free_port(HERE)

    def run(self, argv: list[str], timeout_s: float) -> str:
        return self._node.run(HERE, argv, timeout_s=timeout_s)

    def hold_ports(self, key: str, ports: list[int], unshared: list[int]) -> None:
        self._held[key] = stack = ExitStack()
        stack.enter_context(self._node.hold_ports(HERE, ports, unshared=unshared))

    def listen(self, key: str, address: str, ports: list[int]) -> None:
        """Listen on ports until `release_ports`."""
        stack = ExitStack()
        stack.enter_context(self._node.listening(HERE, address, ports))
        self._held[key] = stack

    def unreached(self, doors: list[list[Any]]) -> list[object]:
        return list(self._node.unreached(HERE, [(door[0], door[1]) for door in doors]))

    def model_contents(self, path: str) -> dict[str, object] | None:
        found = self._node.model_contents(HERE, Path(path))
        return None if found is None else {name: _plain(file) for name, file in found.items()}

    def stage(self, source: str, target: str) -> object:
        return _plain(self._node.stage(HERE, Path(source), Path(target)))

    def release_ports(self, key: str) -> None:
        if key in self._held:
            self._held.pop(key).close()

    def start(self, run_id: str, task: str, wanted: dict[str, Any]) -> dict[str, Any]:
        """Start a process of a deployment. is_tied: the kernel kills it when this agent ends."""
        death_signal = signal.SIGKILL if wanted["is_tied"] else None
        launcher = LocalLauncher(run_id, cwd=wanted["cwd"], death_signal=death_signal)
        log, argv = Path(wanted["log"]), tuple(wanted["argv"])
        started = launcher.start_command(argv, {**wanted["env"], TASK: task}, log)
        self._started[task] = launcher, started.handle
        return {"started_at": started.started_at, "log_offset": started.log_offset}

    def exit_of(self, run_id: str, task: str) -> dict[str, Any]:
        """code: None while it is unknown, as that of a process that another agent started."""
        if task in self._started:
            launcher, handle = self._started[task]
            ended = launcher.poll(handle)
            return {"has_ended": ended is not None, "code": ended.code if ended else None}
        return {"has_ended": not self.has_task(run_id, task), "code": None}

    def watch(self, run_id: str) -> None:
        """Kill what this deployment runs here when the launcher is gone."""
        self._watched = run_id

    def has_task(self, run_id: str, task: str) -> bool:
        return _leader(run_id, task) is not None

    def variable(self, run_id: str, task: str, name: str) -> str | None:
        leader = _leader(run_id, task)
        return local.variables_of(leader, run_id).get(name) if leader else None

    def terminate(self, run_id: str, task: str) -> None:
        """Ask the first process of a task to finish; its children have work of its own to end."""
        if leader := _leader(run_id, task):
            _signal(leader, signal.SIGTERM)
            _signal(leader, signal.SIGCONT)

    def kill(self, run_id: str, task: str) -> int:
        """Kill a whole task; the number of processes that there were."""
        found = _of_task(run_id, task)
        for pid in found:
            _signal(pid, signal.SIGKILL)
        return len(found)

    def tasks(self, run_id: str) -> list[list[Any]]:
        """The processes of a deployment here, each with its task."""
        for launcher, handle in self._started.values():
            launcher.poll(handle)  # reaps it if nobody asks for its end any more
        return [[pid, _task_of(pid, run_id)] for pid in local.marked(run_id)]

    def sweep(self, run_id: str) -> list[int]:
        return list(local.sweep(run_id))

    def signal_supervisor(self, supervisor: str, number: int) -> bool:
        return self._node.signal_supervisor(HERE, Handle(supervisor), number)

    def over(self) -> None:
        """The launcher is gone."""
        if self._watched:
            local.sweep(self._watched)


def _of_task(run_id: str, task: str) -> list[int]:
    return [pid for pid in local.marked(run_id) if _task_of(pid, run_id) == task]


def _task_of(pid: int, run_id: str) -> str:
    return local.variables_of(pid, run_id).get(TASK, "")


def _leader(run_id: str, task: str) -> int | None:
    """The process that started all others of a task: the oldest one."""
    created = {pid: at for pid in _of_task(run_id, task) if (at := local.create_time(pid))}
    return min(created, key=lambda pid: (created[pid], pid)) if created else None


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _plain(record: Any) -> object:
    return dataclasses.asdict(record)


def reply(agent: NodeAgent, line: str) -> str:
    """The reply to one line."""
    asked = json.loads(line)
    question: Callable[..., object] = getattr(agent, asked["do"])
    try:
        reply: dict[str, object] = {"value": question(*asked["args"])}
    except PdctlError as problem:
        reply = {"problem": [problem.message, problem.hint, problem.code]}
    except OSError as problem:
        reply = {"problem": [f"{problem}.", "", ""]}
    return json.dumps({"id": asked["id"], **reply}) + "\n"


def main() -> None:
    """Answer until stdin ends."""
    agent = NodeAgent()
    for line in sys.stdin:
        sys.stdout.write(reply(agent, line))
        sys.stdout.flush()
    agent.over()


if __name__ == "__main__":
    main()
