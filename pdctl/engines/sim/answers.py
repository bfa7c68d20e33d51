"""How tokens leave over HTTP: SGLang's own JSON and OpenAI's, whole or as a stream of events.

A stream writes its chunks from the scheduler's step, without waking a task per token.
"""

import asyncio
import json
import time
from typing import Protocol

from aiohttp import web

from pdctl.engines.sim import tokens
from pdctl.engines.sim.requests import Reason, Request

EVENT_STREAM = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}


class Shape(Protocol):
    """One API's way to write an answer."""

    def first(self) -> bytes: ...  # what precedes the first token of a stream

    def chunk(self, answer: "Answer", new_text: str, reason: Reason | None) -> bytes: ...


class Answer:
    """The tokens of one request as they come."""

    def __init__(self, request: Request, seed: int, shape: Shape, index: int = 0) -> None:
        self.request = request
        self.shape = shape
        self.index = index
        self.ids: list[int] = []
        self.text = ""
        self.ids_text = ""
        self.num_sent = 0  # tokens already in the stream
        self.reason: Reason | None = None
        self.began_wall_s = time.time()
        self.stream: EventStream | None = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._seed = seed
        request.on_tokens = self.add

    def add(self, count: int, reason: Reason | None) -> None:
        """Take `count` more tokens, and the end if there is a reason."""
        new_text = ""
        for _ in range(count):
            token_id = tokens.token(self._seed, len(self.ids))
            self.ids.append(token_id)
            new_text += tokens.piece(token_id)
            self.ids_text = f"{self.ids_text},{token_id}" if self.ids_text else str(token_id)
        self.text += new_text
        self.reason = reason
        if self.stream is not None:
            self._send(self.stream, new_text, reason)
        if reason and not self.done.done():
            self.done.set_result(None)

    def attach(self, stream: "EventStream") -> None:
        """Write this answer to a stream from now on, beginning with what came meanwhile."""
        self.stream = stream
        if self.ids or self.reason:
            self._send(stream, self.text, self.reason)

    def _send(self, stream: "EventStream", new_text: str, reason: Reason | None) -> None:
        stream.send(self.shape.chunk(self, new_text, reason))
        self.num_sent = len(self.ids)

    @property
    def finish_reason(self) -> dict[str, object]:
        """SGLang's finish_reason object."""
        if self.request.failure:
            status, message = self.request.failure
            kind = "BadRequestError" if status == 400 else "InternalServerError"
            return {"type": "abort", "message": message, "status_code": status, "err_type": kind}
        if self.reason == "stop":
            return {"type": "stop", "matched": 2}
        return {"type": "length", "length": len(self.ids)}


class EventStream:
    """Server-sent events on one connection, written without waiting."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._response = web.StreamResponse(headers=EVENT_STREAM)

    async def open(self, http: web.Request) -> None:
        self._response.enable_chunked_encoding()
        await self._response.prepare(http)
        transport = http.transport
        self._transport = transport if isinstance(transport, asyncio.Transport) else None

    def send(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"%x\r\n%b\r\n" % (len(data), data))

    async def close(self) -> web.StreamResponse:
        self.send(b"data: [DONE]\n\n")
        await self._response.write_eof()
        return self._response


class NativeShape:
    """The answers of /generate: text and ids so far, or only the new ones, with meta_info."""

    def __init__(self, *, incremental: bool, is_batch: bool) -> None:
        self._incremental = incremental
        self._is_batch = is_batch

    def first(self) -> bytes:
        return b""

    def chunk(self, answer: Answer, new_text: str, reason: Reason | None) -> bytes:
        request = answer.request
        if reason or self._is_batch:
            document = self.document(answer)
            if self._is_batch:
                document["index"] = answer.index
            return b"data: " + json.dumps(document).encode() + b"\n\n"
        text, ids = answer.text, answer.ids_text
        if self._incremental:
            text, ids = new_text, ",".join(map(str, answer.ids[answer.num_sent :]))
        # written by hand: this is the cost of every token, and no value here needs escaping
        return (
            f'data: {{"text":"{text}","output_ids":[{ids}],"meta_info":{{"id":"{request.rid}",'
            f'"finish_reason":null,"prompt_tokens":{request.prompt_tokens},'
            f'"weight_version":"default","num_retractions":{request.retractions},'
            f'"reasoning_tokens":0,"completion_tokens":{len(answer.ids)},'
            f'"cached_tokens":{request.cached_tokens}}}}}\n\n'
        ).encode()

    def document(self, answer: Answer) -> dict[str, object]:
        """One finished (or so far unfinished) answer."""
        request = answer.request
        text, ids = answer.text, answer.ids
        if self._incremental and answer.stream is not None:
            ids = ids[answer.num_sent :]
            text = "".join(map(tokens.piece, ids))
        meta: dict[str, object] = {
            "id": request.rid,
            "finish_reason": answer.finish_reason if answer.reason else None,
            "prompt_tokens": request.prompt_tokens,
            "weight_version": "default",
            "num_retractions": request.retractions,
            "reasoning_tokens": 0,
            "completion_tokens": len(answer.ids),
            "cached_tokens": request.cached_tokens,
        }
        if answer.reason:
            meta["e2e_latency"] = time.time() - answer.began_wall_s
        return {"text": text, "output_ids": list(ids), "meta_info": meta}


class OpenAiShape:
    """The answers of /v1/completions and /v1/chat/completions."""

    def __init__(self, *, model: str, rid: str, is_chat: bool) -> None:
        self._model = model
        self._rid = rid
        self._is_chat = is_chat
        self._created = int(time.time())
        kind = "chat.completion" if is_chat else "text_completion"
        chunk_kind = "chat.completion.chunk" if is_chat else kind
        self._head = {"id": rid, "object": kind, "created": self._created, "model": model}
        chunk_head = json.dumps({**self._head, "object": chunk_kind}, separators=(",", ":"))
        self._open = f'data: {chunk_head[:-1]},"choices":['
        self._close = '],"usage":null}\n\n'

    def first(self) -> bytes:
        if not self._is_chat:
            return b""
        return self._event(0, '"delta":{"role":"assistant","content":""}', "null")

    def chunk(self, answer: Answer, new_text: str, reason: Reason | None) -> bytes:
        said = f'"delta":{{"content":"{new_text}"}}' if self._is_chat else f'"text":"{new_text}"'
        if not reason:
            return self._event(answer.index, said, "null")
        last = '"delta":{}' if self._is_chat else '"text":""'
        text = self._event(answer.index, said, "null") if new_text else b""
        return text + self._event(answer.index, last, f'"{reason}"')

    def usage_chunk(self, answers: list[Answer]) -> bytes:
        """The last chunk of a stream that asked for usage."""
        usage = json.dumps(self.usage(answers), separators=(",", ":"))
        return f'{self._open}],"usage":{usage}}}\n\n'.encode()

    def document(self, answers: list[Answer]) -> dict[str, object]:
        choices = [self._choice(answer) for answer in answers]
        return {**self._head, "choices": choices, "usage": self.usage(answers)}

    def usage(self, answers: list[Answer]) -> dict[str, object]:
        prompt = sum(answer.request.prompt_tokens for answer in answers)
        completion = sum(len(answer.ids) for answer in answers)
        return {
            "prompt_tokens": prompt,
            "total_tokens": prompt + completion,
            "completion_tokens": completion,
            "prompt_tokens_details": None,
            "reasoning_tokens": 0,
        }

    def _choice(self, answer: Answer) -> dict[str, object]:
        end = {"logprobs": None, "finish_reason": answer.reason, "matched_stop": None}
        if self._is_chat:
            message = {"role": "assistant", "content": answer.text, "tool_calls": None}
            return {"index": answer.index, "message": message, **end}
        return {"index": answer.index, "text": answer.text, **end}

    def _event(self, index: int, said: str, reason: str) -> bytes:
        body = f'{{"index":{index},{said},"logprobs":null,"finish_reason":{reason}}}'
        return f"{self._open}{body}{self._close}".encode()
