"""Scheduler of a prefill engine: bootstrap, waiting, forward, inflight."""

from collections import deque

from pdctl.engines.sim.kv import (
    KvCache,
    admit_on_ranks,
    admit_waiting,
    free,
    keep_prefix,
    prefill_duration_s,
    ranks_of,
)
from pdctl.engines.sim.requests import Batch, Emission, Queues, Request, Result, SchedulerPass
from pdctl.perf_model.records import EngineModel
from pdctl.perf_model.simulator.steps import chunk_s, last_chunk_s, prefill_turn_s


class PrefillQueues:
    """SGLang's prefill event loop as a state machine that is given the time.

    Source: srt/disaggregation/prefill.py of SGLang 0.5.23.
    Ignores: optimistic prefill, the staging buffer, pipeline consensus.
    """

    def __init__(self, model: EngineModel) -> None:
        self.model = model
        self.kv = KvCache(model.kv_capacity_tokens, radix=model.radix_cache)
        self.bootstrap: deque[Request] = deque()
        self.waiting: deque[Request] = deque()
        self.inflight: list[Request] = []
        self.ranks = ranks_of(model)
        self.chunked: Request | None = None
        self.num_retracted = 0
        self._in_forward = 0
        self._link_free_s = 0.0

    @property
    def turn_s(self) -> float:
        """Seconds that the loop needs to launch a batch."""
        return prefill_turn_s(self.model.times)

    @property
    def is_idle(self) -> bool:
        waits = self.bootstrap or self.waiting or self.inflight or self.chunked
        return not waits and not self._in_forward

    @property
    def queues(self) -> Queues:
        return Queues(
            "prefill",
            running=self._in_forward,
            waiting=len(self.waiting),
            bootstrap=len(self.bootstrap),
            inflight=len(self.inflight),
        )

    @property
    def context_tokens(self) -> int:
        return 0

    @property
    def num_held(self) -> int:
        """Requests that hold KV and state."""
        return self._in_forward + len(self.inflight) + (self.chunked is not None)

    def submit(self, request: Request, now_s: float) -> None:
        request.queued_s = now_s
        request.reached("entry", now_s)
        if self.ranks:
            self.ranks.take(request)
        self.bootstrap.append(request)

    def abort(self, request: Request) -> None:
        """Remove a request from all queues."""
        request.is_done = True
        for queue in (self.bootstrap, self.waiting, self.inflight):
            if request in queue:
                queue.remove(request)
        if self.ranks:
            self.ranks.forget(request)
        if request is self.chunked:
            self.chunked = self.ranks.partial() if self.ranks else None
        free(self.kv, request)

    def decide(self, now_s: float) -> SchedulerPass:
        """Choose the next batch, from requests for which a decode engine has allocated KV."""
        self._pop_bootstrapped(now_s)
        if not self.chunked and not self.waiting:
            return SchedulerPass()
        if self.ranks:
            admission = admit_on_ranks(self.kv, self.waiting, self.ranks, self.model)
        else:
            slots = self.model.max_running_requests
            admission = admit_waiting(self.kv, self.waiting, self.chunked, self.model, slots=slots)
        self.chunked = admission.partial
        if not admission.parts:
            return SchedulerPass()
        for part in admission.parts:
            part.request.reached("started", now_s)
            if not part.request.waited_s:
                part.request.waited_s = now_s - part.request.queued_s
        self._in_forward += sum(part.is_final for part in admission.parts)
        return SchedulerPass(
            Batch(admission.parts, [], prefill_duration_s(self.model, admission.parts))
        )

    def finish(self, batch: Batch, now_s: float) -> Result:
        """Queue the KV of an ended batch for transfer, then handle arrived KV."""
        transfers = []
        for part in batch.parts:
            self._in_forward -= part.is_final
            if part.request.is_done:
                continue
            if not part.request.fake:  # like SGLang, cache no prompt without a waiting partner
                keep_prefix(self.kv, part.request)
            self._send(part.request, part.tokens, now_s, last=part.is_final)
            if part.is_final:
                part.request.forward_s = now_s - part.request.queued_s - part.request.waited_s
                part.request.reached("computed", now_s)
                part.request.out = 1
                self.inflight.append(part.request)
                transfers.append(part.request)
                if self.ranks:
                    self.ranks.forget(part.request)
        return Result(self.poll(now_s).emissions, transfers)

    def poll(self, now_s: float) -> Result:
        """Answer the requests whose KV has arrived."""
        arrived = [request for request in self.inflight if request.transfer_end_s <= now_s]
        for request in arrived:
            self.inflight.remove(request)
            request.is_done = True
            free(self.kv, request)
        return Result([Emission(request, 1, "length") for request in arrived])

    def wake_s(self) -> float | None:
        """Time at which the next transfer ends."""
        return min((request.transfer_end_s for request in self.inflight), default=None)

    def _pop_bootstrapped(self, now_s: float) -> None:
        buffers = 2 * self.model.max_running_requests - len(self.waiting) - len(self.inflight)
        ready = [request for request in self.bootstrap if request.is_ready][: max(buffers, 0)]
        for request in ready:
            self.bootstrap.remove(request)
            request.queued_s = now_s
            request.reached("bootstrapped", now_s)
            self.waiting.append(request)

    def _send(self, request: Request, tokens: int, now_s: float, *, last: bool) -> None:
        """Queue the KV of one chunk for transfer. SGLang's transfer threads share one link."""
        if request.fake:
            request.transfer_start_s = request.transfer_end_s = now_s
            return
        start_s = max(now_s, self._link_free_s)
        request.transfer_start_s = start_s
        times, prompt = self.model.times, request.prompt_tokens
        seconds = last_chunk_s(times, tokens, prompt) if last else chunk_s(times, tokens)
        request.transfer_end_s = start_s + seconds
        self._link_free_s = request.transfer_end_s
