"""A request inside simulated engines, and the columns all engines write their times into."""

from collections.abc import Sequence
from dataclasses import dataclass, field
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


Path = tuple[int, ...]  # segments of a prompt, from its first token on

NOT_YET = -1.0


class Job:
    """One request on its way.

    prompt: tokens to have in KV before the next token (grows when retracted); done: of these, in
    KV; cached: of these, found in the prefix cache; left: output tokens to come; path: segments of
    its prompt, of which it holds the first `covered` in a prefix cache; private: KV tokens held
    outside that; decode_kv: those held on a decode engine; prefill, decode: its engines' places;
    rank: of its engine's attention-DP.
    """

    __slots__ = (
        "cached", "covered", "decode", "decode_kv", "done", "index", "isl", "joined_step", "left",
        "osl", "path", "prefill", "private", "prompt", "rank",
    )  # fmt: skip

    def __init__(self, index: int, isl: int, osl: int, path: Path) -> None:
        self.index = index
        self.isl = self.prompt = isl
        self.osl = self.left = osl
        self.path = path
        self.covered = 0
        self.private: float = 0.0
        # the others are set where they begin to mean something
        self.done: int
        self.cached: int
        self.joined_step: int
        self.decode_kv: float
        self.prefill: int
        self.decode: int
        self.rank: int


class TokenTimes:
    """Times in seconds: each request's first token made and sent, and its last token."""

    __slots__ = ("first_s", "last_s", "num_retracted", "reply_s")

    def __init__(self, count: int) -> None:
        self.first_s = [NOT_YET] * count
        self.reply_s = [NOT_YET] * count
        self.last_s = [NOT_YET] * count
        self.num_retracted = 0


@dataclass
class Shared:
    """The state that all engines of a replay read and write.

    departures: heap of (time, engine number) when a request is done there; segment_tokens: lengths
    of the prompts' segments; max_steps: decode steps planned at once; ended: heap of (time,
    request) when a client has its whole answer, kept only where clients wait for it.
    """

    columns: TokenTimes
    segment_tokens: Sequence[int] | None = None
    max_steps: float = NEVER
    departures: list[tuple[float, int]] = field(default_factory=list)
    ended: list[tuple[float, int]] | None = None
