"""State of deployments under a directory of the test's own."""

from pathlib import Path

import pytest

from pdctl.paths import HOME_VARIABLE


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state home of this test."""
    path = tmp_path / "state"
    monkeypatch.setenv(HOME_VARIABLE, str(path))
    return path
