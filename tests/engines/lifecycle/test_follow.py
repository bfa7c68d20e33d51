"""How a deployment that did not get ready is told."""

from dataclasses import replace
from pathlib import Path

import pytest

from pdctl.engines import state
from pdctl.engines.lifecycle import follow
from pdctl.engines.lifecycle.follow import settling
from pdctl.engines.records import DeploymentState, Handle, Phase, ProcessState
from pdctl.errors import EngineFailed, NotReady, StateConflict
from pdctl.paths import HOME_VARIABLE
from tests.engines.test_state import PROCESS, some_launch, some_state

LAUNCH = replace(some_launch(), revision=3)


@pytest.fixture(autouse=True)
def _supervised(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(HOME_VARIABLE, str(tmp_path))
    monkeypatch.setattr(state, "is_supervised", lambda name: True)
    state.make_state_dir("chat")
    state.write_launch(LAUNCH)


def _phase(name: str, failed: str) -> Phase:
    return "failed" if name == failed else "serving"


def publish(phase: str, revision: int, *extra: ProcessState, failed: str = "") -> None:
    processes = tuple(
        ProcessState(s.name, s.role, s.url, _phase(s.name, failed), Handle("1@1.0"), 1.0)
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
    with pytest.raises(NotReady, match="continues in the background"):
        wait()


def test_an_engine_that_still_drains_is_waited_for() -> None:
    publish("serving", 3, ProcessState("decode-9", "decode", "u", "draining", Handle("1@1.0"), 1.0))
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
    with pytest.raises(StateConflict, match="stopped in the meantime"):
        wait()


def failed(log: Path, text: str) -> DeploymentState:
    log.write_text(text)
    culprit = replace(PROCESS, phase="failed", detail="exited with status 1", log=str(log))
    return replace(
        some_state(),
        phase="failed",
        detail="exited with status 1",
        failure="engine_failed",
        failed_process="prefill-0",
        processes=(culprit,),
    )


def test_the_earliest_telling_line_and_the_last_twenty_are_shown(tmp_path: Path) -> None:
    lines = [
        "# pdctl x",
        "OSError: earlier",
        "ValueError: later",
        *(f"line {i}" for i in range(30)),
    ]
    problem = follow.start_failure("chat", failed(tmp_path / "log", "\n".join(lines)))
    assert isinstance(problem, EngineFailed)
    assert problem.message == (
        "prefill-0 exited with status 1 during the start. Everything was stopped. "
        "Its log says: OSError: earlier"
    )
    assert problem.details == (
        f"the end of {tmp_path / 'log'}:",
        *(f"  line {i}" for i in range(10, 30)),
    )


def test_hints_name_what_helps_against_what_the_log_says(tmp_path: Path) -> None:
    def hint(text: str) -> str:
        return follow.start_failure("chat", failed(tmp_path / "log", text)).hint

    assert "--mem-fraction-static" in hint("torch.OutOfMemoryError: CUDA out of memory")
    assert "pip install sglang" in hint("ModuleNotFoundError: No module named 'sglang'")
    assert "port" in hint("[Errno 98] address already in use")
    assert hint("nothing known") == "pdctl logs prefill-0 shows the whole log"


def test_not_ready_in_time_is_its_own_kind(tmp_path: Path) -> None:
    state = replace(failed(tmp_path / "log", "x"), failure="not_ready", detail="2 not serving")
    problem = follow.start_failure("chat", state)
    assert isinstance(problem, NotReady)
    assert "2 not serving" in problem.message


def test_a_process_that_wrote_nothing_is_told_without_a_log(tmp_path: Path) -> None:
    problem = follow.start_failure("chat", failed(tmp_path / "log", ""))
    assert "log says" not in problem.message


def test_a_supervisor_that_died_is_told_with_its_own_log(home: Path) -> None:
    problem = follow.start_failure("chat", None)
    assert problem.code == "supervisor_died"
