"""A pdctl of the test's own; whatever a test leaves running is stopped after it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cli import Cli


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    """pdctl in an empty directory with an empty state home."""
    cwd = tmp_path / "work"
    cwd.mkdir()
    own = Cli(home=tmp_path / "state", cwd=cwd)
    yield own
    for state in own.home.glob("*/launch.json"):
        own.run("down", state.parent.name, "--now")
