"""A deployment for as long as a block of code runs: started before, gone after."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pdctl.deployment.records import Deployment
from pdctl.engines import launch, running, state, stop, watch
from pdctl.engines.gpu_memory import GIVEN_BACK_S
from pdctl.engines.prepare import planning, prepare
from pdctl.engines.records import FleetState

STOP_WAIT_S = 15.0 + GIVEN_BACK_S


@contextmanager
def serving(
    deployment: Deployment,
    *,
    ready_timeout_s: float = 7200.0,
    tell: Callable[[FleetState], None] = lambda state: None,
) -> Iterator[FleetState]:
    """Launch `deployment`, wait until it serves, and leave nothing of it behind.

    Its logs stay only when the block failed: somebody may want to read them.
    tell: called with each state seen while it starts. It is tied to this process: if this one is
    killed, the kernel ends the supervisor and with it everything. Raises as `pdctl up` does.
    """
    running.refuse_running(deployment.name)
    with planning():
        prepared = prepare(deployment)
        supervisor = launch.launch(
            prepared.deployment, prepared.specs, detached=False, ready_timeout_s=ready_timeout_s
        )
    keeps_logs = True
    try:
        yield _ready(supervisor, tell)
        keeps_logs = False
    except KeyboardInterrupt:
        keeps_logs = False  # nobody wonders why it ended
        raise
    finally:
        supervisor.ask_to_stop(now=True)
        supervisor.child.wait(STOP_WAIT_S)
        stop.reap(deployment.name)
        state.clear_state(deployment.name)
        if not keeps_logs:
            state.forget(deployment.name)


def _ready(supervisor: launch.SupervisorProcess, tell: Callable[[FleetState], None]) -> FleetState:
    last = None
    for seen in watch.states(supervisor):
        last = seen or last
        if last is None:
            continue
        tell(last)
        if last.phase == "serving":
            return last
    raise watch.failure(supervisor.launch.name, last)
