"""A prefill engine of a disaggregated fleet: bootstrap, waiting, forward, inflight.

Chunks move to the decode engine while the next one computes, so only the last is exposed. The
reply to the router leaves when the loop looks: when it has launched a step and waited for the
result of the one before, if there is one, or at once when idle.
Source: SGLang's event_loop_overlap_disagg_prefill and PrefillBootstrapQueue.
"""

from collections import deque
from collections.abc import Sequence
from heapq import heapify, heappop, heappush

from pdctl.perf_model.records import EngineModel
from pdctl.perf_model.simulator.decode_engine import DecodeEngine
from pdctl.perf_model.simulator.job import NEVER, Agenda, Job, Shared, SimulationBroken
from pdctl.perf_model.simulator.kv import KvPool
from pdctl.perf_model.simulator.scheduling import Room, admit
from pdctl.perf_model.simulator.steps import (
    chunk_s,
    last_chunk_s,
    pairs_of,
    prefill_step_s,
    prefill_turn_s,
)


class PrefillEngine:
    """One engine. link_s: when its outgoing link is free; decoders: all, by their place."""

    __slots__ = (
        "agenda", "boot", "busy_s", "chunk", "columns", "decoders", "departures", "end_s", "ended",
        "held", "inflight", "kv", "launch_s", "link_s", "model", "number", "open_s", "pairs",
        "partial", "prefill_s", "results", "turn_s", "waiting",
    )  # fmt: skip

    def __init__(
        self,
        number: int,
        model: EngineModel,
        shared: Shared,
        *,
        decoders: Sequence[DecodeEngine],
        agenda: Agenda,
    ) -> None:
        self.number = number
        self.model = model
        self.columns, self.departures = shared.columns, shared.departures
        self.ended = shared.ended
        self.agenda = agenda
        self.kv = KvPool(
            model.kv_capacity_tokens, shared.segment_tokens if model.radix_cache else None
        )
        self.decoders = decoders
        self.boot: list[tuple[float, int, Job]] = []  # by when the decode engine is ready
        self.waiting: deque[Job] = deque()
        self.partial: Job | None = None
        # of decided steps: when its result is known, and (request, tokens, last?)
        self.results: deque[tuple[float, list[tuple[Job, int, bool]]]] = deque()
        self.inflight: list[tuple[float, int, Job]] = []  # by when the last chunk has arrived
        self.held = 0  # requests that hold a metadata buffer
        self.open_s = 0.0  # by when the loop looks around again after its last launch
        self.end_s = 0.0
        self.link_s = 0.0
        self.prefill_s = prefill_step_s(model.times)
        self.pairs = pairs_of(model.times)
        self.launch_s = model.times.prefill_start_s
        self.turn_s = prefill_turn_s(model.times)
        self.chunk = model.chunked_prefill_size // model.page_size * model.page_size
        self.busy_s = 0.0

    def ready(self, job: Job, at_s: float) -> None:
        """The decode engine has room for `job` and says so at `at_s`."""
        heappush(self.boot, (at_s, job.index, job))
        if at_s <= self.open_s:
            at_s = self.open_s
        elif at_s < self.end_s:
            at_s = self.end_s
        self.agenda.wake(self.number, at_s)

    def decide(self, now: float) -> float:
        """Do one turn of the loop; returns when the next is due."""
        results = self.results
        if self.inflight and not results:
            self._reply(now, idle=True)
        while results and results[0][0] <= now:
            self._deliver(now, results.popleft()[1])
        if self.inflight:
            self._reply(now, idle=False)
        boot = self.boot
        if boot and boot[0][0] <= now:
            self._collect(now)
        if self.waiting or self.partial is not None:
            batch = self._admit()
            if batch:
                self._launch(now, batch)
                return self._after_launch(now)
        if results:
            return results[0][0]
        return self._idle_until()

    def _after_launch(self, now: float) -> float:
        """The next turn: with the result before, if it is not known yet; else once launched.

        With nothing to do then, it waits for the result of what it launched.
        """
        results = self.results
        open_s = now + self.turn_s
        if len(results) > 1 and results[0][0] > open_s:
            open_s = results[0][0]
        self.open_s = open_s
        if len(results) > 1 or self.waiting or self.partial is not None or self.inflight:
            return open_s
        if self.boot and self.boot[0][0] <= open_s:
            return open_s
        return results[0][0] if results[0][0] > open_s else open_s

    def jobs_after(self, now: float) -> list[Job]:
        """The requests whose KV has not all left this engine at `now`."""
        held = {job.index: job for _, _, job in self.boot}
        held.update((job.index, job) for job in self.waiting)
        held.update((chunk[0].index, chunk[0]) for _, chunks in self.results for chunk in chunks)
        held.update((job.index, job) for at_s, _, job in self.inflight if at_s > now)
        if self.partial is not None:
            held[self.partial.index] = self.partial
        return list(held.values())

    def give_up(self, job: Job, sink: int) -> bool:
        """Its decode engine is gone: drop a request not begun, let another run into the void.

        sink: the place of what takes KV that nobody wants. Returns whether it was dropped.
        """
        job.decode = sink
        if job in self.waiting:
            self.waiting.remove(job)
            self.held -= 1
            return True
        kept = [entry for entry in self.boot if entry[2] is not job]
        dropped = len(kept) < len(self.boot)
        self.boot = kept
        heapify(self.boot)
        return dropped

    def check_empty(self) -> None:
        """Raise SimulationBroken if an idle engine still holds requests or KV."""
        locked = self.kv.cache.locked_tokens if self.kv.cache else 0
        left = self.boot or self.waiting or self.partial or self.inflight
        if left or self.held or abs(self.kv.private) > 1e-3 or locked:
            raise SimulationBroken(f"idle engine {self.number} still holds requests or KV")

    def num_inflight(self, now: float) -> int:
        """Computed prompts that the loop has not answered for; an idle loop answers at once."""
        if self.results:
            return len(self.inflight)
        return sum(entry[0] > now for entry in self.inflight)

    def flush(self, until: float = NEVER) -> None:
        """Send the replies due by `until` that nothing has asked for."""
        self._reply(until, idle=not self.results)

    def reply_while_idle(self, until: float) -> None:
        """Send the replies that an idle engine owes by `until`; a busy one sends them later."""
        if not self.results:
            self._reply(until, idle=True)

    def _collect(self, now: float) -> None:
        """Let the requests for which decode engines are ready wait for prefill."""
        boot = self.boot
        slots = 2 * self.model.max_running_requests
        while boot and boot[0][0] <= now and self.held < slots:
            job = heappop(boot)[2]
            job.left = 1
            self.waiting.append(job)
            self.held += 1

    def _idle_until(self) -> float:
        blocked = self.waiting or (self.boot and self.held >= 2 * self.model.max_running_requests)
        if blocked:
            if not self.inflight:
                raise SimulationBroken(f"prefill engine {self.number} is idle and admits nothing")
            return self.inflight[0][0]
        return self.boot[0][0] if self.boot else NEVER

    def _admit(self) -> list[tuple[Job, int]]:
        kv, model, partial = self.kv, self.model, self.partial
        free = kv.capacity - kv.private - kv.locked
        if partial is not None and partial.prompt - partial.done > self.chunk <= free:
            return [(partial, self.chunk)]  # it fills the step all by itself
        if partial is not None and self.waiting:
            kv.publish_part(partial)
        room = Room(free, 0, model.chunked_prefill_size, page=model.page_size)
        slots = model.max_running_requests
        batch, self.partial, _ = admit(self.waiting, partial, room, slots, kv.claim, kv.unclaim)
        return batch

    def _launch(self, now: float, batch: list[tuple[Job, int]]) -> None:
        kv = self.kv
        new = 0
        pairs = 0.0
        chunks = []
        for job, tokens in batch:
            done = job.done
            if done and done == job.cached:
                # what the cache held goes ahead of the forward
                self._send(job, done, now, last=False)
            new += tokens
            pairs += self.pairs(tokens, done)
            job.private += tokens
            job.done = done = done + tokens
            chunks.append((job, tokens, done == job.prompt))
        kv.private += new
        kv.note_peak()
        seconds = self._step_s(new, pairs)
        launched_s = now + self.launch_s
        start_s = launched_s if launched_s > self.end_s else self.end_s
        self.end_s = start_s + seconds
        self.busy_s += seconds
        self.results.append((start_s + seconds * self.model.times.stages, chunks))

    def _step_s(self, new: int, pairs: float) -> float:
        return self.prefill_s(new, pairs)

    def _deliver(self, now: float, chunks: list[tuple[Job, int, bool]]) -> None:
        for job, tokens, last in chunks:
            arrived_s = self._send(job, tokens, now, last=last)
            if last:
                self.kv.publish(job)
                heappush(self.inflight, (arrived_s, job.index, job))
                self.decoders[job.decode].land(job, arrived_s)

    def _send(self, job: Job, tokens: int, at_s: float, *, last: bool) -> float:
        """Queue KV on this engine's link and on the receiver's; returns when it has arrived."""
        times = self.model.times
        seconds = last_chunk_s(times, tokens, job.prompt) if last else chunk_s(times, tokens)
        receiver = self.decoders[job.decode]
        mine = (self.link_s if self.link_s > at_s else at_s) + seconds
        theirs = (receiver.link_s if receiver.link_s > at_s else at_s) + seconds
        self.link_s = mine
        receiver.link_s = theirs
        return mine if mine > theirs else theirs

    def _reply(self, now: float, *, idle: bool) -> None:
        """Answer for transfers that have arrived; an idle loop saw each as it arrived."""
        inflight = self.inflight
        while inflight and inflight[0][0] <= now:
            arrived_s, _, job = heappop(inflight)
            reply_s = arrived_s if idle else now
            self.columns.reply_s[job.index] = reply_s
            self.kv.release(job)
            self.held -= 1
            heappush(self.departures, (reply_s, self.number))
            if self.ended is not None:
                last_s = self.columns.last_s[job.index]
                if last_s >= 0:  # the client waited for nothing else
                    heappush(self.ended, (max(last_s, reply_s), job.index))
