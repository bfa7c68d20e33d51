"""Load generator: send requests to an engine or a router and record when each token arrives."""

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
TOKEN_IDS = (1000, 31_000)  # ordinary tokens in the vocabulary of every current LLM
_POOL_TOKENS = 32_768
_HEAD_TOKENS = 16
PROGRESS_S = 0.5
_RECENT = 2000  # number of requests behind the percentiles of a progress report

OnProgress = Callable[[LoadProgress], None]


@dataclass(slots=True)
class Reply:
    """The reply received so far. token_at: clock reading at each token."""

    token_at: list[float] = field(default_factory=list)
    end_at: float = 0.0
    cached_tokens: int | None = None
    error: str | None = None
    is_whole: bool = False
    tail: bytes = b""  # start of an event that is not complete yet

    def take(self, data: bytes) -> None:
        """Count the tokens in one read. Parsing every event's JSON would dominate CPU time."""
        now = time.perf_counter()
        if self.tail:
            data = self.tail + data
        if data.endswith(b"\n\n"):
            self.tail = b""
        else:
            cut = data.rfind(b"\n\n") + 2
            data, self.tail = (data[:cut], data[cut:]) if cut > 1 else (b"", data)
        # the last count in a read is the total number of tokens so far
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
        """Read the fields that appear only in a stream's last events."""
        self.is_whole = self.is_whole or b"data: [DONE]" in data
        if cached := _CACHED.search(data):
            self.cached_tokens = int(cached.group(1))
        if aborted := _ABORTED.search(data):
            self.error = f"aborted: {aborted.group(1).decode(errors='replace')}"
        elif b'data: {"error"' in data:
            self.error = _sentence(data)


async def stream_reply(http: HttpStream, body: bytes) -> Reply:
    """Send one body to /generate and read the tokens of its stream.

    Raises only on cancellation; any other failure is in `Reply.error`.
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
    except BadAnswer as problem:
        reply.error = str(problem)[:200]
    except OSError as problem:
        reply.error = f"{type(problem).__name__}: {problem}"[:200]
    reply.end_at = time.perf_counter()
    return reply


def _sentence(data: bytes) -> str:
    """The message in an error's JSON, or the text itself, on one line."""
    text = data[:_KEPT_BYTES].decode(errors="replace")
    found = _MESSAGE.search(text)
    return " ".join((found.group(1) if found else text).split())[:200]


def token_ids_for(vocab_size: int) -> tuple[int, int]:
    """Range of ordinary token ids: avoids the special tokens at both ends of a vocabulary."""
    return min(TOKEN_IDS[0], vocab_size // 8), min(TOKEN_IDS[1], vocab_size - vocab_size // 8)


def fresh_seed() -> int:
    """A random seed, so that no prompt is already in an engine's prefix cache."""
    return SystemRandom().getrandbits(48)


class Prompts:
    """Bodies for /generate, one per request of a list.

    With blocks, equal block ids give equal tokens. Without blocks, no two prompts share a prefix.
    Each block and prompt begins with random tokens of its own, then continues with a slice of a
    shared pool of random tokens, because slicing takes only microseconds. Slices start at random
    places: a different beginning alone is not enough. Equal tokens activate the same experts of
    an MoE, so a decode step that should read half of all experts would read only a few (measured
    on an H100: 8 ms instead of 20 ms).
    """

    def __init__(
        self, requests: Requests, *, seed: int = 0, token_ids: tuple[int, int] = TOKEN_IDS
    ) -> None:
        self._requests = requests
        self._seed = seed
        self._token_ids = token_ids
        pool = self._draw(Random(seed), _POOL_TOKENS)
        self._text = ",".join(pool * 2)  # twice, so that a slice may run past the end
        self._ends = array("q", accumulate(len(token) + 1 for token in pool * 2))

    def body(self, index: int) -> bytes:
        """The JSON body of request `index`."""
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
        """Tokens determined by `seed`. A shorter piece is a prefix of a longer one."""
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
        """`count` tokens of the pool from position `start`, at most the pool's length."""
        first = self._ends[start - 1] if start else 0
        return self._text[first : self._ends[start + count - 1] - 1]

    def _draw(self, random: Random, count: int) -> list[str]:
        low, high = self._token_ids
        width = high - low
        return [str(low + int(random.random() * width)) for _ in range(count)]


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
    """Send `requests` to `url` and wait for every answer.

    Open loop by default: each request goes out at its arrival time (divided by `speed`), however
    many requests are in flight. With `concurrency`, closed loop: that many requests are in
    flight, and the next one goes out when one ends.
    connections: "kept" reuses connections; "new" opens one per request (sglang-router 0.3.2
    delays the first token of a stream on a reused connection by about 42 ms).
    on_sent: called with each request as it ends, so that cancelling this call loses nothing.
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
    """Call run_load without an event loop. On Ctrl-C, return the requests that have ended."""
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
    """State of a load while it is being sent."""

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
        # start slightly in the future, so that the first request is on time
        self.begin = time.perf_counter() + 0.05

    def due(self, index: int) -> float:
        """The clock reading at which request `index` is due."""
        return self.begin + self.requests.arrival_s[index] / self.speed

    async def send(self, index: int, body: bytes, due: float) -> None:
        """Send one request and record it when it ends."""
        self.num_begun += 1
        begun = time.perf_counter()
        reply = await stream_reply(self.http, body)
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
            body = prompts.body(index)  # built before it is due
            due = run.due(index)
            wait_s = due - time.perf_counter()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            elif index % 16 == 0:
                await asyncio.sleep(0)  # behind schedule, but answers still have to be read
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
