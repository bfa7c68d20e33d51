"""What moves through a simulated engine: a request, a batch, and what comes of each step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pdctl.perf_model.records import Role

Reason = Literal["length", "stop", "abort"]


@dataclass(eq=False, slots=True)
class Request:
    """One request inside one engine. Mutable: the queues move it through its life.

    out: tokens whose step has ended; launched: those whose step has at least begun.
    own_tokens: KV held by this request alone, beside `num_locked` cached blocks.
    Times are model seconds on the engine's clock.
    """

    rid: str
    prompt_tokens: int
    max_new: int
    blocks: Sequence[int] = ()
    reason: Reason = "length"  # how it ends when max_new tokens are out
    ignore_eos: bool = True
    room: int | None = None
    fake: bool = False  # no partner: its KV moves in no time
    on_tokens: Callable[[int, Reason | None], None] | None = None
    arrived_s: float = 0.0
    out: int = 0
    launched: int = 0
    done: int = 0  # leading tokens whose KV exists or is being made
    cached_tokens: int = 0
    own_tokens: int = 0
    num_locked: int = 0
    retractions: int = 0
    is_ready: bool = False  # the other side of the transfer is known and willing
    is_transferred: bool = False
    is_done: bool = False
    failure: tuple[int, str] | None = None  # HTTP status and message, when it was aborted
    first_s: float = 0.0
    last_s: float = 0.0
    queued_s: float = 0.0  # when it entered its present queue
    waited_s: float = 0.0
    forward_s: float = 0.0
    transfer_start_s: float = 0.0
    transfer_end_s: float = 0.0

    @property
    def prompt(self) -> int:
        """Tokens that must be in KV before the next one can be made."""
        return self.prompt_tokens + self.out

    @property
    def left(self) -> int:
        """Output tokens still to come."""
        return self.max_new - self.out


@dataclass(frozen=True, slots=True)
class Part:
    """`tokens` new tokens of one request in a prefill batch; the last of its prompt if final."""

    request: Request
    tokens: int
    is_final: bool


@dataclass(slots=True)
class Batch:
    """One forward pass. Either prefill parts, with rows in a mixed batch, or rows alone."""

    parts: list[Part]
    rows: list[Request]
    duration_s: float
    launched_s: float = 0.0
    end_s: float = 0.0

    @property
    def new_tokens(self) -> int:
        return sum(part.tokens for part in self.parts)


@dataclass(frozen=True, slots=True)
class Emission:
    """`tokens` new tokens of a request left the engine. reason: why it ended; None: it goes on."""

    request: Request
    tokens: int
    reason: Reason | None


@dataclass(slots=True)
class Decision:
    """What a pass of the scheduler came to."""

    batch: Batch | None = None
    emissions: list[Emission] = field(default_factory=list)
    allocated: list[Request] = field(default_factory=list)  # decode: KV taken, tell the partner


@dataclass(slots=True)
class Result:
    """What the end of a batch came to."""

    emissions: list[Emission] = field(default_factory=list)
    transfers: list[Request] = field(default_factory=list)  # prefill: KV arrives at transfer_end_s


@dataclass(frozen=True)
class Queues:
    """Requests in each waiting place, in SGLang's words."""

    role: Role
    running: int = 0
    waiting: int = 0
    bootstrap: int = 0
    inflight: int = 0
    prealloc: int = 0
    transfer: int = 0
    retracted: int = 0

    @property
    def num_waiting(self) -> int:
        """`num_waiting_reqs` of /v1/loads, which counts the queues before the forward pass."""
        if self.role == "prefill":
            return self.waiting + self.bootstrap
        return self.waiting + self.prealloc + self.transfer + self.retracted
