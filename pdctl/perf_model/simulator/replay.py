"""Parts of a replay that both kinds of fleet need: jobs, the router's books, clients, misses."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Protocol

from pdctl.perf_model.records import EngineModel, Fleet
from pdctl.perf_model.simulator.job import (
    NEVER,
    NOT_YET,
    Agenda,
    Job,
    Shared,
    SimulationBroken,
    TokenTimes,
)
from pdctl.perf_model.simulator.kv import Prefixes
from pdctl.perf_model.simulator.routing import Pool, SeenPrefixes
from pdctl.workload.records import Requests, longest_request


class Router:
    """Requests in flight by engine. departures: heap of (time, engine number) when one is done.

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
    arrival_s: when each request was sent, filled in as the clients send. pauses_s: how long each
    request takes to be sent after the answer before it; one follows another.
    """

    __slots__ = ("arrival_s", "idle", "pauses_s", "sent")

    def __init__(
        self,
        num_clients: int,
        num_requests: int,
        idle: list[tuple[float, int]],
        pauses_s: Sequence[float] = (),
    ) -> None:
        idle.extend([(0.0, -1)] * num_clients)
        self.idle = idle
        self.arrival_s = [0.0] * num_requests
        self.pauses_s = pauses_s
        self.sent = 0

    @property
    def next_s(self) -> float:
        """The time at which the next request is sent, as far as is known."""
        if not self.idle or self.sent >= len(self.arrival_s):
            return NEVER
        index, at_s = self.sent, self.idle[0][0]
        if not self.pauses_s:
            return at_s
        last_s = self.arrival_s[index - 1] if index else 0.0
        return max(at_s + self.pauses_s[index], last_s)

    def send(self) -> int:
        """Let the client that has waited longest send; returns its request."""
        index = self.sent
        self.arrival_s[index] = self.next_s
        heappop(self.idle)
        self.sent = index + 1
        return index

    def refused(self, index: int) -> None:
        """The request was too long for the engines, and its client learns so at once."""
        heappush(self.idle, (self.arrival_s[index], index))


@dataclass(frozen=True)
class Quota:
    """The number of requests that may miss their service levels before a replay is given up.

    first, last: the requests that count, first <= place < last in arrival order.
    """

    ttft_s: float | None
    tpot_s: float | None
    first: int
    last: int
    most_missed: int


class Misses:
    """Counts the requests that have missed a service level for certain, each once.

    What has not happened by now happens later: a first token not yet made is at least as late.
    """

    __slots__ = (
        "arrival_s", "columns", "is_split", "jobs", "num", "quota", "seen", "tpot_s", "ttft_s",
        "undecided",
    )  # fmt: skip

    def __init__(
        self,
        quota: Quota,
        jobs: Sequence[Job | None],
        arrival_s: Sequence[float],
        columns: TokenTimes,
        is_split: bool,
    ) -> None:
        self.quota, self.jobs, self.arrival_s = quota, jobs, arrival_s
        self.columns, self.is_split = columns, is_split
        self.ttft_s = NEVER if quota.ttft_s is None else quota.ttft_s
        self.tpot_s = NEVER if quota.tpot_s is None else quota.tpot_s
        self.num = 0
        self.seen = quota.first
        self.undecided: list[int] = []  # requests that have come, and may still meet or miss

    def count(self, now_s: float) -> int:
        """The number of counted requests that have missed by `now_s`."""
        come = bisect_right(self.arrival_s, now_s, self.seen, self.quota.last)
        asked = self.undecided
        asked.extend(range(self.seen, come))
        self.seen = come
        self.undecided = []
        for index in asked:
            self._decide(index, now_s)
        return self.num

    def _decide(self, index: int, now_s: float) -> None:
        job, columns = self.jobs[index], self.columns
        if job is None:
            self.num += 1
            return
        made_s, reply_s, last_s = (
            columns.first_s[index],
            columns.reply_s[index],
            columns.last_s[index],
        )
        has_begun = made_s >= 0 and (reply_s >= 0 or not self.is_split)
        first_s = now_s if made_s < 0 else max(made_s, reply_s)
        answer_s = (now_s if last_s < 0 else last_s) - first_s
        is_late = first_s - self.arrival_s[index] > self.ttft_s
        if is_late or (has_begun and 0 < self.tpot_s * (job.osl - 1) < answer_s):
            self.num += 1
        elif not has_begun or last_s < 0:
            self.undecided.append(index)


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
    """Tokens that prompt and output may come to, on one rank."""
    room = model.kv_capacity_tokens // model.parallelism.dp
    longest = longest_request(min(model.max_context, room))
    if model.role == "decode":
        longest = min(longest, room - model.reserved_decode_tokens)
    return longest


def renewed(job: Job) -> Job:
    """The same request from the start, for another engine."""
    return Job(job.index, job.isl, job.osl, job.path)


def lost_or_retried(
    jobs: Sequence[Job], columns: TokenTimes, now: float
) -> tuple[list[Job], list[Job]]:
    """Split a failing engine's requests: those whose client already reads, and the others."""
    lost, retried = [], []
    for job in sorted(jobs, key=lambda job: job.index):
        index = job.index
        if 0 <= columns.first_s[index] <= now:
            lost.append(job)
        else:
            retried.append(renewed(job))
        columns.first_s[index] = columns.last_s[index] = columns.reply_s[index] = NOT_YET
    return lost, retried


def check_finished(jobs: Sequence[Job | None], columns: TokenTimes, failed: set[int]) -> None:
    """Raise SimulationBroken if a request that was let in never came out."""
    for job, last_s in zip(jobs, columns.last_s, strict=True):
        if last_s < 0 and job is not None and job.index not in failed:
            raise SimulationBroken(f"request {job.index} never finished")
