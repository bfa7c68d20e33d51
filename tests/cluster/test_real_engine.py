"""Real SGLang on the CPU on two nodes of a Slurm: KV moves from one to the other over TCP."""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.hosts import Host
from tests.cluster.load import ROOT
from tests.cluster.pdctl_there import OnSlurm
from tests.cluster.slurm import Slurm, until
from tests.real_engine.installed import MODEL, missing
from tests.real_engine.test_real_engine import COLOCATED, document, prompts, split

pytestmark = [
    pytest.mark.real_engine,
    pytest.mark.skipif(missing() is not None, reason=missing() or ""),
]

BRIDGE = "172.17.0.1/16"  # Docker's own, the same on every host
KV_BYTES_PER_TOKEN = 2 * 2 * 2 * 16 * 2  # layers, keys and values, KV heads, their size, bf16
_ANSWERS = """
import json, sys
from tests.real_engine.test_real_engine import generate, prompts
print(json.dumps([generate(prompt, sys.argv[1]) for prompt in prompts()]))
"""


@pytest.fixture
def real(cluster: Slurm, tmp_path: Path) -> Iterator[OnSlurm]:
    """pdctl where each node takes one engine and has a bridge that no other node reaches."""
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "cluster.yaml").write_text("schema: 1\ngpus_per_node: 1\n")
    for node in cluster.nodes:
        node.run("ip", "link", "add", "docker0", "type", "dummy")
        node.run("ip", "addr", "add", BRIDGE, "dev", "docker0")
        node.run("ip", "link", "set", "docker0", "up")
    yield OnSlurm(cluster, tmp_path / "state", tmp_path / "work", patience_s=400)
    cluster.run("scancel", "--user=root")
    until(lambda: not cluster.jobs())
    for node in cluster.nodes:
        node.run("ip", "link", "del", "docker0")


def up(real: OnSlurm, name: str, roles: Mapping[str, Any]) -> None:
    """Submit a deployment and wait until it serves."""
    file = real.cwd / f"{name}.yaml"
    file.write_text(document(name, MODEL, roles))
    real.done("up", "-f", str(file), "--on", "slurm", "-d", "--timeout", "6min")


def answers(real: OnSlurm, name: str) -> list[list[int]]:
    """The greedy tokens that follow each prompt, asked for on the login host."""
    argv = (sys.executable, "-c", _ANSWERS, real.state(name)["endpoint"])
    asked = real.cluster.login.run(*argv, env=real.environment, cwd=ROOT, timeout_s=120)
    assert asked.returncode == 0, asked.stderr
    tokens: list[list[int]] = json.loads(asked.stdout)
    return tokens


def received_bytes(node: Host) -> int:
    """Bytes that a node has received from the others."""
    lines = node.run("cat", "/proc/net/dev").stdout.splitlines()
    (counters,) = (line.partition(":")[2] for line in lines if line.strip().startswith("eth0:"))
    return int(counters.split()[0])


def test_engines_on_two_nodes_answer_like_one_engine(real: OnSlurm) -> None:
    up(real, "together", COLOCATED)
    expected = answers(real, "together")
    real.done("down", "together")

    up(real, "split", split())
    nodes = {p["name"]: p["node"] for p in real.state("split")["processes"]}
    assert (nodes["prefill-0"], nodes["decode-0"]) == ("node1", "node2")
    decode = real.cluster.nodes[1]
    before = received_bytes(decode)
    assert answers(real, "split") == expected
    kv_bytes = KV_BYTES_PER_TOKEN * sum(len(prompt) for prompt in prompts())
    assert received_bytes(decode) - before > kv_bytes
    real.done("down", "split")
    real.leaves_nothing()
