"""Models on the nodes' own disks."""

from dataclasses import replace
from pathlib import Path

import pytest

from pdctl.deployment.records import HERE, ProcessSpec
from pdctl.engines.lifecycle import stage
from pdctl.engines.lifecycle.stage import copy_for, copy_model, copy_of, not_copied, with_copy
from pdctl.inspection.model_contents import FileOnDisk
from tests.deployment.examples import split
from tests.engines.launchers.in_memory import InMemoryLauncher
from tests.engines.world import fleet_specs

MODEL = "/lustre/llama"
ON_DISK = replace(split(), model=MODEL)
NODES = ("a", "b")


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory whose cluster.yaml has `stage`."""
    (tmp_path / "cluster.yaml").write_text("schema: 1\nstage: /nvme\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stage, "LOOK_EVERY_S", 0.0)


def cluster() -> InMemoryLauncher:
    made = InMemoryLauncher(names=NODES)
    files = {"config.json": FileOnDisk(2, "c"), "model.safetensors": FileOnDisk(5000)}
    made.models.update({(node, Path(MODEL)): files for node in NODES})
    return made


def test_engines_load_the_copy_once_every_node_has_it_and_serve_the_same_name() -> None:
    launcher, shown = cluster(), list[str]()
    assert with_copy(ON_DISK, launcher, NODES) == ON_DISK
    (warning,) = not_copied(ON_DISK, ON_DISK, NODES)
    assert warning.endswith(f"these engines load {MODEL}.")
    copy_model(MODEL, launcher, NODES, shown.append)
    assert shown == ["copying the model to /nvme: 1 B of 2 B on a"]
    made = with_copy(ON_DISK, launcher, NODES)
    assert made.model == str(copy_of(MODEL))
    assert made.model.startswith("/nvme/llama-")
    assert not not_copied(ON_DISK, made, NODES)
    assert not not_copied(ON_DISK, ON_DISK, (HERE,)), "one machine copies nothing"
    assert {role.args[-2:] for role in made.roles.values()} == {("--served-model-name", MODEL)}


def test_a_copy_that_differs_is_not_loaded() -> None:
    launcher = cluster()
    copy_model(MODEL, launcher, NODES, lambda text: None)
    target = copy_of(MODEL)
    assert target is not None
    launcher.models["b", target] = {"config.json": FileOnDisk(2, "old")}
    assert with_copy(ON_DISK, launcher, NODES) == ON_DISK


def test_a_name_of_the_hub_is_left_to_sglang_and_two_models_have_two_places() -> None:
    assert copy_of("Qwen/Qwen3-8B") is None
    assert copy_of("/lustre/a/llama") != copy_of("/lustre/b/llama")


def test_a_name_that_the_user_chose_stays() -> None:
    launcher = cluster()
    roles = {r: replace(p, args=("--served-model-name", "x")) for r, p in ON_DISK.roles.items()}
    copy_model(MODEL, launcher, NODES, lambda text: None)
    made = with_copy(replace(ON_DISK, roles=roles), launcher, NODES)
    assert {role.args for role in made.roles.values()} == {("--served-model-name", "x")}


def test_engines_load_the_copy_of_a_single_file_by_its_name() -> None:
    launcher, file = cluster(), "/lustre/llama-q4.gguf"
    only = {"llama-q4.gguf": FileOnDisk(4000)}
    launcher.models.update({(node, Path(file)): only for node in NODES})
    copy_model(file, launcher, NODES, lambda text: None)
    made = with_copy(replace(split(), model=file), launcher, NODES)
    assert made.model == f"{copy_of(file)}/llama-q4.gguf"
    assert {role.args[-2:] for role in made.roles.values()} == {("--served-model-name", file)}


def test_only_the_nodes_of_planned_engines_get_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    launcher, plans = cluster(), list[int]()
    monkeypatch.setattr(stage, "launcher_named", lambda name: launcher)
    router, engine, *_ = fleet_specs(1, 1)

    def make() -> tuple[ProcessSpec, ...]:
        plans.append(1)
        return replace(router, node="a"), replace(engine, node="b")

    copy_for(make, MODEL, "slurm:1", lambda text: None)
    assert [node for node, _ in launcher.staging] == ["b"]
    copy_for(make, MODEL, "local", lambda text: None)
    copy_for(make, "Qwen/Qwen3-8B", "slurm:1", lambda text: None)
    assert len(plans) == 1, "nothing is planned where nothing is staged"
