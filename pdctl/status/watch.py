"""Sample a deployment repeatedly, and keep the samples that rates and advice need."""

import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from pdctl.engines import state
from pdctl.errors import PdctlError
from pdctl.inspection.gpu_load import GpuMeter
from pdctl.status.advice import advise
from pdctl.status.drift import DriftSample, Expected, drifted, is_enough, remember
from pdctl.status.job_limit import JobClock
from pdctl.status.pages import parse_loads, parse_router_metrics
from pdctl.status.rates import (
    bucket_quantile,
    delta,
    first_bound,
    histogram_delta,
    is_reset,
    merge_histograms,
    with_rates,
    without_old_speed,
)
from pdctl.status.recent_times import RecentTimes
from pdctl.status.records import (
    CounterSample,
    DeploymentStatus,
    EngineMoment,
    EngineSample,
    EngineStatus,
    Histogram,
    Moment,
    RouterScrape,
    Scrape,
    Target,
    Watched,
)
from pdctl.status.scrape import (
    METRICS_EVERY_S,
    EngineScraper,
    Parallel,
    RouterScraper,
    scrape_all,
)
from pdctl.status.snapshot import (
    deployment_status,
    engine_status,
    moment_of,
    queue_length,
    with_live_role,
)
from pdctl.status.trends import arrival_rate

RATE_WINDOW_S = 5.0  # tokens per second, ITL from decode steps
LATENCY_WINDOW_S = 60.0  # TTFT and ITL percentiles
REMEMBERED_S = 180.0
REPLAYED_S = 90.0  # a minute to judge, and the settling time before it
HISTORY_POINTS = 60
_FRESH_S = 3 * METRICS_EVERY_S  # an older page of metrics describes another time
_FILE = "samples.json"
_MAX_BYTES = 4 << 20

TimedCounters = tuple[float, CounterSample]
Past = tuple[tuple[Moment, ...], dict[str, dict[str, TimedCounters]]]
RecentCounters = deque[TimedCounters]
Expect = Callable[[Sequence[Target]], Mapping[str, Expected]]  # by URL of the engine


@dataclass
class _Memory:
    """The scrapes of one engine that later samples need."""

    scraper: EngineScraper
    last: Scrape | None = None
    loads: RecentCounters = field(default_factory=deque)
    metrics: RecentCounters = field(default_factory=deque)
    steps: deque[DriftSample] = field(default_factory=deque)
    queues: deque[float] = field(default_factory=lambda: deque(maxlen=HISTORY_POINTS))


class Watch:
    """A deployment under watch.

    source: returns the engines and the router to watch; called for every sample.
    past: samples that an earlier call kept.
    expect: returns each engine's expected step times. Called once at least 60 s of its steps have
    been observed.
    times: of single requests, better than histograms of latencies. notes: sentences that every
    sample shows. job: the Slurm job that it runs in.
    """

    def __init__(
        self,
        source: Callable[[], Watched],
        past: Past = ((), {}),
        expect: Expect | None = None,
        times: RecentTimes | None = None,
        notes: Sequence[str] = (),
        job: JobClock | None = None,
    ) -> None:
        self._job = job
        self._times = times
        self._source = source
        self._said = tuple(notes)
        self._expect = expect
        self._past_counters = past[1]
        self._memories: dict[tuple[str, str], _Memory] = {}
        self._router: tuple[str, RouterScraper] | None = None
        self._parallel = Parallel()
        self._meter = GpuMeter()
        self.moments: deque[Moment] = deque(past[0])

    def sample(self) -> DeploymentStatus:
        """Sample the deployment. Takes as long as the slowest answer, at most 1.5 s."""
        watched = self._source()
        memories = [self._memory(target) for target in watched.targets]
        scrapes, router = scrape_all(
            [memory.scraper for memory in memories], self._router_of(watched), self._parallel
        )
        now_s = time.time()
        rows, restarted = self._rows(watched.targets, scrapes, router, now_s)
        for memory, row in zip(memories, rows, strict=True):
            memory.queues.append(queue_length(row.sample) or 0.0)
        rows = [replace(row, gpu=self._meter.read(row.target.gpus)) for row in rows]
        status = self._status(watched, rows, router, now_s, restarted)
        return replace(status, job=self._job.look(now_s)) if self._job else status

    def replay(self, samples: Iterable[Mapping[str, Any]]) -> None:
        """Take over the samples that the supervisor recorded, oldest first, as moments."""
        moments = []
        kept, self._past_counters = self._past_counters, {}  # they are from later
        for sample in samples:
            moment = self._replayed(sample)
            if moment is not None:
                moments.append(moment)
        self._past_counters = kept
        for (_, url), memory in self._memories.items():
            self._recall(memory, url)
        known = {one.at_s: one for one in (*moments, *self.moments)}
        self.moments = deque(known[at_s] for at_s in sorted(known))

    def _replayed(self, sample: Mapping[str, Any]) -> Moment | None:
        try:
            at_s, engines = sample["at"], sample["engines"]
            targets = [Target(name, role, url, phase) for name, role, url, phase, _ in engines]
            scrapes = [
                _scrape(page, target, at_s)
                for target, (*_, page) in zip(targets, engines, strict=True)
            ]
            requests, breakers = parse_router_metrics(sample.get("router") or "")
        except (ValueError, TypeError, KeyError, AttributeError):
            return None  # recorded by another version
        router = RouterScrape(at_s, alive=True, requests=requests, breakers=breakers)
        rows, restarted = self._rows(targets, scrapes, router, at_s)
        known = requests if _knows(router, targets) else None
        return moment_of(rows, known, at_s, restarted=restarted)

    def _rows(
        self,
        targets: Sequence[Target],
        scrapes: Sequence[Scrape | None],
        router: RouterScrape | None,
        now_s: float,
    ) -> tuple[list[EngineStatus], bool]:
        """One row per engine, and whether an engine was restarted since the sample before."""
        breakers = router.breakers if router else {}
        restarted = False
        rows = []
        for target, scrape in zip(targets, scrapes, strict=True):
            memory = self._memory(target)
            restarted |= _remember(memory, scrape)
            live = with_live_role(target, memory.last.sample if memory.last else None)
            breaker = breakers.get(target.url.rstrip("/"))
            row = engine_status(live, scrape, memory.last, now_s, breaker)
            rows.append(row)
        return rows, restarted

    def close(self) -> None:
        """Close every connection."""
        self._meter.close()
        for memory in self._memories.values():
            memory.scraper.close()
        if self._router:
            self._router[1].close()

    def _memory(self, target: Target) -> _Memory:
        key = (target.name, target.url)
        if key not in self._memories:
            self._memories[key] = self._recalled(target)
        memory = self._memories[key]
        memory.scraper.target = target
        return memory

    def _recalled(self, target: Target) -> _Memory:
        memory = _Memory(EngineScraper(target))
        self._recall(memory, target.url)
        return memory

    def _recall(self, memory: _Memory, url: str) -> None:
        """Take over the counters that an earlier call kept, unless later ones are known."""
        past = self._past_counters.get(url, {})
        for kind, timed, window_s in (
            ("loads", memory.loads, RATE_WINDOW_S),
            ("metrics", memory.metrics, LATENCY_WINDOW_S),
        ):
            if kind in past and (not timed or timed[-1][0] < past[kind][0]):
                _append(timed, *past[kind], window_s)

    def pages(self) -> dict[str, CounterSample]:
        """The counters on the last page of metrics of each engine, by URL."""
        scrapers = {url: memory.scraper for (_, url), memory in self._memories.items()}
        return {url: one.metrics[1] for url, one in scrapers.items() if one.metrics is not None}

    def counters(self) -> dict[str, dict[str, tuple[float, CounterSample]]]:
        """The last counters of each engine, by URL, for the next watch to start from."""
        return {
            url: {
                kind: timed[-1]
                for kind, timed in (("loads", memory.loads), ("metrics", memory.metrics))
                if timed
            }
            for (_, url), memory in self._memories.items()
        }

    def _router_of(self, watched: Watched) -> RouterScraper:
        if self._router is None or self._router[0] != watched.router_url:
            scraper = RouterScraper(watched.router_url, watched.router_metrics_port)
            self._router = (watched.router_url, scraper)
        return self._router[1]

    def _status(
        self,
        watched: Watched,
        rows: Sequence[EngineStatus],
        router: RouterScrape | None,
        now_s: float,
        restarted: bool,
    ) -> DeploymentStatus:
        requests = router.requests if router and _knows(router, watched.targets) else None
        moment = moment_of(rows, requests, now_s, restarted=restarted)
        self.moments.append(moment)
        while self.moments[0].at_s < now_s - REMEMBERED_S:
            self.moments.popleft()
        advice = advise(tuple(self.moments), tpot_slo_s=watched.tpot_slo_s)
        status = deployment_status(watched, rows, router, advice, now_s)
        ttft = self._histograms(watched, "ttft", now_s)
        itl = self._histograms(watched, "itl", now_s)
        single = self._times.ttft_s() if self._times else None
        return replace(
            status,
            requests_per_s=self._requests_per_s(),
            ttft_p50_s=single[0] if single else bucket_quantile(ttft, 0.5),
            ttft_p99_s=single[1] if single else bucket_quantile(ttft, 0.99),
            ttft_bound_s=None if single else first_bound(ttft),
            itl_p50_s=bucket_quantile(itl, 0.5) or moment.itl_s,
            itl_p99_s=bucket_quantile(itl, 0.99),
            itl_bound_s=first_bound(itl),
            notes=(*self._said, *self._drifts(watched)),
            watched_s=now_s - self.moments[0].at_s,
            history={target.name: tuple(self._memory(target).queues) for target in watched.targets},
        )

    def _drifts(self, watched: Watched) -> tuple[str, ...]:
        """Sentences on engines that have drifted from their profile."""
        if self._expect is None:
            return ()
        memories = [(target, self._memory(target)) for target in watched.targets]
        enough = [(target, memory) for target, memory in memories if is_enough(memory.steps)]
        expected = self._expect(watched.targets) if enough else {}
        return tuple(
            note
            for target, memory in enough
            if target.url in expected
            and (
                note := drifted(target.name, memory.steps, _requests(memory), expected[target.url])
            )
        )

    def _requests_per_s(self) -> float | None:
        """Rate over the last seconds, or since the previous sample."""
        known = [one for one in self.moments if one.requests is not None]
        since_s = self.moments[-1].at_s - 2 * RATE_WINDOW_S
        recent = [one for one in known if one.at_s >= since_s]
        return arrival_rate(recent if len(recent) > 1 else known[-2:])

    def _histograms(self, watched: Watched, name: str, now_s: float) -> Histogram | None:
        """Observations of the last minute, from the engines that still report them."""
        pages = (self._memory(target).metrics for target in watched.targets)
        return merge_histograms(
            histogram_delta(getattr(page[0][1], name), getattr(page[-1][1], name))
            for page in pages
            if len(page) > 1 and page[-1][0] >= now_s - _FRESH_S
        )


def _knows(router: RouterScrape, targets: Iterable[Target]) -> bool:
    """True if the metrics name one of our engines: another router may use the default port."""
    return any(target.url.rstrip("/") in router.breakers for target in targets)


def _scrape(page: str | None, target: Target, at_s: float) -> Scrape | None:
    """A recorded page as a scrape; one without a sample if the engine did not answer."""
    loads = None if page is None else parse_loads(page.encode(), target.role, at_s)
    if loads is None:
        return Scrape(at_s=at_s, problem="no answer was recorded")
    sample, counters, age_s = loads
    return Scrape(at_s=at_s, sample=sample, counters=counters, age_s=age_s)


def _remember(memory: _Memory, scrape: Scrape | None) -> bool:
    """Keep a scrape, with rates added to its sample. True if the engine was restarted."""
    if scrape is None or scrape.sample is None or scrape.counters is None:
        return False
    restarted = _append(memory.loads, scrape.at_s, scrape.counters, RATE_WINDOW_S)
    page = memory.scraper.metrics
    if page is not None and (not memory.metrics or memory.metrics[-1][0] != page[0]):
        restarted |= _append(memory.metrics, page[0], page[1], LATENCY_WINDOW_S)
    remember(memory.steps, DriftSample(scrape.at_s, scrape.counters, scrape.sample.kv_usage))
    sample = _rated(scrape.sample, memory)
    memory.last = replace(scrape, sample=sample)
    return restarted


def _requests(memory: _Memory) -> float | None:
    """Requests that began while the steps were watched, from the rate of the metrics."""
    if len(memory.metrics) < 2:
        return None
    (before_s, before), (after_s, after) = memory.metrics[0], memory.metrics[-1]
    begun = delta(before.requests, after.requests)
    window_s = memory.steps[-1].at_s - memory.steps[0].at_s
    return None if begun is None else begun / (after_s - before_s) * window_s


def _append(timed: RecentCounters, at_s: float, counters: CounterSample, window_s: float) -> bool:
    restarted = bool(timed) and is_reset(timed[-1][1], counters)
    if restarted:
        timed.clear()
    timed.append((at_s, counters))
    _trim(timed, at_s - window_s)
    return restarted


def _trim(timed: RecentCounters, since_s: float) -> None:
    """Drop points older than `since_s`, except the last one before it."""
    while len(timed) > 2 and timed[1][0] <= since_s:
        timed.popleft()


def _rated(sample: EngineSample, memory: _Memory) -> EngineSample:
    by_loads = _with_rates(sample, memory.loads)
    by_metrics = _with_rates(sample, memory.metrics)
    latest = memory.metrics[-1][1] if memory.metrics else CounterSample()
    failures = latest.transfer_failures
    filled = replace(
        by_loads,
        transfer_failures=None if failures is None else round(failures),
        requests_total=latest.requests,
    )
    lacking = {
        one.name: getattr(by_metrics, one.name)
        for one in fields(EngineSample)
        if getattr(filled, one.name) is None
    }
    return without_old_speed(replace(filled, **lacking))


def _with_rates(sample: EngineSample, timed: RecentCounters) -> EngineSample:
    if len(timed) < 2:
        return sample
    (before_s, before), (after_s, after) = timed[0], timed[-1]
    return with_rates(sample, before, after, after_s - before_s)


def keep_evidence(
    name: str, moments: Iterable[Moment], counters: Mapping[str, Mapping[str, TimedCounters]]
) -> None:
    """Write the samples for the next call. Keeps nothing where the directory is not writable.

    counters: by engine URL, the last counters from "loads" and from "metrics", with their time.
    """
    document = {
        "moments": [asdict(moment) for moment in moments],
        "counters": {
            url: {kind: [at_s, asdict(found)] for kind, (at_s, found) in kinds.items()}
            for url, kinds in counters.items()
        },
    }
    try:
        state.write_private(state.state_dir(name) / _FILE, json.dumps(document))
    except PdctlError:
        return


def read_evidence(name: str, since_s: float) -> Past:
    """The samples kept since `since_s` (Unix seconds); none if the file is not readable."""
    try:
        path = state.state_dir(name) / _FILE
        with path.open("rb") as file:
            found = json.loads(file.read(_MAX_BYTES))
        return _moments(found["moments"], since_s), _counters(found["counters"], since_s)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return (), {}


def _moments(rows: Iterable[dict[str, Any]], since_s: float) -> tuple[Moment, ...]:
    return tuple(_moment(row) for row in rows if row["at_s"] >= since_s)


def _moment(row: dict[str, Any]) -> Moment:
    engines = tuple(EngineMoment(**one) for one in row.get("engines", ()))
    return Moment(**{**row, "engines": engines})


def _counters(found: Mapping[str, Any], since_s: float) -> dict[str, dict[str, TimedCounters]]:
    return {
        url: {kind: (at_s, _counter(row)) for kind, (at_s, row) in kinds.items() if at_s >= since_s}
        for url, kinds in found.items()
    }


def _counter(row: dict[str, Any]) -> CounterSample:
    histograms = {
        name: tuple((float(bound), float(count)) for bound, count in row[name])
        for name in ("ttft", "itl", "tpot")
        if row.get(name) is not None
    }
    return CounterSample(**{**row, **histograms})
