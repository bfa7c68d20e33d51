"""A temporary deployment: serve while a block of code runs, and leave nothing behind."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from pdctl.deployment.records import Deployment
from pdctl.engines import state
from pdctl.engines.launchers.gpu_memory import RELEASE_WAIT_S
from pdctl.engines.launchers.protocol import HERE
from pdctl.engines.launchers.registry import launcher_named
from pdctl.engines.lifecycle import follow, running, start
from pdctl.engines.lifecycle.supervisor_process import SupervisorProcess
from pdctl.engines.records import DeploymentState
from pdctl.hosts import LOOPBACK


def private(deployment: Deployment, purpose: str) -> Deployment:
    """`deployment` with a unique name, PURPOSE-PID, and a free router port."""
    port = launcher_named().any_free_port(HERE)
    router = replace(deployment.router, host=LOOPBACK, port=port)
    return replace(deployment, name=f"{purpose}-{os.getpid()}", router=router)


STOP_WAIT_S = 15.0 + RELEASE_WAIT_S


@contextmanager
def serving_temporarily(
    deployment: Deployment,
    *,
    ready_timeout_s: float = 7200.0,
    tell: Callable[[DeploymentState], None] = lambda state: None,
) -> Iterator[DeploymentState]:
    """Start `deployment`, run the block once it serves, then stop it and remove its files.

    The logs stay if the block fails, so that the failure can be explained. The deployment is tied
    to this process: if this one is killed, the kernel ends the supervisor and with it everything.
    tell: called with each state while it starts. Raises as `pdctl up` does.
    """
    running.refuse_running(deployment.name)
    with start.started_deployment(deployment, detached=False, ready_timeout_s=ready_timeout_s) as (
        _,
        supervisor,
    ):
        keeps_logs = True
        try:
            yield _ready(supervisor, tell)
            keeps_logs = False
        except KeyboardInterrupt:
            keeps_logs = False  # the user knows why it ended
            raise
        finally:
            supervisor.ask_to_stop(now=True)
            supervisor.child.wait(STOP_WAIT_S)
            running.reap(supervisor.launch)
            state.clear_ended(deployment.name, supervisor.launch.run_id)
            if not keeps_logs:
                state.forget(deployment.name)


def _ready(
    supervisor: SupervisorProcess, tell: Callable[[DeploymentState], None]
) -> DeploymentState:
    last = None
    for seen in follow.follow_states(supervisor):
        last = seen or last
        if last is None:
            continue
        tell(last)
        if last.phase == "serving":
            return last
    raise follow.start_failure(supervisor.launch.name, last)
