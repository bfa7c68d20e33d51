"""How a deployment that did not get ready is told."""

from dataclasses import replace
from pathlib import Path

from pdctl.engines import watch
from pdctl.engines.records import FleetState
from pdctl.errors import EngineFailed, NotReady
from tests.engines.test_state import PROCESS, some_state


def failed(log: Path, text: str) -> FleetState:
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
    problem = watch.failure("chat", failed(tmp_path / "log", "\n".join(lines)))
    assert isinstance(problem, EngineFailed)
    assert problem.message == (
        "prefill-0 exited with status 1 before everything served; all was stopped. "
        "Its log says: OSError: earlier"
    )
    assert problem.details == (
        f"the end of {tmp_path / 'log'}:",
        *(f"  line {i}" for i in range(10, 30)),
    )


def test_hints_name_what_helps_against_what_the_log_says(tmp_path: Path) -> None:
    def hint(text: str) -> str:
        return watch.failure("chat", failed(tmp_path / "log", text)).hint

    assert "--mem-fraction-static" in hint("torch.OutOfMemoryError: CUDA out of memory")
    assert "pdctl[sglang]" in hint("ModuleNotFoundError: No module named 'sglang'")
    assert "port" in hint("[Errno 98] address already in use")
    assert hint("nothing known") == "pdctl logs prefill-0 shows the whole log"


def test_not_ready_in_time_is_its_own_kind(tmp_path: Path) -> None:
    state = replace(failed(tmp_path / "log", "x"), failure="not_ready", detail="2 not serving")
    problem = watch.failure("chat", state)
    assert isinstance(problem, NotReady)
    assert "2 not serving" in problem.message


def test_a_process_that_wrote_nothing_is_told_without_a_log(tmp_path: Path) -> None:
    problem = watch.failure("chat", failed(tmp_path / "log", ""))
    assert "log says" not in problem.message


def test_a_supervisor_that_died_is_told_with_its_own_log(home: Path) -> None:
    problem = watch.failure("chat", None)
    assert problem.code == "supervisor_died"
