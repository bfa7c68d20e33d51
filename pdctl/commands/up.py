"""`pdctl up`: start a deployment and watch it until it serves."""

import signal
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from pdctl.commands.screens import LIVE_PHASES, LineScreen, _screen, headline
from pdctl.errors import EnvironmentProblem, ExitCode

if TYPE_CHECKING:
    from types import FrameType

    from pdctl.deployment.records import Deployment
    from pdctl.engines.lifecycle.start import Prepared
    from pdctl.engines.lifecycle.submitted import SubmittedJob
    from pdctl.engines.lifecycle.supervisor_process import SupervisorProcess
    from pdctl.engines.records import DeploymentState


@dataclass(frozen=True)
class Run:
    """How one `up` behaves."""

    is_detached: bool = False
    as_json: bool = False
    timeout_s: float = 7200.0
    no_input: bool = False
    launcher: str = "local"

    def write(self, deployment: "Deployment", output: Path) -> None:
        """Leave a pd.yaml instead of starting anything."""
        from pdctl.console import print_json
        from pdctl.deployment.pd_yaml import write_deployment

        write_deployment(deployment, output)
        if self.as_json:
            print_json("up", {"file": str(output)})
        else:
            typer.echo(f"wrote {output}; pdctl up -f {output}")

    def show_commands(self, deployment: "Deployment") -> None:
        """Print what would be started, to be run as it stands in a shell."""
        from pdctl.console import print_json, printable
        from pdctl.deployment.exports.shell import shell
        from pdctl.engines.clients.api_key import VARIABLE, api_key
        from pdctl.engines.lifecycle.start import prepare

        prepared = prepare(deployment, launcher=self.launcher)
        _warn(prepared)
        if api_key() is not None:
            note = f"{VARIABLE} is set: pdctl up gives the key to all of these, a shell would not"
            sys.stderr.write(f"warning: {note}.\n")
        if self.as_json:
            commands = [{"name": s.name, "argv": s.argv, "env": s.env} for s in prepared.specs]
            print_json("up", {"layout": deployment.layout, "processes": commands})
        else:
            typer.echo(printable(shell(prepared.specs)))

    def start(self, deployment: "Deployment", *, may_simulate: bool) -> None:
        """Start it and stay; or return when it serves, if detached.

        may_simulate: the kind of engine was not asked for, so simulated ones can be offered.
        """
        from pdctl.engines.lifecycle.start import holding

        if self.launcher == "local":
            _warn_of_machine(deployment)
        try:
            prepared, supervisor = self._launch(deployment)
        except EnvironmentProblem as problem:
            if not (may_simulate and self._wants_simulated(problem)):
                raise
            prepared, supervisor = self._launch(_simulated(deployment))
        _warn(prepared)
        with holding(prepared):
            self._watch(supervisor, headline(prepared))

    def submit(self, deployment: "Deployment") -> None:
        """Run it in a Slurm job; follow the job as `start` follows a supervisor."""
        from pdctl.deployment.cluster_file import cluster_here
        from pdctl.engines.lifecycle import running, submitted
        from pdctl.engines.lifecycle.submit import submit

        running.refuse_running(deployment.name)
        if (waiting := submitted.submitted_job(deployment.name)) is not None:
            raise submitted.already_submitted(waiting)
        job = submit(deployment, cluster_here(), ready_timeout_s=self.timeout_s)
        sys.stderr.write(f"submitted Slurm job {job.number}\n")
        self._watch_job(job, f"{deployment.model} · {deployment.layout} · Slurm job {job.number}")

    def _watch_job(self, job: "SubmittedJob", words: str) -> None:
        from pdctl.engines.lifecycle import submitted

        interrupts = Interrupts(job)
        screen = _screen(words)
        waits, is_ready = "", False
        with interrupts:
            for seen in submitted.watch(job):
                if seen.waits and seen.waits != waits and not seen.is_over:
                    sys.stderr.write(f"Slurm job {job.number} is {seen.waits}\n")
                waits = seen.waits
                screen.show(seen.state)
                if not is_ready and seen.state is not None and seen.state.phase in LIVE_PHASES:
                    is_ready = True
                    screen.close()
                    self._announce(seen.state)
                    sys.stderr.write(f"Slurm ends the job in {seen.left}\n")
                    screen = LineScreen(seen.state)
                if is_ready and self.is_detached:
                    return
        screen.close()
        if interrupts.num:
            raise typer.Exit(ExitCode.INTERRUPTED)
        if not is_ready:
            raise submitted.failure(job)
        sys.stderr.write(f"Slurm job {job.number} has ended\n")

    def resume(self, name: str | None) -> None:
        """Give a running deployment that lost its supervisor a new one."""
        from pdctl.engines.lifecycle import running
        from pdctl.engines.lifecycle import start as launch
        from pdctl.engines.lifecycle.deployment_key import use_key_of

        found = running.find(name)
        use_key_of(found.name)
        supervisor = launch.resume(found.name)
        if supervisor is None:
            raise running.already_running(found.name)
        taken = Run(is_detached=True, as_json=self.as_json)
        taken._watch(supervisor, f"{found.model} · {found.layout}")

    def _launch(self, deployment: "Deployment") -> "tuple[Prepared, SupervisorProcess]":
        from pdctl.engines.lifecycle import running
        from pdctl.engines.lifecycle import start as launch
        from pdctl.engines.lifecycle.start import planning, prepare

        running.refuse_running(deployment.name)
        with planning():
            prepared = prepare(deployment, launcher=self.launcher)
            supervisor = launch.launch(
                prepared,
                detached=self.is_detached,
                ready_timeout_s=self.timeout_s,
            )
        return prepared, supervisor

    def _wants_simulated(self, problem: EnvironmentProblem) -> bool:
        from pdctl.console import ask, interactive

        if problem.code not in ("no_gpu", "no_sglang") or not interactive(no_input=self.no_input):
            return False
        sys.stderr.write(f"{problem.message}\n")
        question = "Rehearse with simulated engines?"
        return ask(question, default="y", flag="--engine sim", no_input=False).lower() in "yes"

    def _watch(self, supervisor: "SupervisorProcess", words: str) -> None:
        from pdctl.engines.lifecycle import follow

        interrupts = Interrupts(supervisor)
        screen = _screen(words)
        last: DeploymentState | None = None
        is_ready = False
        with interrupts:
            for state in follow.follow_states(supervisor):
                last = state or last
                screen.show(last)
                if not is_ready and last is not None and last.phase in LIVE_PHASES:
                    is_ready = True
                    screen.close()
                    self._announce(last)
                    screen = LineScreen(last)
                if is_ready and self.is_detached:
                    return
        screen.close()
        self._finish(supervisor, last, interrupts.num)

    def _announce(self, state: "DeploymentState") -> None:
        import dataclasses

        from pdctl.console import out, print_json
        from pdctl.engines.clients.api_key import api_key
        from pdctl.tables.deployments import ready_view

        if self.as_json:
            print_json("up", dataclasses.asdict(state))
            return
        has_key = api_key() is not None
        view = ready_view(state, is_foreground=not self.is_detached, has_key=has_key)
        out().print(view, soft_wrap=True)  # not cropped: the command in it is there to be copied

    def _finish(
        self, supervisor: "SupervisorProcess", last: "DeploymentState | None", num_interrupts: int
    ) -> None:
        """The supervisor is gone: make sure that all else is, and say why."""
        from pdctl.engines import state
        from pdctl.engines.lifecycle import follow, running

        name = supervisor.launch.name
        if supervisor.child.returncode != 0:
            running.reap(name)
        has_failed = supervisor.child.returncode != 0 or (last is not None and last.failure)
        problem = follow.failure(name, last) if has_failed and not num_interrupts else None
        state.clear_state(name)
        if problem is not None:
            raise problem
        sys.stderr.write("stopped\n")
        if num_interrupts:
            raise typer.Exit(ExitCode.INTERRUPTED)


class Interrupts:
    """Ctrl-C once asks the supervisor to stop gracefully, twice at once. SIGTERM counts as one."""

    def __init__(self, supervisor: "SupervisorProcess | SubmittedJob") -> None:
        self._supervisor = supervisor
        self.num = 0

    def __enter__(self) -> "Interrupts":
        self._before = {s: signal.signal(s, self._take) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *problem: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _take(self, number: int, frame: "FrameType | None") -> None:
        self.num += 1
        self._supervisor.ask_to_stop(now=self.num > 1)
        if self.num == 1:
            sys.stderr.write("\nstopping: requests in flight finish first; Ctrl-C again kills\n")


def placed(deployment: "Deployment", on: str) -> "tuple[Deployment, str]":
    """The deployment as it runs there, with its launcher; "slurm": a job has to be submitted."""
    from pdctl.deployment.cluster_file import cluster_here, on_cluster
    from pdctl.engines.lifecycle.place import choose_place

    launcher = choose_place(on, deployment)
    return deployment if launcher == "local" else on_cluster(deployment, cluster_here()), launcher


def _simulated(deployment: "Deployment") -> "Deployment":
    return replace(deployment, engine="sim", gpus=None)


def _warn_of_machine(deployment: "Deployment") -> None:
    """What of this machine would fail the engines, found in milliseconds; it stops nobody."""
    from pdctl.console import printable
    from pdctl.doctor.diagnose import quick_checks

    if deployment.engine == "sim":
        return
    for check in (check for check in quick_checks() if check.outcome == "fail"):
        sys.stderr.write(printable(f"warning: {check.text} {check.fix}\n"))


def _warn(prepared: "Prepared") -> None:
    from pdctl.console import printable

    for sentence in prepared.warnings:
        sys.stderr.write(printable(f"warning: {sentence}\n"))


def up(
    model: str | None = typer.Argument(
        None, help="Directory with config.json, Hugging Face id, or bundled name."
    ),
    file: Path | None = typer.Option(None, "-f", "--file", help="A pd.yaml, or a Miles file."),
    prefill: int | None = typer.Option(
        None, "--prefill", help="Prefill engines; 0: colocated. Usual: a quarter of --total."
    ),
    total: int | None = typer.Option(None, "--total", help="Engines in all."),
    engine: str | None = typer.Option(None, "--engine", help="sglang, or sim to rehearse."),
    detach: bool = typer.Option(False, "-d", "--detach", help="Return when it serves."),
    name: str | None = typer.Option(None, "--name", help="Of the deployment. Usual: the model's."),
    gpus: str | None = typer.Option(
        None, "--gpus", help="Which GPUs here: 0-3,6. With --engine sim: which kind, 8xH200."
    ),
    tp: int | None = typer.Option(None, "--tp", help="Tensor parallel size of every engine."),
    prefill_tp: int | None = typer.Option(None, "--prefill-tp", help="The same, prefill only."),
    decode_tp: int | None = typer.Option(None, "--decode-tp", help="The same, decode only."),
    pp: int | None = typer.Option(None, "--pp", help="Pipeline parallel size."),
    dp: int | None = typer.Option(None, "--dp", help="Attention data parallel size, inside tp."),
    ep: int | None = typer.Option(None, "--ep", help="Expert parallel size, inside tp."),
    args: str | None = typer.Option(None, "--args", help="SGLang flags for every engine."),
    prefill_args: str | None = typer.Option(None, "--prefill-args", help="For prefill engines."),
    decode_args: str | None = typer.Option(None, "--decode-args", help="For decode engines."),
    router_args: str | None = typer.Option(None, "--router-args", help="For the router."),
    host: str | None = typer.Option(None, "--host", help="Where the router listens."),
    port: int | None = typer.Option(None, "--port", help="The router's port. Usual: 30000."),
    policy: str | None = typer.Option(None, "--policy", help="How the router picks engines."),
    transfer_backend: str | None = typer.Option(
        None, "--transfer-backend", help="How KV moves: auto, mooncake, nixl, ..."
    ),
    python: str | None = typer.Option(None, "--python", help="The Python that has SGLang."),
    trust_remote_code: bool = typer.Option(False, "--trust-remote-code", help="As in SGLang."),
    api_key_file: Path | None = typer.Option(
        None, "--api-key-file", help="Clients must know the key in it; else PDCTL_API_KEY."
    ),
    sim_speed: float | None = typer.Option(
        None, "--sim-speed", help="Simulated engines: 10 runs ten times as fast."
    ),
    timeout: str = typer.Option("2h", "--timeout", help="How long to wait until it serves."),
    on: str = typer.Option("auto", "--on", help="Where: local, slurm (this job or a new one)."),
    resume: bool = typer.Option(
        False, "--resume", help="Take over a running deployment whose supervisor died."
    ),
    dry_run: bool = typer.Option(False, "--dry-run", help="Print the commands, start nothing."),
    output: Path | None = typer.Option(
        None, "-o", "--output", help="Write pd.yaml, start nothing."
    ),
    no_input: bool = typer.Option(False, "--no-input", help="Never ask."),
    as_json: bool = typer.Option(False, "--json", help="One JSON object when it serves."),
) -> None:
    """Start prefill and decode engines behind the router, and stay until Ctrl-C.

    Without MODEL or -f: ./pd.yaml, else the last plan.

    \b
    Examples:
      pdctl up qwen3-8b --prefill 2 --total 8 --engine sim
      pdctl up /models/llama-8b --prefill 1 --total 4 --tp 2 -d --name chat
      pdctl up -f pd.yaml --on slurm
    """
    from pdctl.commands.deployment_options import DeploymentOptions, choose
    from pdctl.engines.clients.api_key import use_key_file
    from pdctl.units import parse_duration_s

    use_key_file(api_key_file)
    timeout_s = parse_duration_s(timeout, flag="--timeout")
    run = Run(detach, as_json, timeout_s, no_input)
    if resume:
        run.resume(name)
        return
    options = DeploymentOptions(
        model=model,
        file=file,
        name=name,
        prefill=prefill,
        total=total,
        engine=engine,
        gpus=gpus,
        tp=tp,
        prefill_tp=prefill_tp,
        decode_tp=decode_tp,
        pp=pp,
        dp=dp,
        ep=ep,
        args=args,
        prefill_args=prefill_args,
        decode_args=decode_args,
        router_args=router_args,
        host=host,
        port=port,
        policy=policy,
        transfer_backend=transfer_backend,
        python=python,
        trust_remote_code=trust_remote_code,
        sim_speed=sim_speed,
        no_input=no_input,
    )
    deployment = choose(options)
    if output is not None:
        run.write(deployment, output)
        return
    deployment, launcher = placed(deployment, on)
    run = replace(run, launcher=launcher)
    if dry_run:
        run.show_commands(deployment)
    elif launcher == "slurm":
        run.submit(deployment)
    else:
        run.start(deployment, may_simulate=engine is None and launcher == "local")
