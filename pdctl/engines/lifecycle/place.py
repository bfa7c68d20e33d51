"""Choose where a deployment runs: this machine, a Slurm job, or a Ray cluster."""

import os

from pdctl.deployment.records import Deployment
from pdctl.deployment.resources import needs_gpus
from pdctl.engines.launchers import slurm_commands
from pdctl.engines.launchers.ray import cluster_address, required_address
from pdctl.engines.launchers.registry import LOCAL, RAY, SLURM
from pdctl.errors import EnvironmentProblem, InvalidInput
from pdctl.inspection.gpus import query_gpus, visible_gpus

PLACES = ("auto", LOCAL, SLURM, RAY)


def choose_place(on: str, deployment: Deployment) -> str:
    """The launcher for a deployment; "slurm" alone where a job has to be submitted first.

    auto: this machine, unless it has too few GPUs and the command runs inside a Slurm job or on a
    host of a Ray cluster.

    Raises InvalidInput for an unknown place, EnvironmentProblem where one is wanted and absent.
    """
    if on not in PLACES:
        raise InvalidInput(
            f"--on {on!r} is not a place to run.", hint="--on auto, local, slurm or ray"
        )
    if on == "auto":
        on = _best_place(deployment)
    return LOCAL if on == LOCAL else _of_cluster(on)


def present_nodes(on: str) -> str:
    """The launcher for the nodes that are there now: those of a Slurm job or of a Ray cluster.

    Raises InvalidInput for another place, EnvironmentProblem where there are none.
    """
    launcher = cluster_place(on)
    if launcher == SLURM:
        raise EnvironmentProblem(
            "This shell is in no Slurm job.",
            hint="salloc --nodes=2 --gres=gpu:8, then pdctl doctor --on slurm",
            code="no_job",
        )
    return launcher


def cluster_place(on: str) -> str:
    """The launcher for Slurm or Ray; "slurm" alone outside a job. Raises as `choose_place`."""
    if on not in (SLURM, RAY):
        raise InvalidInput(f"--on {on!r} names no nodes.", hint="--on local, slurm or ray")
    return _of_cluster(on)


def _of_cluster(on: str) -> str:
    """The launcher for Slurm, with the job of this shell if there is one, or for Ray."""
    if on == RAY:
        return f"{RAY}:{required_address()}"
    if not slurm_commands.is_available():
        raise slurm_commands.no_slurm()
    job = slurm_commands.current_job()
    return f"{SLURM}:{job}" if job else SLURM


def _best_place(deployment: Deployment) -> str:
    if not needs_gpus(deployment) or deployment.num_gpus <= _num_gpus_here():
        return LOCAL
    if slurm_commands.current_job():
        return SLURM
    return RAY if cluster_address() else LOCAL


def _num_gpus_here() -> int:
    try:
        return len(visible_gpus(query_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES")))
    except EnvironmentProblem:
        return 0
