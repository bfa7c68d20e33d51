"""One streamed request over HTTP: when each token came, and what went wrong if anything did."""

import asyncio
import re
import time
from dataclasses import dataclass, field

import aiohttp

_COUNT = re.compile(rb'"completion_tokens":\s*(\d+)')
_CACHED = re.compile(rb'"cached_tokens":\s*(\d+)')
_ABORTED = re.compile(rb'"finish_reason":\s*\{"type":\s*"abort",\s*"message":\s*"([^"]*)"')
_HEADERS = {"content-type": "application/json", "accept": "text/event-stream"}
_KEPT_BYTES = 4096


@dataclass
class Reply:
    """What came back. token_at: the clock at each token."""

    token_at: list[float] = field(default_factory=list)
    end_at: float = 0.0
    cached_tokens: int | None = None
    error: str | None = None


async def ask(http: aiohttp.ClientSession, url: str, body: bytes) -> Reply:
    """Send one body to /generate and take the tokens of its stream in. Never raises but for
    cancellation: what went wrong is in the reply.
    """
    reply = Reply()
    try:
        async with http.post(url, data=body, headers=_HEADERS) as answer:
            if answer.status != 200:
                text = (await answer.content.read(_KEPT_BYTES)).decode(errors="replace")
                reply.error = f"HTTP {answer.status}: {_sentence(text)}"
            else:
                await _take_in(answer.content, reply)
    except (aiohttp.ClientError, asyncio.TimeoutError, OSError) as problem:
        reply.error = f"{type(problem).__name__}: {problem}"[:200]
    reply.end_at = time.perf_counter()
    return reply


async def _take_in(content: aiohttp.StreamReader, reply: Reply) -> None:
    """Count tokens read by read: parsing every event's JSON would cost more than all the rest."""
    tail = b""
    is_whole = False
    async for data in content.iter_any():
        now = time.perf_counter()
        seen = tail + data if tail else data
        cut = seen.rfind(b"\n\n")
        if cut < 0:
            tail = seen
            continue
        events, tail = seen[:cut], seen[cut + 2 :]
        _count(events, now, reply)
        if b"data: [DONE]" in events:
            is_whole = True
    if not is_whole and reply.error is None:
        reply.error = "the stream ended without [DONE]"


def _count(events: bytes, now: float, reply: Reply) -> None:
    """The last count in a read says how many tokens have come in all."""
    at = events.rfind(b'"completion_tokens"')
    if at >= 0:
        match = _COUNT.match(events, at)
        total = int(match.group(1)) if match else 0
        reply.token_at.extend([now] * (total - len(reply.token_at)))
    if b'"finish_reason": {' in events or b'"finish_reason":{' in events:
        if cached := _CACHED.search(events, max(at, 0)):
            reply.cached_tokens = int(cached.group(1))
        if aborted := _ABORTED.search(events):
            reply.error = f"aborted: {aborted.group(1).decode(errors='replace')}"
    elif b'data: {"error"' in events:
        reply.error = _sentence(events[:_KEPT_BYTES].decode(errors="replace"))


def _sentence(text: str) -> str:
    """The message in an error's JSON, or the text itself, in one line."""
    found = re.search(r'"message":\s*"((?:[^"\\]|\\.)*)"', text)
    return " ".join((found.group(1) if found else text).split())[:200]
