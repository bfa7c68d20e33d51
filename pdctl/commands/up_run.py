"""What `up` does once the deployment is chosen: launch, show, wait, stop."""

import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import typer

from pdctl.errors import EnvironmentProblem, ExitCode

if TYPE_CHECKING:
    from types import FrameType

    from pdctl.deployment.records import Deployment
    from pdctl.engines.launch import SupervisorProcess
    from pdctl.engines.prepare import Prepared
    from pdctl.engines.records import FleetState

FRAME_S = 0.125
LIVE_PHASES = ("serving", "scaling", "degraded")


@dataclass(frozen=True)
class Run:
    """How one `up` behaves."""

    is_detached: bool = False
    as_json: bool = False
    timeout_s: float = 7200.0
    no_input: bool = False

    def write(self, deployment: "Deployment", output: Path) -> None:
        """Leave a pd.yaml instead of starting anything."""
        from pdctl.console import print_json
        from pdctl.deployment.file import write_deployment

        write_deployment(deployment, output)
        if self.as_json:
            print_json("up", {"file": str(output)})
        else:
            typer.echo(f"wrote {output}; pdctl up -f {output}")

    def show_commands(self, deployment: "Deployment") -> None:
        """Print what would be started, to be run as it stands in a shell."""
        from pdctl.console import print_json, printable
        from pdctl.deployment.exports import shell
        from pdctl.engines.api_key import VARIABLE, api_key
        from pdctl.engines.prepare import prepare

        prepared = prepare(deployment)
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
        from pdctl.engines.port_holds import holding

        _warn_of_machine(deployment)
        try:
            prepared, supervisor = self._launch(deployment)
        except EnvironmentProblem as problem:
            if not (may_simulate and self._wants_simulated(problem)):
                raise
            prepared, supervisor = self._launch(_simulated(deployment))
        _warn(prepared)
        with holding(prepared.specs):
            self._watch(supervisor, headline(prepared))

    def resume(self, name: str | None) -> None:
        """Give a running deployment that lost its supervisor a new one."""
        from pdctl.engines import launch, running
        from pdctl.engines.key_of_run import use_key_of

        found = running.find(name)
        use_key_of(found.name)
        supervisor = launch.resume(found.name)
        if supervisor is None:
            raise running.already_running(found.name)
        taken = Run(is_detached=True, as_json=self.as_json)
        taken._watch(supervisor, f"{found.model} · {found.layout}")

    def _launch(self, deployment: "Deployment") -> "tuple[Prepared, SupervisorProcess]":
        from pdctl.engines import launch, running
        from pdctl.engines.prepare import planning, prepare

        running.refuse_running(deployment.name)
        with planning():
            prepared = prepare(deployment)
            supervisor = launch.launch(
                prepared.deployment,
                prepared.specs,
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
        from pdctl.engines import watch

        interrupts = Interrupts(supervisor)
        screen = _screen(words)
        last: FleetState | None = None
        is_ready = False
        with interrupts:
            for state in watch.states(supervisor):
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

    def _announce(self, state: "FleetState") -> None:
        import dataclasses

        from pdctl.console import out, print_json
        from pdctl.engines.api_key import api_key
        from pdctl.tables.up import ready_view

        if self.as_json:
            print_json("up", dataclasses.asdict(state))
            return
        has_key = api_key() is not None
        view = ready_view(state, is_foreground=not self.is_detached, has_key=has_key)
        out().print(view, soft_wrap=True)  # not cropped: the command in it is there to be copied

    def _finish(
        self, supervisor: "SupervisorProcess", last: "FleetState | None", num_interrupts: int
    ) -> None:
        """The supervisor is gone: make sure that all else is, and say why."""
        from pdctl.engines import state, stop, watch

        name = supervisor.launch.name
        if supervisor.child.returncode != 0:
            stop.reap(name)
        has_failed = supervisor.child.returncode != 0 or (last is not None and last.failure)
        problem = watch.failure(name, last) if has_failed and not num_interrupts else None
        state.clear_state(name)
        if problem is not None:
            raise problem
        sys.stderr.write("stopped\n")
        if num_interrupts:
            raise typer.Exit(ExitCode.INTERRUPTED)


class Interrupts:
    """Ctrl-C once asks the supervisor to stop gracefully, twice at once. SIGTERM counts as one."""

    def __init__(self, supervisor: "SupervisorProcess") -> None:
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


class Screen(Protocol):
    """Shows states as they come."""

    def show(self, state: "FleetState | None") -> None: ...
    def close(self) -> None: ...


class LineScreen:
    """One line per change of phase, on stderr."""

    def __init__(self, last: "FleetState | None" = None) -> None:
        self._last = last

    def show(self, state: "FleetState | None") -> None:
        from pdctl.console import printable
        from pdctl.tables.up import change_lines

        if state is None:
            return
        for line in change_lines(self._last, state):
            sys.stderr.write(f"{printable(line)}\n")
        sys.stderr.flush()
        self._last = state

    def close(self) -> None:
        return


class LiveScreen:
    """A table drawn over and over, on a terminal."""

    def __init__(self, words: str) -> None:
        from rich.live import Live

        from pdctl.console import err

        self._words = words
        self._live = Live(console=err(), auto_refresh=False, vertical_overflow="visible")
        self._live.start()
        self._drawn_at = 0.0
        self._last: FleetState | None = None

    def show(self, state: "FleetState | None") -> None:
        self._last = state
        if time.monotonic() - self._drawn_at >= FRAME_S:
            self._draw()

    def close(self) -> None:
        self._draw()
        self._live.stop()

    def _draw(self) -> None:
        from pdctl.tables.up import up_view

        self._drawn_at = time.monotonic()
        self._live.update(up_view(self._words, self._last, time.time()), refresh=True)


def _screen(words: str) -> Screen:
    from pdctl.console import err

    if err().is_terminal:
        return LiveScreen(words)
    sys.stderr.write(f"{words}\n")
    return LineScreen()


def headline(prepared: "Prepared") -> str:
    """llama-3.1-8b · 2P6D · 8 × H200 · SGLang 0.5.23 · NIXL over NVLink."""
    deployment = prepared.deployment
    if deployment.engine == "sim":
        gpus = f"simulated {deployment.gpus or f'{deployment.num_gpus}xH200'}"
    else:
        gpus = f"{deployment.num_gpus} × {prepared.gpu_name}" if prepared.gpu_name else "CPU"
    version = f"SGLang {prepared.version}" if prepared.version else ""
    parts = (deployment.model, deployment.layout, gpus, version, prepared.kv_path)
    return " · ".join(part for part in parts if part)


def _simulated(deployment: "Deployment") -> "Deployment":
    from dataclasses import replace

    return replace(deployment, engine="sim", gpus=None)


def _warn_of_machine(deployment: "Deployment") -> None:
    """What of this machine would fail the engines, found in milliseconds; it stops nobody."""
    from pdctl.console import printable
    from pdctl.engines.doctor.machine import quick_checks

    if deployment.engine == "sim":
        return
    for check in (check for check in quick_checks() if check.outcome == "fail"):
        sys.stderr.write(printable(f"warning: {check.text} {check.fix}\n"))


def _warn(prepared: "Prepared") -> None:
    from pdctl.console import printable

    for sentence in prepared.warnings:
        sys.stderr.write(printable(f"warning: {sentence}\n"))
