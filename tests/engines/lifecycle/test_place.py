import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pdctl.deployment.records import Deployment
from pdctl.engines.launchers import ray
from pdctl.engines.lifecycle.place import cautions_there, choose_place, placed_engines
from pdctl.errors import EnvironmentProblem, InvalidInput
from pdctl.inspection.records import Gpu
from pdctl.perf_model.records import Parallelism
from tests.deployment.examples import colocated, split
from tests.e2e.cli import free_port
from tests.engines.launchers.in_memory import InMemoryLauncher

SIMULATED = split(engine="sim")


@pytest.fixture(autouse=True)
def without_slurm_and_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "CURRENT_CLUSTER", tmp_path / "no_cluster")


def with_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    srun = tmp_path / "srun"
    srun.write_text("#!/bin/sh\n")
    srun.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))


def test_an_unknown_place_is_refused() -> None:
    with pytest.raises(InvalidInput) as error:
        choose_place("moon", SIMULATED)
    assert error.value.hint == "--on auto, local, slurm or ray"


def test_slurm_is_refused_where_it_is_not() -> None:
    with pytest.raises(EnvironmentProblem) as error:
        choose_place("slurm", SIMULATED)
    assert error.value.code == "no_slurm"


def test_slurm_means_the_current_job_or_a_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_slurm(tmp_path, monkeypatch)
    assert choose_place("slurm", SIMULATED) == "slurm"
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    assert choose_place("slurm", SIMULATED) == "slurm:42"


def test_auto_takes_the_job_only_for_what_does_not_fit_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_slurm(tmp_path, monkeypatch)
    assert choose_place("auto", split()) == "local", "no job: this machine says what it lacks"
    monkeypatch.setenv("SLURM_JOB_ID", "42")
    assert choose_place("auto", SIMULATED) == "local"
    assert choose_place("auto", split()) == "slurm:42"


def test_ray_is_refused_where_it_is_not() -> None:
    with pytest.raises(EnvironmentProblem) as error:
        choose_place("ray", SIMULATED)
    assert error.value.code == "no_ray"


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a Ray cluster that accepts connections."""
    monkeypatch.setattr(ray, "is_installed", lambda: True)
    with socket.create_server(("127.0.0.1", 0)) as head:
        yield f"127.0.0.1:{head.getsockname()[1]}"


def test_auto_takes_the_ray_cluster_of_this_machine_for_what_does_not_fit_here(
    cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ray_current_cluster").write_text(f"{cluster}\n")
    monkeypatch.setattr(ray, "CURRENT_CLUSTER", tmp_path / "ray_current_cluster")
    assert choose_place("auto", SIMULATED) == "local"
    assert choose_place("auto", split()) == f"ray:{cluster}"
    other = cluster.replace("127.0.0.1", "localhost")
    monkeypatch.setenv("RAY_ADDRESS", other)
    assert choose_place("auto", split()) == f"ray:{other}", "the variable comes first"
    monkeypatch.setenv("RAY_ADDRESS", "http://10.0.0.2:8265")
    assert choose_place("auto", split()) == "local", "an address for jobs and not for programs"


def test_in_a_heterogeneous_job_each_role_stays_on_its_own_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cluster.yaml").write_text("schema: 1\nprefill: {gpus_per_node: 2}\n")
    there = InMemoryLauncher(names=("a", "b", "c"), groups=(("a",), ("b", "c")))
    gpus: dict[str, tuple[Gpu, ...]] = dict.fromkeys(there.names, ())

    def nodes(deployment: Deployment) -> dict[str, set[str]]:
        placed = placed_engines(deployment, (), gpus, there)
        names = deployment.engine_names
        return {
            role: {place.node for name, place in placed.items() if names[name] == role}
            for role in deployment.roles
        }

    wanted = split(2, 2, engine="sim")
    assert nodes(wanted) == {"prefill": {"a"}, "decode": {"b", "c"}}
    assert nodes(colocated(3, engine="sim")) == {"colocated": {"a", "b", "c"}}
    with pytest.raises(EnvironmentProblem, match="prefill-2 needs 1 free GPU on one node"):
        nodes(split(3, 2, engine="sim", place="pack"))
    del gpus["a"]
    with pytest.raises(EnvironmentProblem, match="No node of the job's part for 2P is left"):
        placed_engines(wanted, (), gpus, there)


def test_simulated_engines_may_exceed_the_gpus_of_nodes_which_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    there = InMemoryLauncher(names=("a", "b"))
    gpus: dict[str, tuple[Gpu, ...]] = dict.fromkeys(there.names, ())

    def said(deployment: Deployment) -> tuple[str, ...]:
        placed = placed_engines(deployment, (), gpus, there)
        return cautions_there(deployment, placed, gpus, there)

    sixteen, twenty = (split(2, n, parallelism=Parallelism(tp=2), engine="sim") for n in (6, 8))
    assert said(sixteen) == ()
    (tmp_path / "cluster.yaml").write_text("schema: 1\nhosts: {b: {gpus: 4}}\n")
    (sentence,) = said(twenty)
    assert sentence.startswith("Simulated engines take more GPUs than there are, ")
    assert " of 4 on b" in sentence
    with pytest.raises(EnvironmentProblem, match="free GPUs on one node"):
        said(replace(twenty, place="pack"))


def test_domains_of_the_file_win_over_those_of_the_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    there = InMemoryLauncher(names=("a", "b", "c"), told_domains={"a": "r1", "b": "r1", "c": "r2"})
    gpus: dict[str, tuple[Gpu, ...]] = dict.fromkeys(there.names, ())
    wide = split(1, 1, parallelism=Parallelism(tp=8), engine="sim", place="domain")

    def nodes() -> set[str]:
        return {place.node for place in placed_engines(wide, (), gpus, there).values()}

    assert nodes() == {"a", "b"}
    (tmp_path / "cluster.yaml").write_text("schema: 1\nhosts: {a: {domain: r2}}\n")
    assert nodes() == {"a", "c"}


def test_a_ray_cluster_that_has_ended_is_named_at_once(
    cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("RAY_ADDRESS", gone)
    with pytest.raises(EnvironmentProblem, match=f"Nothing answers at {gone}") as error:
        choose_place("ray", SIMULATED)
    assert error.value.hint.startswith("RAY_ADDRESS=HEAD:6379")
    monkeypatch.setenv("RAY_ADDRESS", cluster)
    assert choose_place("ray", SIMULATED) == f"ray:{cluster}"
