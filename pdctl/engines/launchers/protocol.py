"""What the supervisor needs from the place where processes run."""

import subprocess
from dataclasses import dataclass
from typing import Protocol

from pdctl.deployment.records import ProcessSpec


@dataclass
class Running:
    """A process that was started or adopted.

    child: None when another supervisor started it; pidfd then tells when it ends.
    """

    pid: int
    started_at: float  # Unix seconds, psutil's create_time
    log_offset: int
    child: subprocess.Popen[bytes] | None = None
    exit_code: int | None = None
    pidfd: int | None = None


class Launcher(Protocol):
    """Starts and ends processes."""

    def start(self, spec: ProcessSpec) -> Running: ...
    def is_alive(self, running: Running) -> bool: ...
    def terminate(self, running: Running) -> None: ...
    def kill(self, running: Running) -> None: ...
