"""Play requests against an engine or a router, and keep when every token came."""

import asyncio
import json
import re
import time
from array import array
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import accumulate
from random import Random, SystemRandom

from pdctl.engines.clients.api_key import authorization
from pdctl.measurement.http_stream import BadAnswer, HttpStream
from pdctl.measurement.results import Connections, LoadProgress, LoadResult, Sent
from pdctl.perf_model.metrics import percentiles
from pdctl.workload.records import Requests

_COUNT = re.compile(rb'"completion_tokens":\s*(\d+)')
_CACHED = re.compile(rb'"cached_tokens":\s*(\d+)')
_ABORTED = re.compile(rb'"finish_reason":\s*\{"type":\s*"abort",\s*"message":\s*"([^"]*)"')
_MESSAGE = re.compile(r'"message":\s*"((?:[^"\\]|\\.)*)"')
_ENDED = (b"[DONE]", b'"finish_reason":{', b'"finish_reason": {', b'data: {"error"')
_KEPT_BYTES = 4096


@dataclass(slots=True)
class Reply:
    """What came back so far. token_at: the clock at each token."""

    token_at: list[float] = field(default_factory=list)
    end_at: float = 0.0
    cached_tokens: int | None = None
    error: str | None = None
    is_whole: bool = False
    tail: bytes = b""  # of an event that has not come whole

    def take(self, data: bytes) -> None:
        """Count tokens read by read: parsing every event's JSON would cost more than the rest."""
        now = time.perf_counter()
        if self.tail:
            data = self.tail + data
        if data.endswith(b"\n\n"):
            self.tail = b""
        else:
            cut = data.rfind(b"\n\n") + 2
            data, self.tail = (data[:cut], data[cut:]) if cut > 1 else (b"", data)
        # the last count in a read says how many tokens have come in all
        at = data.rfind(b'"completion_tokens"')
        if at >= 0:
            match = _COUNT.match(data, at)
            new = int(match.group(1)) - len(self.token_at) if match else 0
            if new == 1:
                self.token_at.append(now)
            else:
                self.token_at.extend([now] * new)
        done, ended, spaced, failed = _ENDED
        if done in data or ended in data or spaced in data or failed in data:
            self._end(data)

    def _end(self, data: bytes) -> None:
        """What only the last events of a stream say."""
        self.is_whole = self.is_whole or b"data: [DONE]" in data
        if cached := _CACHED.search(data):
            self.cached_tokens = int(cached.group(1))
        if aborted := _ABORTED.search(data):
            self.error = f"aborted: {aborted.group(1).decode(errors='replace')}"
        elif b'data: {"error"' in data:
            self.error = _sentence(data)


async def ask(http: HttpStream, body: bytes) -> Reply:
    """Send one body to /generate and take the tokens of its stream in. Never raises but for
    cancellation: what went wrong is in the reply.
    """
    reply = Reply()
    try:
        status = await http.post("/generate", body, reply.take)
        if status != 200:
            reply.error = f"HTTP {status}: {_sentence(reply.tail)}"
        elif not reply.is_whole and reply.error is None:
            reply.error = "the stream ended without [DONE]"
    except asyncio.TimeoutError:
        reply.error = "timed out"
    except (OSError, BadAnswer) as problem:
        reply.error = f"{type(problem).__name__}: {problem}"[:200]
    reply.end_at = time.perf_counter()
    return reply


def _sentence(data: bytes) -> str:
    """The message in an error's JSON, or the text itself, in one line."""
    text = data[:_KEPT_BYTES].decode(errors="replace")
    found = _MESSAGE.search(text)
    return " ".join((found.group(1) if found else text).split())[:200]


TOKEN_IDS = (1000, 31_000)  # ordinary tokens in every vocabulary of today's LLMs
_POOL_TOKENS = 32_768
_HEAD_TOKENS = 16


def token_ids_for(vocab_size: int) -> tuple[int, int]:
    """Ids of ordinary tokens in a vocabulary, away from the special ones at its ends."""
    return min(TOKEN_IDS[0], vocab_size // 8), min(TOKEN_IDS[1], vocab_size - vocab_size // 8)


def fresh_seed() -> int:
    """A seed of prompts that no engine has seen: its prefix cache would answer for it."""
    return SystemRandom().getrandbits(48)


class Prompts:
    """Bodies for /generate of one list of requests.

    With blocks, equal block ids give equal tokens. Without, no two prompts share a prefix. Blocks
    and prompts begin with tokens of their own and go on from a place of their own in a pool of
    random tokens: slicing costs microseconds. The content must differ, not only the beginning:
    equal tokens take the same experts of an MoE, and a decode step that read half of all experts
    then reads a few (seen on an H100: 8 ms instead of 20).
    """

    def __init__(
        self, requests: Requests, *, seed: int = 0, token_ids: tuple[int, int] = TOKEN_IDS
    ) -> None:
        self._requests = requests
        self._seed = seed
        self._token_ids = token_ids
        pool = self._draw(Random(seed), _POOL_TOKENS)
        self._text = ",".join(pool * 2)  # twice, so that a slice may run over the end
        self._ends = array("q", accumulate(len(token) + 1 for token in pool * 2))

    def body(self, index: int) -> bytes:
        """The JSON of request `index`."""
        sampling = {
            "max_new_tokens": self._requests.osl[index],
            "temperature": 0,
            "ignore_eos": True,
        }
        ids = self._ids(index)
        head = f'{{"input_ids":[{ids}],"sampling_params":{json.dumps(sampling)},"stream":true}}'
        return head.encode()

    def _ids(self, index: int) -> str:
        left = self._requests.isl[index]
        blocks = self._requests.blocks[index] if self._requests.blocks is not None else ()
        size = self._requests.block_tokens
        parts = []
        for block in blocks if size > 0 else ():
            if left <= 0:
                break
            parts.append(self._piece(f"{self._seed}:{block}", min(size, left)))
            left -= size
        if left > 0:
            parts.append(self._piece(f"{self._seed}/{index}", left))
        return ",".join(parts)

    def _piece(self, seed: str, tokens: int) -> str:
        """Tokens that depend on `seed`; of two lengths, the shorter is a prefix of the longer."""
        random = Random(seed)
        head = self._draw(random, min(tokens, _HEAD_TOKENS))
        start = int(random.random() * _POOL_TOKENS)
        rest = tokens - len(head)
        slices = []
        while rest > 0:
            count = min(rest, _POOL_TOKENS)
            slices.append(self._slice(start, count))
            rest -= count
        return ",".join((*head, *slices))

    def _slice(self, start: int, count: int) -> str:
        """`count` tokens of the pool from place `start` on, at most the pool's length."""
        first = self._ends[start - 1] if start else 0
        return self._text[first : self._ends[start + count - 1] - 1]

    def _draw(self, random: Random, count: int) -> list[str]:
        low, high = self._token_ids
        width = high - low
        return [str(low + int(random.random() * width)) for _ in range(count)]


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
        reply = await ask(self.http, body)
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
