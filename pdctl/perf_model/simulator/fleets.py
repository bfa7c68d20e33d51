"""Colocated and split fleets: the events of a replay, in order of time."""

from bisect import bisect_left
from collections.abc import Sequence
from heapq import heappop, heappush
from random import Random

from pdctl.perf_model.records import Change, EngineModel, Fleet, QueueSample
from pdctl.perf_model.simulator.colocated_engine import ColocatedEngine
from pdctl.perf_model.simulator.decode_engine import DecodeEngine, Void
from pdctl.perf_model.simulator.job import (
    NEVER,
    Agenda,
    Job,
    Shared,
)
from pdctl.perf_model.simulator.prefill_engine import PrefillEngine
from pdctl.perf_model.simulator.ranks import RankedColocatedEngine, RankedPrefillEngine
from pdctl.perf_model.simulator.replay import (
    Clients,
    Router,
    check_finished,
    lost_or_retried,
    play_clients,
    seen_prefixes,
)
from pdctl.perf_model.simulator.routing import Policy, Pool
from pdctl.perf_model.simulator.steps import DecodeCosts


class ColocatedFleet:
    """Colocated engines behind a router; `play` moves the clock."""

    def __init__(
        self,
        fleet: Fleet,
        model: EngineModel,
        *,
        jobs: Sequence[Job | None],
        arrival_s: Sequence[float],
        shared: Shared,
        seed: int,
        clients: Clients | None = None,
    ) -> None:
        self.clients = clients
        count = fleet.num_colocated
        self.jobs, self.arrival_s = jobs, arrival_s
        self.hop_s = fleet.router_hop_s + model.times.request_s
        self.shared, self.columns = shared, shared.columns
        self.failed: set[int] = set()
        self.agenda = Agenda()
        self.pool = Pool(fleet.policy, count, Random(seed))
        self.seen = seen_prefixes(fleet, shared)
        self.router = Router(shared.departures)
        self.router.homes = [(self.pool, place) for place in range(count)]
        self._next = 0
        self._model, self._costs = model, DecodeCosts(model.times)
        self.engines = [self._engine(self.agenda.add()) for _ in range(count)]

    def _engine(self, number: int) -> ColocatedEngine:
        kind = RankedColocatedEngine if self._model.parallelism.dp > 1 else ColocatedEngine
        return kind(number, self._model, self.shared, self._costs)

    def play(self, until: float) -> bool:
        """Let everything before `until` happen; returns whether anything is left to happen."""
        if self.clients is not None:
            return play_clients(self, self.clients, until)
        hop_s, settle = self.hop_s, self.router.settle
        departures, entries = self.router.departures, self.agenda.entries
        first, self._next = self._next, bisect_left(self.arrival_s, until - hop_s, self._next)
        for index in range(first, self._next):
            job = self.jobs[index]
            if job is not None:
                now = self.arrival_s[index] + hop_s
                if entries and entries[0][0] < now:
                    self._advance(now)
                if departures and departures[0][0] <= now:
                    settle(now)
                self.route(job, now)
        self._advance(until)
        return self._next < len(self.jobs) or bool(self.agenda.entries)

    def route(self, job: Job, now: float) -> None:
        """Send a request to an engine, or count it as failed where none is open."""
        seen = self.seen
        place = self.pool.choose(-1 if seen is None else seen.owner(job))
        if place < 0:
            self.failed.add(job.index)
            return
        if seen is not None:
            seen.note(job, place)
        self.pool.loads[place] += 1
        self.agenda.wake(place, self.engines[place].arrive(job, now))

    def _advance(self, until: float) -> None:
        entries, next_s, engines = self.agenda.entries, self.agenda.next_s, self.engines
        while entries and entries[0][0] < until:
            due_s, number = heappop(entries)
            if due_s == next_s[number]:
                next_s[number] = due_s = engines[number].advance(until)
                if due_s < NEVER:
                    heappush(entries, (due_s, number))

    def advance_once(self) -> None:
        """Let the engine that is due first decide once."""
        entries, next_s = self.agenda.entries, self.agenda.next_s
        due_s, number = heappop(entries)
        if due_s == next_s[number]:
            next_s[number] = due_s = self.engines[number].advance_once()
            if due_s < NEVER:
                heappush(entries, (due_s, number))

    def apply(self, change: Change) -> None:
        """Let a change happen, everything before it having happened."""
        now, place = change.at_s, change.place
        self.router.settle(now)
        if change.kind == "recover":
            self.pool.open(place)
        elif change.kind == "drain":
            self.pool.close(place)
        elif change.kind == "fail":
            self._fail(place, now)

    def _fail(self, place: int, now: float) -> None:
        held = self.engines[place].jobs_after(now)
        busy_s = self.engines[place].busy_s
        self.router.forget(place)
        self.agenda.next_s[place] = NEVER
        self.engines = list(self.engines)
        self.engines[place] = self._engine(place)
        self.engines[place].busy_s = busy_s
        lost, retried = lost_or_retried(held, self.columns, now)
        self.failed.update(job.index for job in lost)
        for job in retried:
            self.route(job, now)

    def sample(self, at_s: float) -> QueueSample:
        """Requests in each waiting place now."""
        engines = self.engines
        return QueueSample(
            at_s,
            waiting=sum(len(e.waiting) for e in engines),
            running=sum(len(e.decoding.running) + len(e.joining) for e in engines),
        )

    def check(self) -> None:
        """Raise SimulationBroken unless every request and every KV token came out again."""
        check_finished(self.jobs, self.columns, self.failed)
        for engine in self.engines:
            engine.check_empty()

    def kv_usage_peak(self) -> dict[str, float]:
        """The fullest that KV caches were, by role, 0..1."""
        return {"colocated": max(e.kv.peak / e.kv.capacity for e in self.engines)}

    def busy_s(self) -> dict[str, float]:
        """Seconds in steps, by engine."""
        return {f"colocated-{e.number}": e.busy_s for e in self.engines}


VOID = 0  # a decoder's place


class SplitFleet:
    """Prefill and decode engines behind a router; `play` moves the clock.

    by_number: all engines; prefillers and decoders: by their places. Place 0 of the decoders is
    the void: it takes the KV of requests whose decode engine has failed.
    """

    def __init__(
        self,
        fleet: Fleet,
        prefill: EngineModel,
        decode: EngineModel,
        *,
        jobs: Sequence[Job | None],
        arrival_s: Sequence[float],
        shared: Shared,
        seed: int,
        clients: Clients | None = None,
    ) -> None:
        self.clients = clients
        self.jobs, self.arrival_s = jobs, arrival_s
        self.hop_s = fleet.router_hop_s + max(prefill.times.request_s, decode.times.request_s)
        self.prefill, self.decode = prefill, decode
        self.shared, self.columns = shared, shared.columns
        self.failed: set[int] = set()
        self.agenda = Agenda()
        self.router = Router(shared.departures)
        rng = Random(seed)
        policy: Policy = "random" if fleet.policy == "cache_aware" else fleet.policy
        self.prefill_pool = Pool(policy, 0, rng)
        self.decode_pool = Pool(policy, 0, rng)
        self.by_number: list[DecodeEngine | PrefillEngine] = []
        self.prefillers: list[PrefillEngine] = []
        self.decoders: list[DecodeEngine] = []
        self._costs = DecodeCosts(decode.times)
        self._next = 0
        self.decoders.append(self._decoder(self.agenda.add(), Void))
        self.by_number.append(self.decoders[0])
        self.router.homes.append((self.decode_pool, self.decode_pool.add()))
        for _ in range(fleet.num_decode):
            self.decode_pool.open(self._add_decoder())
        for _ in range(fleet.num_prefill):
            self.prefill_pool.open(self._add_prefiller())

    def _add_decoder(self) -> int:
        self.decoders.append(self._decoder(self.agenda.add()))
        self.by_number.append(self.decoders[-1])
        place = self.decode_pool.add()
        self.router.homes.append((self.decode_pool, place))
        return place

    def _add_prefiller(self) -> int:
        self.prefillers.append(self._prefiller(self.agenda.add()))
        self.by_number.append(self.prefillers[-1])
        place = self.prefill_pool.add()
        self.router.homes.append((self.prefill_pool, place))
        return place

    def _decoder(self, number: int, kind: type[DecodeEngine] = DecodeEngine) -> DecodeEngine:
        return kind(
            number,
            self.decode,
            self.shared,
            costs=self._costs,
            prefillers=self.prefillers,
            agenda=self.agenda,
        )

    def _prefiller(self, number: int) -> PrefillEngine:
        kind = RankedPrefillEngine if self.prefill.parallelism.dp > 1 else PrefillEngine
        return kind(number, self.prefill, self.shared, decoders=self.decoders, agenda=self.agenda)

    def play(self, until: float) -> bool:
        """Let everything before `until` happen; returns whether anything is left to happen."""
        if self.clients is not None:
            return play_clients(self, self.clients, until)
        hop_s, router, departures = self.hop_s, self.router, self.router.departures
        entries = self.agenda.entries
        first, self._next = self._next, bisect_left(self.arrival_s, until - hop_s, self._next)
        for index in range(first, self._next):
            job = self.jobs[index]
            if job is not None:
                now = self.arrival_s[index] + hop_s
                if entries and entries[0][0] < now:
                    self._advance(now)
                if router.draining:
                    self._flush_draining(now)
                if router.openings or (departures and departures[0][0] <= now):
                    router.settle(now)
                self.route(job, now)
        self._advance(until)
        return self._next < len(self.jobs) or bool(self.agenda.entries)

    def route(self, job: Job, now: float) -> None:
        """Send a request to an engine, or count it as failed where none is open."""
        job.prefill = prefill = self.prefill_pool.choose(-1)
        job.decode = decode = self.decode_pool.choose(-1)
        if prefill < 0 or decode < 0:
            self.failed.add(job.index)
            return
        self.prefill_pool.loads[prefill] += 1
        self.decode_pool.loads[decode] += 1
        self.decoders[decode].arrive(job, now)

    def _advance(self, until: float) -> None:
        """Let engines decide in time order up to `until`."""
        entries, next_s, by_number = self.agenda.entries, self.agenda.next_s, self.by_number
        while entries and entries[0][0] < until:
            now, number = heappop(entries)
            if now == next_s[number]:
                next_s[number] = NEVER
                due_s = by_number[number].decide(now)
                if due_s < next_s[number]:
                    next_s[number] = due_s
                    heappush(entries, (due_s, number))

    def advance_once(self) -> None:
        """Let the engine that is due first decide once."""
        entries, next_s = self.agenda.entries, self.agenda.next_s
        now, number = heappop(entries)
        if now == next_s[number]:
            next_s[number] = NEVER
            due_s = self.by_number[number].decide(now)
            if due_s < next_s[number]:
                next_s[number] = due_s
                heappush(entries, (due_s, number))

    def apply(self, change: Change) -> None:
        """Let a change happen, everything before it having happened."""
        now, of_prefill = change.at_s, change.role == "prefill"
        place = change.place if of_prefill else change.place + 1
        pool = self.prefill_pool if of_prefill else self.decode_pool
        engine = self.prefillers[place] if of_prefill else self.decoders[place]
        self.router.settle(now)
        if change.kind == "recover":
            pool.open(place)
        elif change.kind == "drain":
            pool.close(place)
        elif change.kind == "fail" and of_prefill:
            self._fail_prefiller(place, now)
        elif change.kind == "fail":
            self._fail_decoder(place, now)
        elif change.kind == "to_prefill" and not of_prefill:
            successor = (self.prefill_pool, self._add_prefiller(), change.takes_s)
            self.router.drain(engine.number, successor, now)
        elif change.kind == "to_decode" and of_prefill:
            successor = (self.decode_pool, self._add_decoder(), change.takes_s)
            self.router.drain(engine.number, successor, now)

    def _flush_draining(self, now: float) -> None:
        """Let draining prefill engines answer for their last transfers: nothing else wakes them."""
        for prefiller in self.prefillers:
            if prefiller.number in self.router.draining:
                prefiller.reply_while_idle(now)

    def _fail_prefiller(self, place: int, now: float) -> None:
        gone = self.prefillers[place]
        gone.flush(now)
        held = gone.jobs_after(now)
        for decoder in self.decoders:
            held.extend(job for job in decoder.prealloc if job.prefill == place)
        for job in held:
            self.decoders[job.decode].give_up(job, now)
            self.decode_pool.loads[job.decode] -= 1
        self.prefillers[place] = fresh = self._prefiller(gone.number)
        self._replace(gone, fresh, held, now)

    def _fail_decoder(self, place: int, now: float) -> None:
        gone = self.decoders[place]
        held = {job.index: job for job in gone.jobs_after(now)}
        for prefiller in self.prefillers:
            for job in prefiller.jobs_after(now):
                if job.decode == place:
                    held[job.index] = job
        self.decoders[place] = fresh = self._decoder(gone.number)
        for job in held.values():
            if self.prefillers[job.prefill].give_up(job, VOID) or job in gone.prealloc:
                self.prefill_pool.loads[job.prefill] -= 1
        self._replace(gone, fresh, list(held.values()), now)

    def _replace(
        self,
        gone: DecodeEngine | PrefillEngine,
        fresh: DecodeEngine | PrefillEngine,
        held: Sequence[Job],
        now: float,
    ) -> None:
        fresh.busy_s = gone.busy_s
        self.by_number[gone.number] = fresh
        self.agenda.next_s[gone.number] = NEVER
        self.router.forget(gone.number)
        lost, retried = lost_or_retried(held, self.columns, now)
        self.failed.update(job.index for job in lost)
        for job in retried:
            self.route(job, now)

    def sample(self, at_s: float) -> QueueSample:
        """Requests in each waiting place now, as SGLang's queues count them.

        A prompt between two of its chunks is in none of them.
        """
        prefillers, decoders = self.prefillers, self.decoders
        prealloc = sum(len(d.prealloc) for d in decoders)
        running = sum(len(d.decoding.running) for d in decoders)
        waiting = sum(len(d.waiting) for d in decoders)
        leaving = sum(len(finished) for d in decoders for _, finished in d.results)
        return QueueSample(
            at_s,
            waiting=sum(len(p.waiting) for p in prefillers),
            running=running + waiting,
            bootstrap=prealloc + sum(len(p.boot) for p in prefillers),
            inflight=sum(p.num_inflight(at_s) for p in prefillers),
            prealloc=prealloc,
            transfer=sum(d.room.held for d in decoders) - running - waiting - leaving,
        )

    def check(self) -> None:
        """Raise SimulationBroken unless every request and every KV token came out again."""
        check_finished(self.jobs, self.columns, self.failed)
        for prefiller in self.prefillers:
            prefiller.flush()
            prefiller.check_empty()
        for decoder in self.decoders[1:]:
            decoder.check_empty()

    def kv_usage_peak(self) -> dict[str, float]:
        """The fullest that KV caches were, by role, 0..1."""
        return {
            "prefill": max(p.kv.peak / p.kv.capacity for p in self.prefillers),
            "decode": max(d.kv.peak / d.kv.capacity for d in self.decoders),
        }

    def busy_s(self) -> dict[str, float]:
        """Seconds in steps, by engine."""
        named = {f"prefill-{i}": p.busy_s for i, p in enumerate(self.prefillers)}
        named.update((f"decode-{i}", d.busy_s) for i, d in enumerate(self.decoders[1:]))
        return named
