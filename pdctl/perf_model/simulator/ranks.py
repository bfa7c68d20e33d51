"""Engines with attention-DP: each rank admits its own prompts, and all ranks step together.

A request lives on one rank, which has 1/dp of the engine's chunk, slots and KV. A step takes as
long as its busiest rank; ranks without a prompt give their running requests a token meanwhile.
Source: SGLang's handle_data_parallelism and prepare_mlp_sync_batch. Ignores: prefix caches, which
each rank has for itself; retraction on one rank while others have room; prefill engines' ranks,
drawn by their room numbers, taken in turn here.
"""

from collections import deque
from collections.abc import Callable, Sequence

from pdctl.perf_model.records import EngineModel
from pdctl.perf_model.simulator.colocated_engine import ColocatedEngine
from pdctl.perf_model.simulator.decode_engine import DecodeEngine
from pdctl.perf_model.simulator.job import Agenda, Job, Shared
from pdctl.perf_model.simulator.prefill_engine import PrefillEngine
from pdctl.perf_model.simulator.scheduling import Room, admit
from pdctl.perf_model.simulator.steps import (
    DecodeCosts,
    decode_slope_s,
    pairs_of,
    prefill_s,
)


class Ranks:
    """The ranks of one engine. partials: each one's unfinished prompt."""

    __slots__ = ("_next", "_pairs", "_times", "chunk", "dp", "page", "partials", "spread")

    def __init__(self, model: EngineModel) -> None:
        self.dp = model.parallelism.dp
        self.page = model.page_size
        chunk = model.chunked_prefill_size // self.dp
        self.chunk = max(chunk // self.page * self.page, self.page)
        self.partials: list[Job | None] = [None] * self.dp
        self.spread: list[int] = [0] * self.dp  # prompt tokens of each rank in the step
        self._times = model.times
        self._pairs = pairs_of(model.times)
        self._next = 0

    def take(self, job: Job) -> None:
        """Give a new request to the next rank in turn."""
        job.rank = self._next
        self._next = (self._next + 1) % self.dp

    def partial(self) -> Job | None:
        """An unfinished prompt, if any rank has one."""
        for job in self.partials:
            if job is not None:
                return job
        return None

    def admit(
        self,
        waiting: deque[Job],
        free: Sequence[float],
        promised: Sequence[float],
        slots: Sequence[int],
        claim: Callable[[Job], float],
        unclaim: Callable[[Job], None],
    ) -> tuple[list[tuple[Job, int]], bool]:
        """The next prefill batch of all ranks, and whether nothing more is to be admitted.

        free, promised, slots: of each rank.
        """
        queues, seen = self._queues(waiting)
        batch: list[tuple[Job, int]] = []
        num_full = 0
        for rank in range(self.dp):
            room = Room(free[rank], promised[rank], self.chunk, page=self.page)
            partial = self.partials[rank]
            if slots[rank] <= 0 and partial is None:
                num_full += 1
                continue
            taken, self.partials[rank], full = admit(
                queues[rank], partial, room, slots[rank], claim, unclaim
            )
            num_full += full
            batch += taken
        left = {job.index for queue in queues for job in queue}
        waiting.extendleft([job for job in reversed(seen) if job.index in left])
        return batch, num_full == self.dp or (num_full > 0 and not batch)

    def _queues(self, waiting: deque[Job]) -> tuple[list[deque[Job]], list[Job]]:
        """The first waiting requests by rank, enough to fill every chunk; and all in order."""
        queues: list[deque[Job]] = [deque() for _ in range(self.dp)]
        tokens = [0] * self.dp
        seen: list[Job] = []
        num_open = self.dp
        while waiting and num_open:
            job = waiting.popleft()
            rank = job.rank
            seen.append(job)
            queues[rank].append(job)
            if tokens[rank] < self.chunk <= tokens[rank] + job.prompt:
                num_open -= 1
            tokens[rank] += job.prompt
        return queues, seen

    def step_s(self, batch: list[tuple[Job, int]]) -> float:
        """The time of a step: experts share its tokens, attention waits for the busiest rank."""
        tokens, pairs = [0] * self.dp, [0.0] * self.dp
        for job, new in batch:
            tokens[job.rank] += new
            pairs[job.rank] += self._pairs(new, job.done)
        self.spread = tokens
        new = sum(tokens)
        waited = float(self.dp * max(tokens) - new)
        return prefill_s(self._times, new, self.dp * max(pairs), waited)


class RankedPrefillEngine(PrefillEngine):
    """A prefill engine with attention-DP."""

    __slots__ = ("_ranks", "_seconds")

    def __init__(
        self,
        number: int,
        model: EngineModel,
        shared: Shared,
        *,
        decoders: Sequence[DecodeEngine],
        agenda: Agenda,
    ) -> None:
        super().__init__(number, model, shared, decoders=decoders, agenda=agenda)
        self._ranks = Ranks(model)
        self._seconds = 0.0

    def ready(self, job: Job, at_s: float) -> None:
        """The decode engine has room for `job` and says so at `at_s`."""
        self._ranks.take(job)
        super().ready(job, at_s)

    def jobs_after(self, now: float) -> list[Job]:
        """The requests whose KV has not all left this engine at `now`."""
        held = {job.index: job for job in super().jobs_after(now)}
        held.update((job.index, job) for job in self._ranks.partials if job is not None)
        return list(held.values())

    def _admit(self) -> list[tuple[Job, int]]:
        kv, ranks = self.kv, self._ranks
        for partial in ranks.partials:
            if partial is not None:
                kv.publish_part(partial)
        free = (kv.capacity - kv.private - kv.locked) / ranks.dp
        slots = max(1, self.model.max_running_requests // ranks.dp)
        batch, _ = ranks.admit(
            self.waiting, [free] * ranks.dp, [0.0] * ranks.dp, [slots] * ranks.dp,
            kv.claim, kv.unclaim,
        )  # fmt: skip
        self.partial = ranks.partial()
        self._seconds = ranks.step_s(batch) if batch else 0.0
        return batch

    def _step_s(self, new: int, pairs: float) -> float:
        return self._seconds


class RankedColocatedEngine(ColocatedEngine):
    """A colocated engine with attention-DP.

    _owed: tokens that requests on ranks without prompts had meanwhile, as a share of all running
    ones; at 1 all of them have one.
    """

    __slots__ = ("_owed", "_ranks", "_running", "_seconds")

    def __init__(self, number: int, model: EngineModel, shared: Shared, costs: DecodeCosts) -> None:
        super().__init__(number, model, shared, costs)
        self._ranks = Ranks(model)
        self._running: list[int] = [0] * self._ranks.dp  # requests of each rank
        self._owed = 0.0
        self._seconds = 0.0

    def arrive(self, job: Job, now: float) -> float:
        """Queue a request; returns when the engine decides next."""
        self._ranks.take(job)
        return super().arrive(job, now)

    def jobs_after(self, now: float) -> list[Job]:
        """The requests this engine has at `now`, those whose last token comes later included."""
        held = {job.index: job for job in super().jobs_after(now)}
        held.update((job.index, job) for job in self._ranks.partials if job is not None)
        return list(held.values())

    def _admit(self) -> list[tuple[Job, int]]:
        kv, ranks, decoding = self.kv, self._ranks, self.decoding
        dp = ranks.dp
        running, held = [0] * dp, [0.0] * dp
        for _, _, job in decoding.running:
            running[job.rank] += 1
            held[job.rank] += job.prompt + decoding.made_by(job)
        for partial in ranks.partials:
            if partial is not None:
                held[partial.rank] += partial.done
                kv.publish_part(partial)
        each, most = kv.capacity / dp, max(1, self.model.max_running_requests // dp)
        promised = decoding.promised() / max(1, len(decoding.running))
        free = kv.capacity - kv.private - kv.locked
        batch, full = ranks.admit(
            self.waiting,
            [min(free, each - tokens) for tokens in held],
            [promised * num for num in running],
            [most - num for num in running],
            kv.claim,
            kv.unclaim,
        )
        self.partial = ranks.partial()
        self._running = running
        self._seconds = ranks.step_s(batch) if batch else 0.0
        if full and (batch or decoding.running):
            self.full = True
        return batch

    def _decodes_beside(self) -> bool:
        num = len(self.decoding.running)
        if not num:
            return False
        spread = self._ranks.spread
        beside = sum(n for n, new in zip(self._running, spread, strict=True) if not new)
        self._owed += beside / num
        if self._owed < 1:
            return self.mixed
        self._owed -= 1
        return True

    def _step_s(self, new: int, pairs: float) -> float:
        return self._seconds

    def _mixed_s(self, new: int, pairs: float, batch: int, context: float) -> float:
        times = self.model.times
        attention_s = decode_slope_s(times, batch) * context
        return self._seconds + times.decode_request_s * batch + attention_s

    def _launch_whole_chunks(self, partial: Job) -> None:
        """Every step of its ranks needs a decision."""
