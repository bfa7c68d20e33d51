"""Checks of what the nodes of a cluster must have in common."""

import json
import socket
import threading
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pdctl.deployment.cluster_file import ClusterFile, HostSettings, read_cluster_file
from pdctl.deployment.records import Container
from pdctl.doctor.nodes import (
    cluster_file_of,
    domain_rule,
    fault_checks,
    node_faults,
    num_gpus_rule,
    sglang_rule,
    tcp_rule,
)
from pdctl.doctor.records import Check
from pdctl.doctor.tcp_rate import receive, send
from pdctl.engines.lifecycle.preflight import Clock, clock_faults, model_faults
from pdctl.errors import EnvironmentProblem
from pdctl.inspection.model_contents import FileOnDisk
from pdctl.inspection.records import RdmaPort
from tests.engines.launchers.in_memory import InMemoryLauncher


def test_a_node_with_other_gpus_than_cluster_yaml_says_fails() -> None:
    cluster = ClusterFile(hosts={"node4": HostSettings(gpus=4)})
    (check,) = num_gpus_rule({"node1": 8, "node2": 7, "node3": None, "node4": 4}, cluster)
    assert (check.node, check.outcome) == ("node2", "fail")
    assert check.text == "node2 has 7 GPUs; cluster.yaml says 8."
    assert check.fix.startswith("hosts: {node2: {gpus: 7}} in cluster.yaml")


def test_a_domain_is_shown_with_who_names_it_unless_drivers_name_two_fabrics() -> None:
    by_cluster = {"n1": "block1", "n2": "block1", "n3": "block2"}
    fabrics = {"n1": "f.1", "n2": "f.2", "n3": "", "n4": "f.1", "n5": ""}
    found = {check.node: check for check in domain_rule({"n3": "rack"}, by_cluster, fabrics)}
    assert {node: check.outcome for node, check in found.items()} == {
        "n1": "warn",
        "n2": "warn",
        "n3": "pass",
        "n4": "pass",
    }
    assert found["n3"].text == "n3 is in NVLink domain rack, by cluster.yaml."
    assert found["n4"].text == "n4 is in NVLink domain f.1, by the driver."
    assert found["n2"].text == (
        "n2 and n1 are in NVLink domain block1 by the cluster, but their drivers name two fabrics."
    )


def test_every_node_needs_the_sglang_of_the_first_one() -> None:
    found = tuple(sglang_rule({"node1": "0.5.23", "node2": "0.5.23", "node3": None}))
    assert [check.text for check in found] == ["node3 has no SGLang; node1 has SGLang 0.5.23."]


def test_clocks_models_and_networks_are_those_that_a_start_refuses() -> None:
    models = {"a": {"config.json": FileOnDisk(7, "x")}, "b": {"config.json": FileOnDisk(7, "y")}}
    found = [
        *fault_checks(clock_faults({"a": Clock(0.0, 0.1), "b": Clock(30.0, 0.1)}), "clock"),
        *fault_checks(clock_faults({"a": Clock(0.0, 0.1), "b": Clock(3.0, 0.1)}), "clock"),
        *fault_checks(model_faults("/m", models), "same_model"),
    ]
    assert [(check.id, check.outcome, check.node) for check in found] == [
        ("clock", "fail", "b"),
        ("clock", "warn", "b"),
        ("same_model", "fail", "b"),
    ]


class Reporting(InMemoryLauncher):
    """Nodes that report an almost full disk on b, and no SGLang anywhere."""

    def run(
        self,
        node: str,
        argv: Sequence[str],
        *,
        timeout_s: float,
        container: Container | None = None,
    ) -> str:
        full = Check(
            "state_dir", "fail" if node == "b" else "pass", "State goes to /s, 1 MiB free."
        )
        checks = [asdict(check) for check in (full, Check("sglang", "fail", "none"))]
        return json.dumps({"checks": checks, "sglang": None, "num_gpus": 8})


def test_what_fails_on_a_node_by_itself_names_the_node() -> None:
    (check,) = node_faults(Reporting(names=("a", "b")), ClusterFile(), ("a", "b"))
    assert (check.id, check.node) == ("state_dir", "b")


def test_a_slow_network_between_nodes_is_a_warning_with_what_a_plan_assumes() -> None:
    lost = EnvironmentProblem("c does not answer.", hint="sinfo -N -n c")
    found = tuple(tcp_rule({("a", "b"): 5e9, ("b", "c"): 1e9, ("c", "a"): lost}))
    assert [check.outcome for check in found] == ["pass", "warn", "fail"]
    assert found[1].text == (
        "b sends 954 MiB/s to c over TCP (RDMA is not measured); a plan for nodes without RDMA "
        "assumes 2.04 GiB/s of a node."
    )


def test_bytes_that_are_sent_are_read_to_the_end() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        door = ("127.0.0.1", probe.getsockname()[1])
    receiver = threading.Thread(target=receive, args=(door,))
    receiver.start()
    assert send(door, 0.05) > 0
    receiver.join(10)
    assert not receiver.is_alive()


def test_a_cluster_file_is_filled_with_what_the_nodes_report(tmp_path: Path) -> None:
    class Cards(InMemoryLauncher):
        def rdma_ports(self, node: str) -> tuple[RdmaPort, ...]:
            fast = RdmaPort("mlx5_0", 1, "ACTIVE", 5e10)
            slow, down = RdmaPort("mlx5_8", 1, "ACTIVE", 3e9), RdmaPort("mlx5_1", 1, "DOWN", 5e10)
            return (fast, slow, down)

    file = tmp_path / "cluster.yaml"
    file.write_text(cluster_file_of(Cards(names=("a", "b"))))
    found = read_cluster_file(file)
    assert (found.gpus_of("a"), found.cards_of("b"), found.hosts) == (3, ("mlx5_0",), {})
