import json
import socket
from pathlib import Path

import pytest

from pdctl.cli import main
from pdctl.deployment.exports import FIXED
from pdctl.errors import ExitCode

PD = """
schema: 1
model: qwen3-8b
engine: sim
prefill: {engines: 1}
decode: {engines: 3}
"""


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["render", *arguments])
    return int(ended.value.code or 0)


def test_miles_flags_go_to_stdout_alone(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "pd.yaml").write_text(PD)
    assert run("miles") == 0
    said = capsys.readouterr()
    flags = "--rollout-num-gpus 4 --rollout-num-gpus-per-engine 1 --prefill-num-servers 1\n"
    assert said.out == flags
    assert "--rollout-external" in said.err


def test_the_file_is_written_where_asked(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "other.yaml").write_text(PD)
    assert run("miles", "-f", "other.yaml", "--as", "yaml", "-o", "miles.yaml") == 0
    assert capsys.readouterr().out == ""
    written = (here / "miles.yaml").read_text()
    assert "server_groups:" in written
    assert "model_path" not in written, "a bundled shape is no checkpoint"


def test_addresses_for_miles_need_a_running_deployment(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "pd.yaml").write_text(f"{PD}name: chat\n")
    assert run("miles", "--as", "external") == ExitCode.CONFLICT
    assert "No deployment 'chat' is running." in capsys.readouterr().err


def test_a_shell_script_starts_every_process(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    (here / "pd.yaml").write_text(f"{PD}router: {{port: {port}}}\n")
    assert run("shell") == 0
    said = capsys.readouterr()
    assert said.out.startswith("#!/usr/bin/env bash\n")
    assert said.out.count("pdctl.engines.sim") == 4
    assert said.err == ""
    assert not (here / "state").exists(), "rendering leaves nothing behind"


def test_a_script_is_written_while_its_port_is_in_use(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as running:
        running.bind(("127.0.0.1", 0))
        running.listen()
        port = running.getsockname()[1]
        (here / "pd.yaml").write_text(f"{PD}router: {{port: {port}}}\n")
        assert run("shell") == 0
    assert f"http://127.0.0.1:{port} answers" in capsys.readouterr().out


def test_json_holds_the_text(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "pd.yaml").write_text(PD)
    assert run("miles", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["data"]["text"].startswith("--rollout-num-gpus")


def test_a_model_with_weights_is_named_for_miles(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "pd.yaml").write_text(PD.replace("qwen3-8b", "/models/qwen"))
    assert run("miles", "--as", "yaml") == 0
    assert "model_path: /models/qwen\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nomad",), "cannot render for 'nomad'"),
        (("miles", "--as", "json"), "cannot render miles as 'json'"),
        (("k8s", "--as", "yaml"), "--as deployments, disaggregatedset, rbg"),
        (("miles",), "neither ./pd.yaml nor an earlier plan"),
        (("miles", "-f", "none.yaml"), "none.yaml cannot be read"),
    ],
)
def test_a_deployment_that_cannot_be_rendered_is_refused(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    assert run(*arguments) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert "hint:" in said.err
    assert said.out == ""


def test_a_place_that_cannot_be_written_is_an_environment_problem(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "pd.yaml").write_text(PD)
    assert run("miles", "-o", "no/such/folder.yaml") == 4
    assert "no/such/folder.yaml cannot be written" in capsys.readouterr().err


def test_prometheus_reads_the_targets_of_this_deployment(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "pd.yaml").write_text(PD)
    assert run("prometheus") == 0
    targets = here / "state" / "qwen3-8b" / "prometheus-targets.json"
    assert f"- {targets}\n" in capsys.readouterr().out


@pytest.mark.parametrize("target", FIXED)
def test_texts_for_every_deployment_need_none(
    target: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(target) == 0
    assert "deployment" in capsys.readouterr().out
