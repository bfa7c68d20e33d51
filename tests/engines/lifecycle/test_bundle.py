"""A bug report's file: complete, and without secrets."""

import tarfile
from pathlib import Path

import pytest

from pdctl.engines import state
from pdctl.engines.lifecycle.bundle import redacted, write_bundle
from pdctl.errors import InvalidInput
from pdctl.paths import HOME_VARIABLE


@pytest.mark.parametrize(
    "text",
    [
        "HF_TOKEN=s3cr3tvalue",
        '"HF_TOKEN": "s3cr3tvalue"',
        "  AWS_SECRET_ACCESS_KEY: s3cr3tvalue",
        "server_args=ServerArgs(api_key='s3cr3tvalue', admin_api_key=None)",
        "--api-key s3cr3tvalue --port 1",
        '"--api-key", "s3cr3tvalue", "--port"',
        "--api-key=s3cr3tvalue",
        "Authorization: Bearer s3cr3tvalue",
        "http://me:s3cr3tvalue@host/x",
        "token hf_s3cr3tvalue0123456789",
    ],
)
def test_a_secret_is_hidden(text: str) -> None:
    assert "s3cr3tvalue" not in redacted(text)
    assert "***" in redacted(text)


@pytest.mark.parametrize(
    "text",
    [
        "max_total_num_tokens=123",
        '"num_used_tokens": 5',
        "gen throughput (token/s): 8",
        "api_key=None",
    ],
)
def test_figures_stay(text: str) -> None:
    assert redacted(text) == text


def test_the_bundle_has_logs_events_and_settings_without_the_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))
    monkeypatch.setenv("MY_API_KEY", "hunter2hunter2")
    state.logs_dir("chat").mkdir(parents=True)
    (state.logs_dir("chat") / "decode-0.log").write_text("it said hunter2hunter2 and died\n")
    (state.state_dir("chat") / "desired.yaml").write_text("env:\n  HF_TOKEN: abcdefgh\n")
    (state.state_dir("chat") / "events.jsonl").write_text("{}\n")
    target = tmp_path / "report.tar.gz"
    packed = write_bundle("chat", target)
    assert packed == ("versions.txt", "desired.yaml", "events.jsonl", "logs/decode-0.log")
    assert target.stat().st_mode & 0o077 == 0
    with tarfile.open(target) as tar:
        read = [tar.extractfile(member) for member in tar.getmembers()]
        text = "".join(one.read().decode() for one in read if one)
    assert "hunter2" not in text
    assert "abcdefgh" not in text
    assert "and died" in text
    with pytest.raises(InvalidInput, match="Cannot write"):
        write_bundle("chat", target)
