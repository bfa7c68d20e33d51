"""A deployment for as long as a block of code runs: started before, gone after."""

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from pdctl.deployment.records import Deployment
from pdctl.engines import state
from pdctl.engines.launchers.local import GIVEN_BACK_S
from pdctl.engines.lifecycle import follow, running, start
from pdctl.engines.lifecycle.start import planning, prepare
from pdctl.engines.records import DeploymentState


def private(deployment: Deployment, purpose: str) -> Deployment:
    """`deployment` so that it runs beside any other: PURPOSE-PID on a port nobody listens on."""
    router = replace(deployment.router, host="127.0.0.1", port=free_port())
    return replace(deployment, name=f"{purpose}-{os.getpid()}", router=router)


def free_port() -> int:
    """A port nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


STOP_WAIT_S = 15.0 + GIVEN_BACK_S


@contextmanager
def serving(
    deployment: Deployment,
    *,
    ready_timeout_s: float = 7200.0,
    tell: Callable[[DeploymentState], None] = lambda state: None,
) -> Iterator[DeploymentState]:
    """Launch `deployment`, wait until it serves, and leave nothing of it behind.

    Its logs stay only when the block failed: somebody may want to read them.
    tell: called with each state seen while it starts. It is tied to this process: if this one is
    killed, the kernel ends the supervisor and with it everything. Raises as `pdctl up` does.
    """
    running.refuse_running(deployment.name)
    with planning():
        prepared = prepare(deployment)
        supervisor = start.launch(
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
        running.reap(deployment.name)
        state.clear_state(deployment.name)
        if not keeps_logs:
            state.forget(deployment.name)


def _ready(
    supervisor: start.SupervisorProcess, tell: Callable[[DeploymentState], None]
) -> DeploymentState:
    last = None
    for seen in follow.follow_states(supervisor):
        last = seen or last
        if last is None:
            continue
        tell(last)
        if last.phase == "serving":
            return last
    raise follow.failure(supervisor.launch.name, last)
