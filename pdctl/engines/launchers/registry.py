"""The launchers there are, by the name that launch.json gives."""

import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pdctl.engines.launchers import slurm_commands
from pdctl.errors import EnvironmentProblem

if TYPE_CHECKING:
    from pdctl.engines.launchers.protocol import Launcher
    from pdctl.engines.records import Launch

LOCAL = "local"
SLURM = slurm_commands.LAUNCHER
RAY = "ray"


@dataclass(frozen=True)
class Scope:
    """The deployment that a launcher serves.

    run_id: marks its processes; "" for one that only looks at nodes. cwd: where they start.
    is_tied: they die with the process that starts them. nodes: where they run, as the name of the
    launcher says it: a Slurm job, or the address of a Ray cluster.
    """

    run_id: str = ""
    cwd: str = "/"
    is_tied: bool = False
    nodes: str = ""


# Each is imported by those who start something: `plan` only needs the names.
def _local(scope: Scope) -> "Launcher":
    from pdctl.engines.launchers.local import LocalLauncher

    return LocalLauncher(
        scope.run_id, cwd=scope.cwd, death_signal=signal.SIGKILL if scope.is_tied else None
    )


def _slurm(scope: Scope) -> "Launcher":
    from pdctl.engines.launchers.slurm import SlurmLauncher

    return SlurmLauncher(scope.nodes, scope.run_id, cwd=scope.cwd, is_tied=scope.is_tied)


def _ray(scope: Scope) -> "Launcher":
    from pdctl.engines.launchers.ray import RayLauncher

    return RayLauncher(scope.nodes, scope.run_id, cwd=scope.cwd, is_tied=scope.is_tied)


LAUNCHERS: "dict[str, Callable[[Scope], Launcher]]" = {LOCAL: _local, SLURM: _slurm, RAY: _ray}


def launcher_named(name: str = LOCAL, scope: Scope | None = None) -> "Launcher":
    """The launcher of this name for a deployment. "slurm:42": Slurm, in job 42.

    Raises EnvironmentProblem if there is none.
    """
    kind, _, nodes = name.partition(":")
    if kind not in LAUNCHERS:
        raise EnvironmentProblem(
            f"This pdctl has no launcher {name!r}.", hint="a newer pdctl", code="no_launcher"
        )
    return LAUNCHERS[kind](replace(scope or Scope(), nodes=nodes))


def launcher_of(launch: "Launch") -> "Launcher":
    """The launcher that runs a launched deployment."""
    return launcher_named(
        launch.launcher, Scope(launch.run_id, launch.cwd, is_tied=not launch.detached)
    )
