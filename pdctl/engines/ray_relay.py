"""Carries a launcher's questions to its agents on a Ray cluster.

`python -m pdctl.engines.ray_relay ADDRESS RUN_ID LIFE`: the cluster, the deployment that it starts
processes for ("" for none), and "tied" if they end with it.
Lines are those of node_agent, with the node that they are for; "" asks the relay itself. Every
agent is an actor on its host. The agents of a deployment are detached: their processes serve on
when relay and supervisor end, and another relay, on any host, finds them by name. An agent that
only answers questions ends with its relay.
"""

import contextlib
import json
import os
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayError
from ray.util.placement_group import (
    get_placement_group,
    placement_group,
    remove_placement_group,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pdctl.engines import node_agent
from pdctl.engines.launchers.agents import LOST
from pdctl.engines.launchers.each_node import of_each
from pdctl.engines.launchers.local_ports import opens
from pdctl.engines.launchers.protocol import Door

NAMESPACE = "pdctl"
RESERVE_WITHIN_S = 10.0
# labels that name the NVLink domain of a host, the one that people set first
DOMAIN_LABELS = (
    "nvlink_domain",
    "ray.io/gpu-domain",
    "nvidia.com/gpu.clique",
    "accelerator.topograph.run/domain",
    "network.topology.nvidia.com/accelerator",
)
DOMAIN_RESOURCE = "nvlink_domain_"  # NeMo RL gives each host a resource with this and the domain
HOST = "node:{NodeManagerAddress}"  # a resource that only this host has, 1.0 of it
SOME = 0.001
THREADS = 16


class RemoteAgent:
    """A node agent inside an actor."""

    def __init__(self) -> None:
        # Ray hides the GPUs from an actor that asks for none
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        self._agent = node_agent.NodeAgent()

    def answer(self, line: str) -> str:
        return node_agent.reply(self._agent, line)


class Relay:
    """Answers lines. Any thread may ask. is_tied: what it starts ends with it."""

    def __init__(self, run_id: str, *, is_tied: bool) -> None:
        self._run_id = run_id
        self._lifetime = None if is_tied or not run_id else "detached"
        self._own: dict[str, ActorHandle[Any]] = {}  # agents of the deployment, by host
        self._others: dict[str, ActorHandle[Any]] = {}  # agents that only answer questions
        self._lock = threading.Lock()

    def reply(self, line: str) -> str:
        """The reply to one line."""
        asked = json.loads(line)
        try:
            if not asked["node"]:
                value = getattr(self, asked["do"])(*asked["args"])
                return json.dumps({"id": asked["id"], "value": value}) + "\n"
            agent = self._agent(asked["node"], starts=asked["do"] == "start")
            return str(ray.get(agent.answer.remote(line)))
        except (RayError, LookupError) as problem:
            self._forget(asked["node"])
            cause = (str(problem).strip() or type(problem).__name__).splitlines()[-1]
            return json.dumps({"id": asked["id"], "problem": [cause, "", LOST]}) + "\n"

    def nodes(self) -> list[dict[str, Any]]:
        """The hosts on the network, some time before Ray notices. Their agents start meanwhile."""
        alive = _alive()
        answers = of_each(alive, lambda name: opens(_door(alive[name])))
        present = {name: node for name, node in alive.items() if answers[name]}
        for node in present:
            self._agent(node, starts=False)
        return [
            {"name": name, "address": node["NodeManagerAddress"], "domain": domain_of(node)}
            for name, node in present.items()
        ]

    def prepare(self, nodes: list[str]) -> None:
        """Have the agents of the deployment started on these hosts. Waits for none of them."""
        for node in _alive().keys() & nodes:
            self._agent(node, starts=True)

    def reserve(self, node: str) -> bool:
        """Take all GPUs of a host from Ray; False if other work has some of them."""
        name, host = self._name("gpus", node), _alive()[node]
        try:
            group = get_placement_group(name)
        except ValueError:
            bundle = {"GPU": host["Resources"].get("GPU", 0), HOST.format(**host): SOME}
            group = placement_group([bundle], name=name, lifetime=self._lifetime)
        if group.wait(RESERVE_WITHIN_S):
            return True
        remove_placement_group(group)
        return False

    def release(self) -> None:
        """End the agents of the deployment and give its GPUs back to Ray."""
        for node in _alive():
            with contextlib.suppress(ValueError, RayActorError):
                ray.kill(ray.get_actor(self._name("agent", node), NAMESPACE))
            with contextlib.suppress(ValueError):
                remove_placement_group(get_placement_group(self._name("gpus", node)))
        self._own.clear()

    def _forget(self, node: str) -> None:
        with self._lock:
            self._own.pop(node, None)
            self._others.pop(node, None)

    def _agent(self, node: str, *, starts: bool) -> "ActorHandle[Any]":
        """The agent of a host: that of the deployment if there is one or it has to start one."""
        with self._lock:
            if node not in self._own and self._run_id:
                with contextlib.suppress(ValueError):
                    self._own[node] = ray.get_actor(self._name("agent", node), NAMESPACE)
            if node not in self._own and starts:
                self._own[node] = self._create(node, self._name("agent", node))
            if node in self._own:
                return self._own[node]
            if node not in self._others:
                self._others[node] = self._create(node)
            return self._others[node]

    def _create(self, node: str, name: str = "") -> Any:
        """An agent, which need not have started yet."""
        options: dict[str, Any] = {}
        if name:
            options = {"name": name, "namespace": NAMESPACE}
            options |= {"get_if_exists": True, "lifetime": self._lifetime}
        there = NodeAffinitySchedulingStrategy(_alive()[node]["NodeID"], soft=False)
        options |= {"num_cpus": 0, "num_gpus": 0, "scheduling_strategy": there}
        return ray.remote(RemoteAgent).options(max_concurrency=4, **options).remote()

    def _name(self, kind: str, node: str) -> str:
        return f"{kind}/{self._run_id}/{node}"


def _alive() -> dict[str, dict[str, Any]]:
    """Hosts by name. A host whose name is not its own is named by its address."""
    nodes: list[dict[str, Any]] = cast("Any", ray).nodes()  # Ray has no types for it
    alive = [node for node in nodes if node["Alive"]]
    names = [node["NodeManagerHostname"] for node in alive]
    return {
        name if names.count(name) == 1 else node["NodeManagerAddress"]: node
        for name, node in sorted(zip(names, alive, strict=True), key=lambda pair: pair[0])
    }


def domain_of(node: Mapping[str, Any]) -> str:
    """The NVLink domain of a host by its labels or its resources; "" where they name none.

    Source: Ray 2.60 (topology_strategy), NVIDIA's GPU feature discovery and Topograph, NeMo RL.
    """
    labels = node.get("Labels") or {}
    named = [labels[key] for key in DOMAIN_LABELS if labels.get(key)]
    resources = [name for name in node["Resources"] if name.startswith(DOMAIN_RESOURCE)]
    return str([*named, *(name.removeprefix(DOMAIN_RESOURCE) for name in resources), ""][0])


def _door(node: dict[str, Any]) -> Door:
    """The port on which Ray itself listens there."""
    return node["NodeManagerAddress"], node["NodeManagerPort"]


def main(address: str, run_id: str, life: str) -> None:
    """Reply until stdin ends."""
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # Ray prints to stdout
    ray.init(address, namespace=NAMESPACE, log_to_driver=False, configure_logging=False)
    relay = Relay(run_id, is_tied=life == "tied")
    lock = threading.Lock()

    def carry(line: str) -> None:
        reply = relay.reply(line)
        with lock:
            out.write(reply)
            out.flush()

    with ThreadPoolExecutor(THREADS) as carriers:
        for line in sys.stdin:
            carriers.submit(carry, line)


if __name__ == "__main__":
    main(*sys.argv[1:])
