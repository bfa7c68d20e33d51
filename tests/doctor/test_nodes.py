"""Checks of what the nodes of a cluster must have in common."""

import socket
import threading

import pytest

from pdctl.doctor.nodes import (
    Clock,
    clock_rule,
    meet,
    meeting_rule,
    num_gpus_rule,
    sglang_rule,
)


def test_a_node_with_other_gpus_than_cluster_yaml_says_fails() -> None:
    (check,) = num_gpus_rule({"node1": 8, "node2": 7, "node3": None}, 8)
    assert (check.node, check.outcome) == ("node2", "fail")
    assert check.text == "node2 has 7 GPUs; gpus_per_node in cluster.yaml is 8."


def test_every_node_needs_the_sglang_of_the_first_one() -> None:
    found = tuple(sglang_rule({"node1": "0.5.23", "node2": "0.5.23", "node3": None}))
    assert [check.text for check in found] == ["node3 has no SGLang; node1 has SGLang 0.5.23."]


def test_a_clock_counts_as_wrong_only_where_it_could_be_read_well_enough() -> None:
    clocks = {
        "node1": Clock(0.2, 0.1),
        "node2": Clock(-30.0, 0.1),
        "node3": Clock(2.0, 1.5),
    }
    (check,) = clock_rule(clocks)
    assert check.text == "The clock of node2 is 30.0 s behind this machine's."


def test_a_node_that_does_not_reach_another_one_fails() -> None:
    well, bad = meeting_rule({"node1": [], "node2": ["node3", "node4"]})
    assert (well.outcome, bad.outcome) == ("pass", "fail")
    assert bad.text == "node2 does not reach node3, node4 over TCP."


@pytest.mark.slow
def test_nodes_that_listen_meet_and_a_closed_door_is_missed() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as two,
    ):
        ports = [server.getsockname()[1] for server in (one, two)]
    own, other, closed = (f"127.0.0.1:{port}" for port in (*ports, 1))
    missed: list[str] = []
    late = threading.Timer(0.3, lambda: missed.extend(meet(other, [own, other], 1.0)))
    late.start()
    assert meet(own, [own, other, closed], 1.2) == [closed]
    late.join()
    assert missed == []
