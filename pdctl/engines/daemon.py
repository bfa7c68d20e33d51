"""The supervisor process: `python -m pdctl.engines.daemon NAME --lock-fd N`.

SIGTERM stops the deployment gracefully (router first, requests finish, engines exit); SIGINT stops
it immediately.
"""

import argparse
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from pdctl.deployment.records import ProcessSpec
from pdctl.engines import state
from pdctl.engines.clients.router import RouterClient
from pdctl.engines.clients.sglang import EngineClient
from pdctl.engines.launchers.gpu_memory import wait_for_gpu_memory
from pdctl.engines.launchers.local import create_time
from pdctl.engines.launchers.protocol import HERE, Started
from pdctl.engines.launchers.registry import launcher_of
from pdctl.engines.log_file import rotate
from pdctl.engines.records import DeploymentState, Event, Launch, ProcessState
from pdctl.engines.supervision.gpu_room import waiting_engines
from pdctl.engines.supervision.loop import Probes, StartedProcess, SupervisorLoop
from pdctl.engines.supervision.lost_nodes import nodes_of
from pdctl.engines.supervision.model import Desired, Process, SupervisorLimits
from pdctl.engines.supervision.recorder import start_recording
from pdctl.engines.supervision.report import (
    StartFacts,
    deployment_detail,
    deployment_phase,
    process_state,
)
from pdctl.engines.supervision.scrape_targets import scrape_targets
from pdctl.engines.supervision.side_processes import start_exporting, start_replaying
from pdctl.errors import PdctlError
from pdctl.paths import TARGETS_FILE


def adopt(loop: SupervisorLoop, before: DeploymentState, launch: Launch) -> None:
    """Take over the processes that an earlier supervisor of this deployment left running.

    Those that were leaving keep leaving; unknown ones are killed.
    """
    launcher = loop.launcher
    loop.was_ready = before.ready_after_s is not None
    loop.ready_after_s = before.ready_after_s
    loop.first_request_ttft_s = before.first_request_ttft_s
    known = {(spec.name, spec.url): spec for spec in (*launch.leaving, *launch.specs)}
    held = {p.handle: p for p in before.processes if p.handle is not None}
    for process, started in zip(held.values(), launcher.adopt(tuple(held)), strict=True):
        spec = known.get((process.name, process.url))
        if started is not None and spec is not None:
            _take_over(loop, spec, process, started)
        elif started is not None:
            launcher.kill(started.handle)
            loop.say("kill", process.name, f"{started.label} is no longer wanted")
    _end_strangers(loop, launch)


def _end_strangers(loop: SupervisorLoop, launch: Launch) -> None:
    """Kill processes that the last supervisor started and did not live to record."""
    ours = [start.process.handle for start in loop.starts.values()]
    nodes = {node for spec in (*launch.leaving, *launch.specs) for node in nodes_of(spec)}
    for label in loop.launcher.kill_others(ours, nodes):
        loop.say("kill", "", f"{label} belongs to this deployment but is not in its state")


def _take_over(
    loop: SupervisorLoop, spec: ProcessSpec, process: ProcessState, started: Started
) -> None:
    now = loop.clock()
    served = process.phase in ("serving", "draining")
    loop.starts[spec.name] = StartedProcess(
        started,
        now,
        log_at=loop.launcher.last_start_at(spec.node, spec.log),
        ready_after_s=process.ready_after_s,
    )
    loop.processes[spec.name] = Process(
        spec=spec, running=True, since=now, served=served, was_prefill=process.was_prefill
    )
    loop.restarts[spec.name] = process.restarts
    loop.say("adopt", spec.name, started.label)


BUSY_TURN_S = 0.05
QUIET_TURN_S = 1.0
BOUND_LOGS_EVERY_S = 10.0
CLAIM_EVERY_S = 1.0  # until the command that started an engine has let go of its ports
WRITE_AT_LEAST_EVERY_S = 10.0
WRITE_AT_MOST_EVERY_S = 0.1
LAST_WORD_S = 10.0
MOVE_WITHIN_S = 120.0
COPY_WITHIN_S = 3600.0  # where the move begins with a copy of the model


@dataclass
class Supervisor:
    """The loop of one deployment, with the launch it follows and the files it writes."""

    launch: Launch
    loop: SupervisorLoop
    directory: Path
    started_at: float = field(default_factory=lambda: create_time(os.getpid()) or time.time())
    written: DeploymentState | None = None
    written_at: float = 0.0  # monotonic: someone may set the clock back
    listed: str = ""  # what a Prometheus is told to scrape
    launch_seen: int = 0
    logs_seen: float = 0.0
    claimed_at: float = float("-inf")
    pending: list[Event] = field(default_factory=list)

    def run(self, wake_fd: int) -> DeploymentState:
        """Turn the loop until everything has ended; return the last state."""
        while not self.turn():
            self._bound_logs()
            self._sleep(wake_fd)
        return self.finish()

    def turn(self) -> bool:
        """Turn the loop once and publish the state; True once everything has ended."""
        self._claim_ports()
        self.loop.tick()
        self._follow_launch()
        if not self.loop.is_over:
            self._publish(is_over=False)
        return self.loop.is_over

    def _sleep(self, wake_fd: int) -> None:
        wait_s = QUIET_TURN_S if self.loop.is_quiet else BUSY_TURN_S
        ready, _, _ = select.select([wake_fd], [], [], wait_s)
        if ready:
            os.read(wake_fd, 4096)

    def _claim_ports(self) -> None:
        """Keep others off the ports of engines that wait for their restart, too."""
        if time.monotonic() - self.claimed_at < CLAIM_EVERY_S:
            return
        self.claimed_at = time.monotonic()
        running = (process.spec for process in self.loop.processes.values())
        self.loop.launcher.claim_ports((*self.loop.desired.specs, *running))

    def _bound_logs(self) -> None:
        if time.monotonic() - self.logs_seen < BOUND_LOGS_EVERY_S:
            return
        self.logs_seen = time.monotonic()
        launcher = self.loop.launcher
        for process in self.loop.processes.values():
            if launcher.rotate_log(process.spec.node, process.spec.log):
                self._say_rotated(process.spec.log)
        for own in (self.directory / "logs" / "supervisor.log", self.directory / state.FILE):
            if rotate(own):
                self._say_rotated(own)

    def _say_rotated(self, log: Path) -> None:
        self.loop.say("rotate", log.stem, f"{log.name} had grown too large and was set aside")

    def _follow_launch(self) -> None:
        """Adopt the target that commands have written since."""
        try:
            changed = (self.directory / "launch.json").stat().st_mtime_ns
        except OSError:
            return
        if changed == self.launch_seen:
            return
        self.launch_seen = changed
        launch = state.read_launch(self.launch.name)
        if launch is None or launch.run_id != self.launch.run_id or launch == self.launch:
            return
        self.launch = launch
        self.loop.desired = replace(self.loop.desired, specs=launch.specs)
        self.loop.limits = replace(self.loop.limits, drain_s=launch.drain_s)
        self.loop.say("desired", "", f"{launch.layout}, {len(launch.specs) - 1} engines")
        for change in launch.changes:
            self.loop.say("desired", "", change)

    def finish(self) -> DeploymentState:
        """Kill leftovers, wait for GPU memory, and publish the last state."""
        launcher = self.loop.launcher
        if left := launcher.sweep():
            self.loop.say("sweep", "", f"killed leftover processes: {', '.join(left)}")
        wait_for_gpu_memory(launcher, (p.spec for p in self.loop.processes.values()))
        self.loop.say("over", "", "all processes have ended")
        last = self._publish(is_over=True)
        deadline = time.monotonic() + LAST_WORD_S
        while self.written != last and time.monotonic() < deadline:
            time.sleep(0.2)  # the disk is full; only this state holds the reason of a failure
            self._write(last)
        return last

    def _publish(self, *, is_over: bool) -> DeploymentState:
        """Write the events, and state.json if it changed."""
        state.append(self.directory, self.pending)
        self.pending.clear()
        now = time.time()
        current = self._state(now, is_over=is_over)
        last = self.written
        if last is not None and (last.phase, current.phase) == ("scaling", "serving"):
            self.loop.say("settled", "", current.layout)
        if last is None or is_over or self._is_due(current, last):
            self._write(current)
        return current

    def _is_due(self, current: DeploymentState, last: DeploymentState) -> bool:
        age_s = time.monotonic() - self.written_at
        if current == replace(last, updated_at=current.updated_at):
            return age_s >= WRITE_AT_LEAST_EVERY_S
        return age_s >= WRITE_AT_MOST_EVERY_S or current.phase != last.phase

    def _write(self, current: DeploymentState) -> None:
        self.written_at = time.monotonic()
        try:
            state.write_state(current)
            self._list_targets(current)
            self.written = current
        except PdctlError as problem:  # a full disk must not end a serving deployment
            self.written = replace(current, detail=problem.message)

    def _list_targets(self, current: DeploymentState) -> None:
        targets = scrape_targets(current, self.launch.metrics_endpoint)
        if targets != self.listed:
            state.write_private(self.directory / TARGETS_FILE, targets)
            self.listed = targets

    def _state(self, now: float, *, is_over: bool) -> DeploymentState:
        loop, launch = self.loop, self.launch
        observed = loop.observed()
        phase = deployment_phase(loop.desired, observed, loop.failure, is_over=is_over)
        waiting = waiting_engines(loop.desired, observed)
        processes = tuple(
            process_state(p, self._facts(p), loop.desired, loop.failure, waiting.get(p.name, ""))
            for p in loop.processes.values()
        )
        why = loop.failure.why if loop.failure else ""
        return DeploymentState(
            name=launch.name,
            phase=phase,
            detail=why or deployment_detail(phase, processes, launch, waiting),
            boot_id=launch.boot_id,
            host=launch.host,
            supervisor_pid=os.getpid(),
            supervisor_started_at=self.started_at,
            updated_at=now,
            detached=launch.detached,
            endpoint=launch.endpoint,
            layout=launch.layout,
            model=launch.model,
            processes=processes,
            first_request_ttft_s=loop.first_request_ttft_s,
            ready_after_s=loop.ready_after_s,
            run_id=launch.run_id,
            failure=loop.failure.failure if loop.failure else None,
            failed_process=loop.failure.name if loop.failure else "",
            revision=launch.revision,
            lost_nodes=tuple(loop.lost),
        )

    def _facts(self, process: Process) -> StartFacts:
        start = self.loop.starts.get(process.name)
        if start is None:
            return StartFacts(restarts=self.loop.restarts.get(process.name, 0))
        return StartFacts(
            handle=start.process.handle,
            started_at=start.process.started_at,
            doing=start.phase.text if start.phase else "",
            progress=start.phase.share if start.phase else None,
            ready_after_s=start.ready_after_s,
            restarts=self.loop.restarts.get(process.name, 0),
        )


def main() -> None:
    """Run one deployment until it is stopped."""
    parser = argparse.ArgumentParser(prog="python -m pdctl.engines.daemon")
    parser.add_argument("name")
    parser.add_argument("--lock-fd", type=int, required=True)
    options = parser.parse_args()
    os.set_inheritable(options.lock_fd, False)  # engines must not hold the lock
    launch = state.read_launch(options.name)
    if launch is None:
        raise SystemExit(f"no launch.json of this boot in {state.state_dir(options.name)}")
    wake_fd, write_fd = _wake_pipe()
    supervisor = supervisor_of(launch, wake=lambda: _wake(write_fd))
    _listen(supervisor.loop)
    start_recording(launch.name, supervisor.loop.launcher)
    start_exporting(launch.name, metrics=launch.metrics_endpoint, spans=launch.spans_endpoint)
    if launch.what_if:
        start_replaying(launch.name)
    supervisor.run(wake_fd)
    os._exit(0)  # a probe may still wait for its deadline


def supervisor_of(launch: Launch, *, wake: Callable[[], None]) -> Supervisor:
    """The supervisor of a launched deployment, with what an earlier one left running."""
    launcher = launcher_of(launch)
    http = launcher.http(HERE)
    loop = SupervisorLoop(
        desired=Desired(launch.specs),
        launcher=launcher,
        probes=Probes(wake),
        router=RouterClient(launch.endpoint, http=http),
        engines=EngineClient(http),
        limits=_limits(launch),
        move=partial(move_engines, launch.name),
        started_at=time.monotonic(),
    )
    supervisor = Supervisor(launch, loop, state.state_dir(launch.name))
    loop.emit = supervisor.pending.append
    before = state.read_state(launch.name)
    if before is not None and before.run_id == launch.run_id:
        adopt(loop, before, launch)
    else:
        launcher.prepare(launch.specs)
    return supervisor


def _limits(launch: Launch) -> SupervisorLimits:
    """The default limits. In tests, PDCTL_BACKOFF_S shortens the wait before the first restart.

    PDCTL_MOVE_AFTER_S: how long a node may be off the network and keep its engines.
    """
    limits = SupervisorLimits(ready_timeout_s=launch.ready_timeout_s, drain_s=launch.drain_s)
    backoff_s = os.environ.get("PDCTL_BACKOFF_S")
    move_after_s = os.environ.get("PDCTL_MOVE_AFTER_S")
    limits = replace(limits, backoff_s=float(backoff_s)) if backoff_s else limits
    return replace(limits, move_after_s=float(move_after_s)) if move_after_s else limits


def move_engines(name: str, nodes: Sequence[str]) -> str:
    """Give the engines of lost nodes places on others; why that was impossible, or "".

    A process of its own asks the nodes, as a command does: the supervisor waits for no node.
    """
    argv = (sys.executable, "-m", "pdctl.engines.lifecycle.relocate", name, *nodes)
    from pdctl.deployment.cluster_file import cluster_here  # only a move needs it

    within_s = COPY_WITHIN_S if cluster_here().stage else MOVE_WITHIN_S
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=within_s
        )
    except subprocess.TimeoutExpired:
        return "the other nodes did not answer in time"
    return done.stderr.strip().rpartition("\n")[2] if done.returncode else ""


def _listen(loop: SupervisorLoop) -> None:
    """Install signal handlers: SIGTERM drains and stops, SIGINT stops immediately."""

    def drain(number: int, frame: object) -> None:
        if not loop.desired.stop:
            loop.say("stop", "", signal.Signals(number).name)
            loop.desired = replace(loop.desired, stop="drain")

    def now(number: int, frame: object) -> None:
        loop.say("stop", "", signal.Signals(number).name)
        loop.desired = replace(loop.desired, stop="now")

    signal.signal(signal.SIGTERM, drain)
    signal.signal(signal.SIGINT, now)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)


def _wake_pipe() -> tuple[int, int]:
    """A pipe that wakes the loop on a signal, on a child's exit and on an answer."""
    read_fd, write_fd = os.pipe()
    os.set_blocking(read_fd, False)
    os.set_blocking(write_fd, False)
    signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
    return read_fd, write_fd


def _wake(write_fd: int) -> None:
    try:
        os.write(write_fd, b"\0")
    except BlockingIOError:
        return  # it will wake anyway


if __name__ == "__main__":
    main()
