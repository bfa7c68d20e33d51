"""What a scale writes down for the supervisor, and why it refuses."""

from dataclasses import replace
from pathlib import Path

import pytest

from pdctl.deployment.build import Counts, deployment_of
from pdctl.deployment.pd_yaml import read_deployment, write_deployment
from pdctl.deployment.records import Deployment, RouterPlan
from pdctl.engines import state
from pdctl.engines.launchers import local
from pdctl.engines.lifecycle import rescale, running, start
from pdctl.engines.records import DeploymentState, Handle, Launch, ProcessState
from pdctl.errors import EnvironmentProblem, InvalidInput, StateConflict
from pdctl.inspection import sglang
from pdctl.inspection.records import Gpu, SglangInstall
from pdctl.paths import HOME_VARIABLE
from tests.e2e.cli import free_port
from tests.engines.test_state import some_launch, some_state

NAME = "chat"


class Running:
    """A deployment that a supervisor follows, without either."""

    def __init__(self, deployment: Deployment) -> None:
        self.prepared = start.prepare(deployment)
        specs = self.prepared.specs
        state.make_state_dir(NAME)
        write_deployment(self.prepared.deployment, state.state_dir(NAME) / "desired.yaml")
        state.write_launch(replace(some_launch(NAME), specs=specs, layout=deployment.layout))
        self.runs(*(spec.name for spec in specs))

    def runs(self, *names: str) -> DeploymentState:
        """These processes of the launch and of what it lets go run."""
        launch = self.launch
        specs = {spec.name: spec for spec in (*launch.leaving, *launch.specs)}
        processes = tuple(
            ProcessState(name, specs[name].role, specs[name].url, "serving", Handle("1@1.0"), 1.0)
            for name in names
        )
        seen = replace(some_state(NAME), processes=processes)
        state.write_state(seen)
        return seen

    @property
    def launch(self) -> Launch:
        found = state.read_launch(NAME)
        assert found is not None
        return found

    def names(self) -> list[str]:
        return [spec.name for spec in self.launch.specs]


@pytest.fixture(autouse=True)
def _supervised(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))
    monkeypatch.setattr(state, "is_supervised", lambda name: True)
    monkeypatch.setattr(running, "is_running", lambda name: True)


def sim(prefill: int, total: int, **fields: object) -> Deployment:
    made = deployment_of(model="qwen3-8b", prefill=prefill, total=total, engine="sim", name=NAME)
    return replace(made, router=RouterPlan(port=free_port()), **fields)  # type: ignore[arg-type]


def test_an_engine_takes_the_port_and_the_gpu_of_the_one_it_is_made_of() -> None:
    deployment = Running(sim(2, 8))
    before = {spec.name: spec for spec in deployment.launch.specs}
    done = rescale.rescale(NAME, Counts(prefill=3), drain_s=90)
    after = {spec.name: spec for spec in deployment.launch.specs}
    new, old = after["prefill-2"], before["decode-5"]
    assert (new.url, new.gpus, new.role) == (old.url, old.gpus, "prefill")
    assert str(new.bootstrap_port) in old.argv
    assert done.changes[0].startswith("decode-5 becomes prefill-2 without a restart")
    assert {n: s for n, s in after.items() if n in before} == {
        n: s for n, s in before.items() if n in after
    }
    assert deployment.launch.leaving == (old,)
    assert (deployment.launch.revision, deployment.launch.drain_s) == (1, 90)
    assert read_deployment(state.state_dir(NAME) / "desired.yaml").layout == "3P5D"


def test_the_way_back_gives_the_engine_its_old_self() -> None:
    deployment = Running(sim(2, 8))
    before = deployment.launch.specs
    rescale.rescale(NAME, Counts(prefill=3))
    deployment.runs("router", "prefill-0", "prefill-1", "prefill-2")
    rescale.rescale(NAME, Counts(prefill=2))
    assert deployment.launch.specs == before


def test_an_engine_that_was_a_prefill_engine_does_not_become_one_again_in_place() -> None:
    deployment = Running(sim(1, 3))
    seen = deployment.runs("router", "prefill-0", "decode-0", "decode-1")
    processes = tuple(replace(p, was_prefill=p.name == "decode-1") for p in seen.processes)
    state.write_state(replace(seen, processes=processes))
    old = deployment.launch.specs[-1]
    done = rescale.rescale(NAME, Counts(prefill=2))
    assert "have cached its earlier address" in done.changes[0]
    new = next(spec for spec in deployment.launch.specs if spec.name == "prefill-1")
    assert new.bootstrap_port is not None
    assert new.url != old.url
    assert str(new.bootstrap_port) not in old.argv


def test_a_bootstrap_port_is_not_given_to_the_next_engine() -> None:
    deployment = Running(sim(2, 4))
    ports = [spec.bootstrap_port for spec in deployment.launch.specs]
    rescale.rescale(NAME, Counts(prefill=1, decode=2))
    deployment.runs("router", "prefill-0", "decode-0", "decode-1")
    rescale.rescale(NAME, Counts(prefill=2, decode=2))
    again = [spec.bootstrap_port for spec in deployment.launch.specs]
    assert again[1] == ports[1]
    assert again[2] not in (None, *ports)


def test_an_engine_wanted_again_while_it_drains_stays() -> None:
    deployment = Running(sim(1, 4))
    before = deployment.launch.specs
    rescale.rescale(NAME, Counts(total=3))
    done = rescale.rescale(NAME, Counts(total=4, prefill=1))
    assert done.changes == ("decode-2 stays; it was about to leave.",)
    assert deployment.launch.specs == before
    assert deployment.launch.leaving == ()


def test_who_was_to_be_made_of_an_engine_that_stays_after_all_gets_another_place() -> None:
    deployment = Running(sim(1, 3))
    old = deployment.launch.specs[-1]
    rescale.rescale(NAME, Counts(prefill=2))
    deployment.runs("router", "prefill-0", "decode-0", "decode-1")
    done = rescale.rescale(NAME, Counts(prefill=2, decode=2))
    specs = {spec.name: spec for spec in deployment.launch.specs}
    assert specs["decode-1"] == old
    assert len({spec.url for spec in specs.values()}) == len(specs)
    gpus = [gpu for spec in specs.values() for gpu in spec.gpus]
    assert len(set(gpus)) == len(gpus)
    assert set(done.changes) == {
        f"prefill-1 starts on GPU {specs['prefill-1'].gpus[0]}.",
        "decode-1 stays; it was about to leave.",
    }
    assert deployment.launch.leaving == ()


def test_what_has_ended_is_not_taken_back() -> None:
    deployment = Running(sim(1, 4))
    rescale.rescale(NAME, Counts(total=3))
    deployment.runs("router", "prefill-0", "decode-0", "decode-1")
    done = rescale.rescale(NAME, Counts(total=4, prefill=1))
    assert done.changes == ("decode-2 starts on GPU 3.",)
    assert deployment.launch.leaving == ()


def test_asking_for_what_is_there_changes_nothing() -> None:
    deployment = Running(sim(2, 8))
    before = deployment.launch
    done = rescale.rescale(NAME, Counts(prefill=2))
    assert not done.is_changed
    assert deployment.launch == before


def test_a_command_that_was_cut_off_between_its_two_files_does_no_harm() -> None:
    deployment = Running(sim(2, 8))
    write_deployment(sim(5, 9), state.state_dir(NAME) / "desired.yaml")
    done = rescale.rescale(NAME, Counts(total=9, prefill=2))
    assert (done.before, deployment.launch.layout) == ("2P6D", "2P7D")


def test_a_larger_simulated_deployment_needs_gpus_as_well() -> None:
    deployment = Running(sim(2, 8, gpus="8xH200"))
    with pytest.raises(InvalidInput, match="8xH200 describes 8"):
        rescale.rescale(NAME, Counts(total=9))
    assert deployment.launch.revision == 0


def test_nothing_is_scaled_that_does_not_run_or_is_stopping(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    deployment = Running(sim(1, 2))
    state.write_state(replace(deployment.runs("router"), phase="stopping"))
    with pytest.raises(StateConflict, match="is stopping"):
        rescale.rescale(NAME, Counts(total=3))
    monkeypatch.setattr(rescale, "GUARD_WAIT_S", 0.0)
    monkeypatch.setattr(state, "is_supervised", lambda name: False)
    with pytest.raises(StateConflict, match="lost its supervisor"):
        rescale.rescale(NAME, Counts(total=3))
    with pytest.raises(StateConflict, match="No deployment 'other'"):
        rescale.rescale("other", Counts(total=3))


def real(monkeypatch: pytest.MonkeyPatch, num_gpus: int, backend: str, model: Path) -> Running:
    """1P2D of real engines on a machine with `num_gpus` GPUs."""
    full = 80 << 30
    used: set[int] = set()

    def gpus() -> tuple[Gpu, ...]:
        return tuple(
            Gpu(i, "H100", f"u{i}", full, full if i in used else 0) for i in range(num_gpus)
        )

    install = SglangInstall("/py", "0.5.23", (backend,), None)
    monkeypatch.setattr(local, "query_gpus", gpus)
    monkeypatch.setattr(sglang, "query_sglang", lambda python: install)
    made = deployment_of(model=str(model), prefill=1, total=3, name=NAME, transfer_backend=backend)
    deployment = Running(replace(made, router=RouterPlan(port=free_port())))
    used.update(gpu for spec in deployment.launch.specs for gpu in spec.gpus)
    return deployment


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A directory with a small model's config."""
    text = (
        '{"architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 128,'
        ' "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,'
        ' "vocab_size": 512, "max_position_embeddings": 2048}'
    )
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(text)
    return tmp_path / "model"


def test_without_a_role_switch_a_free_gpu_lets_the_new_engine_serve_first(
    monkeypatch: pytest.MonkeyPatch, model: Path
) -> None:
    deployment = real(monkeypatch, 4, "nixl", model)
    done = rescale.rescale(NAME, Counts(prefill=2))
    assert done.changes == (
        "prefill-1 starts on GPU 3, then decode-1 leaves (no role switch: "
        "KV transfer over nixl cannot be rebuilt at run time).",
    )
    assert deployment.names() == ["router", "prefill-0", "prefill-1", "decode-0"]


def test_over_nixl_no_prefill_engine_takes_the_gpu_of_a_decode_engine_from_the_only_other(
    monkeypatch: pytest.MonkeyPatch, model: Path
) -> None:
    deployment = real(monkeypatch, 3, "nixl", model)
    with pytest.raises(StateConflict, match="but prefill-0 keeps it mapped") as refusal:
        rescale.rescale(NAME, Counts(prefill=2))
    assert "pdctl up --prefill 2 --total 3" in refusal.value.hint
    assert deployment.launch.revision == 0


def test_with_mooncake_roles_change_in_place(monkeypatch: pytest.MonkeyPatch, model: Path) -> None:
    deployment = real(monkeypatch, 3, "mooncake", model)
    done = rescale.rescale(NAME, Counts(prefill=2))
    assert done.changes[0].startswith("decode-1 becomes prefill-1 without a restart")
    assert deployment.launch.specs[2].gpus == (2,)


def test_gpus_that_are_not_there_are_a_refusal(
    monkeypatch: pytest.MonkeyPatch, model: Path
) -> None:
    deployment = real(monkeypatch, 3, "mooncake", model)
    with pytest.raises(EnvironmentProblem, match="needs 1 free GPU; 0 are free") as refusal:
        rescale.rescale(NAME, Counts(total=4))
    assert "keeps the total at 3 engines" in refusal.value.hint
    assert deployment.launch.revision == 0


@pytest.mark.parametrize(("counts", "lacking"), [
    (Counts(prefill=3), ""),
    (Counts(total=8), ""),
    (Counts(total=9), "8xH200 describes 8"),
])  # fmt: skip
def test_gpus_that_a_simulated_change_lacks_are_told(counts: Counts, lacking: str) -> None:
    Running(sim(2, 8, gpus="8xH200"))
    told = rescale.lacking_gpus(NAME, counts)
    assert lacking in told
    assert bool(lacking) == bool(told)


def test_gpus_that_this_machine_lacks_are_told(
    monkeypatch: pytest.MonkeyPatch, model: Path
) -> None:
    real(monkeypatch, 4, "mooncake", model)
    assert rescale.lacking_gpus(NAME, Counts(prefill=2, decode=2)) == ""
    told = rescale.lacking_gpus(NAME, Counts(prefill=2, decode=3))
    assert told == "2P3D takes 5 GPUs, and this machine has 4."


def test_a_preview_says_what_would_happen_and_writes_nothing() -> None:
    deployment = Running(sim(2, 8))
    before = deployment.launch
    seen = rescale.preview(NAME, Counts(prefill=3))
    assert (seen.before, seen.launch.layout, seen.is_changed) == ("2P6D", "3P5D", True)
    assert seen.changes[0].startswith("decode-5 becomes prefill-2")
    assert deployment.launch == before
    done = rescale.rescale(NAME, Counts(prefill=3))
    assert done.changes == seen.changes


def test_undo_goes_back_to_the_counts_before_the_last_change() -> None:
    deployment = Running(sim(2, 8))
    with pytest.raises(StateConflict) as refused:
        rescale.undo_counts(NAME)
    assert refused.value.code == "nothing_to_undo"
    rescale.rescale(NAME, Counts(prefill=3))
    assert rescale.undo_counts(NAME) == Counts(prefill=2, decode=6)
    deployment.runs("router", "prefill-0", "prefill-1", "prefill-2")
    done = rescale.rescale(NAME, rescale.undo_counts(NAME))
    assert done.launch.layout == "2P6D"
    assert rescale.undo_counts(NAME) == Counts(prefill=3, decode=5)
