"""A decode engine of a disaggregated fleet: prealloc, transfer, waiting, running.

KV for a prompt is taken before its prefill starts; the request joins at the first loop after its
KV has arrived, and its first token, made by the prefill engine, is streamed there.
Source: SGLang's event_loop_overlap_disagg_decode and DecodePreallocQueue.
"""

from collections import deque
from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from typing import Protocol

from pdctl.perf_model.records import EngineModel
from pdctl.perf_model.simulator.decode_batch import DecodeRun
from pdctl.perf_model.simulator.job import NEVER, Agenda, Job, Shared, SimulationBroken
from pdctl.perf_model.simulator.kv import KvPool
from pdctl.perf_model.simulator.scheduling import (
    decode_slots,
    prealloc_need,
    prealloc_room,
    steps_until_prealloc,
)
from pdctl.perf_model.simulator.steps import DecodeCosts


class DecodeRoom:
    """KV and slots of one decode engine. held: requests in transfer, waiting or running."""

    __slots__ = ("_decoding", "_largest", "_reserved", "_slots", "held", "kv")

    def __init__(self, model: EngineModel, decoding: DecodeRun) -> None:
        self.kv = KvPool(model.kv_capacity_tokens, None)
        self.held = 0
        self._decoding = decoding
        self._slots = decode_slots(model.max_running_requests, model.parallelism.dp)
        self._reserved = model.reserved_decode_tokens
        self._largest = 0  # prompt plus output of the largest request so far

    def has_room(self, job: Job, grown: float) -> bool:
        """True if a request may be preallocated once running ones have `grown` by these tokens."""
        if self.held >= self._slots:
            return False
        kv, reserved = self.kv, self._reserved
        free = kv.capacity - kv.private - grown
        held_back = max(reserved * self.held, self._largest)
        if job.isl + max(reserved, job.osl) <= free - held_back:
            return True  # without counting what running requests could give back
        context = self._decoding.context + grown
        room = prealloc_room(
            free,
            num_held=self.held,
            reserved=reserved,
            running_totals=self._totals_that_count(context),
            retractable=context,
        )
        return prealloc_need(job.isl, job.osl, reserved, context) <= room

    def has_room_again(self, job: Job) -> bool:
        """True if a retracted request may come back."""
        if self.held >= self._slots:
            return False
        room = prealloc_room(
            self.kv.free(),
            num_held=self.held,
            reserved=self._reserved,
            running_totals=self._totals_that_count(self._decoding.context),
            retractable=self._decoding.context,
        )
        return job.prompt + self._reserved <= room

    def steps_until(self, job: Job) -> float:
        """After how many steps of the same batch there is room for a request; maybe never."""
        if self.held >= self._slots:
            return NEVER
        decoding = self._decoding
        return steps_until_prealloc(
            job.isl,
            job.osl,
            free=self.kv.free(),
            num_held=self.held,
            reserved=self._reserved,
            longest=max(self._totals()),
            context=decoding.context,
            growth=len(decoding.running) * decoding.gain,
        )

    def hold(self, job: Job, tokens: int) -> None:
        """Take KV for a request."""
        self.held += 1
        job.decode_kv = float(tokens)
        self.kv.private += tokens
        total = job.isl + job.osl
        if total > self._largest:
            self._largest = total

    def release(self, job: Job) -> None:
        """Give back all KV of a request."""
        self.held -= 1
        self.kv.private -= job.decode_kv
        job.decode_kv = 0.0

    def _totals_that_count(self, context: float) -> list[int]:
        """No total where not even the largest could hold back more than what is reserved."""
        return [] if self._largest - context <= self._reserved * self.held else self._totals()

    def _totals(self) -> list[int]:
        return [job.isl + job.osl for _, _, job in self._decoding.running]


class Prefiller(Protocol):
    """The part of a prefill engine that a decode engine uses."""

    def ready(self, job: Job, at_s: float) -> None:
        """The decode engine has room for `job` and says so at `at_s`."""

    def reply_while_idle(self, until: float) -> None:
        """Send the replies that an idle engine owes by `until`."""


class DecodeEngine:
    """One engine. link_s: when its incoming link is free; prefillers: all, by their place."""

    __slots__ = (
        "agenda", "busy_s", "columns", "decoding", "departures", "end_s", "ended", "kv",
        "landing", "leaving", "link_s", "max_steps", "model", "number", "prealloc", "prefillers",
        "results", "retracted", "room", "start_s", "waiting",
    )  # fmt: skip

    def __init__(
        self,
        number: int,
        model: EngineModel,
        shared: Shared,
        *,
        costs: DecodeCosts,
        prefillers: Sequence[Prefiller],
        agenda: Agenda,
    ) -> None:
        self.number = number
        self.model = model
        self.columns, self.departures = shared.columns, shared.departures
        self.ended = shared.ended
        self.max_steps = shared.max_steps
        self.agenda = agenda
        self.decoding = DecodeRun(costs, model.accept_length)
        self.room = DecodeRoom(model, self.decoding)
        self.kv = self.room.kv
        self.prefillers = prefillers
        self.prealloc: deque[Job] = deque()
        self.landing: list[tuple[float, int, Job]] = []  # by when all KV has arrived
        self.waiting: deque[Job] = deque()
        self.retracted: deque[Job] = deque()
        self.results: deque[tuple[float, list[Job]]] = deque()
        self.leaving: float = 0.0
        self.link_s = 0.0
        self.start_s = 0.0
        self.end_s = 0.0
        self.busy_s = 0.0

    def arrive(self, job: Job, now: float) -> None:
        """Preallocate at the next turn of the loop if there is room, else queue."""
        decoding = self.decoding
        if self.prealloc or self.retracted:
            self.prealloc.append(job)
            return
        at_s, grown, step = now, 0.0, 0
        if decoding.planned:
            step = decoding.step_at(now)
            at_s = decoding.start_of(step)
            grown = (step + 1) * len(decoding.running) * decoding.gain
        elif self.end_s > now:
            at_s = self.end_s
        if self.results:
            self._process(at_s)
        if self._take(job, at_s, grown):
            if decoding.planned:
                self._shorten(step, self.kv.free() // (len(decoding.running) * decoding.gain))
            return
        self.prealloc.append(job)
        if decoding.planned:
            self._shorten(step, self.room.steps_until(self.prealloc[0]))

    def land(self, job: Job, at_s: float) -> None:
        """All KV of `job` will have arrived at `at_s`."""
        heappush(self.landing, (at_s, job.index, job))
        if self.decoding.planned:
            self.agenda.wake(self.number, self.decoding.cut(at_s))
        else:
            self.agenda.wake(self.number, at_s if at_s > self.end_s else self.end_s)

    def jobs_after(self, now: float) -> list[Job]:
        """The requests this engine has at `now`, those whose last token comes later included.

        Those that hold KV here but have not begun to land are with their prefill engines.
        """
        held = {job.index: job for job in self.prealloc}
        held.update((job.index, job) for _, _, job in self.landing)
        held.update((job.index, job) for job in (*self.waiting, *self.retracted))
        held.update((job.index, job) for _, _, job in self.decoding.running)
        for end_s, finished in self.results:
            if end_s > now:
                held.update((job.index, job) for job in finished)
        return list(held.values())

    def give_up(self, job: Job, now: float) -> None:
        """Its prefill engine is gone: forget a request whose KV has not all arrived."""
        if job in self.prealloc:
            self.prealloc.remove(job)
            return
        self.landing = [entry for entry in self.landing if entry[2] is not job]
        heapify(self.landing)
        self.room.release(job)
        if self.decoding.planned:
            self.agenda.wake(self.number, self.decoding.cut(now))
        else:
            self.agenda.wake(self.number, now if now > self.end_s else self.end_s)

    def check_empty(self) -> None:
        """Raise SimulationBroken if an idle engine still holds requests or KV."""
        left = self.prealloc or self.landing or self.waiting or self.retracted
        if left or self.room.held or abs(self.kv.private) > 1e-3:
            raise SimulationBroken(f"idle engine {self.number} still holds requests or KV")

    def decide(self, now: float) -> float:
        """Do one turn of the loop; returns when the next is due."""
        decoding = self.decoding
        if decoding.planned:
            self._settle()
        if self.results:
            self._process(now)
        if self.retracted:
            self._resume()
        if not self.retracted:
            if self.prealloc:
                self._preallocate(now)
            if self.landing and self.landing[0][0] <= now:
                self._collect(now)
        if self.waiting:
            self._join(now)
        if decoding.running:
            return self._decode(now)
        return self._idle_until(now)

    def _idle_until(self, now: float) -> float:
        if self.results:
            return max(now, self.results[0][0])
        if self.landing:
            if self.retracted:  # SGLang would wait here for ever; let the transfers land
                self._collect(self.landing[0][0])
                return now
            return max(self.landing[0][0], now)
        if not self.room.held:  # the last one may have left in this very turn
            self._preallocate(now)
        if self.retracted or self.waiting or (self.prealloc and not self.room.held):
            raise SimulationBroken(f"decode engine {self.number} is idle and admits nothing")
        return NEVER

    def _preallocate(self, now: float) -> None:
        while self.prealloc and self._take(self.prealloc[0], now, 0.0):
            self.prealloc.popleft()

    def _collect(self, now: float) -> None:
        landing = self.landing
        while landing and landing[0][0] <= now:
            self.waiting.append(heappop(landing)[2])

    def _take(self, job: Job, at_s: float, grown: float) -> bool:
        """Give a request its KV if there is room, and tell its prefill engine."""
        if not self.room.has_room(job, grown):
            return False
        self.room.hold(job, job.isl)
        self.prefillers[job.prefill].ready(job, at_s)
        return True

    def _shorten(self, step: int, most: float) -> None:
        """Plan `most` steps at most, but those up to `step` anyway."""
        decoding = self.decoding
        if most < decoding.planned:
            decoding.planned = max(int(most), step + 1)
            self.agenda.wake(self.number, decoding.start_of(decoding.planned - 1))

    def _settle(self) -> None:
        decoding, kv = self.decoding, self.kv
        kv.private += decoding.planned * len(decoding.running) * decoding.gain
        if kv.private > kv.peak:
            kv.peak = kv.private
        finished = decoding.settle()
        self.end_s = end_s = decoding.last_token_s
        self.busy_s += end_s - self.start_s
        if finished:
            steps = decoding.steps
            for job in finished:
                job.decode_kv += (steps - job.joined_step) * decoding.gain
            self._finish(end_s, finished)

    def _finish(self, end_s: float, finished: list[Job]) -> None:
        last_s = self.columns.last_s
        for job in finished:
            last_s[job.index] = end_s
            self.leaving += job.decode_kv
            heappush(self.departures, (end_s, self.number))
        if self.ended is not None:
            for job in finished:
                self._end(job)
        self.results.append((end_s, finished))

    def _end(self, job: Job) -> None:
        """Tell a waiting client that its answer has ended, unless prefill still owes its reply.

        The router ends no answer before the prefill engine has replied; that reply tells then.
        """
        index, reply_s = job.index, self.columns.reply_s
        if reply_s[index] < 0:
            self.prefillers[job.prefill].reply_while_idle(self.columns.first_s[index])
        elif self.ended is not None:
            heappush(self.ended, (max(self.columns.last_s[index], reply_s[index]), index))

    def _process(self, now: float) -> None:
        results = self.results
        while results and results[0][0] <= now:
            for job in results.popleft()[1]:
                self.leaving -= job.decode_kv
                self.room.release(job)

    def _join(self, now: float) -> None:
        """Let requests that have all their KV run; those new here have their first token now."""
        decoding, waiting = self.decoding, self.waiting
        first_s = self.columns.first_s
        room = self.model.max_running_requests - len(decoding.running)
        joining = []
        while waiting and room > 0:
            job = waiting.popleft()
            if first_s[job.index] < 0:
                first_s[job.index] = now
                job.left = job.osl - 1
            if job.left:
                joining.append(job)
                room -= 1
            else:
                self.columns.last_s[job.index] = now
                heappush(self.departures, (now, self.number))
                self.room.release(job)
                if self.ended is not None:
                    self._end(job)
        if joining:
            decoding.join(joining)

    def _decode(self, now: float) -> float:
        decoding = self.decoding
        free = self.kv.capacity - self.kv.private
        needed = len(decoding.running) * decoding.gain
        if free < needed:
            if self.results:  # a request that finishes in the running step will free some
                return max(now, self.results[0][0])
            self._retract()
            free = self.kv.capacity - self.kv.private
            needed = len(decoding.running) * decoding.gain
        limit = max((free + self.leaving) // needed, 1)
        if limit > self.max_steps:
            limit = self.max_steps
        if self.prealloc or self.retracted or self.waiting:
            if self.results:
                limit = 1.0
            elif self.prealloc and not self.retracted:
                limit = min(limit, self.room.steps_until(self.prealloc[0]))
        self.start_s = now if now > self.end_s else self.end_s
        next_s = decoding.plan(self.start_s, limit)
        if self.landing and self.landing[0][0] < next_s and not self.retracted:
            next_s = decoding.cut(self.landing[0][0])
        return next_s

    def _retract(self) -> None:
        """Move KV out to host memory until the other requests can have one more token."""
        decoding, room = self.decoding, self.room

        def give_back(job: Job, made: int) -> None:
            job.decode_kv += made
            room.release(job)

        victims = decoding.retract(
            lambda staying: room.kv.free() < staying * decoding.gain, give_back
        )
        for job in victims:
            job.prompt = job.isl + job.osl - job.left - 1
            self.retracted.append(job)
        self.columns.num_retracted += len(victims)

    def _resume(self) -> None:
        """Bring retracted requests back, first come first served."""
        while self.retracted and self.room.has_room_again(self.retracted[0]):
            job = self.retracted.popleft()
            self.room.hold(job, job.prompt)
            self.waiting.append(job)


class Void(DecodeEngine):
    """Takes the KV of requests whose decode engine has failed meanwhile."""

    __slots__ = ()

    def land(self, job: Job, at_s: float) -> None:
        """Nobody waits for it."""
