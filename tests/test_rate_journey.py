"""The offered rate takes a short way through a plan: tests/rate_journey.py measures it."""

import pytest

from tests.rate_journey import TRACE, moves, travel

MOST_FILES = 13
MOST_RETURNS = 15  # moves into a file that was left earlier

pytestmark = pytest.mark.e2e  # the tracer takes half a minute


@pytest.fixture(scope="module")
def files() -> list[str]:
    return [file for file, _ in travel(TRACE)]


def test_the_rate_passes_few_files_and_returns_to_few(files: list[str]) -> None:
    assert "verdict/verdict.py" in files
    assert len(set(files)) <= MOST_FILES
    _, returns = moves(files)
    assert returns <= MOST_RETURNS


def test_what_can_be_built_does_not_depend_on_the_rate(files: list[str]) -> None:
    assert not {"verdict/layouts.py", "verdict/feasibility.py", "verdict/rules.py"} & set(files)
