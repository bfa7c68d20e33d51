"""Deployments that `pdctl autopilot` refuses."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from pdctl.cli import main
from pdctl.engines import state
from tests.commands.test_status_verb import fleet_state

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
def lock(home: Path) -> Iterator[None]:
    """The lock of a deployment "chat", as its supervisor holds it."""
    state.make_state_dir("chat")
    held = state.lock("chat")
    assert held is not None
    yield
    os.close(held)


def refusal(capsys: pytest.CaptureFixture[str]) -> str:
    """What `pdctl autopilot chat` says as it refuses."""
    with pytest.raises(SystemExit) as ended:
        main(["autopilot", "chat"])
    assert ended.value.code == 2
    return capsys.readouterr().err


@pytest.mark.usefixtures("lock")
def test_a_deployment_without_slos_has_nothing_to_move_engines_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    state.write_state(fleet_state(NOWHERE, NOWHERE, NOWHERE))
    said = refusal(capsys)
    assert "chat has no SLOs" in said
    assert "--ttft 3s --tpot 60ms, or with slo:" in said
