"""Play requests against an engine or a router, and keep when every token came."""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

from pdctl.engines.api_key import authorization
from pdctl.measurement import client
from pdctl.measurement.http_stream import HttpStream
from pdctl.measurement.prompts import TOKEN_IDS, Prompts
from pdctl.measurement.records import Connections, LoadProgress, LoadResult, Sent
from pdctl.perf_model.metrics import percentiles
from pdctl.workload.records import Requests

OnProgress = Callable[[LoadProgress], None]
PROGRESS_S = 0.5
_RECENT = 2000  # requests that the percentiles of a progress report look at


async def run_load(
    url: str,
    requests: Requests,
    *,
    speed: float = 1.0,
    connections: Connections = "kept",
    concurrency: int | None = None,
    on_progress: OnProgress | None = None,
    on_sent: Callable[[Sent], None] | None = None,
    token_ids: tuple[int, int] = TOKEN_IDS,
    timeout_s: float = 1800.0,
    seed: int = 0,
) -> LoadResult:
    """Send `requests` to `url` and wait for all answers.

    Open loop: each request at its own arrival time (divided by `speed`), however many are still
    unanswered. With `concurrency`, closed loop: that many at a time, each when one has ended.
    connections: "kept" reuses them, "new" opens one per request (sglang-router 0.3.2 holds the
    first token of a stream on a kept one for some 42 ms).
    on_sent is told each request as it ends, so that nothing is lost when this is cancelled.
    """
    run = _Run(requests, speed=speed, on_sent=on_sent)
    prompts = Prompts(requests, seed=seed, token_ids=token_ids)
    run.http = HttpStream(
        url, keep=connections == "kept", timeout_s=timeout_s, headers=authorization()
    )
    reporter = asyncio.create_task(_report(run, on_progress)) if on_progress else None
    try:
        if concurrency is None:
            await _open_loop(run, prompts)
        else:
            await _closed_loop(run, prompts, concurrency)
    finally:
        run.http.close()
        if reporter is not None:
            reporter.cancel()
            with suppress(asyncio.CancelledError):
                await reporter
    if on_progress:
        on_progress(run.progress())
    return run.result(url, connections, concurrency)


def load(
    url: str,
    requests: Requests,
    *,
    speed: float = 1.0,
    connections: Connections = "kept",
    concurrency: int | None = None,
    on_progress: OnProgress | None = None,
    token_ids: tuple[int, int] = TOKEN_IDS,
    timeout_s: float = 1800.0,
    seed: int = 0,
) -> LoadResult:
    """run_load for callers without an event loop. Interrupted, it gives what has ended so far."""
    sent: list[Sent] = []
    started_at, cpu = time.time(), time.process_time()
    try:
        return asyncio.run(
            run_load(
                url,
                requests,
                speed=speed,
                connections=connections,
                concurrency=concurrency,
                on_progress=on_progress,
                on_sent=sent.append,
                token_ids=token_ids,
                timeout_s=timeout_s,
                seed=seed,
            )
        )
    except KeyboardInterrupt:
        return LoadResult(
            url=url,
            sent=tuple(sorted(sent, key=lambda one: one.index)),
            started_at=started_at,
            span_s=max((one.end_s for one in sent), default=0.0),
            cpu_s=time.process_time() - cpu,
            speed=speed,
            connections=connections,
            concurrency=concurrency,
            is_interrupted=True,
        )


class _Run:
    """A load being played."""

    http: HttpStream

    def __init__(
        self, requests: Requests, *, speed: float, on_sent: Callable[[Sent], None] | None
    ) -> None:
        self.requests = requests
        self.speed = speed
        self.sent: list[Sent] = []
        self.num_begun = 0
        self.num_failed = 0
        self.started_at = time.time()
        self._cpu = time.process_time()
        self._on_sent = on_sent
        # a moment ahead, so that the first request is not late
        self.begin = time.perf_counter() + 0.05

    def due(self, index: int) -> float:
        """The clock at which request `index` should go out."""
        return self.begin + self.requests.arrival_s[index] / self.speed

    async def send(self, index: int, body: bytes, due: float) -> None:
        """One request, from its first byte to its last."""
        self.num_begun += 1
        begun = time.perf_counter()
        reply = await client.ask(self.http, body)
        begin = self.begin
        one = Sent(
            index=index,
            intended_s=due - begin,
            sent_s=begun - begin,
            end_s=reply.end_at - begin,
            isl=self.requests.isl[index],
            osl=self.requests.osl[index],
            token_s=tuple([at - begin for at in reply.token_at]),
            cached_tokens=reply.cached_tokens,
            error=reply.error,
        )
        self.sent.append(one)
        self.num_failed += one.error is not None
        if self._on_sent:
            self._on_sent(one)

    def progress(self) -> LoadProgress:
        recent = self.sent[-_RECENT:]
        return LoadProgress(
            at_s=time.perf_counter() - self.begin,
            num_requests=len(self.requests),
            num_sent=self.num_begun,
            num_done=len(self.sent),
            num_failed=self.num_failed,
            ttft_s=percentiles(one.ttft_s for one in recent),
            tpot_s=percentiles(one.tpot_s for one in recent),
        )

    def result(self, url: str, connections: Connections, concurrency: int | None) -> LoadResult:
        sent = tuple(sorted(self.sent, key=lambda one: one.index))
        return LoadResult(
            url=url,
            sent=sent,
            started_at=self.started_at,
            span_s=max((one.end_s for one in sent), default=0.0),
            cpu_s=time.process_time() - self._cpu,
            speed=self.speed,
            connections=connections,
            concurrency=concurrency,
        )


async def _open_loop(run: _Run, prompts: Prompts) -> None:
    tasks: set[asyncio.Task[None]] = set()
    try:
        for index in range(len(run.requests)):
            body = prompts.body(index)  # made before it is due
            due = run.due(index)
            wait_s = due - time.perf_counter()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            elif index % 16 == 0:
                await asyncio.sleep(0)  # late: answers must be read all the same
            task = asyncio.create_task(run.send(index, body, due))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        while tasks:
            await asyncio.wait(tasks)
    finally:
        for task in tasks:
            task.cancel()


async def _closed_loop(run: _Run, prompts: Prompts, concurrency: int) -> None:
    remaining = iter(range(len(run.requests)))

    async def one_at_a_time() -> None:
        for index in remaining:
            body = prompts.body(index)
            await run.send(index, body, time.perf_counter())

    run.begin = time.perf_counter()
    await asyncio.gather(*(one_at_a_time() for _ in range(concurrency)))


async def _report(run: _Run, on_progress: OnProgress) -> None:
    while True:
        await asyncio.sleep(PROGRESS_S)
        on_progress(run.progress())
