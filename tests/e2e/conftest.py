"""A pdctl of the test's own; whatever a test leaves running is stopped after it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.cli import Cli

DEFAULT = "test_eight_engines_serve_streams_and_leave_nothing_behind"


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    """pdctl in an empty directory with an empty state home."""
    cwd = tmp_path / "work"
    cwd.mkdir()
    own = Cli(home=tmp_path / "state", cwd=cwd)
    yield own
    for state in own.home.glob("*/launch.json"):
        own.run("down", state.parent.name, "--now")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All but one whole run, which the default tests keep: they take seconds each."""
    for item in items:
        if "/e2e/" in item.nodeid and DEFAULT not in item.nodeid:
            item.add_marker(pytest.mark.e2e)
