"""What the replay of any fleet needs: requests as jobs, clients, the router's books, retries."""

from bisect import bisect_left
from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from itertools import count
from random import Random
from typing import Protocol

from pdctl.perf_model.records import Change, EngineModel, Fleet, QueueSample
from pdctl.perf_model.simulator.colocated_engine import ColocatedEngine
from pdctl.perf_model.simulator.decode_engine import DecodeEngine, Void
from pdctl.perf_model.simulator.job import (
    NEVER,
    NOT_YET,
    Agenda,
    Columns,
    Job,
    Shared,
    SimulationBroken,
)
from pdctl.perf_model.simulator.kv import Prefixes
from pdctl.perf_model.simulator.prefill_engine import PrefillEngine
from pdctl.perf_model.simulator.routing import Policy, Pool, SeenPrefixes
from pdctl.perf_model.steps import DecodeCosts
from pdctl.workload.records import Requests


class Router:
    """Who has how many requests. departures: heap of (time, engine number) when one is done.

    homes: per engine number its pool and its place there; draining: engine number -> the pool and
    place to open, and how long after, once the engine has nothing left; openings: (time, pool,
    place) of engines that take requests from then on.
    """

    __slots__ = ("openings", "departures", "draining", "homes")

    def __init__(self, departures: list[tuple[float, int]]) -> None:
        self.departures = departures
        self.homes: list[tuple[Pool, int]] = []
        self.draining: dict[int, tuple[Pool, int, float]] = {}
        self.openings: list[tuple[float, Pool, int]] = []

    def settle(self, now: float) -> None:
        """Take in what has been done by `now`."""
        departures, homes = self.departures, self.homes
        while departures and departures[0][0] <= now:
            at_s, number = heappop(departures)
            pool, place = homes[number]
            pool.loads[place] -= 1
            if self.draining and not pool.loads[place]:
                self._drained(number, at_s)
        if self.openings:
            self._open(now)

    def drain(self, number: int, successor: tuple[Pool, int, float], now: float) -> None:
        """Send an engine no more; when it is empty let its successor take requests."""
        pool, place = self.homes[number]
        pool.close(place)
        self.draining[number] = successor
        if not pool.loads[place]:
            self._drained(number, now)
        self._open(now)

    def forget(self, number: int) -> None:
        """An engine is gone, with all it had."""
        self.departures[:] = [entry for entry in self.departures if entry[1] != number]
        heapify(self.departures)
        pool, place = self.homes[number]
        pool.close(place)
        pool.loads[place] = 0

    def _drained(self, number: int, at_s: float) -> None:
        if number in self.draining:
            pool, place, takes_s = self.draining.pop(number)
            self.openings.append((at_s + takes_s, pool, place))

    def _open(self, now: float) -> None:
        for opening in list(self.openings):
            if opening[0] <= now:
                opening[1].open(opening[2])
                self.openings.remove(opening)


class Clients:
    """Clients in a closed loop: each sends its next request when its last answer ends.

    They share one list of requests and take them in order, all clients one each at time 0.
    idle: heap of (time, request) when a client has its answer, request -1 before its first;
    arrival_s: when each request was sent, filled in as the clients send.
    """

    __slots__ = ("arrival_s", "idle", "sent")

    def __init__(self, num_clients: int, num_requests: int, idle: list[tuple[float, int]]) -> None:
        idle.extend([(0.0, -1)] * num_clients)
        self.idle = idle
        self.arrival_s = [0.0] * num_requests
        self.sent = 0

    @property
    def next_s(self) -> float:
        """When the next request is sent, as far as is known."""
        return self.idle[0][0] if self.idle and self.sent < len(self.arrival_s) else NEVER

    def send(self) -> int:
        """Let the client that has waited longest send; returns its request."""
        index = self.sent
        self.arrival_s[index] = heappop(self.idle)[0]
        self.sent = index + 1
        return index

    def refused(self, index: int) -> None:
        """The request was too long for the engines, and its client learns so at once."""
        heappush(self.idle, (self.arrival_s[index], index))


class ClosedRun(Protocol):
    """The parts of a fleet's replay that clients drive."""

    jobs: Sequence[Job | None]
    hop_s: float
    agenda: Agenda
    router: Router

    def route(self, job: Job, now: float) -> None:
        """Send a request to an engine."""

    def advance_once(self) -> None:
        """Let the engine that is due first decide once."""


def play_clients(run: ClosedRun, clients: Clients, until: float) -> bool:
    """Let everything before `until` happen, one decision at a time; returns whether more is left.

    An engine never decides past the time at which a client may send, because a decision at t tells
    only of answers that end at t or later.
    """
    entries, jobs, hop_s, router = run.agenda.entries, run.jobs, run.hop_s, run.router
    while True:
        due_s = entries[0][0] if entries else NEVER
        now = clients.next_s + hop_s
        if now <= due_s and now < until:
            index = clients.send()
            job = jobs[index]
            if job is None:
                clients.refused(index)
                continue
            router.settle(now)
            run.route(job, now)
        elif due_s < until:
            run.advance_once()
        else:
            return now < NEVER or due_s < NEVER


def seen_prefixes(fleet: Fleet, shared: Shared) -> SeenPrefixes | None:
    """The router's prefix tree where its policy has one and prompts have known blocks."""
    if fleet.policy != "cache_aware" or shared.segment_tokens is None:
        return None
    return SeenPrefixes(shared.segment_tokens)


def make_jobs(
    requests: Requests, prefixes: Prefixes | None, models: Sequence[EngineModel]
) -> list[Job | None]:
    """A job per request; None where its prompt is too long for one of the engines.

    Output beyond the limit is cut, as SGLang does. Source: SGLang's init_req_max_new_tokens.
    """
    longest = min(_longest(model) for model in models)
    paths = prefixes.paths if prefixes else [()] * len(requests)
    columns = zip(count(), requests.isl, requests.osl, paths)  # noqa: B905  # count is endless
    return [
        Job(index, isl, osl, path)
        if 0 < osl <= longest - isl
        else (Job(index, isl, max(min(osl, longest - isl), 1), path) if isl < longest else None)
        for index, isl, osl, path in columns
    ]


def _longest(model: EngineModel) -> int:
    """Tokens that prompt and output may come to: SGLang's max_req_len less one."""
    longest = min(model.max_context, model.kv_capacity_tokens) - 2
    if model.role == "decode":
        longest = min(longest, model.kv_capacity_tokens - model.reserved_decode_tokens)
    return longest


def renewed(job: Job) -> Job:
    """The same request from the start, for another engine."""
    return Job(job.index, job.isl, job.osl, job.path)


def lost_or_retried(
    jobs: Sequence[Job], columns: Columns, now: float
) -> tuple[list[Job], list[Job]]:
    """Of an engine's requests when it fails: those whose client already reads, and the others."""
    lost, retried = [], []
    for job in sorted(jobs, key=lambda job: job.index):
        index = job.index
        if 0 <= columns.first_s[index] <= now:
            lost.append(job)
        else:
            retried.append(renewed(job))
        columns.first_s[index] = columns.last_s[index] = columns.reply_s[index] = NOT_YET
    return lost, retried


def check_finished(jobs: Sequence[Job | None], columns: Columns, failed: set[int]) -> None:
    """Raise SimulationBroken if a request that was let in never came out."""
    for job, last_s in zip(jobs, columns.last_s, strict=True):
        if last_s < 0 and job is not None and job.index not in failed:
            raise SimulationBroken(f"request {job.index} never finished")


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
        return ColocatedEngine(number, self._model, self.shared, self._costs)

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
            waiting=sum(len(e.waiting) + (e.partial is not None) for e in engines),
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
        return PrefillEngine(
            number, self.prefill, self.shared, decoders=self.decoders, agenda=self.agenda
        )

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
        """Requests in each waiting place now."""
        prefillers, decoders = self.prefillers, self.decoders
        prealloc = sum(len(d.prealloc) for d in decoders)
        running = sum(len(d.decoding.running) for d in decoders)
        waiting = sum(len(d.waiting) for d in decoders)
        leaving = sum(len(finished) for d in decoders for _, finished in d.results)
        return QueueSample(
            at_s,
            waiting=sum(len(p.waiting) + (p.partial is not None) for p in prefillers),
            running=running + waiting,
            bootstrap=prealloc + sum(len(p.boot) for p in prefillers),
            inflight=sum(sum(e[0] > at_s for e in p.inflight) for p in prefillers),
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
