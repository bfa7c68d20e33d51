"""The hosts of a Ray cluster: every process of a deployment is started by the agent of its host.

Ray places nothing: pdctl chooses hosts and GPUs as it does elsewhere, and tells Ray which hosts it
uses, so that other Ray work leaves their GPUs alone. All questions go through one relay.
"""

import errno
import importlib.util
import os
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from pdctl.deployment.records import ProcessSpec
from pdctl.engines.launchers.agent_launcher import AgentLauncher
from pdctl.engines.launchers.agents import START_S, Agents, Wire
from pdctl.engines.launchers.local_ports import opens
from pdctl.engines.launchers.protocol import Handle, Started
from pdctl.errors import EnvironmentProblem
from pdctl.hosts import bare

ADDRESS_VARIABLE = "RAY_ADDRESS"
CURRENT_CLUSTER = Path("/tmp/ray/ray_current_cluster")  # Ray writes the address there
LOOK = "ray list nodes"


def cluster_address() -> str | None:
    """The address of the cluster that this machine belongs to; None if it belongs to none."""
    if address := os.environ.get(ADDRESS_VARIABLE):
        return None if address.startswith(("http", "ray:")) else address
    try:
        return CURRENT_CLUSTER.read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def is_installed() -> bool:
    """True if the Python of pdctl has Ray."""
    return importlib.util.find_spec("ray") is not None


def required_address() -> str:
    """The address of the cluster. Raises EnvironmentProblem without a cluster or without Ray.

    A relay would wait a minute for a cluster that has ended.
    """
    if not is_installed():
        raise EnvironmentProblem(
            "Ray is not installed in the Python of pdctl.",
            hint="pip install 'ray>=2.40' on every host of the cluster",
            code="no_ray",
        )
    address = cluster_address()
    if address is None:
        given = os.environ.get(ADDRESS_VARIABLE)
        raise EnvironmentProblem(
            f"{ADDRESS_VARIABLE} is {given}, which is not the address of a cluster's head."
            if given
            else "This machine does not belong to a Ray cluster.",
            hint="ray start --head here, or ray start --address=HEAD:6379 to join one",
            code="no_ray",
        )
    host, _, port = address.rpartition(":")
    if port.isdigit() and not opens((bare(host), int(port))):
        raise EnvironmentProblem(
            f"Nothing answers at {address}, where the Ray cluster of this host should be.",
            hint="RAY_ADDRESS=HEAD:6379 of a cluster that runs, or ray start --head here",
            code="ray_silent",
        )
    return address


class _Relay:
    """The relay of a deployment, started again when it has ended."""

    def __init__(self, address: str, run_id: str, *, is_tied: bool) -> None:
        life = "tied" if is_tied else "detached"
        self._command = (
            *(sys.executable, "-m", "pdctl.engines.ray_relay"),
            *(address, run_id, life),
        )
        self._wire: Wire | None = None
        self._lock = threading.Lock()

    def wire(self, node: str = "") -> Wire:
        with self._lock:
            if self._wire is None or not self._wire.is_alive:
                self._wire = Wire(self._command)
            return self._wire


@cache
def _relay(address: str, run_id: str, is_tied: bool) -> _Relay:
    return _Relay(address, run_id, is_tied=is_tied)


class RayLauncher(AgentLauncher):
    """Runs one deployment on the hosts of a Ray cluster. is_tied: it ends with this program."""

    def __init__(self, address: str, run_id: str, *, cwd: str, is_tied: bool) -> None:
        self._relay = _relay(address, run_id, is_tied)
        super().__init__(Agents(self._relay.wire, look=LOOK), run_id, cwd=cwd)
        self._address = address
        self._is_tied = is_tied
        self._reserved: set[str] = set()

    @property
    def _where(self) -> str:
        return f"the Ray cluster at {self._address}"

    def _peer(self) -> str:
        return self._address.rpartition(":")[0]

    def _present_nodes(self) -> tuple[str, ...]:
        return tuple(node["name"] for node in self._ask_relay("nodes"))

    def domains(self) -> dict[str, str]:
        return {node["name"]: node["domain"] for node in self._ask_relay("nodes") if node["domain"]}

    def _ask_relay(self, do: str, *args: object) -> Any:
        reply = self._relay.wire().ask("", do, args, START_S)
        if reply is None or "value" not in reply:
            raise EnvironmentProblem(
                f"{self._where} does not answer.", hint="ray status", code="ray_silent"
            )
        return reply["value"]

    def prepare(self, specs: Sequence[ProcessSpec]) -> None:
        """Start the agents of all hosts at once and reserve their GPUs: each takes a second."""
        nodes = {node for spec in specs for node in (spec.node, *(f.node for f in spec.followers))}
        with suppress(EnvironmentProblem):  # the first start says what is wrong
            self._ask_relay("prepare", sorted(nodes))

    def _start_rank(self, rank: ProcessSpec, task: str) -> Started:
        """Have the agent of its host start a process; reserve the host's GPUs before the first.

        It gets the environment of this program, as it would on this machine or through srun.
        """
        if rank.needs_gpus:
            self._reserve(rank.node)
        own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        wanted = {
            "argv": rank.argv,
            "env": {**own, **rank.env},
            "log": str(rank.log),
            "cwd": self._cwd,
            "is_tied": self._is_tied,
        }
        found = self._agents.on(rank.node).ask("start", self._run_id, task, wanted)
        return Started(Handle(""), "", found["started_at"], found["log_offset"])

    def _reserve(self, node: str) -> None:
        if node in self._reserved:
            return
        if not self._ask_relay("reserve", node):
            raise OSError(errno.EBUSY, f"other Ray work uses GPUs of {node}")
        self._reserved.add(node)

    def sweep(self) -> tuple[str, ...]:
        left = super().sweep()
        with suppress(EnvironmentProblem):
            self._ask_relay("release")
        return left
