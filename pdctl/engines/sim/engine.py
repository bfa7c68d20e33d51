"""Event loop of a simulated engine: runs the batches that its queues choose, in real time."""

import asyncio
import random
import time
from collections.abc import Callable

from pdctl.engines.sim.colocated import ColocatedQueues
from pdctl.engines.sim.decode import DecodeQueues
from pdctl.engines.sim.prefill import PrefillQueues
from pdctl.engines.sim.record import Record, batch_line, log
from pdctl.engines.sim.requests import Batch, Emission, Request, Result
from pdctl.perf_model.records import EngineModel, Role

CATCH_UP_S = 0.25  # a busy engine catches up with at most this much wall-clock delay
SchedulerQueues = ColocatedQueues | PrefillQueues | DecodeQueues


def queues_for(role: Role, model: EngineModel) -> SchedulerQueues:
    """Empty queues for a role."""
    if role == "prefill":
        return PrefillQueues(model)
    return DecodeQueues(model) if role == "decode" else ColocatedQueues(model)


class Engine:
    """One scheduler in real time. Its clock counts model seconds: `speed` per real second.

    The end of a batch is fixed when it is launched, so late wake-ups do not add up. With overlap,
    as in SGLang, batch i+1 is chosen while batch i runs, and the loop spends `turn_s` of its
    queues on launching it if it has prompts.
    """

    def __init__(
        self, model: EngineModel, *, speed: float, overlap: bool, noise: float = 0.0, seed: int = 0
    ) -> None:
        self.model = model
        self.role: Role = model.role
        self.queues = queues_for(model.role, model)
        self.record = Record(speed=speed)
        self.on_allocated: Callable[[Request], None] = lambda request: None
        self.on_transfer: Callable[[Request], None] = lambda request: None
        self.on_end: Callable[[Request, float], None] = lambda request, end_s: None
        self.live: dict[str, Request] = {}
        self.speed = speed
        self._overlap = overlap
        self._noise = noise
        self._random = random.Random(seed)
        self._loop = asyncio.get_running_loop()
        self._start_wall = self._loop.time()
        self._wake = asyncio.Event()

    def now_s(self) -> float:
        """Model seconds since this engine was created."""
        return (self._loop.time() - self._start_wall) * self.speed

    def wall_at(self, at_s: float) -> float:
        """Convert a time on the model's clock to the event loop's clock."""
        return self._start_wall + at_s / self.speed

    def unix_s(self, at_s: float) -> float:
        """Convert a time on the model's clock to Unix seconds."""
        return time.time() - self._loop.time() + self.wall_at(at_s)

    @property
    def is_idle(self) -> bool:
        return not self.live and self.queues.is_idle

    def submit(self, request: Request) -> None:
        """Accept a request. Its tokens go to its `on_tokens`."""
        now_s = self.now_s()
        request.arrived_s = request.last_s = now_s
        self.live[request.rid] = request
        at_s = now_s + self.model.times.request_s
        self._loop.call_at(self.wall_at(at_s), self._enqueue, request, at_s)

    def _enqueue(self, request: Request, now_s: float) -> None:
        """Pass the request to the scheduler, after the delay of the engine's other processes."""
        if not request.is_done:
            self.queues.submit(request, now_s)
            self.wake()

    def fail(self, request: Request, status: int, message: str) -> None:
        """Abort a request and tell its client."""
        if request.is_done:
            return
        request.failure = (status, message)
        self.queues.abort(request)
        self.live.pop(request.rid, None)
        self.record.aborted(request)
        if request.on_tokens:
            request.on_tokens(0, "abort")
        self.wake()

    def wake(self) -> None:
        """Wake an idle scheduler after a change."""
        self._wake.set()

    def switch_role(self, role: Role, model: EngineModel) -> None:
        """Restart with empty queues of another role. Allowed only while idle."""
        self.role, self.model = role, model
        self.queues = queues_for(role, model)
        self.wake()

    async def run(self) -> None:
        """Run the scheduler until cancelled."""
        launched: Batch | None = None
        now_s = self.now_s()
        while True:
            batch = self._decide(launched, now_s)
            if batch and not self._overlap:
                launched, batch = batch, None
            open_s = now_s + self.queues.turn_s if batch and batch.parts else now_s
            if launched:
                open_s = max(open_s, launched.end_s)
                await self._until(open_s)
                self._finish(launched, open_s)
                now_s = self._on_time(open_s)
            elif batch is None:
                await self._idle()
                now_s = self.now_s()
            elif open_s > now_s:
                await self._until(open_s)
                self._apply(self.queues.poll(open_s), open_s)
                now_s = self._on_time(open_s)
            launched = batch

    def _on_time(self, due_s: float) -> float:
        """The time at which a step was due, unless this process is too late to catch up."""
        now_s = self.now_s()
        return due_s if now_s - due_s < CATCH_UP_S * self.speed else now_s

    def _decide(self, launched: Batch | None, now_s: float) -> Batch | None:
        decision = self.queues.decide(now_s)
        self._deliver(decision.emissions, now_s)
        for request in decision.allocated:
            self.on_allocated(request)
        batch = decision.batch
        if batch:
            batch.launched_s = now_s
            start_s = now_s + (self.model.times.prefill_start_s if batch.parts else 0.0)
            batch.end_s = max(start_s, launched.end_s if launched else 0.0) + self._vary(batch)
        return batch

    def _vary(self, batch: Batch) -> float:
        if not self._noise:
            return batch.duration_s
        return batch.duration_s * max(0.1, self._random.gauss(1.0, self._noise))

    async def _until(self, end_s: float) -> None:
        await asyncio.sleep(max(0.0, self.wall_at(end_s) - self._loop.time()))

    def _finish(self, batch: Batch, now_s: float) -> None:
        # use the deadline, not the time at which this process woke up
        self._apply(self.queues.finish(batch, now_s), now_s)
        state = self.record.ended(batch, self.queues, batch.end_s)
        if state is not None:
            log(batch_line(batch, state))

    def _apply(self, result: Result, now_s: float) -> None:
        self._deliver(result.emissions, now_s)
        for request in result.transfers:
            self._loop.call_at(self.wall_at(request.transfer_end_s), self.on_transfer, request)

    def _deliver(self, emissions: list[Emission], now_s: float) -> None:
        for emission in emissions:
            request = emission.request
            self.record.tokens(emission, self.role, now_s)
            if emission.reason:
                self.live.pop(request.rid, None)
                self.on_end(request, now_s)
            if request.on_tokens:
                request.on_tokens(emission.tokens, emission.reason)

    async def _idle(self) -> None:
        self._wake.clear()
        self.record.paused()
        at_s = self.queues.wake_s()
        timer = None
        if at_s is not None:
            timer = self._loop.call_at(self.wall_at(at_s), self._wake.set)
        await self._wake.wait()
        if timer:
            timer.cancel()
        self._apply(self.queues.poll(self.now_s()), self.now_s())
