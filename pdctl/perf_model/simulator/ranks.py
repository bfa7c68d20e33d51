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


def _seconds(model: EngineModel, batch: list[tuple[Job, int]]) -> float:
    """The time of a step."""
    dp, count = model.parallelism.dp, pairs_of(model.times)
    tokens, pairs = [0] * dp, [0.0] * dp
    all_tokens, most_tokens, most_pairs = 0, 0, 0.0
    for job, new in batch:
        rank = job.rank
        all_tokens += new
        tokens[rank] = of_rank = tokens[rank] + new
        pairs[rank] = pairs_of_rank = pairs[rank] + count(new, job.done)
        if of_rank > most_tokens:
            most_tokens = of_rank
        if pairs_of_rank > most_pairs:
            most_pairs = pairs_of_rank
    return ranked_prefill_s(model.times, dp, all_tokens, most_tokens, most_pairs)


def _slots(model: EngineModel) -> int:
    """Requests that a rank may run at once."""
    return max(1, model.max_running_requests // model.parallelism.dp)


def _with_partials(jobs: list[Job], ranks: Ranks[Job]) -> list[Job]:
    """The requests of an engine, which knows one unfinished prompt, and those of all its ranks."""
    held = {job.index: job for job in jobs}
    held.update((job.index, job) for job in ranks.partials if job is not None)
    return list(held.values())


class RankedPrefillEngine(PrefillEngine):
    """A prefill engine with attention-DP."""

    __slots__ = ("_ranks", "_seconds", "_slots")

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
        self._slots = _slots(model)
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
        room = (free / ranks.dp, 0.0, self._slots)
        batch, _ = ranks.admit(
            self.waiting, free, lambda _: room, kv.claim, kv.unclaim, is_crowded=False
        )
        self.partial = ranks.partial()
        if batch:
            self._seconds = _seconds(self.model, batch)
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

    def __init__(self, costs: DecodeCosts, accept_length: float, dp: int) -> None:
        super().__init__(costs, accept_length)
        self.num: list[int] = [0] * dp
        self._before: list[float] = [0.0] * dp

    def held(self, rank: int) -> float:
        """KV tokens of the running requests of a rank."""
        return self._before[rank] + self.num[rank] * (self.steps * self.gain)

    def join(self, jobs: Sequence[Job]) -> None:
        super().join(jobs)
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

    __slots__ = ("_owed", "_ranks", "_run", "_seconds", "_with_prompts")

    def __init__(self, number: int, model: EngineModel, shared: Shared, costs: DecodeCosts) -> None:
        super().__init__(number, model, shared, costs)
        self._ranks: Ranks[Job] = Ranks.of(model)
        self._run = _RankedRun(costs, model.accept_length, self._ranks.dp)
        self.decoding = self._run
        self._with_prompts: set[int] = set()  # ranks that have prompts in the step
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
        for partial in ranks.partials:
            if partial is not None:
                kv.publish_part(partial)
        each, most = kv.capacity / ranks.dp, _slots(self.model)
        promised = CONSERVATIVENESS * decoding.promised() / max(1, len(decoding.running))

        def room_of(rank: int) -> tuple[float, float, int]:
            partial, num = ranks.partials[rank], decoding.num[rank]
            begun = 0 if partial is None else partial.done
            return each - (decoding.held(rank) + begun), promised * num, most - num

        free = kv.capacity - kv.private - kv.locked
        is_crowded = len(decoding.running) >= most
        batch, full = ranks.admit(
            self.waiting, free, room_of, kv.claim, kv.unclaim, is_crowded=is_crowded
        )
        self.partial = ranks.partial()
        if batch:
            self._seconds = _seconds(self.model, batch)
            self._with_prompts = {job.rank for job, _ in batch}
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
        self._owed += (num - sum([self._run.num[rank] for rank in self._with_prompts])) / num
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
