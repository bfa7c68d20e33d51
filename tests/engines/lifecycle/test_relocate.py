"""Which new target the engines of lost nodes get."""

from dataclasses import replace
from pathlib import Path

import pytest

from pdctl.deployment.build import deployment_of
from pdctl.deployment.pd_yaml import write_deployment
from pdctl.deployment.records import ProcessSpec, RouterPlan
from pdctl.engines import state
from pdctl.engines.lifecycle import relocate, running, stage, start
from pdctl.engines.records import Launch
from pdctl.errors import EnvironmentProblem
from pdctl.inspection.model_contents import FileOnDisk
from pdctl.paths import HOME_VARIABLE
from tests.e2e.cli import free_port
from tests.engines.launchers.in_memory import GPUS_PER_NODE, InMemoryLauncher
from tests.engines.test_state import some_launch, some_state
from tests.engines.world import fleet_specs

NAME = "chat"
NODES = ("a", "b", "c")


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> InMemoryLauncher:
    """Three nodes with three GPUs each; every deployment of this test runs there."""
    there = InMemoryLauncher(names=NODES)
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))
    monkeypatch.setattr(state, "is_supervised", lambda name: True)
    monkeypatch.setattr(running, "is_running", lambda name: True)
    monkeypatch.setattr(start, "launcher_named", lambda name: there)
    monkeypatch.setattr(start, "_llm", lambda deployment: (None, ()))
    return there


def launched(prefill: int, total: int, model: str = "Qwen/Qwen3-8B") -> Launch:
    """A deployment on real GPUs, one for each engine."""
    wanted = deployment_of(model=model, prefill=prefill, total=total, name=NAME)
    wanted = replace(wanted, router=RouterPlan(port=free_port()))
    prepared = start.prepare(wanted, launcher="slurm:1")
    state.make_state_dir(NAME)
    write_deployment(prepared.deployment, state.state_dir(NAME) / "desired.yaml")
    launch = replace(
        some_launch(NAME), specs=prepared.specs, layout=wanted.layout, launcher="slurm:1"
    )
    state.write_launch(launch)
    state.write_state(some_state(NAME))
    return launch


def nodes(launch: Launch) -> dict[str, str]:
    return {spec.name: spec.node for spec in launch.specs}


def lost(*names: str) -> list[str]:
    """Nodes that the supervisor has published as lost."""
    state.write_state(replace(some_state(NAME), lost_nodes=names))
    return list(names)


def test_engines_of_a_lost_node_get_free_gpus_of_the_others(launcher: InMemoryLauncher) -> None:
    before = launched(1, 5)
    gone = {name for name, node in nodes(before).items() if node == "c"}
    after = relocate.relocate(NAME, lost("c"))
    assert gone
    assert set(nodes(after).values()) == {"a", "b"}
    kept = {spec.name: spec for spec in after.specs if spec.name not in gone}
    assert kept == {spec.name: spec for spec in before.specs if spec.name not in gone}
    places = [place for spec in after.specs for place in spec.gpu_places]
    assert len(places) == len(set(places)) == 5
    assert (after.revision, after.layout) == (before.revision + 1, before.layout)
    assert [change.partition(" starts on ")[0] for change in after.changes] == sorted(gone)
    assert after.changes[0].endswith("because c has left the network.")


def test_a_staged_model_is_copied_to_their_new_nodes_before_the_target_is_written(
    launcher: InMemoryLauncher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cluster.yaml").write_text("schema: 1\nstage: /nvme\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stage, "launcher_named", lambda name: launcher)
    monkeypatch.setattr(stage, "LOOK_EVERY_S", 0.0)
    model = {"model.safetensors": FileOnDisk(5000)}
    launcher.models.update({(node, Path("/lustre/llama")): model for node in NODES})
    copy = stage.copy_of("/lustre/llama")
    assert copy is not None
    launcher.models.update({(node, copy): model for node in ("a", "b")})
    before = nodes(launched(1, 2, model="/lustre/llama"))
    assert set(before.values()) == {"a", "b"}
    after = relocate.relocate(NAME, lost("b"))
    (moved,) = (spec for spec in after.specs if spec.node == "c")
    assert [node for node, _ in launcher.staging] == ["c"]
    assert moved.argv[moved.argv.index("--model-path") + 1] == str(copy)


def test_where_room_is_short_the_role_with_the_smallest_share_left_gets_it(
    launcher: InMemoryLauncher,
) -> None:
    before = launched(1, 3 * GPUS_PER_NODE - 1)
    (gone,) = (spec.node for spec in before.specs if spec.role == "prefill")
    after = relocate.relocate(NAME, lost(gone))
    (prefill,) = (spec for spec in after.specs if spec.role == "prefill")
    assert prefill.node != gone
    assert list(nodes(after).values()).count(gone) == list(nodes(before).values()).count(gone) - 1


def test_without_any_room_the_target_stays(launcher: InMemoryLauncher) -> None:
    before = launched(2, 3 * GPUS_PER_NODE)
    with pytest.raises(EnvironmentProblem) as error:
        relocate.relocate(NAME, lost("c"))
    assert error.value.code == "not_enough_gpus"
    assert state.read_launch(NAME) == before


def test_engines_stay_on_a_node_that_came_back_while_their_move_was_planned(
    launcher: InMemoryLauncher,
) -> None:
    before = launched(1, 5)
    lost()
    assert relocate.relocate(NAME, ["c"]) == before
    assert state.read_launch(NAME) == before


def test_no_engine_moves_to_another_lost_node(launcher: InMemoryLauncher) -> None:
    launched(1, 4)
    lost("b", "c")
    before = state.read_launch(NAME)
    assert before is not None
    after = nodes(relocate.relocate(NAME, ["c"]))
    assert {n for n, node in after.items() if node == "b"} == {
        n for n, node in nodes(before).items() if node == "b"
    }
    assert "c" not in after.values()


def test_roles_take_turns_when_a_node_had_several_of_each() -> None:
    prefill, decode = _split(fleet_specs(2, 4))
    ordered = relocate.most_needed_first((*decode[2:], *prefill[1:]), (*decode[:2], *prefill[:1]))
    assert [spec.role for spec in ordered] == ["decode", "prefill", "decode"]


def _split(specs: tuple[ProcessSpec, ...]) -> tuple[list[ProcessSpec], list[ProcessSpec]]:
    found = [[spec for spec in specs if spec.role == role] for role in ("prefill", "decode")]
    return found[0], found[1]
