"""What the supervisor's loop keeps of one start of a process beside its Process record."""

from dataclasses import dataclass
from pathlib import Path

from pdctl.engines.log_phases import StartupPhase, read_phases
from pdctl.engines.log_tail import read_from
from pdctl.engines.on_local import Running

READ_EVERY_S = 1.0  # the log of an engine that is ready


@dataclass
class Start:
    """One start. log_at: the byte up to which its log was read."""

    running: Running
    launched_at: float
    log_at: int = 0
    read_at: float = float("-inf")
    phase: StartupPhase | None = None
    ready_after_s: float | None = None

    def read(self, log: Path, now: float, *, is_ready: bool) -> str:
        """What its log says that it did not say before; its phase while it is not ready."""
        if is_ready and now - self.read_at < READ_EVERY_S:
            return ""
        self.read_at = now
        text, self.log_at = read_from(log, self.log_at)
        if text and not is_ready:
            self.phase = read_phases(self.phase, text)
        return text
