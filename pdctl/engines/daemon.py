"""The supervisor's process: `python -m pdctl.engines.daemon NAME --lock-fd N`.

SIGTERM stops gracefully (router out first, requests finish, engines end), SIGINT at once.
"""

import argparse
import os
import select
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from pdctl.deployment.records import ProcessSpec
from pdctl.engines import state
from pdctl.engines.clients.router import RouterClient
from pdctl.engines.launchers.local import LocalLauncher, create_time, wait_until_given_back
from pdctl.engines.launchers.protocol import Running
from pdctl.engines.log_file import last_start_at, rotate
from pdctl.engines.records import DeploymentState, Event, Launch, ProcessState
from pdctl.engines.supervision.gpu_room import waiting_for_gpus
from pdctl.engines.supervision.loop import Probes, StartedProcess, SupervisorLoop
from pdctl.engines.supervision.model import Desired, Process, SupervisorLimits
from pdctl.engines.supervision.recorder import start_recording
from pdctl.engines.supervision.report import (
    StartFacts,
    deployment_phase,
    fleet_detail,
    process_state,
)
from pdctl.errors import PdctlError


def adopt(
    fleet: SupervisorLoop, launcher: LocalLauncher, before: DeploymentState, launch: Launch
) -> None:
    """Take over what an earlier supervisor of this run left running.

    What is on its way out goes on so; what nobody knows any more is ended at once.
    """
    fleet.was_ready = before.ready_after_s is not None
    fleet.ready_after_s = before.ready_after_s
    fleet.first_request_ttft_s = before.first_request_ttft_s
    known = {(spec.name, spec.url): spec for spec in (*launch.leaving, *launch.specs)}
    for process in before.processes:
        if process.pid is None or process.started_at is None:
            continue
        running = launcher.adopt(process.pid, process.started_at)
        spec = known.get((process.name, process.url))
        if running is not None and spec is not None:
            _take_over(fleet, spec, process, running)
        elif running is not None:
            launcher.kill(running)
            fleet.say("kill", process.name, f"pid {process.pid} is not wanted any more")
    _end_strangers(fleet, launcher)


def _end_strangers(fleet: SupervisorLoop, launcher: LocalLauncher) -> None:
    """What was started in the moment before the last supervisor died is in no state."""
    ours = {start.running.pid for start in fleet.starts.values()}
    for pid in launcher.kill_others(ours):
        fleet.say("kill", "", f"pid {pid} of this run is in no state")


def _take_over(
    fleet: SupervisorLoop, spec: ProcessSpec, process: ProcessState, running: Running
) -> None:
    now = fleet.clock()
    served = process.phase in ("serving", "draining")
    fleet.starts[spec.name] = StartedProcess(
        running, now, log_at=last_start_at(spec.log), ready_after_s=process.ready_after_s
    )
    fleet.processes[spec.name] = Process(
        spec=spec, running=True, since=now, served=served, was_prefill=process.was_prefill
    )
    fleet.restarts[spec.name] = process.restarts
    fleet.say("adopt", spec.name, f"pid {running.pid}")


BUSY_TURN_S = 0.05
QUIET_TURN_S = 1.0
BOUND_LOGS_EVERY_S = 10.0
WRITE_AT_LEAST_EVERY_S = 10.0
WRITE_AT_MOST_EVERY_S = 0.1
LAST_WORD_S = 10.0


@dataclass
class Supervisor:
    """A fleet, its launch and its files."""

    launch: Launch
    fleet: SupervisorLoop
    directory: Path
    started_at: float = field(default_factory=lambda: create_time(os.getpid()) or time.time())
    written: DeploymentState | None = None
    launch_seen: int = 0
    logs_seen: float = 0.0
    pending: list[Event] = field(default_factory=list)

    def run(self, wake_fd: int) -> DeploymentState:
        """Turn the loop until everything has ended; the last state."""
        while True:
            self.fleet.tick()
            self._follow_launch()
            if self.fleet.is_over:
                return self._finish()
            self._publish(is_over=False)
            self._bound_logs()
            self._sleep(wake_fd)

    def _sleep(self, wake_fd: int) -> None:
        wait_s = QUIET_TURN_S if self.fleet.is_quiet else BUSY_TURN_S
        ready, _, _ = select.select([wake_fd], [], [], wait_s)
        if ready:
            os.read(wake_fd, 4096)

    def _bound_logs(self) -> None:
        if time.monotonic() - self.logs_seen < BOUND_LOGS_EVERY_S:
            return
        self.logs_seen = time.monotonic()
        for log in (*(self.directory / "logs").glob("*.log"), self.directory / state.FILE):
            if rotate(log):
                self.fleet.say("rotate", log.stem, f"{log.name} was set aside")

    def _follow_launch(self) -> None:
        """Take up what commands asked for since."""
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
        self.fleet.desired = replace(self.fleet.desired, specs=launch.specs)
        self.fleet.limits = replace(self.fleet.limits, drain_s=launch.drain_s)
        self.fleet.say("desired", "", f"{launch.layout}, {len(launch.specs) - 1} engines")
        for change in launch.changes:
            self.fleet.say("desired", "", change)

    def _finish(self) -> DeploymentState:
        launcher = self.fleet.launcher
        left = launcher.sweep() if isinstance(launcher, LocalLauncher) else ()
        if left:
            self.fleet.say("sweep", "", f"killed what was left: {', '.join(map(str, left))}")
        wait_until_given_back(process.spec for process in self.fleet.processes.values())
        self.fleet.say("over", "", "everything has ended")
        last = self._publish(is_over=True)
        deadline = time.monotonic() + LAST_WORD_S
        while self.written != last and time.monotonic() < deadline:
            time.sleep(0.2)  # the disk is full; the reason of a failure is only in this state
            self._write(last)
        return last

    def _publish(self, *, is_over: bool) -> DeploymentState:
        """Write state.json when it says something new, and the events."""
        state.append(self.directory, self.pending)
        self.pending.clear()
        now = time.time()
        current = self._state(now, is_over=is_over)
        last = self.written
        if last is None or is_over or self._is_due(current, last, now):
            self._write(current)
        return current

    def _is_due(self, current: DeploymentState, last: DeploymentState, now: float) -> bool:
        age_s = now - last.updated_at
        if current == replace(last, updated_at=current.updated_at):
            return age_s >= WRITE_AT_LEAST_EVERY_S
        return age_s >= WRITE_AT_MOST_EVERY_S or current.phase != last.phase

    def _write(self, current: DeploymentState) -> None:
        try:
            state.write_state(current)
            self.written = current
        except PdctlError as problem:  # a full disk must not end a serving deployment
            self.written = replace(current, detail=problem.message)

    def _state(self, now: float, *, is_over: bool) -> DeploymentState:
        fleet, launch = self.fleet, self.launch
        observed = fleet.observed()
        phase = deployment_phase(fleet.desired, observed, fleet.failure, is_over=is_over)
        waiting = waiting_for_gpus(fleet.desired, observed)
        processes = tuple(
            process_state(p, self._facts(p), fleet.desired, fleet.failure, waiting.get(p.name, ""))
            for p in fleet.processes.values()
        )
        why = fleet.failure.why if fleet.failure else ""
        return DeploymentState(
            name=launch.name,
            phase=phase,
            detail=why or fleet_detail(phase, processes, launch, waiting),
            boot_id=launch.boot_id,
            supervisor_pid=os.getpid(),
            supervisor_started_at=self.started_at,
            updated_at=now,
            detached=launch.detached,
            endpoint=launch.endpoint,
            layout=launch.layout,
            model=launch.model,
            processes=processes,
            first_request_ttft_s=fleet.first_request_ttft_s,
            ready_after_s=fleet.ready_after_s,
            run_id=launch.run_id,
            failure=fleet.failure.failure if fleet.failure else None,
            failed_process=fleet.failure.name if fleet.failure else "",
            revision=launch.revision,
        )

    def _facts(self, process: Process) -> StartFacts:
        start = self.fleet.starts.get(process.name)
        if start is None:
            return StartFacts(restarts=self.fleet.restarts.get(process.name, 0))
        return StartFacts(
            pid=start.running.pid,
            started_at=start.running.started_at,
            doing=start.phase.text if start.phase else "",
            progress=start.phase.share if start.phase else None,
            ready_after_s=start.ready_after_s,
            restarts=self.fleet.restarts.get(process.name, 0),
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
        raise SystemExit(f"nothing to launch in {state.state_dir(options.name)}")
    wake_fd, write_fd = _wake_pipe()
    supervisor = _supervisor(launch, wake=lambda: _wake(write_fd))
    _listen(supervisor.fleet)
    start_recording(launch.name)
    supervisor.run(wake_fd)
    os._exit(0)  # a probe may still wait for its deadline


def _supervisor(launch: Launch, *, wake: Callable[[], None]) -> Supervisor:
    launcher = LocalLauncher(
        launch.run_id,
        cwd=launch.cwd,
        death_signal=None if launch.detached else signal.SIGKILL,
    )
    fleet = SupervisorLoop(
        desired=Desired(launch.specs),
        launcher=launcher,
        probes=Probes(wake),
        router=RouterClient(launch.endpoint),
        limits=_limits(launch),
        started_at=time.monotonic(),
    )
    supervisor = Supervisor(launch, fleet, state.state_dir(launch.name))
    fleet.emit = supervisor.pending.append
    before = state.read_state(launch.name)
    if before is not None and before.run_id == launch.run_id:
        adopt(fleet, launcher, before, launch)
    return supervisor


def _limits(launch: Launch) -> SupervisorLimits:
    """The usual ones; PDCTL_BACKOFF_S, for tests, shortens the wait before the first restart."""
    limits = SupervisorLimits(ready_timeout_s=launch.ready_timeout_s, drain_s=launch.drain_s)
    backoff_s = os.environ.get("PDCTL_BACKOFF_S")
    return replace(limits, backoff_s=float(backoff_s)) if backoff_s else limits


def _listen(fleet: SupervisorLoop) -> None:
    """SIGTERM: stop when requests have finished. SIGINT: stop at once. The rest only wakes."""

    def drain(number: int, frame: object) -> None:
        if not fleet.desired.stop:
            fleet.say("stop", "", signal.Signals(number).name)
            fleet.desired = replace(fleet.desired, stop="drain")

    def now(number: int, frame: object) -> None:
        fleet.say("stop", "", signal.Signals(number).name)
        fleet.desired = replace(fleet.desired, stop="now")

    signal.signal(signal.SIGTERM, drain)
    signal.signal(signal.SIGINT, now)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)


def _wake_pipe() -> tuple[int, int]:
    """A pipe whose reading end wakes the loop: on signals, on a child's end, on an answer."""
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
