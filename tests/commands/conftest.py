"""An empty folder with an empty state home."""

from pathlib import Path

import pytest

from pdctl.paths import HOME_VARIABLE


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state home of the test; the folder beside it is where the test runs."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "state"))
    return tmp_path / "state"
