"""The answer of `explain`: the parts of a request's time, their cause, gaps in the logs."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

PartName = Literal[
    "retry",
    "bootstrap",
    "decode allocation",
    "prefill queue",
    "prefill",
    "KV transfer",
    "prefill and transfer",
    "decode queue",
    "router",
    "queue",
]
CauseKind = Literal[
    "prefill_queue",
    "long_neighbour",
    "slow_prefill",
    "own_length",
    "decode_kv_full",
    "decode_queue",
    "slow_link",
    "bootstrap",
    "held_back",
    "retry",
    "queue",
    "full_batch",
    "slow_decode",
    "usual_pace",
    "unknown",
]
PACE_CAUSES: frozenset[CauseKind] = frozenset(("full_batch", "slow_decode", "usual_pace"))


@dataclass(frozen=True)
class Part:
    """One part of the time to first token. start_s: seconds after the request's start."""

    name: PartName
    engine: str
    start_s: float
    seconds: float


@dataclass(frozen=True)
class Cause:
    """The main cause of a request's wait.

    engine: whose queue, memory, link or steps. seconds: of the request's time that it accounts for.
    neighbour: the rid of the request that was in the way, or "".
    """

    kind: CauseKind
    engine: str
    seconds: float
    text: str
    neighbour: str = ""


@dataclass(frozen=True)
class ExplainedRequest:
    """One request, from both halves in the engines' logs.

    at: when its first engine got it, Unix seconds. room: "" if the engines hide it; a text, since
        JSON readers round numbers of 63 bits. is_guess: joined by lengths and times.
    ttft_s: from there to its first token, without router and tokenizer; None: the log of its decode
        engine lacks it, or it ran on a colocated engine, whose log does not have that moment.
    tpot_s: mean time per token after the first. missing: why parts are unknown, or "".
    """

    rid: str
    room: str
    at: float
    input_tokens: int
    cached_tokens: int | None
    output_tokens: int
    prefill_engine: str
    decode_engine: str
    ttft_s: float | None
    tpot_s: float | None
    total_s: float
    parts: tuple[Part, ...]
    cause: Cause
    is_guess: bool = False
    missing: str = ""

    @property
    def waited_s(self) -> float:
        """Seconds to the first token, or the part of them that the logs have."""
        return sum(part.seconds for part in self.parts) if self.ttft_s is None else self.ttft_s


@dataclass(frozen=True)
class ClockGap:
    """The lead of a decode engine's host clock over a prefill engine's.

    low_s, high_s: what causality leaves; None: no bound.
    """

    prefill_engine: str
    decode_engine: str
    ahead_s: float
    low_s: float | None
    high_s: float | None


@dataclass(frozen=True)
class OtherSplit:
    """The same requests on other numbers of engines, in the simulator.

    ttft_s: of every explained request by rid; ttft_p99_s: of all requests in the window.
    """

    layout: str
    ttft_s: Mapping[str, float | None]
    ttft_p99_s: float | None


@dataclass(frozen=True)
class Replay:
    """The window's requests replayed on this and on other splits.

    today: the present layout. others: those that differ least from it first.
    basis: the profile of the step times, or "roofline". median_off: how far the replay of today's
    layout is from the seen median TTFT, as a share of it.
    """

    basis: str
    today: OtherSplit
    others: tuple[OtherSplit, ...]
    median_off: float | None


@dataclass(frozen=True)
class Explanation:
    """The answer of `explain`.

    num_requests: in the window. requests: the explained ones, slowest first.
    notes: what the logs lack, and what was assumed. replay_missing: why there is no replay, or "".
    """

    num_requests: int
    span_s: float
    requests: tuple[ExplainedRequest, ...]
    clocks: tuple[ClockGap, ...] = ()
    replay: Replay | None = None
    replay_missing: str = ""
    notes: tuple[str, ...] = ()
