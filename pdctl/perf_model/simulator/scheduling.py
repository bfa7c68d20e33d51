"""SGLang's admission rules, for the simulator and the simulated engine.

Source: SGLang 0.5.15 and 0.5.23, srt/managers/schedule_policy.py (PrefillAdder),
srt/managers/schedule_batch.py (retract_decode), srt/disaggregation/decode.py (preallocation).
"""

from collections import deque
from collections.abc import Callable, Iterable
from math import ceil, inf
from random import Random
from typing import Generic, Protocol, TypeVar

from pdctl.perf_model.records import Balance, EngineModel

CLIP_MAX_NEW_TOKENS = 4096
MAX_PREFILL_TOKENS = 16384
INIT_NEW_TOKEN_RATIO = 0.7
MIN_NEW_TOKEN_RATIO = INIT_NEW_TOKEN_RATIO * 0.14
RATIO_DECAY = (INIT_NEW_TOKEN_RATIO - MIN_NEW_TOKEN_RATIO) / 600
RETRACT_DECODE_STEPS = 20
CONSERVATIVENESS = 0.3  # with attention-DP, times the ratio above; 1 without


class WaitingPrompt(Protocol):
    """A request that waits for prefill. done: tokens of its prompt already in KV."""

    done: int

    @property
    def prompt(self) -> int:
        """Tokens to have in KV."""

    @property
    def left(self) -> int:
        """Output tokens still to come."""


C = TypeVar("C", bound=WaitingPrompt)


class RankedPrompt(WaitingPrompt, Protocol):
    """A request that waits for prefill on one attention-DP rank."""

    rank: int


R = TypeVar("R", bound=RankedPrompt)


class Room:
    """The room left in one prefill batch, in tokens.

    total: free or evictable KV less what running requests may still need. SGLang also keeps the
    figure without that need; it is never the smaller one.
    """

    __slots__ = ("chunk", "input", "page", "total")

    def __init__(
        self, free: float, promised: float, chunk: int, *, page: int = 1, beside: int = 0
    ) -> None:
        self.total = free - promised - beside
        self.chunk = chunk - beside
        self.input = MAX_PREFILL_TOKENS - beside
        self.page = page

    def charge(self, tokens: int, future: int) -> None:
        """Take `tokens` now and `future` output tokens later."""
        page = self.page
        taken = tokens if page == 1 else ceil_page(tokens, page)
        self.total -= taken + page + future
        self.chunk -= taken
        self.input -= taken


def admit(
    waiting: deque[C],
    partial: C | None,
    room: Room,
    slots: int,
    claim: Callable[[C], float],
    release: Callable[[C], None],
) -> tuple[list[tuple[C, int]], C | None, bool]:
    """The next prefill batch: (request, tokens) pairs, the request left partial, and `full`.

    First come first served: the unfinished request first, then the queue until one does not fit.
    claim(request): sets `done` to what the cache holds of its prompt, keeps that, and returns the
        tokens this made unevictable; release(request) undoes it.
    full: nothing more is to be admitted until a request leaves (SGLang's batch_is_full).
    """
    batch: list[tuple[C, int]] = []
    if partial is not None:
        tokens = _next_chunk(room, partial)
        batch.append((partial, tokens))
        whole = partial.done + tokens == partial.prompt
        room.charge(tokens, min(partial.left, CLIP_MAX_NEW_TOKENS) if whole else 0)
        if not whole:
            return batch, partial, False
    total, chunk, page = room.total, room.chunk, room.page
    enough = chunk - room.input if room.input < chunk else 0  # of the chunk left: input is used up
    while waiting and chunk > enough:
        if len(batch) >= slots:
            return batch, None, True
        request = waiting[0]
        total -= claim(request)
        extend = request.prompt - request.done
        future = request.left if request.left < CLIP_MAX_NEW_TOKENS else CLIP_MAX_NEW_TOKENS
        if extend + future + page >= total:
            release(request)
            return batch, None, True
        if extend > chunk:
            tokens = floor_page(chunk, page)
            if tokens <= 0:
                release(request)
                return batch, None, False
            batch.append((waiting.popleft(), tokens))
            return batch, request, False
        batch.append((waiting.popleft(), extend))
        taken = extend if page == 1 else ceil_page(extend, page)
        chunk -= taken
        total -= taken + page + future
        if total <= 0:
            return batch, None, True
    return batch, None, False


class Ranks(Generic[R]):
    """The attention-DP ranks of one engine, each of which admits its own requests.

    partials: each rank's unfinished prompt; chunk: tokens of a step on one rank.
    _loads: of each rank, where the least loaded is chosen: prompt tokens, where they count, and
    requests. _tokens: those of each request.
    Source: SGLang's handle_data_parallelism divides the chunk by the ranks; its
    DataParallelController chooses a rank. Ignores: that the controller looks at the loads every
    20 ms, and counts tokens made as well.
    """

    __slots__ = (
        "_balance", "_drawn", "_loads", "_next", "_page", "_tokens", "chunk", "dp", "partials",
    )  # fmt: skip

    def __init__(self, dp: int, chunk: int, page: int, balance: Balance) -> None:
        self.dp = dp
        self.chunk = max(floor_page(chunk // dp, page), page)
        self.partials: list[R | None] = [None] * dp
        self._page = page
        self._balance = balance
        self._next = 0
        self._drawn = Random(dp)
        self._loads = [(0, 0)] * dp
        self._tokens: dict[int, int] = {}

    @staticmethod
    def of(model: EngineModel) -> "Ranks[R]":
        """The ranks of this engine."""
        return Ranks(
            model.parallelism.dp, model.chunked_prefill_size, model.page_size, model.balance
        )

    def take(self, request: R) -> None:
        """Give a new request to a rank: to the next in turn, to a random one, to the least loaded.

        Rooms of the router are random numbers.
        """
        if self._balance == "round_robin":
            request.rank = self._next
            self._next = (self._next + 1) % self.dp
        elif self._balance == "follow_bootstrap_room":
            request.rank = self._drawn.randrange(self.dp)
        else:
            request.rank = self._loads.index(min(self._loads))
            tokens = request.prompt if self._balance == "total_tokens" else 0
            self._tokens[id(request)] = tokens
            self._load(request.rank, tokens, 1)

    def forget(self, request: R) -> None:
        """Let go of a request that is done, or that nobody wants any more."""
        if self.partials[request.rank] is request:
            self.partials[request.rank] = None
        tokens = self._tokens.pop(id(request), None)
        if tokens is not None:
            self._load(request.rank, -tokens, -1)

    def _load(self, rank: int, tokens: int, requests: int) -> None:
        had_tokens, had_requests = self._loads[rank]
        self._loads[rank] = (had_tokens + tokens, had_requests + requests)

    def partial(self) -> R | None:
        """An unfinished prompt, if any rank has one."""
        for request in self.partials:
            if request is not None:
                return request
        return None

    def admit(
        self,
        waiting: deque[R],
        total: float,
        room_of: Callable[[int], tuple[float, float, int]],
        claim: Callable[[R], float],
        release: Callable[[R], None],
        *,
        is_crowded: bool = True,
    ) -> tuple[list[tuple[R, int]], bool]:
        """The next prefill batch of all ranks, and `full`, as in the function `admit`.

        total: free KV of the engine. room_of(rank): its free KV, output tokens promised, and slots.
        is_crowded: some rank may have no slots left. Otherwise only those with prompts are asked.
        """
        partials = self.partials
        queues, seen = self._queues(waiting)
        batch: list[tuple[R, int]] = []
        num_full = self._num_without_slots(room_of) if is_crowded else 0
        for rank in self._with_prompts(queues):
            partial = partials[rank]
            free, promised, slots = room_of(rank)
            if slots <= 0 and partial is None:
                continue
            room = Room(free if free < total else total, promised, self.chunk, page=self._page)
            queue = queues[rank] if rank in queues else deque()
            taken, partials[rank], full = admit(queue, partial, room, slots, claim, release)
            num_full += int(full)
            for request, tokens in taken:
                total -= tokens + self._page
                batch.append((request, tokens))
        if any(queues.values()):
            left = {id(request) for queue in queues.values() for request in queue}
            waiting.extendleft([request for request in reversed(seen) if id(request) in left])
        return batch, num_full == self.dp or (num_full > 0 and not batch)

    def _num_without_slots(self, room_of: Callable[[int], tuple[float, float, int]]) -> int:
        ranks = [rank for rank in range(self.dp) if self.partials[rank] is None]
        return sum([room_of(rank)[2] <= 0 for rank in ranks])

    def _with_prompts(self, queues: dict[int, deque[R]]) -> list[int]:
        ranks = list(queues)
        for partial in self.partials:
            if partial is not None and partial.rank not in queues:
                ranks.append(partial.rank)
        ranks.sort()
        return ranks

    def _queues(self, waiting: deque[R]) -> tuple[dict[int, deque[R]], list[R]]:
        """The first waiting requests by rank, enough to fill every chunk; and all in order."""
        queues: dict[int, deque[R]] = {}
        tokens: dict[int, int] = {}
        seen: list[R] = []
        num_open = self.dp
        while waiting and num_open:
            request = waiting.popleft()
            rank, prompt = request.rank, request.prompt
            seen.append(request)
            queued = tokens.get(rank, 0)
            if rank in queues:
                queues[rank].append(request)
            else:
                queues[rank] = deque([request])
            if queued < self.chunk <= queued + prompt:
                num_open -= 1
            tokens[rank] = queued + prompt
        return queues, seen


def _next_chunk(room: Room, partial: WaitingPrompt) -> int:
    allowed = min(room.chunk, int(room.total))
    return min(partial.prompt - partial.done, allowed if allowed > 0 else room.chunk)


def ceil_page(tokens: int, page: int) -> int:
    """`tokens` rounded up to whole pages."""
    return -(-tokens // page) * page


def floor_page(tokens: int, page: int) -> int:
    """`tokens` rounded down to whole pages."""
    return tokens if page == 1 else tokens // page * page


def ratio_after(ratio: float, steps: int) -> float:
    """The new-token ratio after `steps` decode steps without retraction."""
    return max(MIN_NEW_TOKEN_RATIO, ratio - RATIO_DECAY * steps)


def ratio_after_retraction(out_tokens: int, max_new_tokens: int, num_running: int) -> float:
    """The new-token ratio after a retraction, from sums over the requests that stay."""
    return min(1.0, (out_tokens + RETRACT_DECODE_STEPS * num_running) / (max_new_tokens + 1))


def retraction_key(out_tokens: int, in_tokens: int) -> tuple[int, int]:
    """Sort key: the smallest is retracted first (shortest output, then longest input)."""
    return out_tokens, -in_tokens


def prealloc_need(isl: int, osl: int, reserved: int, retractable: float) -> float:
    """KV tokens that must be allocatable before a decode engine takes a request in."""
    return max(isl + reserved, isl + min(osl, CLIP_MAX_NEW_TOKENS) - retractable)


def prealloc_room(
    free: float,
    *,
    num_held: int,
    reserved: int,
    running_totals: Iterable[int],
    retractable: float,
    retracted: Iterable[int] = (),
) -> float:
    """KV tokens a decode engine may give to new requests.

    num_held: requests running, in transfer or waiting; running_totals: prompt plus whole output of
    each running request; retracted: tokens of each retracted request.
    """
    longest = max(running_totals, default=0) - retractable
    held_back = max(reserved * num_held, longest)
    return free - held_back - sum(tokens + reserved for tokens in retracted)


def steps_until_prealloc(
    isl: int,
    osl: int,
    *,
    free: float,
    num_held: int,
    reserved: int,
    longest: int,
    context: float,
    growth: float,
) -> float:
    """After how many decode steps of the same batch a request that does not fit will fit.

    What must be kept for running requests shrinks as they produce it, so room can appear while
    nobody leaves; seldom, but SGLang looks at every step. Infinity where it cannot appear.
    longest: prompt plus output of the longest running request; growth: KV tokens per step.
    """
    whole = isl + min(osl, CLIP_MAX_NEW_TOKENS)
    held_back = reserved * num_held
    if isl + reserved > free - longest + context or whole - context > free - held_back:
        return inf
    steps = max(1, ceil((whole - free + longest - 2 * context) / growth))
    return steps if isl + reserved <= free - growth * steps - held_back else inf


def decode_slots(max_running_requests: int, dp: int = 1) -> int:
    """Requests a decode engine may hold at once, preallocated ones included, on all its ranks.

    Source: sglang arg_groups/pd_disaggregation_hook.py (0.5.23), server_args.py (0.5.15).
    """
    extra = 2 * max_running_requests if max_running_requests // dp <= 32 else 0
    return max_running_requests + extra
