"""A colocated engine: prefill first with chunks, decode when nothing can be admitted.

The batch of a step is decided when the step before it starts (SGLang's overlap), so a request
waits for the rest of the running step and one more. Source: SGLang's event_loop_overlap.
"""

from collections import deque
from collections.abc import Sequence
from heapq import heappush

from pdctl.perf_model.decode_run import DecodeCosts, DecodeRun
from pdctl.perf_model.events import NEVER, SimulationBroken
from pdctl.perf_model.jobs import Columns, Job
from pdctl.perf_model.kv_pool import KvPool
from pdctl.perf_model.records import EngineModel
from pdctl.perf_model.scheduling import (
    INIT_NEW_TOKEN_RATIO,
    MIN_NEW_TOKEN_RATIO,
    Room,
    admit,
    ratio_after,
    ratio_after_retraction,
    retraction_key,
)
from pdctl.perf_model.steps import mixed_step_s, prefill_s


class ColocatedEngine:
    """One engine. next_s: when it decides next; end_s: when the last decided step ends."""

    __slots__ = (
        "busy_s", "columns", "decoding", "departures", "end_s", "full", "joining", "kv", "leaving",
        "max_steps", "model", "next_s", "number", "partial", "ratio", "result_s", "results",
        "start_s", "waiting",
    )  # fmt: skip

    def __init__(
        self,
        number: int,
        model: EngineModel,
        columns: Columns,
        *,
        costs: DecodeCosts,
        gaps: dict[int, float],
        departures: list[tuple[float, int]],
        block_tokens: int,
        max_steps: float,
    ) -> None:
        self.number = number
        self.model = model
        self.columns = columns
        self.kv = KvPool(model.kv_capacity_tokens, block_tokens if model.radix_cache else 0)
        self.decoding = DecodeRun(costs, model.accept_length, gaps)
        self.waiting: deque[Job] = deque()
        self.partial: Job | None = None
        self.joining: list[tuple[Job, float]] = []
        # of decided steps: when its result is known, who was prefilled, who finished
        self.results: deque[tuple[float, Sequence[Job], list[Job]]] = deque()
        self.leaving: float = 0  # KV of requests whose last token is not processed yet
        self.departures = departures
        self.full = False
        self.ratio = INIT_NEW_TOKEN_RATIO
        self.next_s = NEVER
        self.start_s = 0.0
        self.end_s = 0.0
        self.result_s = 0.0
        self.busy_s = 0.0
        self.max_steps = max_steps

    def arrive(self, job: Job, now: float) -> float:
        """Queue a request; returns when the engine decides next."""
        self.waiting.append(job)
        if self.decoding.planned:
            if not self.full or self.results:
                self.next_s = self.decoding.cut(now)
        elif self.next_s == NEVER:
            self.next_s = now if now > self.end_s else self.end_s
        return self.next_s

    def advance(self, until: float) -> float:
        """Decide all that is due before `until`; returns when the engine decides next."""
        now = self.next_s
        while now < until:
            now = self.next_s = self._decide(now)
        return now

    def _decide(self, now: float) -> float:
        decoding = self.decoding
        if decoding.planned:
            self._settle()
        if self.results:
            self._process(now)
        for job, token_s in self.joining:
            decoding.join(job, token_s)
        self.joining.clear()
        if (self.partial is not None or (self.waiting and not self.full)) and self._prefill(now):
            return self.start_s
        if decoding.running:
            return self._decode(now)
        return self._rest(now)

    def _settle(self) -> None:
        decoding, kv = self.decoding, self.kv
        steps = decoding.planned
        kv.private += steps * len(decoding.running) * decoding.gain
        kv.note_peak()
        if self.ratio > MIN_NEW_TOKEN_RATIO:
            self.ratio = ratio_after(self.ratio, steps)
        end_s, finished = decoding.settle()
        self.busy_s += end_s - self.start_s
        self.end_s = end_s
        if finished:
            now = decoding.steps
            for job in finished:
                job.private += (now - job.joined_step) * decoding.gain
            self._finish(end_s, finished)
            self.results.append((end_s, (), finished))

    def _finish(self, end_s: float, finished: list[Job]) -> None:
        last_s = self.columns.last_s
        for job in finished:
            last_s[job.index] = end_s
            job.left = 0
            self.leaving += job.private
            heappush(self.departures, (end_s, self.number))

    def _process(self, now: float) -> None:
        results, kv = self.results, self.kv
        while results and results[0][0] <= now:
            _, prefilled, finished = results.popleft()
            for job in prefilled:
                kv.publish(job, job.isl)
            for job in finished:
                kv.release(job)
            if finished:
                self.full = False
        if not results:
            self.leaving = 0

    def _prefill(self, now: float) -> bool:
        decoding, kv, model = self.decoding, self.kv, self.model
        num_running = len(decoding.running)
        slots = model.max_running_requests - num_running
        partial = self.partial
        if partial is None and slots <= 0:
            self.full = True
            return False
        if partial is not None and self.waiting:
            kv.publish(partial, partial.done)
        beside = num_running if model.mixed_chunk else 0
        room = Room(
            kv.free(),
            decoding.promised() * self.ratio,
            model.chunked_prefill_size,
            page=model.page_size,
            beside=beside,
        )
        batch, self.partial, full = admit(self.waiting, partial, room, slots, kv.claim, kv.unclaim)
        if full and (batch or num_running):
            self.full = True
        if not batch:
            return False
        self._launch(now, batch, beside)
        return True

    def _launch(self, now: float, batch: list[tuple[Job, int]], beside: int) -> None:
        kv, times = self.kv, self.model.times
        new = 0
        pairs = 0.0
        completed = []
        for job, tokens in batch:
            new += tokens
            pairs += tokens * (job.done + tokens / 2)
            kv.hold(job, tokens)
            job.done += tokens
            if job.done == job.prompt:
                completed.append(job)
        kv.note_peak()
        start_s = now if now > self.end_s else self.end_s
        if beside:
            context = self.decoding.context + beside
            seconds = mixed_step_s(times, new, pairs, beside, context)
        else:
            seconds = prefill_s(times, new, pairs)
        self.start_s = start_s
        self.end_s = start_s + seconds
        self.result_s = start_s + seconds * times.stages
        if beside:
            self.decoding.plan_one(start_s, seconds)
            self._settle()
        else:
            self.busy_s += seconds
        if completed:
            self._complete(completed)

    def _complete(self, completed: list[Job]) -> None:
        token_s = self.result_s
        finished = []
        first_s = self.columns.first_s
        for job in completed:
            if first_s[job.index] < 0:
                first_s[job.index] = token_s
            job.out += 1
            job.left -= 1
            if job.left:
                self.joining.append((job, token_s))
            else:
                finished.append(job)
        self._finish(token_s, finished)
        self.results.append((token_s, completed, finished))

    def _decode(self, now: float) -> float:
        decoding = self.decoding
        free = self.kv.free() + self.leaving
        needed = len(decoding.running) * decoding.gain
        if free < needed:
            self._retract(free)
            free = self.kv.free() + self.leaving
            needed = len(decoding.running) * decoding.gain
        limit = max(free // needed, 1)
        if limit > self.max_steps:
            limit = self.max_steps
        if self.waiting and (self.results or not self.full):
            limit = 1
        self.start_s = max(now, self.end_s, self.result_s)
        return decoding.plan(self.start_s, limit)

    def _retract(self, free: float) -> None:
        """Take requests out, shortest output first, until the others can have one more token."""
        decoding = self.decoding
        order = sorted(
            (job for _, _, job in decoding.running),
            key=lambda job: retraction_key(decoding.out_of(job), job.isl),
        )
        victims: list[Job] = []
        staying = len(order)
        while staying > 1 and free < staying * decoding.gain:
            job = order[len(victims)]
            victims.append(job)
            staying -= 1
            free += self.kv.held_by(job) + decoding.produced(job)
        for job in victims:
            job.private += decoding.produced(job)
        decoding.take_out(victims)
        for job in victims:
            self.kv.release(job)
            job.prompt = job.isl + job.out
            job.done = 0
            self.waiting.append(job)
        self.columns.num_retracted += len(victims)
        self.full = False
        stay = order[len(victims) :]
        out = sum(decoding.out_of(job) for job in stay)
        self.ratio = ratio_after_retraction(out, sum(job.out + job.left for job in stay), staying)

    def _rest(self, now: float) -> float:
        if self.results:
            return max(now, self.results[0][0])
        self.ratio = INIT_NEW_TOKEN_RATIO
        if self.waiting:
            self.full = False
            if not self._prefill(now):
                raise SimulationBroken(f"engine {self.number} is idle and admits nothing")
            return self.start_s
        return NEVER
