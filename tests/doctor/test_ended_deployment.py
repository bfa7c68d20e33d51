"""What doctor says of a deployment that ended, from its logs alone."""

from pathlib import Path

import pytest

from pdctl.doctor.diagnose import diagnose
from pdctl.engines import state
from pdctl.paths import HOME_VARIABLE

LOGS = Path(__file__).parent.parent / "data" / "field_logs"


def told(log: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(HOME_VARIABLE, str(home))
    monkeypatch.setenv("PATH", str(home))  # no other Python is asked whether it has SGLang
    state.logs_dir("chat").mkdir(parents=True)
    (state.logs_dir("chat") / "decode-0.log").write_text(log, encoding="utf-8")
    checks = [check for check in diagnose("chat", quick=True) if check.deployment == "chat"]
    return " ".join(check.text for check in checks)


@pytest.mark.parametrize("log", sorted(LOGS.glob("*.log")), ids=lambda log: log.stem)
def test_every_log_from_the_field_is_explained(
    log: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = told(log.read_text(encoding="utf-8"), tmp_path, monkeypatch)
    assert "decode-0 failed: " in text
    assert "Its log says: " in text


def test_the_timeout_is_told_before_the_requests_clients_gave_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = (LOGS / "hicache_run.log").read_text(encoding="utf-8")
    assert "KVPoll.WaitingForInput" in told(log, tmp_path, monkeypatch)


def test_a_new_exception_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = 'Traceback (most recent call last):\n  File "x.py", line 1, in f\nOddFault: new\n'
    text = told(log, tmp_path, monkeypatch)
    assert "Its log says: OddFault: new" in text
    assert "recognises no failure" not in text


def test_a_loud_line_is_quoted_without_being_called_the_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = told("up\nE0605 10:48:27.8 101 a.cpp:2] cannot do it\nbye\n", tmp_path, monkeypatch)
    assert "This line of decode-0 looks most like an error: E0605" in text
