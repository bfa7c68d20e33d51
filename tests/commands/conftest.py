"""Empty folders with empty state homes."""

from pathlib import Path

import pytest

from pdctl.paths import HOME_VARIABLE


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The empty folder where the test runs; its state home is the folder `state` in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path / "state"))
    return tmp_path


@pytest.fixture
def home(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state home of the test, which runs in an empty folder beside it."""
    work = here / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return here / "state"
