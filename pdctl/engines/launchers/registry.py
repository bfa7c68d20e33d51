"""The launchers there are, by the name that launch.json gives."""

import signal
from collections.abc import Callable
from dataclasses import dataclass

from pdctl.engines.launchers.local import LocalLauncher
from pdctl.engines.launchers.protocol import Launcher
from pdctl.engines.records import Launch

LOCAL = "local"


@dataclass(frozen=True)
class Scope:
    """The deployment that a launcher serves.

    run_id: marks its processes; "" for one that only looks at nodes. cwd: where they start.
    is_tied: they die with the process that starts them.
    """

    run_id: str = ""
    cwd: str = "/"
    is_tied: bool = False


def _local(scope: Scope) -> Launcher:
    return LocalLauncher(
        scope.run_id, cwd=scope.cwd, death_signal=signal.SIGKILL if scope.is_tied else None
    )


LAUNCHERS: dict[str, Callable[[Scope], Launcher]] = {LOCAL: _local}


def launcher_named(name: str = LOCAL, scope: Scope | None = None) -> Launcher:
    """The launcher of this name for a deployment."""
    return LAUNCHERS[name](scope or Scope())


def launcher_of(launch: Launch) -> Launcher:
    """The launcher that runs a launched deployment."""
    return launcher_named(
        launch.launcher, Scope(launch.run_id, launch.cwd, is_tied=not launch.detached)
    )
