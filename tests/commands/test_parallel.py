import os
import sys
import time

import pytest

from pdctl.commands.parallel import spread_over_cores
from pdctl.commands.progress import progress_line
from pdctl.errors import InvalidInput


def square(number: int) -> tuple[int, int]:
    time.sleep(0.02)  # long enough for the other process to take its turns
    return number * number, os.getpid()


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pdctl.commands.parallel._cores", lambda: 2)


@pytest.mark.usefixtures("two_cores")
def test_results_come_in_order_from_several_processes() -> None:
    results = spread_over_cores(square, range(7), cost_s=1.0)
    assert [value for value, _ in results] == [0, 1, 4, 9, 16, 25, 36]
    assert len({pid for _, pid in results}) == 2


@pytest.mark.usefixtures("two_cores")
def test_small_work_stays_in_this_process() -> None:
    results = spread_over_cores(square, range(7), cost_s=0.001)
    assert {pid for _, pid in results} == {os.getpid()}


@pytest.mark.usefixtures("two_cores")
def test_an_error_in_another_process_is_raised_here() -> None:
    def fail(number: int) -> int:
        if number:
            raise InvalidInput(f"{number} is wrong.", hint="--number 0")
        return number

    with pytest.raises(InvalidInput, match="1 is wrong"):
        spread_over_cores(fail, [0, 1], cost_s=1.0)


@pytest.mark.usefixtures("two_cores")
def test_ctrl_c_leaves_no_process_behind() -> None:
    parent = os.getpid()

    def interrupted(number: int) -> int:
        if os.getpid() == parent:
            raise KeyboardInterrupt
        while True:
            pass

    with pytest.raises(KeyboardInterrupt):
        spread_over_cores(interrupted, [0, 1], cost_s=1.0)
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_no_progress_is_written_off_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_line() as progress:
        progress("simulating")
    assert capsys.readouterr().err == ""


def test_a_progress_line_is_overwritten_and_cleared(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with progress_line() as progress:
        progress("simulating 8 layouts")
    assert capsys.readouterr().err == "\r\x1b[2Ksimulating 8 layouts …\r\x1b[2K"
