"""A prefill engine of a disaggregated fleet: bootstrap, waiting, forward, inflight.

Chunks move to the decode engine while the next one computes, so only the last is exposed. The
reply to the router leaves when the loop looks: after a step's result, or at once when idle.
Source: SGLang's event_loop_overlap_disagg_prefill and PrefillBootstrapQueue.
"""

from collections import deque
from heapq import heappop, heappush

from pdctl.perf_model.decode_engine import DecodeEngine
from pdctl.perf_model.events import NEVER, Agenda, SimulationBroken
from pdctl.perf_model.jobs import Columns, Job
from pdctl.perf_model.kv_pool import KvPool
from pdctl.perf_model.records import EngineModel
from pdctl.perf_model.scheduling import Room, admit
from pdctl.perf_model.steps import prefill_s


class PrefillEngine:
    """One engine. link_s: when its outgoing link is free; decoders: all, by their place."""

    __slots__ = (
        "agenda", "boot", "busy_s", "columns", "decoders", "departures", "end_s", "held",
        "inflight", "kv", "link_s", "model", "number", "partial", "results", "start_s", "waiting",
    )  # fmt: skip

    def __init__(
        self,
        number: int,
        model: EngineModel,
        columns: Columns,
        *,
        agenda: Agenda,
        departures: list[tuple[float, int]],
        block_tokens: int,
    ) -> None:
        self.number = number
        self.model = model
        self.columns = columns
        self.agenda = agenda
        self.departures = departures
        self.kv = KvPool(model.kv_capacity_tokens, block_tokens if model.radix_cache else 0)
        self.decoders: list[DecodeEngine] = []
        self.boot: list[tuple[float, int, Job]] = []  # by when the decode engine is ready
        self.waiting: deque[Job] = deque()
        self.partial: Job | None = None
        # of decided steps: when its result is known, and (request, tokens, last?)
        self.results: deque[tuple[float, list[tuple[Job, int, bool]]]] = deque()
        self.inflight: list[tuple[float, int, Job]] = []  # by when the last chunk has arrived
        self.held = 0  # requests that hold a metadata buffer
        self.start_s = 0.0
        self.end_s = 0.0
        self.link_s = 0.0
        self.busy_s = 0.0

    def ready(self, job: Job, at_s: float) -> None:
        """The decode engine has room for `job` and says so at `at_s`."""
        heappush(self.boot, (at_s, job.index, job))
        self.agenda.wake(self.number, at_s if at_s > self.end_s else self.end_s)

    def decide(self, now: float) -> float:
        """Do one turn of the loop; returns when the next is due."""
        results = self.results
        while results and results[0][0] <= now:
            self._deliver(*results.popleft())
        if self.inflight:
            self._reply(now)
        boot = self.boot
        slots = 2 * self.model.max_running_requests
        while boot and boot[0][0] <= now and self.held < slots:
            job = heappop(boot)[2]
            job.left = 1
            self.waiting.append(job)
            self.held += 1
        if (self.waiting or self.partial is not None) and self._prefill(now):
            return self.start_s
        if results:
            return results[0][0]
        return self._idle_until(slots)

    def _idle_until(self, slots: int) -> float:
        until = self.inflight[0][0] if self.inflight else NEVER
        if self.boot and self.held < slots and self.boot[0][0] < until:
            until = self.boot[0][0]
        if until == NEVER and (self.waiting or self.boot):
            raise SimulationBroken(f"prefill engine {self.number} is idle and admits nothing")
        return until

    def _prefill(self, now: float) -> bool:
        kv, model, partial = self.kv, self.model, self.partial
        if partial is not None and self.waiting:
            kv.publish(partial, partial.done)
        room = Room(kv.free(), 0, model.chunked_prefill_size, page=model.page_size)
        slots = model.max_running_requests
        batch, self.partial, _ = admit(self.waiting, partial, room, slots, kv.claim, kv.unclaim)
        if not batch:
            return False
        new = 0
        pairs = 0.0
        chunks = []
        for job, tokens in batch:
            if job.done and job is not partial:
                self._send(job, job.done, now)
            new += tokens
            pairs += tokens * (job.done + tokens / 2)
            kv.hold(job, tokens)
            job.done += tokens
            chunks.append((job, tokens, job.done == job.prompt))
        kv.note_peak()
        seconds = prefill_s(model.times, new, pairs)
        start_s = now if now > self.end_s else self.end_s
        self.start_s = start_s
        self.end_s = start_s + seconds
        self.busy_s += seconds
        self.results.append((start_s + seconds * model.times.stages, chunks))
        return True

    def _deliver(self, end_s: float, chunks: list[tuple[Job, int, bool]]) -> None:
        for job, tokens, last in chunks:
            arrived_s = self._send(job, tokens, end_s)
            if last:
                self.kv.publish(job, job.isl)
                heappush(self.inflight, (arrived_s, job.index, job))
                self.decoders[job.decode].land(job, arrived_s)

    def _send(self, job: Job, tokens: int, at_s: float) -> float:
        """Queue KV on this engine's link and on the receiver's; returns when it has arrived."""
        times = self.model.times
        seconds = times.transfer_base_s + tokens * times.transfer_token_s
        receiver = self.decoders[job.decode]
        mine = self.link_s = max(self.link_s, at_s) + seconds
        theirs = receiver.link_s = max(receiver.link_s, at_s) + seconds
        return mine if mine > theirs else theirs

    def _reply(self, now: float) -> None:
        inflight = self.inflight
        while inflight and inflight[0][0] <= now:
            job = heappop(inflight)[2]
            self.columns.reply_s[job.index] = now
            self.kv.release(job)
            self.held -= 1
            heappush(self.departures, (now, self.number))
