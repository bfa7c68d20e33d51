"""The time limit of the Slurm job that a deployment runs in."""

import math
from collections.abc import Callable

from pdctl.engines.launchers import slurm_commands
from pdctl.engines.state import read_launch
from pdctl.errors import EnvironmentProblem
from pdctl.status.records import JobLimit

ASK_EVERY_S = 30.0  # a limit can be changed while the job runs


class JobClock:
    """The end of a job, asked now and then. ask: seconds left; infinite without a limit."""

    def __init__(
        self, number: str, ask: Callable[[str], float | None] = slurm_commands.seconds_left
    ) -> None:
        self._number = number
        self._ask = ask
        self._asked_at_s = -math.inf
        self._known = JobLimit(number)

    def look(self, now_s: float) -> JobLimit:
        """The limit as Slurm gave it at most ASK_EVERY_S ago; unknown where Slurm is silent."""
        if now_s - self._asked_at_s >= ASK_EVERY_S:
            self._known = self._limit(now_s)
            self._asked_at_s = now_s
        return self._known

    def _limit(self, now_s: float) -> JobLimit:
        try:
            left_s = self._ask(self._number)
        except EnvironmentProblem:
            left_s = None
        if left_s is None or math.isinf(left_s):
            return JobLimit(self._number, is_unlimited=left_s is not None)
        return JobLimit(self._number, ends_at_s=now_s + left_s)


def job_clock_of(name: str) -> JobClock | None:
    """The clock of the Slurm job that a deployment runs in; None for one that runs elsewhere."""
    launch = read_launch(name)
    kind, _, number = launch.launcher.partition(":") if launch else ("", "", "")
    return JobClock(number) if kind == slurm_commands.LAUNCHER and number else None
