"""Run `pdctl up`: start a deployment and follow it until it stops."""

import dataclasses
import signal
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from types import FrameType
from typing import Protocol

import typer

from pdctl.commands.progress import progress_line, say
from pdctl.commands.screens import LIVE_PHASES, LineScreen, deployment_headline, open_screen
from pdctl.commands.up_preview import UpOptions, placed, warn
from pdctl.console import ask_yes, command_width, interactive, out, print_json
from pdctl.deployment.cluster_file import cluster_here
from pdctl.deployment.records import Deployment, ProcessSpec
from pdctl.doctor.diagnose import quick_checks
from pdctl.doctor.nodes import node_faults
from pdctl.engines import state as engine_state
from pdctl.engines.clients.api_key import api_key
from pdctl.engines.launchers.registry import LOCAL, SLURM, launcher_named
from pdctl.engines.lifecycle import follow, running, start, submitted
from pdctl.engines.lifecycle.stage import copy_for
from pdctl.engines.lifecycle.start import Prepared
from pdctl.engines.lifecycle.submit import submit
from pdctl.engines.lifecycle.submitted import SubmittedJob
from pdctl.engines.lifecycle.supervisor_process import SupervisorProcess
from pdctl.engines.records import DeploymentState
from pdctl.errors import EnvironmentProblem, ExitCode
from pdctl.tables.deployments import ready_view

PROGRESS_EVERY_S = 10.0


def start_or_submit(
    options: UpOptions, deployment: Deployment, on: str, *, may_simulate: bool
) -> None:
    """Start the deployment where the option --on says: here, in this job, or in a new one."""
    deployment, options = placed(deployment, options, on)
    if options.launcher == SLURM:
        submit_deployment(options, deployment)
    else:
        start_deployment(options, deployment, may_simulate=may_simulate)


def start_deployment(options: UpOptions, deployment: Deployment, *, may_simulate: bool) -> None:
    """Start the deployment. Return once it serves if detached, otherwise when it has stopped.

    may_simulate: offer simulated engines if this machine cannot run real ones.
    """
    is_here = options.launcher == LOCAL
    if is_here:
        _warn_of_machine(deployment)
    else:
        _copy_model(options, deployment)
    with Interrupts() as interrupts, ExitStack() as held:

        def check(prepared: Prepared) -> None:
            _check_nodes(prepared)
            interrupts.postpone()

        try:
            prepared, supervisor = held.enter_context(_started(options, deployment, check))
        except EnvironmentProblem as problem:
            if not (may_simulate and is_here and _wants_simulated(options, problem)):
                raise
            simulated = dataclasses.replace(deployment, engine="sim", gpus=None)
            prepared, supervisor = held.enter_context(_started(options, simulated, check))
        interrupts.stop(supervisor)
        warn(prepared)
        _follow(options, supervisor, deployment_headline(prepared), interrupts, held)


def follow_resumed(options: UpOptions, supervisor: SupervisorProcess) -> None:
    """Show a deployment that a new supervisor takes over, until it serves."""
    launch = supervisor.launch
    detached = dataclasses.replace(options, is_detached=True)
    with Interrupts() as interrupts:
        interrupts.stop(supervisor)
        headline = f"{launch.model} · {launch.layout}"
        _follow(detached, supervisor, headline, interrupts, ExitStack())


def _copy_model(options: UpOptions, deployment: Deployment) -> None:
    """Copy the model to the nodes that engines will use; other commands may plan meanwhile."""
    running.refuse_running(deployment.name)

    def planned() -> Sequence[ProcessSpec]:
        with start.planning():
            return start.prepare(deployment, launcher=options.launcher).specs

    with progress_line(every_s=PROGRESS_EVERY_S) as show:
        copy_for(planned, deployment.model, options.launcher, show)


def _started(
    options: UpOptions, deployment: Deployment, check: Callable[[Prepared], None]
) -> AbstractContextManager[tuple[Prepared, SupervisorProcess]]:
    running.refuse_running(deployment.name)
    return start.started_deployment(
        deployment,
        detached=options.is_detached,
        ready_timeout_s=options.timeout_s,
        launcher=options.launcher,
        check=check,
    )


def _wants_simulated(options: UpOptions, problem: EnvironmentProblem) -> bool:
    if problem.code not in ("no_gpu", "no_sglang") or not interactive(no_input=options.no_input):
        return False
    say(problem.message)
    return ask_yes("Start simulated engines instead?", default="y", flag="--engine sim")


def _follow(
    options: UpOptions,
    supervisor: SupervisorProcess,
    headline: str,
    interrupts: "Interrupts",
    held: ExitStack,
) -> None:
    """Show the deployment while it starts, announce that it serves, and wait for its end.

    held: its ports. From when it serves, only the supervisor claims them, which ends with it.
    """
    screen = open_screen(headline)
    last: DeploymentState | None = None
    is_ready = False
    for state in follow.follow_states(supervisor):
        last = state or last
        screen.show(last)
        if not is_ready and last is not None and last.phase in LIVE_PHASES:
            is_ready = True
            held.close()
            screen.close()
            _announce(options, last)
            screen = LineScreen(last)
        if is_ready and options.is_detached:
            return
    screen.close()
    _finish(supervisor, last, interrupts.num)


def _announce(options: UpOptions, state: DeploymentState) -> None:
    """Print that the deployment serves, and how to use it."""
    if options.as_json:
        print_json("up", dataclasses.asdict(state))
        return
    has_key = api_key() is not None
    view = ready_view(
        state, is_foreground=not options.is_detached, width=command_width(), has_key=has_key
    )
    out().print(view, soft_wrap=True)  # cropping would break the command to be copied


def _finish(
    supervisor: SupervisorProcess, last: DeploymentState | None, num_interrupts: int
) -> None:
    """Clean up after the supervisor has exited. Raise its failure, if any."""
    name = supervisor.launch.name
    if supervisor.child.returncode != 0:
        running.reap(supervisor.launch)
    has_failed = supervisor.child.returncode != 0 or (last is not None and last.failure)
    problem = follow.start_failure(name, last) if has_failed and not num_interrupts else None
    engine_state.clear_ended(name, supervisor.launch.run_id)
    if problem is not None:
        raise problem
    say("stopped")
    if num_interrupts:
        raise typer.Exit(ExitCode.INTERRUPTED)


def submit_deployment(options: UpOptions, deployment: Deployment) -> None:
    """Run the deployment in a new job. Return once it serves if detached, else when it ends."""
    running.refuse_running(deployment.name)
    if (waiting := submitted.submitted_job(deployment.name)) is not None:
        raise submitted.already_submitted(waiting)
    job = submit(deployment, cluster_here(), ready_timeout_s=options.timeout_s)
    say(f"submitted Slurm job {job.number}")
    headline = f"{deployment.model} · {deployment.layout} · Slurm job {job.number}"
    is_ready, num_interrupts = _follow_job(options, job, headline)
    if num_interrupts:
        raise typer.Exit(ExitCode.INTERRUPTED)
    if not is_ready:
        raise submitted.job_failure(job)
    if not options.is_detached:
        say(f"Slurm job {job.number} has ended")


def _follow_job(options: UpOptions, job: SubmittedJob, headline: str) -> tuple[bool, int]:
    """Show the job until it serves or has ended; whether it served, and how often Ctrl-C came."""
    screen = open_screen(headline)
    waits, is_ready = "", False
    with Interrupts() as interrupts:
        interrupts.stop(job)
        for seen in submitted.watch(job):
            if seen.waits and seen.waits != waits and not seen.is_over:
                say(f"Slurm job {job.number} is {seen.waits}")
            waits = seen.waits
            screen.show(seen.state)
            if not is_ready and seen.state is not None and seen.state.phase in LIVE_PHASES:
                is_ready = True
                screen.close()
                _announce(options, seen.state)
                say(f"Slurm ends the job in {seen.left}")
                screen = LineScreen(seen.state)
            if is_ready and options.is_detached:
                return True, interrupts.num
    screen.close()
    return is_ready, interrupts.num


class Stoppable(Protocol):
    """Something that Ctrl-C stops."""

    def ask_to_stop(self, *, now: bool = False) -> None: ...


class Interrupts:
    """Handles Ctrl-C: the first stops gracefully, the second kills. SIGTERM counts as one.

    Before anything is started, it ends the command.
    """

    def __init__(self) -> None:
        self._starts = False
        self._started: Stoppable | None = None
        self.num = 0

    def postpone(self) -> None:
        """From now on something is started: Ctrl-C waits until `stop` is told what."""
        self._starts = True

    def stop(self, started: Stoppable) -> None:
        """Let Ctrl-C stop this, also one that came while it was started."""
        self._starts, self._started = True, started
        if self.num:
            self._ask(started)

    def __enter__(self) -> "Interrupts":
        self._before = {s: signal.signal(s, self._take) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *problem: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if not self._starts:
            raise KeyboardInterrupt
        self.num += 1
        if self._started is not None:
            self._ask(self._started)

    def _ask(self, started: Stoppable) -> None:
        started.ask_to_stop(now=self.num > 1)
        if self.num == 1:
            say("\nstopping: requests in flight finish first; Ctrl-C again kills")


def _check_nodes(prepared: Prepared) -> None:
    """Refuse nodes without room for state; warn of other faults that make real engines fail."""
    if prepared.launcher == LOCAL or prepared.version is None:
        return
    nodes = dict.fromkeys(node for spec in prepared.specs[1:] for node, _ in spec.parts)
    for check in node_faults(launcher_named(prepared.launcher), cluster_here(), tuple(nodes)):
        text = f"{check.node}: {check.text}"
        if check.id == "state_dir":
            raise EnvironmentProblem(text, hint=check.fix, code="state_dir_unwritable")
        say(f"warning: {text} {check.fix}")


def _warn_of_machine(deployment: Deployment) -> None:
    """Warn of faults of this machine that make engines fail. Takes milliseconds, never blocks."""
    if deployment.engine == "sim":
        return
    for check in quick_checks():
        if check.outcome == "fail":
            say(f"warning: {check.text} {check.fix}")
