import math

import pytest

from pdctl.errors import EnvironmentProblem
from pdctl.status.job_limit import ASK_EVERY_S, JobClock
from pdctl.status.records import JobLimit


def test_slurm_is_asked_again_after_a_while() -> None:
    answers = iter((600.0, math.inf))
    clock = JobClock("42", lambda number: next(answers))
    first = clock.look(1000.0)
    assert first == JobLimit("42", ends_at_s=1600.0)
    assert clock.look(1000.0 + ASK_EVERY_S / 2) == first
    assert clock.look(1000.0 + ASK_EVERY_S) == JobLimit("42", is_unlimited=True)


@pytest.mark.parametrize("is_silent", [True, False])
def test_a_limit_that_slurm_does_not_tell_is_unknown(is_silent: bool) -> None:
    def ask(number: str) -> float | None:
        if is_silent:
            raise EnvironmentProblem("squeue did not answer.", hint="sinfo")
        return None

    assert JobClock("42", ask).look(0.0) == JobLimit("42")
