"""Scheduler of a colocated engine: prefill first, otherwise one decode step of all requests."""

from collections import deque

from pdctl.engines.sim.kv import (
    KvCache,
    admit_on_ranks,
    admit_waiting,
    free,
    hold_gains,
    keep_prefix,
    prefill_duration_s,
    ranks_of,
)
from pdctl.engines.sim.requests import (
    Batch,
    Emission,
    PrefillPart,
    Queues,
    Request,
    Result,
    SchedulerPass,
)
from pdctl.perf_model.records import EngineModel
from pdctl.perf_model.simulator.scheduling import (
    CLIP_MAX_NEW_TOKENS,
    INIT_NEW_TOKEN_RATIO,
    ratio_after,
    ratio_after_retraction,
    retraction_key,
)
from pdctl.perf_model.simulator.steps import decode_step_s, prefill_floor_s


class ColocatedQueues:
    """SGLang's default event loop as a state machine that is given the time.

    Source: srt/managers/scheduler.py and schedule_batch.py of SGLang 0.5.23.
    Ignores: priorities, varying acceptance in speculative decoding, retraction on one rank alone.
    """

    def __init__(self, model: EngineModel) -> None:
        self.model = model
        self.kv = KvCache(model.kv_capacity_tokens, radix=model.radix_cache)
        self.unread: list[Request] = []  # sent, but the scheduler has not looked for them yet
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self.ranks = ranks_of(model)
        self.chunked: Request | None = None
        self.num_retracted = 0
        self._is_full = False
        self._ratio = INIT_NEW_TOKEN_RATIO
        self._steps_since_look = model.receive_interval

    @property
    def turn_s(self) -> float:
        """Seconds that the loop needs to launch a batch with prompts."""
        return prefill_floor_s(self.model.times)

    @property
    def is_idle(self) -> bool:
        return not (self.unread or self.waiting or self.running or self.chunked)

    @property
    def queues(self) -> Queues:
        return Queues("colocated", running=len(self.running), waiting=len(self.waiting))

    @property
    def context_tokens(self) -> int:
        return sum(request.prompt for request in self.running)

    @property
    def num_held(self) -> int:
        """Requests that hold KV and state."""
        return len(self.running) + (self.chunked is not None)

    def submit(self, request: Request, now_s: float) -> None:
        self.unread.append(request)
        if self.model.receive_interval == 1:
            self._receive(now_s)

    def abort(self, request: Request) -> None:
        """Remove a request from all queues. Tokens of its current step are discarded."""
        request.is_done = True
        if request in self.unread:
            self.unread.remove(request)
            return
        if request in self.waiting:
            self.waiting.remove(request)
        self._leave(request)
        if request is self.chunked:
            self.chunked = self.ranks.partial() if self.ranks else None

    def decide(self, now_s: float) -> SchedulerPass:
        """Choose the next batch: prefill if a request can enter, otherwise decode."""
        if self._steps_since_look >= self.model.receive_interval or not self._rows():
            self._receive(now_s)
        batch = self._prefill(now_s)
        if batch:
            self._steps_since_look = self.model.receive_interval
            return SchedulerPass(batch)
        batch = self._decode()
        self._steps_since_look += 1
        if batch is None and self.is_idle:
            self._ratio = INIT_NEW_TOKEN_RATIO
        return SchedulerPass(batch)

    def _receive(self, now_s: float) -> None:
        """Queue what has been sent.

        Source: SGLang's SchedulerRecvSkipper, as in the simulator.
        """
        for request in self.unread:
            request.queued_s = now_s
            request.reached("entry", now_s)
            if self.ranks:
                self.ranks.take(request)
            self.waiting.append(request)
        self.unread.clear()
        self._steps_since_look = 0

    def finish(self, batch: Batch, now_s: float) -> Result:
        """Update all requests of a batch that has ended."""
        emissions = []
        for part in batch.parts:
            request = part.request
            if request.is_done:
                continue
            keep_prefix(self.kv, request)
            if part.is_final:
                request.forward_s = now_s - request.queued_s - request.waited_s
                emissions.append(self._emit(request))
        for request, gain in zip(batch.rows, batch.gains, strict=True):
            if not request.is_done:
                emissions.append(self._emit(request, gain))
        return Result(emissions)

    def poll(self, now_s: float) -> Result:
        """Colocated engines have no events between batches."""
        return Result()

    def wake_s(self) -> float | None:
        return None

    def _prefill(self, now_s: float) -> Batch | None:
        if not self.chunked and (self._is_full or not self.waiting):
            return None
        slots = self.model.max_running_requests - len(self.running)
        if not self.chunked and slots <= 0:
            self._is_full = True
            return None
        rows = self._rows() if self.model.mixed_chunk or self.ranks else []
        if self.ranks:
            admission = admit_on_ranks(
                self.kv, self.waiting, self.ranks, self.model, self.running, self._ratio
            )
            rows = self._beside(rows, admission.parts)
        else:
            admission = admit_waiting(
                self.kv,
                self.waiting,
                self.chunked,
                self.model,
                slots=slots,
                promised_tokens=self._promised(),
                beside=len(rows),
            )
        self.chunked = admission.partial
        self._is_full = admission.is_full and bool(self.running or admission.parts)
        if not admission.parts:
            return None
        for part in admission.parts:
            part.request.reached("started", now_s)
            if not part.request.waited_s:
                part.request.waited_s = now_s - part.request.queued_s
            if part.is_final:
                part.request.launched = part.request.out + 1
        gains = hold_gains(self.kv, rows, self.model.accept_length) or []
        rows = rows if gains else []
        self.running += [part.request for part in admission.parts if part.is_final]
        context = sum(request.prompt for request in rows)
        seconds = prefill_duration_s(self.model, admission.parts, rows, context)
        return Batch(admission.parts, rows, seconds, gains)

    def _beside(self, rows: list[Request], parts: list[PrefillPart]) -> list[Request]:
        """The rows that have a token in a step of attention-DP ranks with these prompts."""
        busy = set() if self.model.mixed_chunk else {part.request.rank for part in parts}
        return [row for row in rows if row.rank not in busy]

    def _promised(self) -> float:
        """KV that running requests may still need, discounted by SGLang's new-token ratio."""
        return sum(
            min(r.max_new - r.launched, CLIP_MAX_NEW_TOKENS)
            * (1.0 if r.ignore_eos else self._ratio)
            for r in self.running
        )

    def _rows(self) -> list[Request]:
        """Running requests whose last token has not been launched yet."""
        return [request for request in self.running if request.launched < request.max_new]

    def _decode(self) -> Batch | None:
        rows = self._rows()
        if not rows:
            return None
        rows = self._retract(rows)
        context = sum(request.prompt_tokens + request.launched + 1 for request in rows)
        gains = hold_gains(self.kv, rows, self.model.accept_length)
        if gains is None:
            return None
        return Batch([], rows, decode_step_s(self.model.times, len(rows), context), gains)

    def _retract(self, rows: list[Request]) -> list[Request]:
        """Retract requests, shortest output first, until the step's KV fits."""
        if len(rows) * self.model.accept_length <= self.kv.available_tokens:
            self._ratio = ratio_after(self._ratio, 1)
            return rows
        rows = sorted(rows, key=lambda r: retraction_key(r.out, r.prompt_tokens), reverse=True)
        while len(rows) > 1 and len(rows) * self.model.accept_length > self.kv.available_tokens:
            victim = rows.pop()
            free(self.kv, victim)
            self.running.remove(victim)
            victim.retractions += 1
            self.num_retracted += 1
            self.waiting.append(victim)
        out, max_new = sum(r.out for r in rows), sum(r.max_new for r in rows)
        self._ratio = ratio_after_retraction(out, max_new, len(rows))
        return rows

    def _emit(self, request: Request, gain: int = 1) -> Emission:
        gain = min(gain, request.left)
        request.out += gain
        if request.left:
            return Emission(request, gain, None)
        request.is_done = True
        self._leave(request)
        return Emission(request, gain, request.reason)

    def _leave(self, request: Request) -> None:
        free(self.kv, request)
        if self.ranks:
            self.ranks.forget(request)
        if request in self.running:
            self.running.remove(request)
        self._is_full = False
