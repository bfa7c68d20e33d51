"""Scheduler of a decode engine: prealloc, transfer, waiting, running, retracted."""

from collections import deque

from pdctl.engines.sim.kv import KvCache, free, hold_gains
from pdctl.engines.sim.requests import Batch, Emission, Queues, Request, Result, SchedulerPass
from pdctl.perf_model.records import EngineModel
from pdctl.perf_model.simulator.scheduling import (
    decode_slots,
    prealloc_need,
    prealloc_room,
    retraction_key,
)
from pdctl.perf_model.simulator.steps import decode_step_s


class DecodeQueues:
    """SGLang's decode event loop as a state machine that is given the time.

    Source: srt/disaggregation/decode.py of SGLang 0.5.23.
    Ignores: the experimental radix cache of decode engines, KV offloading to the host.
    """

    turn_s = 0.0  # the loop takes no time besides the steps

    def __init__(self, model: EngineModel) -> None:
        self.model = model
        self.kv = KvCache(model.kv_capacity_tokens, radix=False)
        self.prealloc: deque[Request] = deque()
        self.transfer: list[Request] = []
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self.retracted: deque[Request] = deque()
        self.num_retracted = 0

    @property
    def is_idle(self) -> bool:
        busy = self.prealloc or self.transfer or self.waiting or self.running or self.retracted
        return not busy

    @property
    def queues(self) -> Queues:
        return Queues(
            "decode",
            running=len(self.running),
            waiting=len(self.waiting),
            prealloc=len(self.prealloc),
            transfer=len(self.transfer),
            retracted=len(self.retracted),
        )

    @property
    def context_tokens(self) -> int:
        return sum(request.prompt for request in self.running)

    @property
    def num_held(self) -> int:
        """Requests that hold KV and state."""
        return len(self.running) + len(self.transfer) + len(self.waiting)

    def submit(self, request: Request, now_s: float) -> None:
        request.queued_s = now_s
        request.reached("entry", now_s)
        self.prealloc.append(request)

    def abort(self, request: Request) -> None:
        """Remove a request from all queues."""
        request.is_done = True
        for queue in (self.prealloc, self.transfer, self.waiting, self.running, self.retracted):
            if request in queue:
                queue.remove(request)
                break
        free(self.kv, request)

    def decide(self, now_s: float) -> SchedulerPass:
        """Move requests along the queues, then choose a decode step of all running ones."""
        self._resume_retracted()
        allocated = []
        if not self.retracted:
            allocated = self._preallocate(now_s)
            self._pop_transferred(now_s)
        emissions = self._join(now_s)
        return SchedulerPass(self._decode(), emissions, allocated)

    def finish(self, batch: Batch, now_s: float) -> Result:
        """Update the requests of a decode step. A row that ended a step earlier has no effect."""
        steps = zip(batch.rows, batch.gains, strict=True)
        return Result([self._emit(row, gain) for row, gain in steps if not row.is_done])

    def poll(self, now_s: float) -> Result:
        """Decode engines have no events between decisions."""
        return Result()

    def wake_s(self) -> float | None:
        return None

    def _resume_retracted(self) -> None:
        while self.retracted:
            request = self.retracted[0]
            fits = request.prompt + self.model.reserved_decode_tokens <= self._budget(
                count_retracted=False
            )
            if len(self.running) >= self.model.max_running_requests or not fits:
                return
            self.retracted.popleft()
            self._hold(request, request.prompt)
            self.waiting.append(request)

    def _preallocate(self, now_s: float) -> list[Request]:
        """Admit requests in order of arrival. Skips those without handshake; stops at a misfit."""
        allocated = []
        for request in self.prealloc:
            if request.is_ready:
                request.reached("bootstrapped", now_s)
        for request in list(self.prealloc):
            if not request.is_ready:
                continue
            if not self._has_slot() or self._need(request) > self._budget():
                break
            self.prealloc.remove(request)
            self._hold(request, request.prompt_tokens)
            request.waited_s = now_s - request.queued_s
            request.reached("allocated", now_s)
            request.is_transferred = request.fake
            self.transfer.append(request)
            allocated.append(request)
        return allocated

    def _has_slot(self) -> bool:
        slots = decode_slots(self.model.max_running_requests, self.model.parallelism.dp)
        return self.num_held < slots

    def _need(self, request: Request) -> float:
        return prealloc_need(
            request.prompt_tokens,
            request.max_new,
            self.model.reserved_decode_tokens,
            sum(r.prompt for r in self.running),
        )

    def _budget(self, *, count_retracted: bool = True) -> float:
        """KV available for new requests without starving the running ones."""
        return prealloc_room(
            self.kv.free_tokens,
            num_held=self.num_held,
            reserved=self.model.reserved_decode_tokens,
            running_totals=(r.prompt_tokens + r.max_new for r in self.running),
            retractable=sum(r.prompt for r in self.running),
            retracted=(r.prompt for r in self.retracted) if count_retracted else (),
        )

    def _pop_transferred(self, now_s: float) -> None:
        for request in [r for r in self.transfer if r.is_transferred]:
            self.transfer.remove(request)
            request.reached("transferred", now_s)
            self.waiting.append(request)

    def _join(self, now_s: float) -> list[Emission]:
        """Let waiting requests run. A new one emits its first token, computed by prefill."""
        emissions = []
        while self.waiting and len(self.running) < self.model.max_running_requests:
            request = self.waiting.popleft()
            self.running.append(request)
            request.reached("started", now_s)
            if not request.out:
                emissions.append(self._emit(request))
        return emissions

    def _decode(self) -> Batch | None:
        if not self.running:
            return None
        self._retract()
        rows = list(self.running)
        gains = hold_gains(self.kv, rows, self.model.accept_length)
        if gains is None:
            return None
        context = sum(request.prompt for request in rows)
        return Batch([], rows, decode_step_s(self.model.times, len(rows), context), gains)

    def _retract(self) -> None:
        """Move requests to host memory, shortest output first, until the step's KV fits."""
        accepted = self.model.accept_length
        while len(self.running) > 1 and len(self.running) * accepted > self.kv.free_tokens:
            victim = min(self.running, key=lambda r: retraction_key(r.out, r.prompt_tokens))
            self.running.remove(victim)
            self._park(victim)
        while self.waiting and len(self.running) * accepted > self.kv.free_tokens:
            self._park(self.waiting.pop())  # SGLang would abort the only running request here

    def _park(self, victim: Request) -> None:
        free(self.kv, victim)
        victim.retractions += 1
        self.num_retracted += 1
        self.retracted.append(victim)

    def _hold(self, request: Request, tokens: int) -> None:
        self.kv.hold(tokens)
        request.own_tokens += tokens

    def _emit(self, request: Request, gain: int = 1) -> Emission:
        gain = min(gain, request.left)
        request.out += gain
        if request.left:
            return Emission(request, gain, None)
        self.abort(request)  # a retraction may have moved it while its last step ran
        return Emission(request, gain, request.reason)
