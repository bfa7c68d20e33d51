"""Who may have KV on a decode engine: what is held, what is reserved, when there is room."""

from pdctl.perf_model.decode_run import DecodeRun
from pdctl.perf_model.events import NEVER
from pdctl.perf_model.jobs import Job
from pdctl.perf_model.kv_pool import KvPool
from pdctl.perf_model.records import EngineModel
from pdctl.perf_model.scheduling import (
    decode_slots,
    prealloc_need,
    prealloc_room,
    steps_until_prealloc,
)


class DecodeRoom:
    """KV and slots of one decode engine. held: requests in transfer, waiting or running."""

    __slots__ = ("_decoding", "_largest", "_reserved", "_slots", "held", "kv")

    def __init__(self, model: EngineModel, decoding: DecodeRun) -> None:
        self.kv = KvPool(model.kv_capacity_tokens, None)
        self.held = 0
        self._decoding = decoding
        self._slots = decode_slots(model.max_running_requests)
        self._reserved = model.reserved_decode_tokens
        self._largest = 0  # prompt plus output of the largest request so far

    def has_room(self, job: Job, grown: float) -> bool:
        """Whether a request may be preallocated once running ones have `grown` by these tokens."""
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
        """Whether a retracted request may come back."""
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
