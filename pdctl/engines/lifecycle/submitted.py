"""A deployment inside a Slurm job that pdctl submitted: follow it and end it."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pdctl.engines import state
from pdctl.engines.launchers import slurm_commands
from pdctl.engines.records import DeploymentState
from pdctl.errors import EngineFailed, StateConflict

JOB_FILE = "slurm-job"  # the number of the job, while it is waiting or running
LOOK_EVERY_S = 0.2
ASK_SLURM_EVERY_S = 2.0
LINES_SHOWN = 20
END_BY_ITSELF_S = 10.0


@dataclass(frozen=True)
class SubmittedJob:
    """A job that runs, or will run, a deployment."""

    name: str
    number: str
    submitted_at: float

    @property
    def output(self) -> Path:
        return output_of(self.name)

    def ask_to_stop(self, *, now: bool = False) -> None:
        """Have pdctl in the job stop gracefully. now: end the job, as also while it waits."""
        is_running = slurm_commands.job(self.number).state == "RUNNING"
        if now or not is_running:
            slurm_commands.cancel(self.number)
        else:
            slurm_commands.signal_batch(self.number, "TERM")


@dataclass(frozen=True)
class Seen:
    """A submitted job at one moment. waits: why it does not run yet; "" once it does."""

    state: DeploymentState | None
    waits: str
    left: str
    is_over: bool


def submitted_job(name: str) -> SubmittedJob | None:
    """The job of a deployment that is waiting or running; None without one."""
    try:
        number = (state.state_dir(name) / JOB_FILE).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
    if not number.isdecimal() or not slurm_commands.job(number).is_expected:
        return None
    return SubmittedJob(name, number, 0.0)


def end_job(job: SubmittedJob) -> None:
    """End a job whose deployment has stopped or has not started, and wait until it has ended."""
    deadline = time.monotonic() + END_BY_ITSELF_S
    while not slurm_commands.job(job.number).is_over:
        if time.monotonic() > deadline or slurm_commands.job(job.number).state == "PENDING":
            slurm_commands.cancel(job.number)
        time.sleep(LOOK_EVERY_S)


def already_submitted(job: SubmittedJob) -> StateConflict:
    """The error for `up` on the name of a deployment whose job waits or starts."""
    return StateConflict(
        f"Deployment {job.name!r} is already submitted as Slurm job {job.number}.",
        hint=f"pdctl down {job.name} ends it",
        code="already_running",
    )


def watch(job: SubmittedJob) -> Iterator[Seen]:
    """Look at a job until it is over; the last look says so."""
    asked_at, known = 0.0, slurm_commands.job(job.number)
    while True:
        if time.monotonic() - asked_at >= ASK_SLURM_EVERY_S:
            asked_at, known = time.monotonic(), slurm_commands.job(job.number)
        found = state.read_state(job.name)
        own = found if found is not None and found.updated_at >= job.submitted_at else None
        waits = "" if known.state == "RUNNING" else f"{known.state.lower()} ({known.reason})"
        yield Seen(own, waits, known.left, known.is_over)
        if known.is_over:
            return
        time.sleep(LOOK_EVERY_S)


def job_failure(job: SubmittedJob) -> EngineFailed:
    """The error for a job that ended before the deployment served."""
    try:
        lines = job.output.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    return EngineFailed(
        f"Slurm job {job.number} ended before {job.name} served.",
        hint=f"pdctl logs shows its processes; {job.output} is what the job printed",
        code="job_ended",
        details=tuple(lines[-LINES_SHOWN:]),
    )


def output_of(name: str) -> Path:
    """The file that a deployment's job writes to."""
    return state.state_dir(name) / "job.log"
