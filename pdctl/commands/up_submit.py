"""Run `pdctl up --on slurm` outside a job: submit one and follow it."""

import typer

from pdctl.commands.progress import say
from pdctl.commands.screens import LIVE_PHASES, LineScreen, open_screen
from pdctl.commands.up_preview import UpOptions, placed
from pdctl.commands.up_run import Interrupts, announce, start_deployment
from pdctl.deployment.cluster_file import cluster_here
from pdctl.deployment.records import Deployment
from pdctl.engines.launchers.registry import SLURM
from pdctl.engines.lifecycle import running, submitted
from pdctl.engines.lifecycle.submit import submit
from pdctl.engines.lifecycle.submitted import SubmittedJob
from pdctl.errors import ExitCode


def start_or_submit(
    options: UpOptions, deployment: Deployment, on: str, *, may_simulate: bool
) -> None:
    """Start the deployment where the option --on says: here, in this job, or in a new one."""
    deployment, options = placed(deployment, options, on)
    if options.launcher == SLURM:
        submit_deployment(options, deployment)
    else:
        start_deployment(options, deployment, may_simulate=may_simulate)


def submit_deployment(options: UpOptions, deployment: Deployment) -> None:
    """Run the deployment in a new job. Return once it serves if detached, else when it ends."""
    running.refuse_running(deployment.name)
    if (waiting := submitted.submitted_job(deployment.name)) is not None:
        raise submitted.already_submitted(waiting)
    job = submit(deployment, cluster_here(), ready_timeout_s=options.timeout_s)
    say(f"submitted Slurm job {job.number}")
    headline = f"{deployment.model} · {deployment.layout} · Slurm job {job.number}"
    is_ready, num_interrupts = _follow(options, job, headline)
    if num_interrupts:
        raise typer.Exit(ExitCode.INTERRUPTED)
    if not is_ready:
        raise submitted.failure(job)
    if not options.is_detached:
        say(f"Slurm job {job.number} has ended")


def _follow(options: UpOptions, job: SubmittedJob, headline: str) -> tuple[bool, int]:
    """Show the job until it serves or has ended; whether it served, and how often Ctrl-C came."""
    screen = open_screen(headline)
    waits, is_ready = "", False
    with Interrupts(job) as interrupts:
        for seen in submitted.watch(job):
            if seen.waits and seen.waits != waits and not seen.is_over:
                say(f"Slurm job {job.number} is {seen.waits}")
            waits = seen.waits
            screen.show(seen.state)
            if not is_ready and seen.state is not None and seen.state.phase in LIVE_PHASES:
                is_ready = True
                screen.close()
                announce(options, seen.state)
                say(f"Slurm ends the job in {seen.left}")
                screen = LineScreen(seen.state)
            if is_ready and options.is_detached:
                return True, interrupts.num
    screen.close()
    return is_ready, interrupts.num
