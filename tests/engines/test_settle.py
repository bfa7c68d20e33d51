"""When a change is done, and when waiting for it ends otherwise."""

from dataclasses import replace
from pathlib import Path

import pytest

from pdctl.engines import state
from pdctl.engines.records import ProcessState
from pdctl.engines.settle import settling
from pdctl.errors import EngineFailed, NotReady, StateConflict
from tests.engines.test_state import some_launch, some_state

LAUNCH = replace(some_launch(), revision=3)


@pytest.fixture(autouse=True)
def _supervised(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(state.HOME_VARIABLE, str(tmp_path))
    monkeypatch.setattr(state, "is_supervised", lambda name: True)
    state.make_state_dir("chat")
    state.write_launch(LAUNCH)


def publish(phase: str, revision: int, *extra: ProcessState, failed: str = "") -> None:
    processes = tuple(
        ProcessState(s.name, s.role, s.url, "failed" if s.name == failed else "serving", 1, 1.0)
        for s in LAUNCH.specs
    )
    found = replace(some_state(), phase=phase, revision=revision, processes=(*processes, *extra))  # type: ignore[arg-type]
    state.write_state(found)


def wait(revision: int = 3) -> int:
    return len(list(settling("chat", revision=revision, timeout_s=0.2)))


def test_it_is_done_when_the_supervisor_followed_and_nothing_else_is_left() -> None:
    publish("serving", 3)
    assert wait() == 1


@pytest.mark.parametrize(("phase", "revision"), [("serving", 2), ("degraded", 3)])
def test_it_is_not_done_before(phase: str, revision: int) -> None:
    publish(phase, revision)
    with pytest.raises(NotReady, match="goes on without this command"):
        wait()


def test_an_engine_that_still_drains_is_waited_for() -> None:
    publish("serving", 3, ProcessState("decode-9", "decode", "u", "draining", 1, 1.0))
    with pytest.raises(NotReady):
        wait()


def test_a_later_change_is_waited_for_as_well() -> None:
    publish("serving", 3)
    state.write_launch(replace(LAUNCH, revision=4))
    with pytest.raises(NotReady):
        wait()
    publish("serving", 4)
    assert wait() == 1


def test_an_engine_that_was_given_up_ends_the_wait() -> None:
    publish("degraded", 3, failed="decode-0")
    with pytest.raises(EngineFailed, match="decode-0 does not serve"):
        wait()


def test_a_deployment_that_is_stopped_meanwhile_ends_the_wait() -> None:
    publish("stopping", 3)
    with pytest.raises(StateConflict, match="stopped meanwhile"):
        wait()
