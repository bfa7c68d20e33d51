"""Choose where a deployment runs: this machine, the current Slurm job, or a job to be submitted."""

import os

from pdctl.deployment.records import Deployment
from pdctl.deployment.resources import needs_gpus
from pdctl.engines.launchers import slurm_commands
from pdctl.engines.launchers.registry import LOCAL, SLURM
from pdctl.errors import EnvironmentProblem, InvalidInput
from pdctl.inspection.gpus import query_gpus, visible_gpus

PLACES = ("auto", LOCAL, SLURM)


def choose_place(on: str, deployment: Deployment) -> str:
    """The launcher for a deployment; "slurm" alone where a job has to be submitted first.

    auto: this machine, unless it has too few GPUs and the command runs inside a Slurm job.

    Raises InvalidInput for an unknown place, EnvironmentProblem where Slurm is wanted and absent.
    """
    if on not in PLACES:
        raise InvalidInput(f"--on {on!r} is not a place to run.", hint="--on auto, local or slurm")
    job = slurm_commands.current_job()
    if on == "auto":
        is_small = not needs_gpus(deployment) or deployment.num_gpus <= _num_gpus_here()
        on = LOCAL if is_small or job is None else SLURM
    if on == LOCAL:
        return LOCAL
    if not slurm_commands.is_available():
        raise slurm_commands.no_slurm()
    return f"{SLURM}:{job}" if job else SLURM


def _num_gpus_here() -> int:
    try:
        return len(visible_gpus(query_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES")))
    except EnvironmentProblem:
        return 0
