"""Submit a Slurm job that runs a deployment: its script is `pdctl up` itself."""

import shlex
import sys
import time

from pdctl.deployment.cluster_file import ClusterFile
from pdctl.deployment.elsewhere import node_kinds
from pdctl.deployment.exports.slurm import sbatch_lines
from pdctl.deployment.pd_yaml import deployment_yaml
from pdctl.deployment.records import Deployment
from pdctl.engines import state
from pdctl.engines.launchers import slurm_commands
from pdctl.engines.lifecycle.submitted import JOB_FILE, SubmittedJob, output_of
from pdctl.paths import working_directory

WANTED = "submitted.yaml"


def submit(deployment: Deployment, cluster: ClusterFile, *, ready_timeout_s: float) -> SubmittedJob:
    """Submit a job that runs a deployment. Raises InvalidInput if Slurm refuses it."""
    directory = state.make_state_dir(deployment.name)
    state.clear_state(deployment.name)
    state.write_private(directory / WANTED, deployment_yaml(deployment))
    output = output_of(deployment.name)
    output.unlink(missing_ok=True)
    submitted_at = time.time()
    number = slurm_commands.submit_script(
        job_script(deployment, cluster, ready_timeout_s=ready_timeout_s),
        directory=working_directory(),
        output=str(output).replace("%", "%%"),
    )
    state.write_private(directory / JOB_FILE, f"{number}\n")
    return SubmittedJob(deployment.name, number, submitted_at)


def job_script(deployment: Deployment, cluster: ClusterFile, *, ready_timeout_s: float) -> str:
    """The batch script that runs a deployment from the submitted.yaml in its state directory.

    `exec` makes pdctl the process that Slurm tells of the time limit.
    """
    up = (
        sys.executable,
        "-m",
        "pdctl",
        "up",
        "-f",
        str(state.state_dir(deployment.name) / WANTED),
        "--on",
        "slurm",
        "--no-input",
    )
    return "\n".join(
        (
            "#!/bin/bash",
            # a node that fails takes only its own engines with it
            *sbatch_lines(node_kinds(deployment, cluster), "--no-kill"),
            *([cluster.preamble.rstrip()] if cluster.preamble else []),
            f"exec {shlex.join((*up, '--timeout', f'{ready_timeout_s:g}s'))}",
            "",
        )
    )
