"""Engines with attention-DP: each rank admits its own prompts, and all ranks step together.

A request lives on one rank, which has 1/dp of the engine's chunk, slots and KV. A step takes as
long as its busiest rank; ranks without a prompt give their running requests a token meanwhile.
Source: SGLang's handle_data_parallelism and prepare_mlp_sync_batch. Ignores: prefix caches, which
each rank has for itself; retraction on one rank while others have room.
"""

from collections.abc import Callable, Iterable, Sequence

from pdctl.perf_model.records import EngineModel
from pdctl.perf_model.simulator.colocated_engine import ColocatedEngine
from pdctl.perf_model.simulator.decode_batch import DecodeRun
from pdctl.perf_model.simulator.decode_engine import DecodeEngine
from pdctl.perf_model.simulator.job import Agenda, Job, Shared
from pdctl.perf_model.simulator.prefill_engine import PrefillEngine
from pdctl.perf_model.simulator.scheduling import CONSERVATIVENESS, Ranks
from pdctl.perf_model.simulator.steps import (
    DecodeCosts,
    pairs_of,
    ranked_prefill_s,
    rows_beside_s,
)


def _seconds(model: EngineModel, batch: list[tuple[Job, int]]) -> tuple[float, list[int]]:
    """The time of a step, and the prompt tokens of each rank in it."""
    dp = model.parallelism.dp
    tokens, pairs = [0] * dp, [0.0] * dp
    count = pairs_of(model.times)
    for job, new in batch:
        tokens[job.rank] += new
        pairs[job.rank] += count(new, job.done)
    return ranked_prefill_s(model.times, tokens, pairs), tokens


def _with_partials(jobs: list[Job], ranks: Ranks[Job]) -> list[Job]:
    """The requests of an engine, which knows one unfinished prompt, and those of all its ranks."""
    held = {job.index: job for job in jobs}
    held.update((job.index, job) for job in ranks.partials if job is not None)
    return list(held.values())


class RankedPrefillEngine(PrefillEngine):
    """A prefill engine with attention-DP."""

    __slots__ = ("_ranks", "_seconds")

    def __init__(
        self,
        number: int,
        model: EngineModel,
        shared: Shared,
        *,
        decoders: Sequence[DecodeEngine],
        agenda: Agenda,
    ) -> None:
        super().__init__(number, model, shared, decoders=decoders, agenda=agenda)
        self._ranks: Ranks[Job] = Ranks.of(model)
        self._seconds = 0.0

    def ready(self, job: Job, at_s: float) -> None:
        """The decode engine has room for `job` and says so at `at_s`."""
        self._ranks.take(job)
        super().ready(job, at_s)

    def give_up(self, job: Job, sink: int) -> bool:
        """As PrefillEngine's; a request that is dropped loads its rank no more."""
        dropped = super().give_up(job, sink)
        if dropped:
            self._ranks.forget(job)
        return dropped

    def jobs_after(self, now: float) -> list[Job]:
        """The requests whose KV has not all left this engine at `now`."""
        return _with_partials(super().jobs_after(now), self._ranks)

    def _admit(self) -> list[tuple[Job, int]]:
        kv, ranks = self.kv, self._ranks
        for partial in ranks.partials:
            if partial is not None:
                kv.publish_part(partial)
        free = kv.capacity - kv.private - kv.locked
        slots = max(1, self.model.max_running_requests // ranks.dp)
        rooms = [(free / ranks.dp, 0.0, slots)] * ranks.dp
        batch, _ = ranks.admit(self.waiting, free, rooms, kv.claim, kv.unclaim)
        self.partial = ranks.partial()
        if batch:
            self._seconds, _ = _seconds(self.model, batch)
        return batch

    def _deliver(self, now: float, chunks: list[tuple[Job, int, bool]]) -> None:
        super()._deliver(now, chunks)
        for job, _, last in chunks:
            if last:
                self._ranks.forget(job)

    def _step_s(self, new: int, pairs: float) -> float:
        return self._seconds


class _RankedRun(DecodeRun):
    """A decode batch that knows how many requests each rank runs, and how many tokens they hold.

    _before: those tokens, less what all running requests made since step 0.
    """

    __slots__ = ("_before", "num")

    def __init__(
        self, costs: DecodeCosts, accept_length: float, gaps: dict[int, float], dp: int
    ) -> None:
        super().__init__(costs, accept_length, gaps)
        self.num: list[int] = [0] * dp
        self._before: list[float] = [0.0] * dp

    def held(self) -> list[float]:
        """KV tokens of the running requests of each rank."""
        made = self.steps * self.gain
        return [tokens + num * made for tokens, num in zip(self._before, self.num, strict=True)]

    def join(self, jobs: Sequence[Job], token_s: float) -> None:
        super().join(jobs, token_s)
        self._count(jobs, 1)

    def settle(self) -> list[Job]:
        finished = super().settle()
        self._count(finished, -1)
        return finished

    def retract(
        self, is_short: Callable[[int], bool], give_back: Callable[[Job, int], None]
    ) -> list[Job]:
        victims = super().retract(is_short, give_back)
        self._count(victims, -1)
        return victims

    def _count(self, jobs: Iterable[Job], sign: int) -> None:
        for job in jobs:
            self.num[job.rank] += sign
            self._before[job.rank] += sign * (job.prompt - job.joined_step * self.gain)


class RankedColocatedEngine(ColocatedEngine):
    """A colocated engine with attention-DP.

    _owed: tokens that requests on ranks without prompts had meanwhile, as a share of all running
    ones; at 1 all of them have one.
    """

    __slots__ = ("_owed", "_ranks", "_run", "_seconds", "_spread")

    def __init__(self, number: int, model: EngineModel, shared: Shared, costs: DecodeCosts) -> None:
        super().__init__(number, model, shared, costs)
        self._ranks: Ranks[Job] = Ranks.of(model)
        self._run = _RankedRun(costs, model.accept_length, shared.gaps, self._ranks.dp)
        self.decoding = self._run
        self._spread: list[int] = [0] * self._ranks.dp  # prompt tokens of each rank in a step
        self._owed = 0.0
        self._seconds = 0.0

    def arrive(self, job: Job, now: float) -> float:
        """Queue a request; returns when the engine decides next."""
        self._ranks.take(job)
        return super().arrive(job, now)

    def jobs_after(self, now: float) -> list[Job]:
        """The requests this engine has at `now`, those whose last token comes later included."""
        return _with_partials(super().jobs_after(now), self._ranks)

    def _admit(self) -> list[tuple[Job, int]]:
        kv, ranks, decoding = self.kv, self._ranks, self._run
        dp, running, held = ranks.dp, decoding.num, decoding.held()
        for partial in ranks.partials:
            if partial is not None:
                held[partial.rank] += partial.done
                kv.publish_part(partial)
        each, most = kv.capacity / dp, max(1, self.model.max_running_requests // dp)
        promised = CONSERVATIVENESS * decoding.promised() / max(1, len(decoding.running))
        rooms = [
            (each - tokens, promised * num, most - num)
            for tokens, num in zip(held, running, strict=True)
        ]
        free = kv.capacity - kv.private - kv.locked
        batch, full = ranks.admit(self.waiting, free, rooms, kv.claim, kv.unclaim)
        self.partial = ranks.partial()
        if batch:
            self._seconds, self._spread = _seconds(self.model, batch)
        if full and (batch or decoding.running):
            self.full = True
        return batch

    def _finish(self, end_s: float, finished: list[Job]) -> None:
        super()._finish(end_s, finished)
        for job in finished:
            self._ranks.forget(job)

    def _decodes_beside(self) -> bool:
        num = len(self.decoding.running)
        if not num:
            return False
        beside = sum([n for n, new in zip(self._run.num, self._spread, strict=True) if not new])
        self._owed += beside / num
        if self._owed < 1:
            return self.mixed
        self._owed -= 1
        return True

    def _step_s(self, new: int, pairs: float) -> float:
        return self._seconds

    def _mixed_s(self, new: int, pairs: float, batch: int, context: float) -> float:
        return self._seconds + rows_beside_s(self.model.times, batch, context)

    def _launch_whole_chunks(self, partial: Job) -> None:
        """Every step of its ranks needs a decision."""
