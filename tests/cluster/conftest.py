"""A Slurm and a Ray of three nodes for the tests of this folder, and a test's own pdctl there."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import ray_cluster, slurm
from tests.cluster.pdctl_there import OnSlurm, PdctlThere
from tests.cluster.ray_cluster import RayCluster
from tests.cluster.slurm import Slurm


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """Three nodes with eight GPUs each."""
    if why := slurm.missing():
        pytest.skip(why)
    with slurm.slurm(3, tmp_path_factory.mktemp("slurm")) as running:
        yield running


@pytest.fixture
def there(cluster: Slurm, tmp_path: Path) -> Iterator[OnSlurm]:
    """pdctl in an empty directory that all hosts share; its jobs are cancelled afterwards."""
    (tmp_path / "work").mkdir()
    yield OnSlurm(cluster, home=tmp_path / "state", cwd=tmp_path / "work")
    cluster.run("scancel", "--user=root")
    slurm.until(lambda: not cluster.jobs())


@pytest.fixture(scope="session")
def ray_hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    """Three hosts with eight GPUs each."""
    if why := ray_cluster.missing():
        pytest.skip(why)
    with ray_cluster.ray_cluster(3, tmp_path_factory.mktemp("ray")) as running:
        yield running


@pytest.fixture
def on_ray(ray_hosts: RayCluster, tmp_path: Path) -> Iterator[PdctlThere[RayCluster]]:
    """pdctl in an empty directory that all hosts share; its deployment is stopped afterwards."""
    (tmp_path / "work").mkdir()
    made = PdctlThere(ray_hosts, home=tmp_path / "state", cwd=tmp_path / "work")
    yield made
    made.run("down", "--now")
    made.leaves_nothing()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need Slurm run with `pytest -m slurm`, those that need Ray with `-m ray`."""
    for item in items:
        needed = getattr(item, "fixturenames", ())
        if "cluster" in needed:
            item.add_marker(pytest.mark.slurm)
        if "ray_hosts" in needed:
            item.add_marker(pytest.mark.ray)
