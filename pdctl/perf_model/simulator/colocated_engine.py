"""A colocated engine: prefill first with chunks, decode when nothing can be admitted.

The batch of a step is decided when the step before it starts (SGLang's overlap), so a request
waits for the rest of the running step and one more. Source: SGLang's event_loop_overlap.
"""

from collections import deque
from collections.abc import Sequence
from heapq import heappush

from pdctl.perf_model.records import EngineModel
from pdctl.perf_model.simulator.decode_batch import DecodeRun
from pdctl.perf_model.simulator.job import NEVER, Job, Shared, SimulationBroken
from pdctl.perf_model.simulator.kv import KvPool
from pdctl.perf_model.simulator.scheduling import Room, admit
from pdctl.perf_model.simulator.steps import (
    DecodeCosts,
    mixed_step_s,
    pairs_of,
    prefill_floor_s,
    prefill_step_s,
)


class ColocatedEngine:
    """One engine. next_s: when it decides next; end_s: when the last decided step ends."""

    __slots__ = (
        "busy_s", "chunk", "columns", "decoding", "departures", "end_s", "ended", "full", "joining",
        "kv", "launch_s", "leaving", "max_steps", "mixed", "model", "next_s", "number", "open_s",
        "pairs", "partial", "prefill_s", "promised", "recv", "result_s", "results", "start_s",
        "turn_s", "unread", "unread_steps", "waiting",
    )  # fmt: skip

    def __init__(self, number: int, model: EngineModel, shared: Shared, costs: DecodeCosts) -> None:
        self.number = number
        self.model = model
        self.columns, self.departures = shared.columns, shared.departures
        self.ended = shared.ended
        self.max_steps = shared.max_steps
        self.kv = KvPool(
            model.kv_capacity_tokens, shared.segment_tokens if model.radix_cache else None
        )
        self.decoding = DecodeRun(costs, model.accept_length)
        self.waiting: deque[Job] = deque()
        self.recv = model.receive_interval
        self.unread: list[Job] = []  # arrived, but the scheduler looks only every `recv` steps
        self.unread_steps: float = float(model.receive_interval)  # since it looked
        self.partial: Job | None = None
        self.joining: list[Job] = []  # prefilled by the last decided step
        # of decided steps: when its result is known, who was prefilled, who finished
        self.results: deque[tuple[float, Sequence[Job], list[Job]]] = deque()
        self.leaving: float = 0.0  # KV of requests whose last token is not processed yet
        self.full = False
        self.prefill_s = prefill_step_s(model.times)
        self.pairs = pairs_of(model.times)
        self.launch_s = model.times.prefill_start_s
        self.turn_s = prefill_floor_s(model.times)  # of the loop, to launch a prefill step
        self.open_s = 0.0  # by when the loop looks around again after its last prefill
        self.chunk = model.chunked_prefill_size // model.page_size * model.page_size
        self.mixed = model.mixed_chunk
        self.promised = 0.0  # output tokens to come of the running requests, discounted
        self.next_s = NEVER
        self.start_s = 0.0
        self.end_s = 0.0
        self.result_s = 0.0
        self.busy_s = 0.0

    def arrive(self, job: Job, now: float) -> float:
        """Queue a request; returns when the engine decides next."""
        if self.recv > 1:
            self.unread.append(job)
            if self.next_s == NEVER:
                self.next_s = now if now > self.end_s else self.end_s
            return self.next_s
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

    def advance_once(self) -> float:
        """Decide what is due next; returns when the engine decides again."""
        self.next_s = self._decide(self.next_s)
        return self.next_s

    def jobs_after(self, now: float) -> list[Job]:
        """The requests this engine has at `now`, those whose last token comes later included."""
        held = {job.index: job for job in self.waiting}
        held.update((job.index, job) for job in self.unread)
        held.update((job.index, job) for job in self.joining)
        held.update((job.index, job) for _, _, job in self.decoding.running)
        if self.partial is not None:
            held[self.partial.index] = self.partial
        for end_s, _, finished in self.results:
            if end_s > now:
                held.update((job.index, job) for job in finished)
        return list(held.values())

    def check_empty(self) -> None:
        """Raise SimulationBroken if an idle engine still holds requests or KV."""
        locked = self.kv.cache.locked_tokens if self.kv.cache else 0
        if self.waiting or self.unread or self.partial or abs(self.kv.private) > 1e-3 or locked:
            raise SimulationBroken(f"idle engine {self.number} still holds requests or KV")

    def _decide(self, now: float) -> float:
        decoding = self.decoding
        if decoding.planned:
            self._settle()
        results = self.results
        if results and results[0][0] <= now:
            self._process(now)
        if self.joining:
            decoding.join(self.joining)
            self.joining = []
        if self.recv > 1:
            self._receive()
        if self.partial is not None or (self.waiting and not self.full):
            batch = self._admit()
            if batch:
                self._launch(now, batch)
                return self.open_s
        if decoding.running:
            return self._decode(now)
        return self._rest(now)

    def _receive(self) -> None:
        """Look for new requests, unless too few decode steps have passed since.

        Source: sglang's SchedulerRecvSkipper: a prefill counts as 1000 steps; an idle turn as one,
        but idle turns pass at once.
        """
        if self.unread_steps >= self.recv or not self.decoding.running:
            self.waiting.extend(self.unread)
            self.unread.clear()
            self.unread_steps = 0.0

    def _settle(self) -> None:
        decoding, kv = self.decoding, self.kv
        gain = decoding.gain
        self.unread_steps += decoding.planned
        kv.private += decoding.planned * len(decoding.running) * gain
        used = kv.private + kv.locked
        if used > kv.peak:
            kv.peak = used
        finished = decoding.settle()
        self.end_s = end_s = decoding.last_token_s
        self.busy_s += end_s - self.start_s
        if finished:
            steps = decoding.steps
            for job in finished:
                job.private += (steps - job.joined_step) * gain
            self._finish(end_s, finished)
            self.results.append((end_s, (), finished))

    def _finish(self, end_s: float, finished: list[Job]) -> None:
        last_s = self.columns.last_s
        for job in finished:
            last_s[job.index] = end_s
            self.leaving += job.private
            heappush(self.departures, (end_s, self.number))
        if self.ended is not None:
            for job in finished:
                heappush(self.ended, (end_s, job.index))

    def _process(self, now: float) -> None:
        """Take in the results of steps that have ended: publish prompts, free who finished."""
        results, kv = self.results, self.kv
        while results and results[0][0] <= now:
            _, prefilled, finished = results.popleft()
            for job in prefilled:
                kv.publish(job)
            for job in finished:
                kv.release(job)
            if finished:
                self.full = False
        if not results:
            self.leaving = 0.0

    def _admit(self) -> list[tuple[Job, int]]:
        decoding, kv, model = self.decoding, self.kv, self.model
        num_running = len(decoding.running)
        slots = model.max_running_requests - num_running
        partial = self.partial
        if partial is None:
            if slots <= 0:
                self.full = True
                return []
        elif self.waiting:
            kv.publish_part(partial)
        self.promised = decoding.promised()
        room = Room(
            kv.capacity - kv.private - kv.locked,
            self.promised,
            self.chunk,
            page=model.page_size,
            beside=num_running if self.mixed else 0,
        )
        batch, self.partial, full = admit(self.waiting, partial, room, slots, kv.claim, kv.unclaim)
        if full and (batch or num_running):
            self.full = True
        return batch

    def _launch(self, now: float, batch: list[tuple[Job, int]]) -> None:
        kv = self.kv
        self.unread_steps = float(self.recv)
        new = 0
        pairs = 0.0
        completed = []
        for job, tokens in batch:
            done = job.done
            new += tokens
            pairs += self.pairs(tokens, done)
            job.private += tokens
            job.done = done = done + tokens
            if done == job.prompt:
                completed.append(job)
        kv.private += new
        kv.note_peak()
        launched_s = now + self.launch_s
        self.start_s = start_s = launched_s if launched_s > self.end_s else self.end_s
        if self._decodes_beside():
            seconds = self._tick(start_s, new, pairs)
        else:
            seconds = self._step_s(new, pairs)
            self.busy_s += seconds
            self.end_s = start_s + seconds
            if self.partial is not None and not self.mixed and not self.turn_s:
                self._launch_whole_chunks(self.partial)
        self.open_s = self.start_s
        if self.turn_s:
            self._turn(now + self.turn_s)
        if completed:
            self.result_s = start_s + seconds * self.model.times.stages
            self._complete(completed)

    def _turn(self, open_s: float) -> None:
        """The loop takes in results that are not known yet only when it has launched, at `open_s`.

        Source: event_loop_overlap in SGLang's scheduler.py. Ignores: tokens of a decode step, which
        are as late.
        """
        first_s, last_s = self.columns.first_s, self.columns.last_s
        for _, prefilled, _ in self.results:
            for job in prefilled:
                first_s[job.index] = max(first_s[job.index], open_s)
                if not job.left:
                    last_s[job.index] = max(last_s[job.index], open_s)
        self.open_s = max(self.start_s, open_s)

    def _decodes_beside(self) -> bool:
        """True if running requests have a token in this prefill step."""
        return self.mixed and bool(self.decoding.running)

    def _step_s(self, new: int, pairs: float) -> float:
        return self.prefill_s(new, pairs)

    def _mixed_s(self, new: int, pairs: float, batch: int, context: float) -> float:
        return mixed_step_s(self.model.times, new, pairs, batch, context)

    def _launch_whole_chunks(self, partial: Job) -> None:
        """Decide at once the steps that a long prompt fills all by itself.

        Neither arrivals nor results change them, so only its last chunk needs a decision. Where
        launching takes time, each chunk is a turn that takes in the result before.
        """
        kv, chunk = self.kv, self.chunk
        free = kv.capacity - kv.private - kv.locked - self.promised
        while partial.prompt - partial.done > chunk and free >= chunk:
            seconds = self.prefill_s(chunk, self.pairs(chunk, partial.done))
            partial.done += chunk
            partial.private += chunk
            kv.private += chunk
            free -= chunk
            self.busy_s += seconds
            self.start_s = max(self.end_s, self.start_s + self.launch_s)
            self.end_s = self.start_s + seconds
        kv.note_peak()

    def _tick(self, start_s: float, new: int, pairs: float) -> float:
        """Let the running requests have one token each in a mixed step."""
        decoding = self.decoding
        batch = len(decoding.running)
        context = decoding.context + batch
        seconds = self._mixed_s(new, pairs, batch, context)
        decoding.plan_one(start_s, seconds)
        self._settle()
        return seconds

    def _complete(self, completed: list[Job]) -> None:
        token_s = self.result_s
        finished = []
        first_s = self.columns.first_s
        for job in completed:
            if first_s[job.index] < 0:
                first_s[job.index] = token_s
            job.left -= 1
            if job.left:
                self.joining.append(job)
            else:
                finished.append(job)
        if finished:
            self._finish(token_s, finished)
        self.results.append((token_s, completed, finished))

    def _decode(self, now: float) -> float:
        decoding = self.decoding
        kv = self.kv
        free = kv.capacity - kv.private - kv.locked
        needed = len(decoding.running) * decoding.gain
        if free < needed:
            if self.results:  # a request that finishes in the running step will free some
                return max(now, self.results[0][0])
            self._retract()
            free = self.kv.free()
            needed = len(decoding.running) * decoding.gain
        limit = max((free + self.leaving) // needed, 1)
        if limit > self.max_steps:
            limit = self.max_steps
        if self.waiting and (self.results or not self.full):
            limit = 1.0
        if self.recv > 1 and limit > self.recv - self.unread_steps:
            limit = max(1.0, self.recv - self.unread_steps)
        start_s = self.end_s if self.end_s > self.result_s else self.result_s
        self.start_s = start_s = now if now > start_s else start_s
        return decoding.plan(start_s, limit)

    def _retract(self) -> None:
        """Send requests back to the queue until the others can have one more token."""
        decoding, kv = self.decoding, self.kv

        def give_back(job: Job, made: int) -> None:
            job.private += made
            kv.release(job)

        victims = decoding.retract(lambda staying: kv.free() < staying * decoding.gain, give_back)
        for job in victims:
            job.prompt = job.isl + job.osl - job.left
            self.waiting.append(job)
        self.columns.num_retracted += len(victims)
        self.full = False

    def _rest(self, now: float) -> float:
        """Nothing to launch: wait for a result, or for a request."""
        if self.results:
            return max(now, self.results[0][0])
        self.decoding.note_idle()
        if self.waiting:
            self.full = False
            batch = self._admit()
            if not batch:
                raise SimulationBroken(f"engine {self.number} is idle and admits nothing")
            self._launch(now, batch)
            return self.open_s
        self.check_empty()
        return NEVER
