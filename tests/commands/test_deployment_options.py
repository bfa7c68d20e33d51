"""Options override the file, and the file overrides the last plan."""

from dataclasses import replace
from pathlib import Path

import pytest

from pdctl.commands.deployment_options import DeploymentOptions, build_deployment
from pdctl.deployment.cluster_file import ClusterFile, on_cluster
from pdctl.deployment.pd_yaml import read_deployment, write_deployment
from pdctl.deployment.records import Deployment
from pdctl.errors import InvalidInput
from pdctl.paths import last_plan_path

FILE = """\
schema: 1
name: chat
model: /models/m
prefill: {engines: 2, tp: 2, args: {chunked-prefill-size: 4096}}
decode: {engines: 6, env: {A: "1"}}
router: {port: 31000}
"""


@pytest.fixture(autouse=True)
def _asks_nobody(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PDCTL_NO_INPUT", "1")


@pytest.fixture
def pd_yaml(tmp_path: Path) -> Path:
    path = tmp_path / "pd.yaml"
    path.write_text(FILE)
    return path


def test_a_model_and_counts_are_enough() -> None:
    chosen = build_deployment(DeploymentOptions(model="qwen3-8b", prefill=2, total=8))
    assert (chosen.name, chosen.layout, chosen.engine) == ("qwen3-8b", "2P6D", "sglang")


def test_prefill_is_a_quarter_by_default() -> None:
    assert build_deployment(DeploymentOptions(model="m", total=8)).layout == "2P6D"
    assert build_deployment(DeploymentOptions(model="m", total=8, prefill=0)).layout == "8C"


def test_a_file_in_this_directory_is_taken_without_being_named(pd_yaml: Path) -> None:
    assert build_deployment(DeploymentOptions()) == read_deployment(pd_yaml)


def test_options_go_before_the_file(pd_yaml: Path) -> None:
    chosen = build_deployment(
        DeploymentOptions(port=32000, name="other", decode_tp=4, engine="sim")
    )
    assert (chosen.name, chosen.router.port, chosen.engine) == ("other", 32000, "sim")
    assert chosen.roles["decode"].parallelism.tp == 4
    assert chosen.roles["prefill"] == read_deployment(pd_yaml).roles["prefill"]
    assert chosen.roles["decode"].env == {"A": "1"}


def test_slos_come_from_flags_before_the_file_and_leave_no_forecast_of_the_old_ones(
    tmp_path: Path,
) -> None:
    planned = build_deployment(DeploymentOptions(model="m", total=2))
    forecast = {"ttft_p50_s": 0.2, "capacity_rps": 3.0}
    planned = replace(planned, ttft_slo_s=3.0, tpot_slo_s=0.06, predicted=forecast)
    write_deployment(planned, tmp_path / "pd.yaml")
    chosen = build_deployment(DeploymentOptions(ttft="1s"))
    assert (chosen.ttft_slo_s, chosen.tpot_slo_s) == (1.0, 0.06)
    assert chosen.predicted == {"ttft_p50_s": 0.2}


def test_a_way_to_place_engines_comes_from_the_flag_before_files(pd_yaml: Path) -> None:
    site = ClusterFile(place="pack")
    assert on_cluster(build_deployment(DeploymentOptions()), site).place == "pack"
    pd_yaml.write_text(f"{FILE}place: domain\n")
    assert on_cluster(build_deployment(DeploymentOptions()), site).place == "domain"
    assert build_deployment(DeploymentOptions(place="spread")).place == "spread"
    with pytest.raises(InvalidInput, match="'near' is not a way to place engines"):
        build_deployment(DeploymentOptions(place="near"))


def test_another_total_is_split_anew(pd_yaml: Path) -> None:
    assert build_deployment(DeploymentOptions(total=4)).layout == "1P3D"
    assert build_deployment(DeploymentOptions(prefill=3)).layout == "3P5D"
    assert build_deployment(DeploymentOptions(prefill=3, total=4)).layout == "3P1D"


def test_a_model_that_is_named_leaves_the_file_of_this_directory_alone(pd_yaml: Path) -> None:
    assert build_deployment(DeploymentOptions(model="m", total=2)).router.port == 30000


def test_without_a_file_the_last_plan_is_used(tmp_path: Path) -> None:
    last_plan_path().parent.mkdir()
    planned = build_deployment(DeploymentOptions(model="qwen3-8b", total=8))
    write_deployment(planned, last_plan_path())
    assert build_deployment(DeploymentOptions()) == planned


def test_a_colocated_plan_keeps_its_flags(tmp_path: Path) -> None:
    planned = build_deployment(
        DeploymentOptions(model="m", total=2, prefill=0, args="--mem-fraction-static 0.8", tp=2)
    )
    write_deployment(planned, tmp_path / "pd.yaml")
    again: Deployment = build_deployment(DeploymentOptions())
    assert again == planned


def test_flags_are_split_as_a_shell_would(tmp_path: Path) -> None:
    chosen = build_deployment(
        DeploymentOptions(model="m", total=2, decode_args="--chat-template 'a b.jinja'")
    )
    assert chosen.roles["decode"].args == ("--chat-template", "a b.jinja")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (DeploymentOptions(prefill=2, total=8), "No model"),
        (DeploymentOptions(model="m", port=0), "0 is not a valid port"),  # before the total
        (DeploymentOptions(model="m"), "How many engines in total"),
        (DeploymentOptions(model="m", total=0), "--total must be at least 1"),
        (DeploymentOptions(model="m", total=2, engine="vllm"), "'vllm'"),
        (DeploymentOptions(model="m", total=2, args="'"), "--args"),
        (DeploymentOptions(model="m", total=2, sim_speed=-1.0), "--sim-speed"),
        (DeploymentOptions(model="m", total=2, name="../x"), "'../x'"),
        (DeploymentOptions(model="m", total=2, tp=0), "tp"),
    ],
)
def test_missing_and_wrong_options_are_named(options: DeploymentOptions, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        build_deployment(options)


def model_folder(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}", encoding="utf-8")
    return path


def test_the_last_plans_folder_is_said_and_its_model_is_the_planned_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    planned = model_folder(tmp_path / "d1" / "mymodel")
    elsewhere = model_folder(tmp_path / "d2" / "mymodel").parent
    last_plan_path().parent.mkdir(parents=True)
    deployment = build_deployment(DeploymentOptions(model=str(planned), prefill=2, total=8))
    write_deployment(deployment, last_plan_path(), made_in=planned.parent)
    monkeypatch.chdir(elsewhere)
    assert build_deployment(DeploymentOptions()).model == str(planned)
    said = capsys.readouterr().err
    assert f"in '{planned.parent}'" in said
    assert "2P6D" in said


def test_a_relative_model_is_made_absolute_where_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = model_folder(tmp_path / "d1" / "mymodel")
    monkeypatch.chdir(folder.parent)
    assert build_deployment(DeploymentOptions(model="./mymodel", total=8)).model == str(folder)
    assert build_deployment(DeploymentOptions(model="qwen3-8b", total=8)).model == "qwen3-8b"


def test_a_relative_model_in_a_file_is_beside_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = model_folder(tmp_path / "d1" / "m")
    model_folder(tmp_path / "d2" / "m")
    file = folder.parent / "pd.yaml"
    file.write_text(FILE.replace("/models/m", "./m"), encoding="utf-8")
    monkeypatch.chdir(tmp_path / "d2")
    assert build_deployment(DeploymentOptions(file=file)).model == str(folder)


def test_one_flag_switches_the_replays_off() -> None:
    usual = DeploymentOptions(model="m", total=8)
    assert build_deployment(usual).observe.what_if
    assert not build_deployment(replace(usual, no_what_if=True)).observe.what_if
