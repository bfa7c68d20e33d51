"""What the replay of any fleet needs: requests as jobs, the router's books, retries."""

from collections.abc import Sequence
from heapq import heapify, heappop
from itertools import count

from pdctl.perf_model.events import SimulationBroken
from pdctl.perf_model.jobs import NOT_YET, Columns, Job, Shared
from pdctl.perf_model.prefixes import Prefixes
from pdctl.perf_model.records import EngineModel, Fleet
from pdctl.perf_model.routing import Pool, SeenPrefixes
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
