"""What an engine is doing while it starts, read from the lines of its log.

The strings are SGLang's, 0.5.10 to 0.5.23; progress bars come as pieces between carriage returns.
Source: start-up logs of 0.5.15 on GPUs and 0.5.23 on a CPU.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class StartupPhase:
    """A phase of an engine's start. share: 0..1 of this phase, where the log gives it."""

    name: str
    share: float | None = None
    count: str = ""  # "23/36"

    @property
    def text(self) -> str:
        """CUDA graphs 23/36."""
        return f"{self.name} {self.count}".rstrip()


_PERCENT = re.compile(r"(?:loading|completed)[^:]*shards:\s+(\d{1,3})%", re.IGNORECASE)
_GRAPHS = re.compile(r"Capturing (?:batches|num tokens).*?\s(\d+)/(\d+)")
# earliest in the log to latest; a phase never goes back
_MARKS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("schedulers", re.compile(r"\bserver_args=")),
    ("distributed", re.compile(r"Init (?:torch distributed|parallel) begin")),
    ("weights", re.compile(r"Load weight begin")),
    ("memory pool", re.compile(r"Load weight end")),
    ("CUDA graphs", re.compile(r"Capture (?:target |draft )?\w* ?(?:CUDA|cuda) graph.*begin")),
    ("HTTP", re.compile(r"\bmax_total_num_tokens=\d|Application startup complete")),
    ("warm-up", re.compile(r"Start of pd disaggregation warmup|Uvicorn running on")),
    ("fired up", re.compile(r"The server is fired up and ready to roll")),
)
_RANK = {name: rank for rank, (name, _) in enumerate(_MARKS)}


def startup_phase(before: StartupPhase | None, line: str) -> StartupPhase | None:
    """The phase after one more line of the log, never an earlier one than `before`."""
    found = _progress(line) or _mark(line)
    if found is None:
        return before
    if before is not None and _RANK[found.name] < _RANK[before.name]:
        return before
    return found


def read_phases(before: StartupPhase | None, text: str) -> StartupPhase | None:
    """The phase after a piece of the log, progress bars included."""
    for line in re.split(r"[\r\n]+", text):
        before = startup_phase(before, line)
    return before


def _progress(line: str) -> StartupPhase | None:
    if match := _PERCENT.search(line):
        return StartupPhase("weights", share=min(1.0, int(match.group(1)) / 100))
    if match := _GRAPHS.search(line):
        done, total = int(match.group(1)), int(match.group(2))
        share = min(1.0, done / total) if total else None
        return StartupPhase("CUDA graphs", share=share, count=f"{done}/{total}")
    return None


def _mark(line: str) -> StartupPhase | None:
    for name, pattern in reversed(_MARKS):
        if pattern.search(line):
            return StartupPhase(name)
    return None
