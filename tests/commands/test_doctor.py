"""`pdctl doctor` from the command line."""

import json
from pathlib import Path
from typing import Any

import pytest

from pdctl.cli import main
from pdctl.doctor import diagnose
from pdctl.doctor.records import Check
from pdctl.tables.deployments import doctor_summary

WELL = Check("open_files", "pass", "A process may open any number of files.")
BROKEN_GPU = Check("gpus", "fail", "GPU 2 is lost.", "--gpus 0,1")
LOOSE = Check("roles", "fail", "decode-0 runs as prefill.", "pdctl up", "", "chat")
ODD = Check("proxy", "warn", "http_proxy is set.\x1b[2J", "unset http_proxy")


@pytest.mark.parametrize(
    ("checks", "code"),
    [((WELL, ODD), 0), ((WELL, BROKEN_GPU), 4), ((WELL, LOOSE), 5), ((BROKEN_GPU, LOOSE), 5)],
)
def test_the_exit_code_says_whether_the_machine_or_a_deployment_fails(
    checks: tuple[Check, ...], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(diagnose, "diagnose", lambda *args, **options: checks)
    with pytest.raises(SystemExit) as stopped:
        main(["doctor"])
    assert stopped.value.code == code


def test_troubles_come_first_with_their_fix_and_without_control_characters(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(diagnose, "diagnose", lambda *args, **options: (WELL, ODD))
    with pytest.raises(SystemExit):
        main(["doctor"])
    shown = capsys.readouterr().out
    assert shown.index("http_proxy is set.") < shown.index("any number of files")
    assert "\tunset http_proxy\t" in shown
    assert "\x1b[2J" not in shown


def test_json_has_every_check_with_its_fix(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(diagnose, "diagnose", lambda *args, **options: (BROKEN_GPU,))
    with pytest.raises(SystemExit):
        main(["doctor", "--json"])
    envelope: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert envelope["data"]["checks"][0]["fix"] == "--gpus 0,1"


def test_a_start_that_failed_is_explained_from_its_logs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PDCTL_STATE_HOME", str(tmp_path))
    logs = tmp_path / "chat" / "logs"
    logs.mkdir(parents=True)
    (logs / "decode-0.log").write_text("torch.OutOfMemoryError: CUDA out of memory.\n")
    with pytest.raises(SystemExit) as stopped:
        main(["doctor", "chat", "--quick", "--json"])
    assert stopped.value.code == 5
    checks = json.loads(capsys.readouterr().out)["data"]["checks"]
    (found,) = [check for check in checks if check["deployment"] == "chat"]
    assert found["id"] == "start_out_of_memory"
    assert found["text"].startswith("decode-0 failed: The GPU ran out of memory.")


def test_an_unknown_name_is_a_conflict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PDCTL_STATE_HOME", str(tmp_path))
    with pytest.raises(SystemExit) as stopped:
        main(["doctor", "chat", "--quick"])
    assert stopped.value.code == 7


def test_the_summary_counts_what_there_is() -> None:
    assert doctor_summary((WELL, ODD, LOOSE)) == "1 fail, 1 warn, 1 pass"
    assert doctor_summary(()) == "nothing was checked"


@pytest.mark.parametrize("flags", [["--kv-bandwidth"], ["-o", "cluster.yaml"]])
def test_what_needs_several_nodes_is_refused_on_one_machine(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["doctor", *flags])
    assert stopped.value.code == 2
    assert f"pdctl doctor --on slurm {' '.join(flags)}" in capsys.readouterr().err
