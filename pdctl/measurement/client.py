"""One streamed request: when each token came, and what went wrong if anything did."""

import asyncio
import re
import time
from dataclasses import dataclass, field

from pdctl.measurement.http_stream import BadAnswer, HttpStream

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
