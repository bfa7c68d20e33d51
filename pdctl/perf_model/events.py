"""The agenda of a simulation: which engine decides next, and when."""

from heapq import heappush

NEVER = float("inf")


class SimulationBroken(Exception):
    """A bug in the simulator: requests or KV were lost, or nothing can happen any more."""


class Agenda:
    """Times at which engines decide, earliest first; of an engine's entries the latest counts.

    entries: (seconds, engine number); next_s: per engine number, when it decides next.
    """

    __slots__ = ("entries", "next_s")

    def __init__(self) -> None:
        self.entries: list[tuple[float, int]] = []
        self.next_s: list[float] = []

    def add(self) -> int:
        """One more engine; returns its number."""
        self.next_s.append(NEVER)
        return len(self.next_s) - 1

    def wake(self, engine: int, at_s: float) -> None:
        """Let `engine` decide at `at_s` at the latest."""
        if at_s < self.next_s[engine]:
            self.next_s[engine] = at_s
            heappush(self.entries, (at_s, engine))
