"""The KV hand-over of one engine's requests: who is told what, and when to give up."""

import asyncio

from pdctl.engines.sim.engine import Engine
from pdctl.engines.sim.intake import Taken
from pdctl.engines.sim.partners import Partners, Registry
from pdctl.engines.sim.requests import Request


class Handover:
    """Between an engine's scheduler and its partners. Colocated engines and probes pass through."""

    def __init__(
        self, engine: Engine, registry: Registry | None, kv_bytes_per_token: float
    ) -> None:
        self.engine = engine
        self.registry = registry
        self.partners = Partners(engine)
        self._kv_bytes_per_token = kv_bytes_per_token
        engine.on_allocated = self._allocated
        engine.on_transfer = self._transferred

    def expect(self, taken: Taken) -> None:
        """A request has come in; look out for its partner."""
        request, role = taken.request, self.engine.role
        if request.fake or request.room is None:
            return
        if role == "prefill" and self.registry is not None:
            self.registry.expect(request)
        elif role == "decode" and taken.bootstrap is not None:
            self.partners.expect(request, taken.bootstrap)

    def drop(self, request: Request, status: int, message: str) -> None:
        """Give a request up, on both sides."""
        if self.registry is not None and self.engine.role == "prefill" and not request.is_done:
            self.registry.arrived(request, failed=True)
        self.engine.fail(request, status, message)

    async def expire(self, after_s: float) -> None:
        """Give up requests whose partner has not come, as SGLang's KVPoll timeouts do."""
        record = self.engine.record
        while True:
            await asyncio.sleep(min(1.0, after_s / 10) / self.engine.speed)
            for request in list(self.engine.live.values()):
                state = self._overdue(request, after_s)
                if state is None:
                    continue
                record.num_bootstrap_failed += state == "Bootstrapping"
                record.num_transfer_failed += state == "WaitingForInput"
                text = f"timed out after {after_s:.1f}s in KVPoll.{state}"
                self.drop(request, 500, f"Request {request.rid} {text}")

    def _overdue(self, request: Request, after_s: float) -> str | None:
        """The state of its hand-over in which a request has been too long."""
        now_s = self.engine.now_s()
        if request.room is None or request.out:
            return None
        since_s = max(request.queued_s, request.arrived_s)  # the queue has not seen a new one yet
        if not request.is_ready:
            return "Bootstrapping" if now_s - since_s > after_s else None
        is_waiting = self.engine.role == "decode" and request.own_tokens
        if not is_waiting or request.is_transferred:
            return None
        late_s = now_s - since_s - request.waited_s
        return "WaitingForInput" if late_s > after_s else None

    def _allocated(self, request: Request) -> None:
        if not request.fake:
            self.partners.take(request)

    def _transferred(self, request: Request) -> None:
        if request.fake:
            return
        if self.registry is not None:
            self.registry.arrived(request)
        seconds = request.transfer_end_s - request.transfer_start_s
        self.engine.record.transferred(seconds, request.prompt_tokens * self._kv_bytes_per_token)
