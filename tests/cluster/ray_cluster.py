"""A real Ray cluster on hosts made of namespaces, each with eight GPUs that only Ray counts."""

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cluster import hosts
from tests.cluster.hosts import Host
from tests.cluster.slurm import until

PORT = 6379
START_S = 120.0  # of Ray on busy cores
_RAY = (sys.executable, "-m", "ray.scripts.scripts")
_OPTIONS = ("--num-gpus=8", "--num-cpus=4", "--object-store-memory=80000000", "--block")
DOMAINS = {
    "node2": "nvlink_domain=rack",
    "node3": "nvidia.com/gpu.clique=rack",
}
_COUNT = "import ray; ray.init(log_to_driver=False); print(sum(n['Alive'] for n in ray.nodes()))"


@dataclass(frozen=True)
class RayCluster:
    """A running Ray. The first node is its head."""

    nodes: tuple[Host, ...]

    @property
    def login(self) -> Host:
        """The host that commands run on."""
        return self.nodes[0]

    @property
    def environment(self) -> dict[str, str]:
        address = f"{self.login.address}:{PORT}"
        return {"RAY_ADDRESS": address, "RAY_TMPDIR": "/tmp", "RAY_USAGE_STATS_ENABLED": "0"}


def missing() -> str:
    """Why Ray cannot run here; "" if it can."""
    if importlib.util.find_spec("ray") is None:
        return "Ray is not installed: pip install '.[ray]'"
    return hosts.missing()


@contextmanager
def ray_cluster(num_nodes: int, directory: Path) -> Iterator[RayCluster]:
    """A cluster of `num_nodes` hosts; nothing of it is left afterwards."""
    names = [f"node{i + 1}" for i in range(num_nodes)]
    with hosts.network(names, directory) as machines:
        cluster = RayCluster(tuple(machines[name] for name in names))
        for node in cluster.nodes:
            _own_directory(node, directory)
        _start(cluster, cluster.login, directory, "--head", f"--port={PORT}")
        until(lambda: _num_alive(cluster) == 1, START_S)
        for node in cluster.nodes[1:]:
            address = f"--address={cluster.login.address}:{PORT}"
            _start(cluster, node, directory, address)
        until(lambda: _num_alive(cluster) == num_nodes, START_S)
        yield cluster


def _own_directory(node: Host, directory: Path) -> None:
    """Ray keeps sockets in RAY_TMPDIR/ray, which no two hosts may share."""
    own = directory / f"ray.{node.name}"
    own.mkdir()
    Path("/tmp/ray").mkdir(exist_ok=True)
    assert node.run("mount", "--bind", str(own), "/tmp/ray").returncode == 0


def _start(cluster: RayCluster, node: Host, directory: Path, *options: str) -> None:
    argv = (*_RAY, "start", f"--node-ip-address={node.address}", *options, *_OPTIONS)
    labels = ("--labels", DOMAINS[node.name]) if node.name in DOMAINS else ()
    dashboard = ("--include-dashboard=false",) if "--head" in options else ()
    environment = {**cluster.environment, "PYTHONPATH": str(Path(__file__).parents[2])}
    node.spawn(*argv, *labels, *dashboard, log=directory / "ray.log", env=environment)


def _num_alive(cluster: RayCluster) -> int:
    done = cluster.login.run(sys.executable, "-c", _COUNT, env=cluster.environment)
    return int(done.stdout or 0) if done.returncode == 0 else 0
