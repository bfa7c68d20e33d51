"""A Slurm of three nodes for all tests of this folder, and a pdctl of the test's own on it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import slurm
from tests.cluster.pdctl_there import PdctlThere
from tests.cluster.slurm import Slurm


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """Three nodes with eight GPUs each."""
    if why := slurm.missing():
        pytest.skip(why)
    with slurm.slurm(3, tmp_path_factory.mktemp("slurm")) as running:
        yield running


@pytest.fixture
def there(cluster: Slurm, tmp_path: Path) -> Iterator[PdctlThere]:
    """pdctl in an empty directory that all hosts share; its jobs are cancelled afterwards."""
    (tmp_path / "work").mkdir()
    yield PdctlThere(cluster, home=tmp_path / "state", cwd=tmp_path / "work")
    cluster.run("scancel", "--user=root")
    slurm.until(lambda: not cluster.jobs())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need Slurm run with `pytest -m slurm`."""
    for item in items:
        if "cluster" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slurm)
