"""The replay of a fleet of colocated engines."""

from bisect import bisect_left
from collections.abc import Sequence
from heapq import heappop, heappush
from random import Random

from pdctl.perf_model.colocated import ColocatedEngine
from pdctl.perf_model.events import NEVER, Agenda
from pdctl.perf_model.fleet_run import Router, check_finished, lost_or_retried, seen_prefixes
from pdctl.perf_model.jobs import Job, Shared
from pdctl.perf_model.records import Change, EngineModel, Fleet, QueueSample
from pdctl.perf_model.routing import Pool
from pdctl.perf_model.step_costs import DecodeCosts


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
    ) -> None:
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
                self._route(job, now)
        self._advance(until)
        return self._next < len(self.jobs) or bool(self.agenda.entries)

    def _route(self, job: Job, now: float) -> None:
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
            self._route(job, now)

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
