"""How a new supervisor takes over the processes of one that died."""

from pdctl.deployment.records import ProcessSpec
from pdctl.engines.actions import Process
from pdctl.engines.fleet import Fleet
from pdctl.engines.log_tail import last_start_at
from pdctl.engines.on_local import LocalLauncher, Running
from pdctl.engines.records import FleetState, Launch, ProcessState
from pdctl.engines.start import Start


def adopt(fleet: Fleet, launcher: LocalLauncher, before: FleetState, launch: Launch) -> None:
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


def _end_strangers(fleet: Fleet, launcher: LocalLauncher) -> None:
    """What was started in the moment before the last supervisor died is in no state."""
    ours = {start.running.pid for start in fleet.starts.values()}
    for pid in launcher.kill_others(ours):
        fleet.say("kill", "", f"pid {pid} of this run is in no state")


def _take_over(fleet: Fleet, spec: ProcessSpec, process: ProcessState, running: Running) -> None:
    now = fleet.clock()
    served = process.phase in ("serving", "draining")
    fleet.starts[spec.name] = Start(
        running, now, log_at=last_start_at(spec.log), ready_after_s=process.ready_after_s
    )
    fleet.processes[spec.name] = Process(
        spec=spec, running=True, since=now, served=served, was_prefill=process.was_prefill
    )
    fleet.restarts[spec.name] = process.restarts
    fleet.say("adopt", spec.name, f"pid {running.pid}")
